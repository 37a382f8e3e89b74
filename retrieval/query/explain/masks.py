"""What is hidden of a medium, and what each cell of it adds to a score by that. Arrays only.

A medium is a grid of cells. Some passes hide a window of cells and keep the rest, as many keep only the
window and hide the rest; a cell's effect is how much higher the score is, on average, where it is kept.
Hiding alone (Zeiler and Fergus 2014, arXiv:1311.2901) misses what is there twice; showing alone misses what
only the whole makes clear. Random masks (RISE, Petsiuk et al. 2018, arXiv:1806.07421) of as many passes left
more heat beside what was asked for: benchmarks/results/explain.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from indexer.types import FloatArray

SCALES = (2, 4)  # a window's side is the grid's, divided by these


def windows(shape: tuple[int, int], scale: int) -> FloatArray:
    """Every place of a window in a grid, shape (places, rows, columns): 1 inside of it, else 0.

    The window's sides are the grid's divided by `scale`, rounded, one cell at the least; it moves by a cell.
    """
    rows, columns = (max(1, round(side / scale)) for side in shape)
    places = [(y, x) for y in range(shape[0] - rows + 1) for x in range(shape[1] - columns + 1)]
    found = np.zeros((len(places), *shape), np.float32)
    for one, (y, x) in zip(found, places, strict=True):
        one[y : y + rows, x : x + columns] = 1.0
    return found


def plan(shape: tuple[int, int], scales: Sequence[int] = SCALES) -> list[FloatArray]:
    """For each scale the masks that hide a window, then those that show only it: 1 is kept, 0 is hidden.

    An array a scale and way, shape (places, rows, columns). A window that is the whole grid is left out.
    """
    found = []
    for scale in scales:
        inside = windows(shape, scale)
        if len(inside) > 1:
            found += [np.asarray(1.0 - inside, np.float32), inside]
    return found


def effects(keep: Sequence[FloatArray], scores: Sequence[FloatArray]) -> FloatArray:
    """What each cell adds to the score, shape (rows, columns), from masks (m, rows, columns) and scores (m,).

    For each array of masks the mean score where the cell is kept less the mean where it is hidden; then the
    mean over the arrays, so that a scale with more places does not count for more.
    """
    found = [_effect(masks, score) for masks, score in zip(keep, scores, strict=True)]
    return np.asarray(np.mean(found, axis=0), np.float32)


def _effect(keep: FloatArray, score: FloatArray) -> FloatArray:
    wide = np.asarray(score, np.float64)
    kept, hidden = (np.tensordot(wide, part, 1) / part.sum(axis=0) for part in _parts(keep))
    return np.asarray(kept - hidden)


def _parts(keep: FloatArray) -> Iterator[FloatArray]:
    """How much of each cell is kept, and how much hidden; never none, where some mask does neither."""
    yield np.maximum(keep, 1e-9)
    yield np.maximum(1.0 - keep, 1e-9)


def grid_of(height: float, width: float, longest: int) -> tuple[int, int]:
    """Rows and columns of nearly square cells, `longest` along the longer side, two at the least."""
    long = max(height, width)
    return max(2, round(longest * height / long)), max(2, round(longest * width / long))
