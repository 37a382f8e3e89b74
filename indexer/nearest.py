"""Bulk search: the nearest of many queries among a part's vectors, exactly, with every tie.

What finds candidates may round: a GPU's float16, a matrix product in any order. Here their scores are
computed again as a search's are, and a query whose cut rounded scores cannot tell is asked deeper, then
scanned. So the result is the same whatever found the candidates. Knows no torch and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from indexer.gpu import DEEPEST
from indexer.types import FloatArray
from indexer.vectors import MARGIN, BoolArray, HalfArray, IndexArray, exact_candidates

Found = tuple[IndexArray, FloatArray]
"""Rows (n,) and exact scores (n,) for one query, best first; rows of one score ascend."""

SPARE = 32  # rows fetched beyond those asked for, so that ties at the cut seldom need more
QUERIES = 4096  # asked at a time
BLOCK = 1 << 23  # float64 numbers held while candidates are scored again: 64 MB
HOST_ROWS = 4096  # stored vectors that one product on the host takes
HOST_SCORES = 1 << 21  # scores of one such product: 8 MB


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The vectors of one modality of a part, and which of them live."""

    stored: HalfArray  # (n, d), mapped: nothing here reads all of it at once
    alive: BoolArray | None = None  # (n,); None: all do
    name: str = ""  # tells it from others, for who keeps something of it

    @property
    def living(self) -> int:
        """How many can be found."""
        return len(self.stored) if self.alive is None else int(np.count_nonzero(self.alive))


class Rough(Protocol):
    """What finds candidates among living rows."""

    @property
    def margin(self) -> float:
        """By less than this its scores are off."""
        ...

    @property
    def deepest(self) -> int:
        """The most results that it gives for one query."""
        ...

    def __call__(self, queries: FloatArray, depth: int) -> tuple[FloatArray, IndexArray]:
        """Queries (q, d) -> scores (q, depth), best first, and their rows; a row of -1 is none."""
        ...


def nearest(queries: FloatArray, rows: Rows, k: int, *, rough: Rough | None = None) -> list[Found]:
    """For each of `queries` (q, d) the k best living rows, and all that score as the last of them does.

    Scores are those of vectors.exact_scores, to the bit. Without `rough`, the host's matrix product finds
    candidates.
    """
    living = rows.living
    k = min(k, living)
    if not k:
        return [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in queries]
    rough = rough or OnHost(rows)
    found: list[Found | None] = [None] * len(queries)
    waiting = np.arange(len(queries))
    depth = min(living, k + SPARE)
    while len(waiting) and depth <= rough.deepest:
        waiting = _ask(rough, queries, rows.stored, waiting, found, k=k, depth=depth, whole=depth == living)
        if depth == living or depth == rough.deepest:
            break
        depth = min(living, rough.deepest, 8 * depth)
    for query in waiting.tolist():
        (scanned,) = exact_candidates(rows.stored, queries[query : query + 1], k, alive=rows.alive)
        found[query] = _cut(*scanned, k)
    return [one for one in found if one is not None]


class OnHost:
    """Candidates by a matrix product on the host, block by block; the best so far are kept."""

    margin = MARGIN
    deepest = 8 * DEEPEST

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __call__(self, queries: FloatArray, depth: int) -> tuple[FloatArray, IndexArray]:
        """Scores and rows (q, depth), best first."""
        step = max(1, HOST_SCORES // max(HOST_ROWS, depth))
        parts = [self._best(queries[start : start + step], depth) for start in range(0, len(queries), step)]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([rows for _, rows in parts])

    def _best(self, queries: FloatArray, depth: int) -> tuple[FloatArray, IndexArray]:
        stored, alive = self._rows.stored, self._rows.alive
        scores = np.full((len(queries), depth), -np.inf, np.float32)
        rows = np.full((len(queries), depth), -1, np.int64)
        for start in range(0, len(stored), HOST_ROWS):
            block = queries @ stored[start : start + HOST_ROWS].astype(np.float32).T
            if alive is not None:
                block[:, ~alive[start : start + HOST_ROWS]] = -np.inf
            asked, places = np.nonzero(block > scores.min(axis=1)[:, None])  # few, once the best are known
            if len(asked):
                counts = np.bincount(asked, minlength=len(queries))
                column = np.arange(len(asked)) - np.repeat(np.cumsum(counts) - counts, counts)
                more = np.full((len(queries), int(counts.max())), -np.inf, np.float32)
                new = np.full(more.shape, -1, np.int64)
                more[asked, column], new[asked, column] = block[asked, places], places + start
                scores, rows = _deepest(np.hstack([scores, more]), np.hstack([rows, new]), depth)
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _deepest(scores: FloatArray, rows: IndexArray, depth: int) -> tuple[FloatArray, IndexArray]:
    """The `depth` best of each line, in any order."""
    kept = np.argpartition(scores, scores.shape[1] - depth, axis=1)[:, -depth:]
    return np.take_along_axis(scores, kept, axis=1), np.take_along_axis(rows, kept, axis=1)


def _ask(
    rough: Rough,
    queries: FloatArray,
    stored: HalfArray,
    waiting: IndexArray,
    found: list[Found | None],
    *,
    k: int,
    depth: int,
    whole: bool,
) -> IndexArray:
    """Fill in the queries that `depth` candidates decide; returns those that they do not."""
    step = max(1, min(QUERIES, BLOCK // (depth * stored.shape[1])))
    undecided = [np.zeros(0, np.int64)]
    for start in range(0, len(waiting), QUERIES):
        asked = waiting[start : start + QUERIES]
        about, fetched = rough(queries[asked], depth)
        for first in range(0, len(asked), step):
            few = slice(first, first + step)
            part, rows = asked[few], np.sort(fetched[few], axis=1)
            exact = _scores(queries[part], stored, rows)
            order = np.argsort(-exact, axis=1, kind="stable")  # rows ascend, and so do those of a tie
            exact, rows = np.take_along_axis(exact, order, axis=1), np.take_along_axis(rows, order, axis=1)
            # What was not fetched scores at most the last fetched, give or take its rounding.
            sure = np.full(len(part), whole) | (exact[:, k - 1] > about[few, -1] + rough.margin)
            counts = (exact >= exact[:, k - 1 : k]).sum(axis=1)
            for line in np.flatnonzero(sure).tolist():
                count = int(counts[line])
                found[int(part[line])] = rows[line, :count].copy(), exact[line, :count].copy()
            undecided.append(part[~sure])
    return np.concatenate(undecided)


def _cut(rows: IndexArray, scores: FloatArray, k: int) -> Found:
    """The k best candidates, rows ascending as given, and what ties with the last of them."""
    order = np.argsort(-scores, kind="stable")
    count = int(np.count_nonzero(scores >= scores[order[k - 1]]))
    return rows[order[:count]], scores[order[:count]]


def _scores(queries: FloatArray, stored: HalfArray, rows: IndexArray) -> FloatArray:
    """Scores (q, c) of each query's rows (q, c), to the bit those of vectors.exact_scores; -inf for -1."""
    products = stored[rows].astype(np.float64)
    products *= queries[:, None, :].astype(np.float64)
    return np.where(rows >= 0, products.sum(axis=2).astype(np.float32), np.float32(-np.inf))
