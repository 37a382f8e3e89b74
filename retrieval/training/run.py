"""The whole of `triptych train`: rows -> splits -> features -> a trained space -> a model on disk.

What can be refused is refused before features are computed. What each step does stands in its own module;
nothing here computes, shows or prints. Beside the model's folder lies `<out>.run` with checkpoints and logs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import ConfigError, TrainingError
from indexer.types import FloatArray, Modality
from retrieval.config import Settings, cache_dir
from retrieval.training.duplicates import group_near
from retrieval.training.events import TrainEvent
from retrieval.training.features import (
    Collected,
    FeatureEvent,
    FeatureProgress,
    FeatureWarning,
    collect_features,
)
from retrieval.training.options import Start, TrainOptions, load_options, parse_overrides
from retrieval.training.split_file import SPLIT_FILE, split_bytes
from retrieval.training.splits import assign_splits, find_leaks
from retrieval.training.types import Examples, Ints, PairKind, PairSet, Row, Split

if TYPE_CHECKING:
    from torch import nn

    from retrieval.models.bundle import Bundle
    from retrieval.models.registry import Model
    from retrieval.training.finetune import MediaSource, TunedSpace
    from retrieval.training.source import Source
    from retrieval.training.space import SharedSpace
    from retrieval.training.trainer import TrainingData, TrainResult
    from retrieval.training.unfreeze import Unfreeze

FAILURES_SHOWN = 5
SAMPLES = 4  # real media of a modality that a written tower is compared on


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence that the user should read."""

    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """What is being done, and how much of it is done, in [0, 1]; None: unknown."""

    text: str
    share: float | None = None


Event = Note | Step | FeatureProgress | TrainEvent
OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class TrainJob:
    """What the user asked for."""

    out: Path | None  # folder of the new model
    source: str | None = None  # a table, a folder, captions or shards; see manifest.read_pairs
    from_index: Path | None = None  # or an index whose pairs are used
    base: str = "starter"  # model whose backbones are used, and whose space training begins at
    options: TrainOptions = field(default_factory=TrainOptions)
    unfreeze: str = ""  # backbones that are trained too, such as image:2,text:lora
    tune: int = 0  # trials on the validation rows before the run
    teacher: str | None = None  # a stronger model whose similarities are learned from
    resume: bool = False
    allow_leaks: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TrainReport:
    """What came of it."""

    bundle: Bundle
    result: TrainResult
    rows: Mapping[Split, int]
    pairs: Mapping[PairKind, int]  # among the training rows
    failures: tuple[tuple[str, str], ...]  # media that could not be used, and why
    start_recall: float | None  # validation's mean R@k before the first step
    options: TrainOptions
    run_folder: Path


def read_options(file: Path | None, overrides: Sequence[str]) -> TrainOptions:
    """Defaults, then the file, then `key=value` settings. ConfigError."""
    base = load_options(file) if file is not None else TrainOptions()
    return parse_overrides(overrides, base)


def train_model(job: TrainJob, *, settings: Settings, on_event: OnEvent) -> TrainReport:
    """Train, write the model to `job.out`, and say what came of it.

    ConfigError, ManifestError, TrainingError or LeakageRefused before hours are spent; TrainingStopped after
    ctrl-C, with a checkpoint that `resume` goes on from.
    """
    from retrieval.training.finetune import parse_unfreeze
    from retrieval.training.placement import placed
    from retrieval.training.tune import check_tune

    out, run_folder = _checked_out(job)
    placed(job.options)
    if job.unfreeze:
        parse_unfreeze(job.unfreeze)
    if job.tune:
        check_tune(job.tune)
    on_event(Step("reading the rows"))
    pairs = _read(job)
    _say_problems(pairs, on_event)
    on_event(Step("loading the base model"))
    base = _base(job.base, settings)
    collected = _collect(pairs, base, settings, on_event)
    rows = [pairs.rows[number] for number in collected.kept]
    splits = _split(job, rows, collected, on_event)
    prepared = _Prepared(job, base, rows, collected, splits, run_folder)
    trained = _fit(prepared, settings, on_event)
    on_event(Step("writing the model"))
    bundle = _write(prepared, trained, pairs, out, on_event)
    return TrainReport(
        bundle=bundle,
        result=trained.result,
        rows={split: len(numbers) for split, numbers in splits.items()},
        pairs=prepared.part(Split.TRAIN).pair_counts(),
        failures=(*pairs.problems, *collected.failures),
        start_recall=trained.start_recall,
        options=trained.options,
        run_folder=run_folder,
    )


def _checked_out(job: TrainJob) -> tuple[Path, Path]:
    """The model's folder and the run's; ConfigError or TrainingError where they cannot be used."""
    from retrieval.models.trained import check_out
    from retrieval.training.checkpoint import has_checkpoint

    if job.out is None:
        raise ConfigError("--out is missing", hint="name the new model's folder: --out models/NAME")
    if (job.source is None) == (job.from_index is None):
        raise ConfigError(
            "exactly one of SOURCE and --from-index is needed", hint="triptych train pairs.parquet --out DIR"
        )
    out = job.out.expanduser().absolute()
    run_folder = out.with_name(f"{out.name}.run")
    check_out(out)
    if job.resume and not has_checkpoint(run_folder / "checkpoints"):
        raise TrainingError(f"{run_folder} holds no checkpoint", hint="leave out --resume to begin anew")
    if not job.resume and has_checkpoint(run_folder / "checkpoints"):
        raise TrainingError(
            f"{run_folder} holds a run that was not finished",
            hint="go on with --resume, remove that folder, or choose another --out",
        )
    return out, run_folder


def _read(job: TrainJob) -> PairSet:
    from retrieval.training.from_index import index_pairs
    from retrieval.training.manifest import read_pairs, require_trainable

    if job.from_index is not None:
        from retrieval.places import for_reading

        pairs = index_pairs(for_reading(job.from_index, None).path)
    else:
        pairs = read_pairs(str(job.source), cache=cache_dir())
    require_trainable(pairs)
    return pairs


def _say_problems(pairs: PairSet, on_event: OnEvent) -> None:
    for line in pairs.notes:
        on_event(Note(line))
    _say_some("rows left out or cut", pairs.problems, on_event)


def _say_some(what: str, failures: Sequence[tuple[str, str]], on_event: OnEvent) -> None:
    for where, why in failures[:FAILURES_SHOWN]:
        on_event(Note(f"{where}: {why}"))
    if len(failures) > FAILURES_SHOWN:
        on_event(Note(f"... {len(failures)} {what} in all"))


def _base(name: str, settings: Settings) -> Model:
    from retrieval.models.registry import load_model

    return load_model(name, threads=settings.threads)


def _collect(pairs: PairSet, base: Model, settings: Settings, on_event: OnEvent) -> Collected:
    """Features of everything that rows name and the base has a backbone for."""
    from retrieval.models.backbones import backbone_of

    def tell(event: FeatureEvent) -> None:
        on_event(Note(event.message) if isinstance(event, FeatureWarning) else event)

    wanted = {modality for row in pairs.rows for modality in row.modalities}
    towers = {m: base.bundle.spec.tower(m) for m in Modality if m in wanted}
    collected = collect_features(
        pairs.rows,
        {modality: backbone_of(tower) for modality, tower in towers.items() if tower is not None},
        cache=cache_dir() / "features",
        workers=settings.workers or None,
        threads=settings.threads,
        timeout_s=settings.timeout_s,
        on_event=tell,
    )
    _say_some("media or rows left out", collected.failures, on_event)
    return collected


def _split(job: TrainJob, rows: Sequence[Row], collected: Collected, on_event: OnEvent) -> dict[Split, Ints]:
    """Row numbers by split; rows alike lie on one side, or LeakageRefused."""
    alike = group_near(collected.features, collected.examples.contents)
    for line in alike.notes:
        on_event(Note(line))
    splits = assign_splits(rows, validation=job.options.validation, test=job.options.test, groups=alike.numbers)
    leaks = find_leaks(rows, collected.examples, collected.features, splits)
    for line in leaks.lines():
        on_event(Note(line))
    leaks.refuse(allowed=job.allow_leaks)
    counts = ", ".join(f"{len(numbers)} {split}" for split, numbers in splits.items())
    on_event(Note(f"rows: {counts}"))
    return splits


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """Everything that training starts from."""

    job: TrainJob
    base: Model
    rows: Sequence[Row]
    collected: Collected
    splits: Mapping[Split, Ints]
    run_folder: Path

    def part(self, split: Split) -> Examples:
        return self.collected.examples.take(self.splits.get(split, np.zeros(0, np.int64)))


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    space: SharedSpace
    modules: Mapping[Modality, nn.Module]  # fine-tuned backbones
    result: TrainResult
    start_recall: float | None
    options: TrainOptions
    trials: Sequence[Mapping[str, Any]]


def _fit(prepared: _Prepared, settings: Settings, on_event: OnEvent) -> _Trained:
    """Heads, or heads and backbones, trained to their best on validation."""
    from retrieval.training.finetune import TunedSpace, parse_unfreeze
    from retrieval.training.known_base import known_base
    from retrieval.training.trainer import FeatureSource, TrainingData, train

    job = prepared.job
    features = prepared.collected.features
    data = TrainingData(
        prepared.part(Split.TRAIN), prepared.part(Split.VALIDATION), _teacher(prepared, settings, on_event)
    )
    options = job.options
    trials: Sequence[Mapping[str, Any]] = ()
    if job.tune:
        options, trials = _tuned(prepared, data, on_event)
    space = _start(prepared, options)
    start_recall = _recall(space, features, data.validation, options)
    if start_recall is not None:
        on_event(Note(f"before training: validation recall {start_recall:.3f}"))
    asked = parse_unfreeze(job.unfreeze)
    with known_base(space, features, media=frozenset(asked)) as known, ExitStack() as stack:
        learner: SharedSpace = space
        source: Source = FeatureSource(known)
        if asked:
            learner, source = stack.enter_context(_unfrozen(prepared, space, asked, source, settings))
        folder = prepared.run_folder
        result = train(learner, source, data, options, folder, on_event=on_event, resume=job.resume)
    heads, modules = learner.result() if isinstance(learner, TunedSpace) else (space, {})
    return _Trained(heads, modules, result, start_recall, options, trials)


def _teacher(prepared: _Prepared, settings: Settings, on_event: OnEvent) -> dict[Modality, FloatArray]:
    """The teacher's unit vectors of each content, NaN where it has none; nothing where none was asked for."""
    if prepared.job.teacher is None:
        if prepared.job.options.loss.uses_teacher:
            raise ConfigError("this loss learns from a teacher", hint="name a model: --teacher MODEL")
        return {}
    from retrieval.evaluation.encode import encode_rows
    from retrieval.training.media import media_of

    model = _base(prepared.job.teacher, settings)
    on_event(Step(f"vectors of the teacher {model.name}"))
    encoded = encode_rows(model, prepared.rows, workers=settings.workers)
    vectors: dict[Modality, FloatArray] = {}
    for modality, names in media_of(prepared.rows, prepared.collected, encoded.vectors).items():
        number = {name: place for place, name in enumerate(encoded.names[modality])}
        found = np.full((len(names), model.dim), np.nan, np.float32)
        for place, name in enumerate(names):
            if name in number:
                found[place] = encoded.vectors[modality][number[name]]
        vectors[modality] = found
    return vectors


def _start(prepared: _Prepared, options: TrainOptions) -> SharedSpace:
    """The untrained space that options ask for."""
    from retrieval.models.backbones import base_head
    from retrieval.training.start import make_space

    features = prepared.collected.features
    used = [m for m in features if len(features[m])]
    heads = {m: head for m in used if (head := base_head(prepared.base, m)) is not None}
    widths = {m: features[m].shape[1] for m in used}
    return make_space(options, widths, heads, features, prepared.part(Split.TRAIN))


def _recall(space: SharedSpace, features: Any, examples: Examples, options: TrainOptions) -> float | None:
    """Validation's mean R@k of a space as it is, by cached features."""
    if not len(examples):
        return None
    import torch

    from retrieval.evaluation.metrics import mean_recall

    space.eval()
    with torch.inference_mode():
        vectors = {
            m: space.encode(m, torch.from_numpy(np.asarray(features[m], np.float32))).numpy()
            for m in space.modalities
        }
    return mean_recall(vectors, examples, ks=(options.metric_k,))


def _tuned(
    prepared: _Prepared, data: TrainingData, on_event: OnEvent
) -> tuple[TrainOptions, Sequence[Mapping[str, Any]]]:
    """The best options of several trials on heads, judged by validation."""
    from retrieval.training.known_base import known_base
    from retrieval.training.trainer import FeatureSource, train
    from retrieval.training.tune import Trial, tune

    features = prepared.collected.features

    def objective(options: TrainOptions, _number: int) -> float | None:
        space = _start(prepared, options)
        with (
            TemporaryDirectory(prefix="triptych-trial-") as folder,
            known_base(space, features, media=frozenset()) as known,
        ):
            return train(space, FeatureSource(known), data, options, Path(folder)).best

    def tell(trial: Trial) -> None:
        found = trial.failure if trial.recall is None else f"validation recall {trial.recall:.3f}"
        on_event(Note(f"trial {trial.number + 1} of {prepared.job.tune}: {found}"))

    on_event(Step("trying options"))
    found = tune(prepared.job.tune, prepared.job.options, objective, on_trial=tell)
    trials = [{"options": trial.options.to_json(), "recall": trial.recall} for trial in found.trials]
    return found.best, trials


@contextmanager
def _unfrozen(
    prepared: _Prepared,
    space: SharedSpace,
    asked: Mapping[Modality, Unfreeze],
    frozen: Source,
    settings: Settings,
) -> Iterator[tuple[TunedSpace, MediaSource]]:
    """A space whose backbones learn, and the source of their media."""
    from retrieval.models.backbones import backbone_of
    from retrieval.training.finetune import MediaSource, media_of, tuned_space
    from retrieval.training.placement import placed

    options = prepared.job.options
    towers = {m: prepared.base.bundle.spec.tower(m) for m in asked}
    backbones = {m: backbone_of(tower) for m, tower in towers.items() if tower is not None}
    tuned = tuned_space(space, {m: b.load() for m, b in backbones.items()}, asked, seed=options.seed)
    source = MediaSource(
        media_of(prepared.rows, prepared.collected, list(asked)),
        {m: b.preparer() for m, b in backbones.items()},
        frozen,
        workers=options.workers or settings.workers,
        pin=placed(options).device.type == "cuda",
    )
    with source:
        yield tuned, source


def _write(prepared: _Prepared, trained: _Trained, pairs: PairSet, out: Path, on_event: OnEvent) -> Bundle:
    """The model on disk, with what it was made of."""
    from retrieval.models.trained import TrainedModel, write_trained

    job, counts = prepared.job, {s.value: len(n) for s, n in prepared.splits.items()}
    provenance = {
        "data": {"digest": pairs.digest, "rows": len(prepared.rows), "splits": counts},
        "base": {"name": prepared.base.name, "space_id": prepared.base.space_id},
        "options": trained.options.to_json(),
        "unfreeze": job.unfreeze,
        "trials": list(trained.trials),
        "validation": {
            "k": trained.options.metric_k,
            "before": trained.start_recall,
            "mean recall": trained.result.best,
            "epoch": trained.result.best_epoch,
        },
    }
    return write_trained(
        out,
        TrainedModel(
            name=out.name,
            base=prepared.base.bundle,
            space=trained.space,
            modules=trained.modules,
            from_base=trained.options.start is Start.BASE,
            provenance=provenance,
            extra={SPLIT_FILE: split_bytes(prepared.rows, prepared.splits)},
        ),
        progress=lambda text, share: on_event(Step(text, share)),
    )
