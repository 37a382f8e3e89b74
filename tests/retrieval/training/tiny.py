"""A small world with a real cross-modal signal, for tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexer.types import Modality
from retrieval.training.options import TrainOptions, parse_overrides
from retrieval.training.space import SharedSpace
from retrieval.training.start import make_space
from retrieval.training.trainer import FeatureSource, TrainingData
from retrieval.training.types import Examples, Features, Ints

IMAGE, TEXT, AUDIO = Modality
WIDTHS = {IMAGE: 24, TEXT: 16, AUDIO: 12}
TINY = ("device=cpu", "start=random", "dim=16", "batch_size=32", "epochs=4", "lr=0.01", "patience=0")


def features(rows: int = 160, *, seed: int = 0) -> Features:
    """One hidden vector a row; each modality sees it through its own matrix, with noise."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((rows, 16))
    seen = {m: hidden @ rng.standard_normal((16, width)) for m, width in WIDTHS.items()}
    return {m: (x + 0.05 * rng.standard_normal(x.shape)).astype(np.float16) for m, x in seen.items()}


def examples(rows: Ints) -> Examples:
    """Rows whose contents bear the rows' own numbers, with all three modalities."""
    slots = {modality: rows[:, None].copy() for modality in WIDTHS}
    return Examples(slots, np.full(len(rows), -1), rows, np.ones(len(rows), np.float32))


def data(rows: int = 160) -> TrainingData:
    """Three quarters to train on, the rest to validate."""
    cut = rows * 3 // 4
    return TrainingData(examples(np.arange(cut)), examples(np.arange(cut, rows)))


def options(*more: str) -> TrainOptions:
    return parse_overrides([*TINY, *more])


def space(chosen: TrainOptions, rows: int = 160) -> SharedSpace:
    return make_space(chosen, WIDTHS, {}, features(rows), data(rows).train)


def source(rows: int = 160) -> FeatureSource:
    return FeatureSource(features(rows))


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())
