"""Which category each output of the sound network's classifier stands for, from sounds with known names.

The outputs are assumed to be in alphabetical order with some categories absent, so the best assignment that
keeps the order is an alignment, found exactly by dynamic programming. That the assumption holds is shown by
how much better the outputs align in their own order than in shuffled ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Match:
    """The alignment of outputs with categories."""

    absent: tuple[str, ...]  # categories that no output stands for
    score: float  # of the outputs in their own order
    shuffled_mean: float  # of the same outputs in random orders
    shuffled_deviation: float


def match_classes(
    probabilities: Array, named: Array, categories: dict[str, Array], *, draws: int = 200, seed: int = 0
) -> Match:
    """Align a classifier's outputs (n, outputs) on sounds named by `named` (n, 384) with categories.

    An output suits a category as far as the sounds that it fires on have names near the category's.
    """
    names = list(categories)
    vectors = np.stack([categories[name] for name in names])
    near = _unit(named - named.mean(axis=0)) @ _unit(vectors - vectors.mean(axis=0)).T
    suits = probabilities.T @ near / max(1, len(named))
    score, taken = align(suits)
    random = np.random.default_rng(seed)
    shuffled = [align(suits[random.permutation(len(suits))])[0] for _ in range(draws)]
    absent = tuple(name for place, name in enumerate(names) if place not in set(taken))
    return Match(absent, score, float(np.mean(shuffled)), float(np.std(shuffled)))


def align(suits: Array) -> tuple[float, list[int]]:
    """The best increasing assignment of rows (r, c) to columns: its sum, and the column of each row."""
    rows, columns = suits.shape
    best = np.full((rows + 1, columns + 1), -np.inf)
    best[0] = 0.0
    for row in range(1, rows + 1):
        # The sum when this row takes exactly this column; the running maximum leaves columns out.
        best[row, 1:] = np.maximum.accumulate(best[row - 1, :-1] + suits[row - 1])
    taken, column = [], columns
    for row in range(rows, 0, -1):
        while best[row, column - 1] == best[row, column]:
            column -= 1
        column -= 1
        taken.append(column)
    return float(best[rows, columns]), taken[::-1]


def _unit(rows: Array) -> Array:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
