"""Bulk search: the k nearest of many queries among stored vectors, exactly and in a total order.

What finds candidates may round: a GPU's float16, a matrix product in any order. Here their scores are
computed again as a search's are, and a query whose cut rounded scores cannot tell is asked deeper, then
scanned. So the result is the same whatever found the candidates. Knows no torch and no model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from indexer import gpu
from indexer.gpu import Note
from indexer.types import FloatArray
from indexer.vectors import MARGIN, HalfArray, IndexArray, exact_candidates

Rough = Callable[[FloatArray, int], tuple[FloatArray, IndexArray]]
"""Queries (q, d) and a depth -> scores (q, depth), best first, and their rows; a row of -1 is none."""

SPARE = 32  # rows fetched beyond those asked for, so that ties at the cut seldom need more
QUERIES = 4096  # asked at a time
HALF_MARGIN = 1.5e-3  # more than float16 queries move a score: 2**-11 of a unit vector, and float32 sums
BLOCK = 1 << 23  # float64 numbers held while candidates are scored again: 64 MB
WORTH = 1 << 28  # queries times vectors; below, the host has scanned them before a GPU has them


def nearest(
    queries: FloatArray,
    stored: HalfArray,
    k: int,
    *,
    rough: Rough | None = None,
    margin: float = MARGIN,
) -> tuple[IndexArray, FloatArray]:
    """Rows (q, min(k, n)) and exact scores of the nearest of `stored` (n, d) to each of `queries` (q, d).

    The order is that of a search: score descending, then row ascending; scores as vectors.exact_scores has
    them. `rough` finds candidates whose scores are off by less than `margin`; without it all is scanned.
    """
    k = min(k, len(stored))
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.zeros((len(queries), k), np.float32)
    waiting = np.arange(len(queries))
    depth = min(len(stored), gpu.DEEPEST, k + SPARE)
    while rough is not None and len(waiting) and k and depth >= k:
        waiting = _ask(rough, queries, stored, waiting, (rows, scores), depth=depth, margin=margin)
        deeper = min(len(stored), gpu.DEEPEST, 8 * depth)
        if deeper == depth:
            break
        depth = deeper
    for query in waiting if k else ():
        found, exact = exact_candidates(stored, queries[query], k)
        best = np.lexsort((found, -exact))[:k]
        rows[query], scores[query] = found[best], exact[best]
    return rows, scores


def on_gpu(
    queries: FloatArray, stored: HalfArray, k: int, *, use: bool | None = None, note: Note | None = None
) -> tuple[IndexArray, FloatArray]:
    """`nearest`, its candidates from a GPU's float16 flat search; by the host where there is none.

    `use` as for gpu.chosen: None is for a GPU that is there and worth it, True for any that is there.
    """
    if (use is None and len(queries) * len(stored) < WORTH) or not gpu.chosen(use, note=note):
        return nearest(queries, stored, k)
    try:
        return nearest(queries, stored, k, rough=gpu.FlatOnGpu(stored), margin=HALF_MARGIN)
    except RuntimeError as error:  # faiss has no other type: too little memory, a driver that does not fit
        if note:
            note(f"the GPU's search failed, the CPU goes on: {str(error).splitlines()[0][:120]}")
        return nearest(queries, stored, k)


def _ask(
    rough: Rough,
    queries: FloatArray,
    stored: HalfArray,
    waiting: IndexArray,
    found: tuple[IndexArray, FloatArray],
    *,
    depth: int,
    margin: float,
) -> IndexArray:
    """Fill in the queries that `depth` candidates decide; returns those that they do not."""
    k, dim = found[0].shape[1], stored.shape[1]
    step = max(1, min(QUERIES, BLOCK // (depth * dim)))
    undecided = []
    for start in range(0, len(waiting), QUERIES):
        asked = waiting[start : start + QUERIES]
        about, fetched = rough(queries[asked], depth)
        for first in range(0, len(asked), step):
            few = slice(first, first + step)
            part, rows = asked[few], np.sort(fetched[few], axis=1)
            exact = _scores(queries[part], stored, rows)
            best = np.argsort(-exact, axis=1, kind="stable")[:, :k]  # rows ascend, and so do those of a tie
            scores = np.take_along_axis(exact, best, axis=1)
            # What was not fetched scores at most the last fetched, give or take its rounding.
            sure = scores[:, -1] > about[few, -1] + margin if depth < len(stored) else scores[:, -1] > -np.inf
            found[0][part[sure]] = np.take_along_axis(rows, best, axis=1)[sure]
            found[1][part[sure]] = scores[sure]
            undecided.append(part[~sure])
    return np.concatenate(undecided)


def _scores(queries: FloatArray, stored: HalfArray, rows: IndexArray) -> FloatArray:
    """Scores (q, c) of each query's rows (q, c), to the bit those of vectors.exact_scores; -inf for -1."""
    products = stored[rows].astype(np.float64)
    products *= queries[:, None, :].astype(np.float64)
    return np.where(rows >= 0, products.sum(axis=2).astype(np.float32), np.float32(-np.inf))
