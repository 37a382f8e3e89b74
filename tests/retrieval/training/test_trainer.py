"""Training on a small world: it learns, stops, averages, and says what is wrong before it starts."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from indexer.errors import ConfigError, TrainingError, TrainingStopped
from indexer.types import Modality
from retrieval.evaluation.metrics import mean_recall
from retrieval.training.ema import Ema
from retrieval.training.events import CheckpointSaved, EpochDone, EpochStart, StepDone, TrainEvent
from retrieval.training.losses import LossKind
from retrieval.training.options import TrainOptions
from retrieval.training.placement import memory_explained, placed
from retrieval.training.sampler import Batch
from retrieval.training.start import make_space
from retrieval.training.trainer import FeatureSource, Stopped, Trainer, TrainingData, train
from retrieval.training.types import Examples
from tests.retrieval.training.tiny import (
    AUDIO,
    IMAGE,
    TEXT,
    WIDTHS,
    data,
    examples,
    features,
    options,
    source,
    space,
)


def trainer_of(chosen: TrainOptions) -> Trainer:
    return Trainer(space(chosen), source(), data().train, chosen)


def recall_of(trainer: Trainer) -> float:
    rows = np.arange(120, 160)
    vectors = {m: trainer.vectors(m, np.arange(160)) for m in WIDTHS}
    return mean_recall(vectors, examples(rows), ks=(1,))


@pytest.mark.parametrize(
    "more",
    [
        ("loss.kind=infonce", "ema=0.9", "matryoshka=8"),
        ("loss.kind=sigmoid",),
        ("loss.kind=triplet", "loss.negatives=semi-hard", "optimizer=sgd", "lr=1.0"),
        ("hard_negatives=2", "precision=bf16"),
    ],
)
def test_it_learns(tmp_path: Path, more: tuple[str, ...]) -> None:
    """Validation rows are never trained on; 40 of them, so chance is .025."""
    chosen = options("epochs=14", "freeze=text", "metric_k=1", *more)
    made = space(chosen)
    before = mean_recall(
        {m: made.encode(m, source().inputs(m, np.arange(160))).detach().numpy() for m in WIDTHS},
        data().validation,
        ks=(1,),
    )
    result = train(made, source(), data(), chosen, tmp_path)
    assert result.stopped is Stopped.EPOCHS
    assert before < 0.15
    assert result.best is not None
    assert result.best > 0.3
    vectors = {m: made.encode(m, source().inputs(m, np.arange(160))).detach().numpy() for m in WIDTHS}
    assert mean_recall(vectors, data().validation, ks=(1,)) == pytest.approx(result.best, abs=1e-6)


def test_events_tell_the_whole_run(tmp_path: Path) -> None:
    seen: list[TrainEvent] = []
    result = train(space(options()), source(), data(), options("epochs=2"), tmp_path, on_event=seen.append)
    first, *rest = seen
    assert first == EpochDone(0, pytest.approx(math.nan, nan_ok=True), result.start, True)
    assert [type(event) for event in rest] == [EpochStart, *[StepDone] * 4, EpochDone, CheckpointSaved] * 2
    steps = [event for event in seen if isinstance(event, StepDone)]
    assert [event.step for event in steps] == list(range(1, 9))
    assert steps[-1].eta_s == 0.0
    assert result.history == tuple(event for event in rest if isinstance(event, EpochDone))
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_callers_alone(tmp_path: Path) -> None:
    chosen = options("epochs=2", "head.kind=mlp", "head.hidden=32", "head.dropout=0.3")
    state = torch.get_rng_state()
    found = [train(space(chosen), source(), data(), chosen, tmp_path / name) for name in "ab"]
    assert found[0] == found[1]
    assert torch.equal(torch.get_rng_state(), state)
    other = options("epochs=2", "head.kind=mlp", "head.hidden=32", "head.dropout=0.3", "seed=1")
    assert train(space(other), source(), data(), other, tmp_path / "c").history != found[0].history


@pytest.mark.parametrize("start", ["ridge", "procrustes", "fourier", "cca"])
def test_closed_forms_are_good_to_begin_at(start: str, tmp_path: Path) -> None:
    chosen = options(f"start={start}", "epochs=2", "lr=0.001", "metric_k=1", "head.hidden=128")
    result = train(
        make_space(chosen, WIDTHS, {}, features(), data().train), source(), data(), chosen, tmp_path
    )
    assert result.start is not None
    assert result.start > 0.5  # of 40 by chance .025
    assert result.best is not None
    assert result.best >= result.start


def test_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    """A learning rate that wrecks what closed forms found: the first epochs stay the best."""
    chosen = options(
        "epochs=30", "patience=2", "lr=5", "start=ridge", "schedule=constant", "warmup=0", "clip=0"
    )
    made = make_space(chosen, WIDTHS, {}, features(), data().train)
    result = train(made, source(), data(), chosen, tmp_path)
    assert result.stopped is Stopped.PATIENCE
    assert result.epochs == result.best_epoch + 2
    assert result.best == max(result.start, *(event.recall for event in result.history))
    assert result.best_epoch == 0  # it is what training began at
    vectors = {m: made.encode(m, source().inputs(m, np.arange(160))).detach().numpy() for m in WIDTHS}
    assert mean_recall(vectors, data().validation, ks=(10,)) == pytest.approx(result.start, abs=1e-6)


def test_what_it_began_at_gives_way_to_its_equal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A validation of few rows is often tied: then R@1 decides, and the start never wins a tie."""
    found = iter([(1.0, 0.5), (1.0, 0.5), (1.0, 0.7), (1.0, 0.7), (0.9, 0.9)])
    monkeypatch.setattr("retrieval.training.validation.Validation.recalls", lambda _self: next(found))
    result = train(space(options()), source(), data(), options(), tmp_path)
    assert (result.start, result.best, result.best_epoch) == (1.0, 1.0, 2)
    assert [event.best for event in result.history] == [True, True, False, False]


def test_rows_of_weight_zero_ask_for_nothing() -> None:
    chosen = options()
    nothing = replace(data().train, weights=np.zeros(120, np.float32))
    silent = Trainer(space(chosen), source(), nothing, chosen)
    assert silent.step(next(iter(silent.sampler.batches(0)))) == 0.0


def test_what_was_mined_for_one_query_is_no_negative_of_another() -> None:
    """Content 50 was mined for picture 0 only: picture 1 must not be pushed away from it, nor it from 1."""
    planner = trainer_of(options()).planner
    rows = np.array([0, 1, 2])
    mined = np.full((160, 1), -1)
    mined[0] = 50
    batch = Batch(rows, dict.fromkeys(WIDTHS, rows))
    (compared,) = (
        one for one in planner.plan(batch, {(IMAGE, TEXT): mined}).comparisons if one.kind == (IMAGE, TEXT)
    )
    assert compared.b.contents.tolist() == [0, 1, 2, 50]
    assert compared.b.weights.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert compared.ignore is not None
    assert compared.ignore.tolist() == [[False] * 4, [False] * 3 + [True], [False] * 3 + [True]]
    back = {(TEXT, IMAGE): mined}
    (compared,) = (one for one in planner.plan(batch, back).comparisons if one.kind == (IMAGE, TEXT))
    assert compared.a.contents.tolist() == [0, 1, 2, 50]
    assert compared.ignore is not None
    assert compared.ignore[3].tolist() == [False, True, True]
    assert not compared.ignore[:3].any()


def test_gradient_caching_changes_nothing() -> None:
    plain, cached = (trainer_of(options("weight_decay=0.1", *more)) for more in ((), ("chunk=5",)))
    for batch in plain.sampler.batches(0):
        first, second = plain.step(batch), cached.step(batch)
        assert first is not None
        torch.testing.assert_close(first, second)
    for (name, one), (_, other) in zip(
        plain.space.named_parameters(), cached.space.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4, msg=name)


def test_a_step_is_the_weighted_sum_over_kinds() -> None:
    """Each kind alone, then all together, before any weight has moved."""
    names = {"image_text": 2.0, "image_audio": 0.5, "text_audio": 3.0}
    batch = next(iter(trainer_of(options()).sampler.batches(0)))
    alone = {}
    for name in names:
        only = [f"pairs.{other}={float(other == name)}" for other in names]
        alone[name] = float(trainer_of(options(*only)).step(batch) or 0.0)
    both = trainer_of(options(*[f"pairs.{name}={weight}" for name, weight in names.items()])).step(batch)
    assert float(both or 0.0) == pytest.approx(
        sum(weight * alone[name] for name, weight in names.items()), rel=1e-5
    )


def test_batches_of_one_row_or_without_a_pair_are_passed_over() -> None:
    trainer = trainer_of(options())
    before = {name: value.clone() for name, value in trainer.space.state_dict().items()}
    one = Batch(np.array([3]), {m: np.array([3]) for m in WIDTHS})
    none = Batch(
        np.array([3, 4]), {IMAGE: np.array([3, -1]), TEXT: np.array([-1, 4]), AUDIO: np.array([-1, -1])}
    )
    assert trainer.step(one) is None
    assert trainer.step(none) is None
    assert all(torch.equal(value, before[name]) for name, value in trainer.space.state_dict().items())
    single = Batch(np.arange(4), {IMAGE: np.arange(4), TEXT: np.arange(4), AUDIO: np.full(4, -1)})
    assert trainer.step(single) is not None


def test_frozen_heads_stay_and_are_encoded_once() -> None:
    trainer = trainer_of(options("freeze=text"))
    assert set(trainer.tables) == {TEXT}
    asked: list[Modality] = []
    inner = trainer.source.inputs
    trainer.source.inputs = lambda m, c: (asked.append(m), inner(m, c))[1]  # type: ignore[method-assign]
    vectors = trainer.vectors(TEXT, np.arange(20))
    for batch in trainer.sampler.batches(0):
        trainer.step(batch)
    assert TEXT not in asked
    assert (trainer.vectors(TEXT, np.arange(20)) == vectors).all()


def test_weight_decay_leaves_biases_norms_and_scale() -> None:
    chosen = options("head.kind=mlp", "head.hidden=8", "head.hidden_norm=layer", "loss.kind=sigmoid")
    trainer = trainer_of(chosen)
    decays = {
        id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]
    }
    named = dict(trainer.space.named_parameters())
    assert decays[id(named["log_scale"])] == decays[id(named["bias"])] == 0.0
    for name, value in named.items():
        assert decays[id(value)] == (chosen.weight_decay if value.ndim == 2 else 0.0), name


def test_scale_learns_only_where_asked() -> None:
    for more, moves in ((("loss.learn_scale=false",), False), (("loss.learn_scale=true",), True)):
        trainer = trainer_of(options(*more))
        start = trainer.space.log_scale.item()
        for batch in trainer.sampler.batches(0):
            trainer.step(batch)
        assert (trainer.space.log_scale.item() != start) is moves


def test_ema_follows_its_formula() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    ema = Ema(layer, 0.5)
    wanted = 0.0
    for step in range(1, 25):
        layer.weight.data.fill_(float(step))
        ema.update()
        decay = min(0.5, step / (step + 9))
        wanted = decay * wanted + (1 - decay) * step
    with ema.averaged():
        assert layer.weight.item() == pytest.approx(wanted)
    assert layer.weight.item() == 24.0


def test_a_diverged_loss_stops_with_what_to_lower(tmp_path: Path) -> None:
    class Broken(FeatureSource):
        calls = 0

        def inputs(self, modality: Modality, contents: np.ndarray) -> torch.Tensor:
            self.calls += 1
            return super().inputs(modality, contents) * (float("nan") if self.calls > 24 else 1.0)

    with pytest.raises(TrainingError, match=r"loss is nan at step \d+, in epoch 2") as caught:
        train(space(options()), Broken(features()), data(), options(), tmp_path)
    assert "lower lr=0.01" in (caught.value.hint or "")


def empty() -> Examples:
    return examples(np.arange(0))


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        (TrainingData(empty(), empty()), (), "no training rows"),
        (
            TrainingData(examples(np.arange(9)), empty()),
            ("patience=3",),
            "no validation rows, and patience=3",
        ),
        (TrainingData(examples(np.arange(1)), empty()), (), "two training rows or more"),
        (data(), ("pairs.image_text=0", "pairs.image_audio=0", "pairs.text_audio=0"), "weight 0"),
        (data(), ("freeze=image,text,audio",), "nothing to train"),
        (data(), ("wandb=true",), "Weights & Biases is not installed"),
    ],
)
def test_bad_input_is_told_before_the_first_step(
    tmp_path: Path, given: TrainingData, more: tuple[str, ...], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(space(options()), source(), given, options(*more), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_features_that_are_not_finite_are_named(tmp_path: Path) -> None:
    table = dict(features())
    table[AUDIO][17, 3] = np.nan
    with pytest.raises(TrainingError, match="audio features of content 17"):
        train(space(options()), FeatureSource(table), data(), options(), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(TrainingError, match="device is cuda"):
        placed(options("device=cuda"))
    with pytest.raises(TrainingError, match="fp16"):
        placed(options("device=auto", "precision=fp16"))


@pytest.mark.parametrize(
    ("chunk", "hint"), [(0, "set chunk=4"), (8, "lower chunk=8 first, then batch_size=32")]
)
def test_lack_of_memory_names_the_option(chunk: int, hint: str) -> None:
    with (
        pytest.raises(TrainingError, match="out of memory") as caught,
        memory_explained(options(f"chunk={chunk}")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    assert hint in (caught.value.hint or "")
    with pytest.raises(RuntimeError, match="shapes"), memory_explained(options()):
        raise RuntimeError("shapes differ")


def test_ctrl_c_saves_after_the_step_and_the_handler_comes_back(tmp_path: Path) -> None:
    def interrupt(event: TrainEvent) -> None:
        if isinstance(event, StepDone) and event.step == 6:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingStopped, match=r"epoch 2 of 4, after step 6; saved .*step-0000000006"):
        train(space(options()), source(), data(), options(), tmp_path, on_event=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    straight = train(space(options()), source(), data(), options(), tmp_path / "straight")
    assert train(space(options()), source(), data(), options(), tmp_path, resume=True) == straight


def test_teachers_and_labels_reach_the_loss() -> None:
    chosen = options("loss.kind=distill")
    table = {
        m: torch.nn.functional.normalize(torch.from_numpy(v[:, :12]).float()).numpy()
        for m, v in features().items()
    }
    trainer = Trainer(space(chosen), source(), data().train, chosen, teacher=table)
    losses = [float(trainer.step(b) or 0.0) for e in range(6) for b in trainer.sampler.batches(e)]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    whole = data().train
    labelled = Examples(whole.contents, np.arange(120) % 3, whole.groups, whole.weights)
    supcon = options("loss.kind=supcon")
    trainer = Trainer(space(supcon), source(), labelled, supcon)
    assert supcon.loss.kind is LossKind.SUPCON
    plan = trainer.prepare(next(iter(trainer.sampler.batches(0))))
    assert 8 < plan.comparisons[0].positive.sum(axis=1).mean() < 13


@pytest.mark.parametrize("start", ["ridge", "procrustes", "cca"])
def test_closed_forms_start_well_above_chance(start: str) -> None:
    trainer = trainer_of(options(f"start={start}"))
    assert recall_of(trainer) > (0.2 if start == "procrustes" else 0.5)
    assert trainer.space.dims == (16,)


def test_a_base_start_is_the_base_until_trained() -> None:
    bases = {m: space(options("seed=5")).heads[m.value] for m in WIDTHS}
    chosen = options("start=base", "freeze=audio")
    made = make_space(chosen, WIDTHS, bases, features(), data().train)
    rows = source().inputs(IMAGE, np.arange(10))
    wanted = torch.nn.functional.normalize(bases[IMAGE](rows))
    torch.testing.assert_close(made.encode(IMAGE, rows), wanted)
    assert made.heads["audio"] is bases[AUDIO]
    with pytest.raises(TrainingError, match="no audio head"):
        make_space(options("start=base"), WIDTHS, {IMAGE: bases[IMAGE]}, features(), data().train)
    with pytest.raises(ConfigError, match="image is frozen at random"):
        make_space(options("freeze=image"), WIDTHS, {}, features(), data().train)
