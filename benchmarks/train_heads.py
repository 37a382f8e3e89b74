"""Training heads on cached features: pairs/s of whole steps, against the machine's matrix rate and against
sentence-transformers' own trainer.

A step is what `triptych train` runs (retrieval.training.steps.Trainer.step): plan the batch, gather float16
features, forward, symmetric InfoNCE, backward, clipping, AdamW. Features are random, 1280 numbers a picture
and 384 a text, whose vectors are frozen; batches of 1,024. All sides in one run, in alternating rounds.

    python benchmarks/train_heads.py [--rounds 5] [--steps 40] [--threads 2]

The other trainer needs the package `datasets` (`pip install triptych[bench]`); without it that side is left
out and the reason printed. It is given every help: its data set holds row numbers only, its collator gathers
whole batches from the same tables, and text vectors pass through untouched.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from common import Budget, median, save, say
from torch import Tensor, nn

from indexer.types import Modality
from retrieval.training.heads import HeadKind, HeadOptions, make_head
from retrieval.training.losses import LossOptions
from retrieval.training.options import Device, Precision, TrainOptions
from retrieval.training.source import FeatureSource
from retrieval.training.space import SharedSpace
from retrieval.training.steps import Trainer
from retrieval.training.types import Examples, Features

PAIRS, BATCH, WIDTH, DIM, HIDDEN = 20_480, 1024, 1280, 384, 1024
WARM = 4  # steps before the clock runs
BUDGET = 50_000  # pairs/s of the linear head in bf16 on 2 cores
KINDS = (HeadKind.LINEAR, HeadKind.MLP, HeadKind.RESIDUAL, HeadKind.FOURIER)
Round = Callable[[int], float]  # steps -> pairs/s


def make_features() -> Features:
    """Random features as a cache holds them: pictures above zero, texts of unit length."""
    rng = np.random.default_rng(0)
    images = np.maximum(rng.standard_normal((PAIRS, WIDTH), dtype=np.float32), 0.0)
    texts = rng.standard_normal((PAIRS, DIM), dtype=np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return {Modality.IMAGE: images.astype(np.float16), Modality.TEXT: texts.astype(np.float16)}


def ours(features: Features, kind: HeadKind, precision: Precision) -> Round:
    """The trainer's own steps on these features."""
    head = HeadOptions(kind, hidden=HIDDEN)
    heads = {
        Modality.IMAGE: make_head(head, WIDTH, DIM, seed=0),
        Modality.TEXT: make_head(HeadOptions(HeadKind.IDENTITY), DIM, DIM, seed=0),
    }
    loss = LossOptions()
    options = TrainOptions(
        epochs=1000, batch_size=BATCH, precision=precision, device=Device.CPU, head=head, loss=loss
    )
    rows = np.arange(PAIRS)
    slots = dict.fromkeys(features, rows[:, None])
    examples = Examples(slots, np.full(PAIRS, -1), rows, np.ones(PAIRS, np.float32))
    space = SharedSpace(heads, dims=(DIM,), scale=loss.start_scale, bias=loss.start_bias)
    trainer = Trainer(space, FeatureSource(features), examples, options)

    def batches() -> Iterator[Any]:
        for epoch in itertools.count():
            yield from trainer.sampler.batches(epoch)

    stream = batches()

    def measure(steps: int) -> float:
        for _ in range(WARM):
            trainer.step(next(stream))
        start = time.perf_counter()
        for _ in range(steps):
            trainer.step(next(stream))
        return steps * BATCH / (time.perf_counter() - start)

    return measure


class Projection(nn.Module):
    """The one trained layer of the other side; text vectors pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, DIM)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = inputs["sentence_embedding"]
        if found.shape[1] == WIDTH:
            found = self.linear(nn.functional.normalize(found, dim=1))
        return {**inputs, "sentence_embedding": found}


def theirs(features: Features, *, bf16: bool) -> Round:
    """sentence-transformers' trainer with its symmetric InfoNCE on the same features, batch and precision."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesSymmetricRankingLoss
    from transformers import TrainerCallback

    tables = {modality: torch.from_numpy(table) for modality, table in features.items()}

    class Collator:
        valid_label_columns = ("label",)

        def __call__(self, rows: list[dict[str, int]]) -> dict[str, Tensor]:
            which = torch.tensor([row["picture"] for row in rows])
            return {
                "picture_sentence_embedding": tables[Modality.IMAGE].index_select(0, which).float(),
                "text_sentence_embedding": tables[Modality.TEXT].index_select(0, which).float(),
            }

    class Clock(TrainerCallback):
        """Notes when each step ended; the first few are not counted."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: object, **__: object) -> None:
            self.ends.append(time.perf_counter())

    data = Dataset.from_dict({"picture": list(range(PAIRS)), "text": list(range(PAIRS))})

    def measure(steps: int) -> float:
        model, clock = SentenceTransformer(modules=[Projection()], device="cpu"), Clock()
        with tempfile.TemporaryDirectory() as folder:
            arguments = SentenceTransformerTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                max_steps=steps + WARM,
                learning_rate=1e-3,
                weight_decay=0.01,
                bf16=bf16,
                use_cpu=True,
                dataloader_drop_last=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            SentenceTransformerTrainer(
                model=model,
                args=arguments,
                train_dataset=data,
                loss=MultipleNegativesSymmetricRankingLoss(model),
                data_collator=Collator(),
                callbacks=[clock],
            ).train()
        return steps * BATCH / (clock.ends[-1] - clock.ends[WARM - 1])

    return measure


def products(kind: HeadKind) -> list[tuple[int, int, int]]:
    """The matrix products of one step, as (n, k, m); frozen texts and the features get no gradient."""
    first = (BATCH, WIDTH, HIDDEN)
    found = {
        HeadKind.LINEAR: [*_layer(WIDTH, inputs_learn=False)],
        HeadKind.MLP: [first, (HIDDEN, BATCH, WIDTH), *_layer(HIDDEN, inputs_learn=True)],
        HeadKind.FOURIER: [first, *_layer(HIDDEN, inputs_learn=False)],
    }
    found[HeadKind.RESIDUAL] = found[HeadKind.LINEAR] + found[HeadKind.MLP]
    return [*found[kind], (BATCH, DIM, BATCH), (BATCH, BATCH, DIM)]  # similarities, and back


def _layer(width: int, *, inputs_learn: bool) -> list[tuple[int, int, int]]:
    """A layer into the space: forward, its matrix's gradient, and its inputs' where they learn."""
    back = [(BATCH, DIM, width)] if inputs_learn else []
    return [(BATCH, width, DIM), (DIM, BATCH, width), *back]


def flops(kind: HeadKind) -> int:
    return sum(2 * n * k * m for n, k, m in products(kind))


def matrix_rate(dtype: torch.dtype, kind: HeadKind) -> Round:
    """GFLOP/s of a kind's matrix products alone, one after the other."""
    shapes = products(kind)
    pairs = [(torch.randn(n, k).to(dtype), torch.randn(k, m).to(dtype)) for n, k, m in shapes]

    def measure(steps: int) -> float:
        for a, b in pairs:
            a @ b
        start = time.perf_counter()
        for _ in range(steps):
            for a, b in pairs:
                a @ b
        return steps * flops(kind) / (time.perf_counter() - start) / 1e9

    return measure


def sides(features: Features) -> dict[str, Round]:
    """Everything that is measured, by name."""
    found = {f"ours {kind} bf16": ours(features, kind, Precision.BF16) for kind in KINDS}
    found["ours linear f32"] = ours(features, HeadKind.LINEAR, Precision.F32)
    for kind in KINDS:
        found[f"matrix {kind} bf16"] = matrix_rate(torch.bfloat16, kind)
    found["matrix linear f32"] = matrix_rate(torch.float32, HeadKind.LINEAR)
    if find_spec("datasets") is None:
        say("sentence-transformers' trainer is left out: it needs the package datasets")
    else:
        found["theirs linear bf16"] = theirs(features, bf16=True)
        found["theirs linear f32"] = theirs(features, bf16=False)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(given.threads)
    measured = sides(make_features())
    rounds: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(given.rounds):
        for name, measure in measured.items():
            rounds[name].append(round(measure(given.steps), 1))
            say(f"round {number + 1}", name, rounds[name][-1])
    save("train_heads", result(rounds, given.threads))


def result(rounds: dict[str, list[float]], threads: int) -> dict[str, Any]:
    """Medians over the rounds, each head as a share of its matrix rate, and the budgets."""
    middle = {name: median(values) for name, values in rounds.items()}
    shares = {
        name.removeprefix("ours "): median(
            [
                pairs / BATCH * flops(HeadKind(name.split()[1])) / 1e9 / rate
                for pairs, rate in zip(values, rounds[name.replace("ours", "matrix")], strict=True)
            ]
        )
        for name, values in rounds.items()
        if name.startswith("ours")
    }
    budgets = [
        Budget(
            f"linear head in bf16 on {threads} cores", middle["ours linear bf16"], BUDGET, False, " pairs/s"
        )
    ]
    ratios = {}
    for precision in ("bf16", "f32"):
        if (other := rounds.get(f"theirs linear {precision}")) is not None:
            both = zip(rounds[f"ours linear {precision}"], other, strict=True)
            ratios[precision] = median([mine / that for mine, that in both])
    if ratios:
        worst = min(ratios.values())
        what = "steps/s against sentence-transformers' trainer, the smaller of bf16 and f32"
        budgets.append(Budget(what, worst, 1.0, at_most=False))
    picked = {
        side: {n.removeprefix(side + " "): v for n, v in middle.items() if n.startswith(side)}
        for side in ("ours", "theirs", "matrix")
    }
    return {
        "batch": BATCH,
        "threads": threads,
        "pairs_per_s": picked["ours"],
        "sentence_transformers_pairs_per_s": picked["theirs"] or "left out: datasets is not installed",
        "ratio_to_sentence_transformers": ratios,
        "matrix_gflops_per_s": picked["matrix"],
        "share_of_matrix_rate": shares,
        "spread": {n: round(statistics.pstdev(v) / statistics.fmean(v), 3) for n, v in rounds.items()},
        "rounds": rounds,
        "budgets": [budget.as_dict() for budget in budgets],
    }


if __name__ == "__main__":
    main()
