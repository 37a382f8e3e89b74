"""Exact ranks of the relevant contents of each query, in bounded memory. numpy only, nothing but ranks.

What a score is: the sum of products of two float32 vectors in float64, always added in the same order, so
that equal vectors score the same bits wherever they lie. BLAS adds in an order that depends on the shape of
its operands; it is used to tell what is certainly above and certainly below, by the bound on its rounding
error (Higham, 'Accuracy and Stability of Numerical Algorithms', 2nd edition, section 3.1: any order of
summation of n products errs by at most n u / (1 - n u) times the sum of their magnitudes). Only the pairs
that it cannot tell apart are scored again. Ranks therefore depend neither on chunks nor on threads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from indexer.types import FloatArray
from retrieval.evaluation.relevance import Relevance
from retrieval.training.types import Ints

Doubles = npt.NDArray[np.float64]

CHUNK = 512  # queries at a time
BLOCK = 16_384  # gallery rows at a time
FEW = 16  # up to so many relevant rows are counted past; beyond, sorting the gallery is cheaper
CLOSE_SHARE = 1 / 64  # more undecided pairs than this: float32 tells too little apart, sort in float64
SORT_FLOATS = 8_000_000  # a sorted chunk's scores: 64 MB
EXACT_FLOATS = 1_000_000  # products held while pairs are scored exactly: 8 MB each of three


def relevant_ranks(
    queries: FloatArray,
    gallery: FloatArray,
    targets: Ints,
    *,
    chunk: int = CHUNK,
    block: int = BLOCK,
) -> Ints:
    """The rank of each target, shape of `targets` (queries, slots), 1 is best; 0 where a target is -1.

    The order is total: score descending, then gallery row ascending. Memory beside the arguments: scores of
    `chunk` x `block` pairs and two masks of them, or some 140 MB where the gallery has to be sorted.
    """
    ranks = np.zeros(targets.shape, np.int64)
    longest = _longest(gallery)
    for start in range(0, len(queries), chunk):
        part = slice(start, min(start + chunk, len(queries)))
        found = None
        if targets.shape[1] <= FEW:
            found = _count_past(queries[part], gallery, targets[part], longest=longest, block=block)
        if found is None:
            found = _sort_all(queries[part], gallery, targets[part], longest=longest, block=block)
        ranks[part] = found
    return ranks


def best_targets(queries: FloatArray, gallery: FloatArray, relevance: Relevance) -> Ints:
    """Of each query's relevant rows the one that ranks first, (queries, 1)."""
    best = np.empty((len(queries), 1), np.int64)
    step = max(1, EXACT_FLOATS // (16 * max(1, int(relevance.counts().max(initial=1)))))
    for start in range(0, len(queries), step):
        numbers = np.arange(start, min(start + step, len(queries)))
        targets = relevance.padded(numbers)
        scores = _target_scores(queries[numbers], gallery, targets)
        scores[targets < 0] = -np.inf
        place = scores.argmax(axis=1)  # the first of equals, and rows ascend within a list
        best[numbers, 0] = np.take_along_axis(targets, place[:, None], axis=1)[:, 0]
    return best


def pair_scores(queries: FloatArray, gallery: FloatArray, rows: Ints, columns: Ints) -> Doubles:
    """Scores of pairs (rows[i], columns[i]), (pairs,). The one definition that every order here rests on."""
    scores = np.empty(len(rows))
    step = max(1, EXACT_FLOATS // max(1, queries.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        products = queries[rows[part]].astype(np.float64)
        products *= gallery[columns[part]]
        scores[part] = products.sum(axis=1)  # each row by itself, along memory: the same order everywhere
    return scores


def _target_scores(queries: FloatArray, gallery: FloatArray, targets: Ints) -> Doubles:
    """Scores of the targets, (queries, slots); 0 where there is none."""
    scores = np.zeros(targets.shape)
    there = targets >= 0
    scores[there] = pair_scores(queries, gallery, np.nonzero(there)[0], targets[there])
    return scores


def _longest(vectors: FloatArray) -> float:
    """The greatest length of a vector."""
    squares = [
        np.einsum("ij,ij->i", part, part, dtype=np.float64).max()
        for part in (vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK))
    ]
    return float(np.sqrt(max(squares)))


def _rounding(queries: FloatArray, longest: float, unit: float) -> Doubles:
    """How far a BLAS score of each query can lie from `pair_scores`, (queries,)."""
    n = queries.shape[1] + 1
    lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
    both = n * unit / (1 - n * unit) + n * 2.0**-53 / (1 - n * 2.0**-53)
    return 1.001 * both * lengths * longest + n * float(np.finfo(np.float32).tiny)


def _count_past(
    queries: FloatArray, gallery: FloatArray, targets: Ints, *, longest: float, block: int
) -> Ints | None:
    """Ranks by counting what scores above each target; None where too many pairs are too close to tell."""
    exact = _target_scores(queries, gallery, targets)
    margin = _rounding(queries, longest, 2.0**-24)[:, None]
    there = targets >= 0
    up, down = np.float32(np.inf), np.float32(-np.inf)
    above = np.where(there, np.nextafter((exact + margin).astype(np.float32), up), up)
    below = np.where(there, np.nextafter((exact - margin).astype(np.float32), down), up)
    ranks = there.astype(np.int64)
    allowed = CLOSE_SHARE * len(queries) * len(gallery) + 16 * targets.size
    scores = np.empty((len(queries), min(block, len(gallery))), np.float32)
    for start in range(0, len(gallery), block):
        part = gallery[start : start + block]
        table = scores[:, : len(part)]
        np.matmul(queries, part.T, out=table)
        for slot in range(targets.shape[1]):
            surely = table > above[:, slot, None]
            ranks[:, slot] += [np.count_nonzero(row) for row in surely]
            rows, columns = np.nonzero((table >= below[:, slot, None]) ^ surely)
            allowed -= len(rows)
            if allowed < 0:
                return None
            columns = columns + start
            better = _is_better(queries, gallery, rows, columns, exact[:, slot], targets[:, slot])
            ranks[:, slot] += np.bincount(rows[better], minlength=len(queries))
    return ranks


def _is_better(
    queries: FloatArray, gallery: FloatArray, rows: Ints, columns: Ints, exact: Doubles, targets: Ints
) -> npt.NDArray[np.bool_]:
    """Whether each pair (query row, gallery column) comes before the query's target."""
    wanted = targets[rows]
    better = columns < wanted  # in a tie
    others = np.flatnonzero(columns != wanted)
    scores = pair_scores(queries, gallery, rows[others], columns[others])
    limits = exact[rows[others]]
    better[others] = (scores > limits) | ((scores == limits) & better[others])
    return better


def _sort_all(queries: FloatArray, gallery: FloatArray, targets: Ints, *, longest: float, block: int) -> Ints:
    """Ranks from the whole order of the gallery, a few queries at a time."""
    ranks = np.zeros(targets.shape, np.int64)
    margin = 2 * _rounding(queries, longest, 2.0**-53)
    step = max(1, SORT_FLOATS // len(gallery))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        table = np.empty((len(part), len(gallery)))
        for at in range(0, len(gallery), block):
            few = gallery[at : at + block].astype(np.float64)
            table[:, at : at + block] = part.astype(np.float64) @ few.T
        for row, scores in enumerate(table, start):
            place = np.empty(len(gallery), np.int64)
            place[_order(queries[row], gallery, scores, float(margin[row]))] = np.arange(1, len(gallery) + 1)
            ranks[row] = np.where(targets[row] >= 0, place[targets[row]], 0)
    return ranks


def _order(query: FloatArray, gallery: FloatArray, scores: Doubles, margin: float) -> Ints:
    """Gallery rows from best to worst. Runs of scores closer than the margin are ordered exactly."""
    order = np.argsort(-scores)
    ranked = scores[order]
    near = ranked[:-1] - ranked[1:] <= margin
    if near.any():
        run = np.append(0, np.cumsum(~near))
        unsure = np.flatnonzero(np.append(near, False) | np.append(False, near))
        rows = order[unsure]
        exact = pair_scores(query[None], gallery, np.zeros(len(rows), np.int64), rows)
        order[unsure] = rows[np.lexsort((rows, -exact, run[unsure]))]
    return order
