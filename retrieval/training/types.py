"""What training hands from step to step: rows of a data manifest, then the same rows as numbers.

Imports no torch and reads no files. Where rows come from stands in manifest.py, how they are split in
splits.py, how their media become features in features.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations

import numpy as np
import numpy.typing as npt

from indexer.types import Modality

Ints = npt.NDArray[np.int64]
Features = Mapping[Modality, npt.NDArray[np.float16]]  # a modality's contents, (contents, width)
PairKind = tuple[Modality, Modality]
PAIR_KINDS: tuple[PairKind, ...] = tuple(combinations(Modality, 2))  # in Modality's order


class Split(StrEnum):
    """Which part of the data a row belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of training or evaluation data: any two or more of a picture, texts and a sound."""

    id: str
    image: str | None = None  # absolute path
    texts: tuple[str, ...] = ()  # several texts are several positives of the row's other media
    audio: str | None = None  # absolute path
    label: str | None = None
    group: str | None = None  # rows of one group never straddle a split
    split: Split | None = None  # None: by the hash of its group, else of its id
    weight: float = 1.0
    where: str = field(default="", compare=False)  # for messages: "row 3" of a table; "": say the id

    @property
    def said_at(self) -> str:
        """Where a user finds the row again: its place in its source, else its id, which may be a hash."""
        return self.where or self.id

    @property
    def modalities(self) -> tuple[Modality, ...]:
        have = {Modality.IMAGE: self.image, Modality.TEXT: self.texts, Modality.AUDIO: self.audio}
        return tuple(modality for modality in Modality if have[modality])


@dataclass(frozen=True, slots=True)
class PairSet:
    """Rows that were read from one source, and what was wrong with others."""

    source: str  # as the user named it
    rows: tuple[Row, ...]
    digest: str  # SHA-256, 64 hex digits, of what the rows say; not of the media
    problems: tuple[tuple[str, str], ...] = ()  # (where, why): rows, or media of rows, that were left out
    notes: tuple[str, ...] = ()  # what was not used though nothing is wrong with it, a sentence each


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """The same rows as numbers. `contents[m][row]` are indices into the features of m, padded with -1."""

    contents: Mapping[Modality, Ints]  # (rows, slots); one slot but for texts
    labels: Ints  # (rows,), -1: none
    groups: Ints  # (rows,)
    weights: npt.NDArray[np.float32] = field(default_factory=lambda: np.ones(0, np.float32))  # (rows,)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Ints) -> Examples:
        """These rows, in this order; they still point into the same features."""
        return Examples(
            {modality: slots[rows] for modality, slots in self.contents.items()},
            self.labels[rows],
            self.groups[rows],
            self.weights[rows],
        )

    def has(self, modality: Modality) -> npt.NDArray[np.bool_]:
        """Which rows have the modality, (rows,)."""
        slots = self.contents.get(modality)
        return np.zeros(len(self), bool) if slots is None else np.asarray((slots >= 0).any(axis=1))

    def pair_counts(self) -> dict[PairKind, int]:
        """How many rows have both modalities of each kind of pair; kinds without one are left out."""
        counts = {(a, b): int((self.has(a) & self.has(b)).sum()) for a, b in PAIR_KINDS}
        return {kind: count for kind, count in counts.items() if count}
