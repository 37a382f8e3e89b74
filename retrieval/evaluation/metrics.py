"""Retrieval metrics a query, their summaries, and what chance would give. numpy only.

Relevance lists come from relevance.py, exact ranks from ranking.py; intervals are put on in intervals.py.
Definitions, for a query with R relevant rows at ranks r_1 < r_2 < ... of a total order:

- R@k: 1 where r_1 <= k. As in the literature on cross-modal retrieval this asks for any relevant item
  (a hit rate); with one relevant item it is recall proper.
- MRR: the mean of 1 / r_1. Median and mean rank: of r_1.
- nDCG@10: binary gains 1 / log2(r + 1), over the best that R items can give (Järvelin and Kekäläinen 2002).
- mAP@R: the sum of j / r_j over r_j <= R, divided by R (Musgrave et al. 2020, arXiv:2003.08505).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.errors import TrainingError
from indexer.types import FloatArray, Modality
from retrieval.evaluation import ranking
from retrieval.evaluation.ranking import BLOCK, CHUNK, Doubles
from retrieval.evaluation.relevance import Direction, Matching, Relevance, directions, match
from retrieval.training.types import Examples, Ints

KS = (1, 5, 10)
DEPTH = 10  # of nDCG
MEAN_RANK, MEDIAN_RANK = "mean rank", "median rank"  # the metrics of which less is better
_NOWHERE = np.iinfo(np.int64).max

__all__ = [
    "KS",
    "MEAN_RANK",
    "MEDIAN_RANK",
    "PerQuery",
    "Relevance",
    "averaged",
    "chance_recall",
    "checked_vectors",
    "mean_recall",
    "score_direction",
    "summarise",
]


@dataclass(frozen=True, slots=True, eq=False)
class PerQuery:
    """What one direction measured, a value a query."""

    rank: Ints  # (queries,) of the best relevant row, from 1
    ndcg: Doubles  # (queries,) nDCG@10, in [0, 1]
    ap: Doubles  # (queries,) average precision within the first R, in [0, 1]
    relevant: Ints  # (queries,) R, how many relevant rows there are
    gallery: int  # rows that were ranked

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def reciprocal_rank(self) -> Doubles:
        """1 / rank, (queries,)."""
        return 1.0 / self.rank

    def hit(self, k: int) -> Doubles:
        """1.0 where a relevant row is among the first k, (queries,)."""
        return (self.rank <= k).astype(np.float64)

    def recall_curve(self, depth: int = 100) -> Doubles:
        """R@1 ... R@depth, (depth,)."""
        counts = np.bincount(np.minimum(self.rank, depth + 1), minlength=depth + 2)
        return np.cumsum(counts[1 : depth + 1]) / len(self)

    def chance_curve(self, depth: int = 100) -> Doubles:
        """What a random order would give in its place, (depth,)."""
        return chance_recall(self.relevant, self.gallery, depth)


def score_direction(
    queries: FloatArray,
    gallery: FloatArray,
    relevance: Relevance,
    *,
    chunk: int = CHUNK,
    block: int = BLOCK,
) -> PerQuery:
    """Metrics of each of q queries, shape (q, d), against a gallery of shape (g, d).

    A pair's score is its dot product, higher is better, and a tie goes to the lower gallery row; ranking.py
    says what makes that exact.
    Memory beside the arguments is bounded by the scores of `chunk` x `block` pairs (50 MB with their masks),
    or some 140 MB for queries with more than 16 relevant rows, whatever q and g are.

    Raises TrainingError for no queries, a query without a relevant row, unlike widths, or a vector that is
    not finite.
    """
    queries, gallery = _checked(queries, gallery, relevance)
    counts = relevance.counts()
    rank, ndcg, ap = np.empty(len(queries), np.int64), np.empty(len(queries)), np.empty(len(queries))
    for numbers in _batches(counts, chunk):
        targets = relevance.padded(numbers)
        ranks = ranking.relevant_ranks(queries[numbers], gallery, targets, chunk=chunk, block=block)
        ranks[targets < 0] = _NOWHERE
        ranks.sort(axis=1)
        rank[numbers] = ranks[:, 0]
        ndcg[numbers], ap[numbers] = _ndcg(ranks, counts[numbers]), _ap(ranks, counts[numbers])
    return PerQuery(rank, ndcg, ap, counts, len(gallery))


def _batches(counts: Ints, chunk: int) -> Iterable[Ints]:
    """Queries of like numbers of relevant rows together, so that tables of their ranks stay small."""
    order = np.argsort(counts, kind="stable")
    counts = counts[order]
    counted = int(np.searchsorted(counts, ranking.FEW, side="right"))  # the others are sorted
    start = 0
    while start < len(order):
        end = min(start + chunk, len(order) if start >= counted else counted)
        while end > start + 1 and (end - start) * counts[end - 1] > ranking.EXACT_FLOATS:
            end = start + (end - start) // 2
        yield order[start:end]
        start = end


def _ndcg(ranks: Ints, counts: Ints) -> Doubles:
    gains = np.append(0.0, 1.0 / np.log2(np.arange(2, DEPTH + 2)))
    ideal = np.cumsum(gains)[np.minimum(counts, DEPTH)]
    shallow = np.where(ranks <= DEPTH, ranks, 0)
    return np.asarray(gains[shallow].sum(axis=1) / ideal)


def _ap(ranks: Ints, counts: Ints) -> Doubles:
    found = np.arange(1, ranks.shape[1] + 1) / ranks  # precision at each relevant rank
    return np.asarray(np.where(ranks <= counts[:, None], found, 0.0).sum(axis=1) / counts)


def averaged(scores: PerQuery, ks: Sequence[int] = KS) -> dict[str, Doubles]:
    """What metrics are the means of, (queries,) each. All but the rank are in [0, 1], higher is better."""
    return {f"R@{k}": scores.hit(k) for k in ks} | {
        "MRR": scores.reciprocal_rank,
        "nDCG@10": scores.ndcg,
        "mAP@R": scores.ap,
        MEAN_RANK: scores.rank.astype(np.float64),
    }


def summarise(scores: PerQuery, ks: Sequence[int] = KS) -> dict[str, float]:
    """Every metric by name. The two ranks count from 1, lower is better; the others are in [0, 1]."""
    means = {name: float(values.mean()) for name, values in averaged(scores, ks).items()}
    return means | {MEDIAN_RANK: float(np.median(scores.rank))}


def chance_recall(relevant: npt.ArrayLike, gallery: int, depth: int) -> Doubles:
    """Mean R@1 ... R@depth of a random order, (depth,): 1 - C(g - R, k) / C(g, k) for each query's R."""
    values, times = np.unique(np.asarray(relevant, np.int64), return_counts=True)
    taken = np.arange(depth)
    left = np.maximum(gallery - taken, 1)
    missing = np.maximum(gallery - values[:, None] - taken, 0) / left  # the next draw misses, too
    return np.asarray(1.0 - times @ np.cumprod(missing, axis=1) / times.sum())


def mean_recall(
    vectors: Mapping[Modality, FloatArray], examples: Examples, *, ks: Sequence[int] = KS
) -> float:
    """The mean of R@k over k and over every direction that the rows have, in [0, 1]; see `mean_recalls`."""
    return float(np.mean(mean_recalls(vectors, examples, ks=ks)))


def mean_recalls(
    vectors: Mapping[Modality, FloatArray], examples: Examples, *, ks: Sequence[int]
) -> tuple[float, ...]:
    """For each k the mean of R@k over every direction that the rows have, in [0, 1]; higher is better.

    `vectors` are unit vectors of the contents that `examples` points into, (contents, d) each. This is
    what early stopping watches: it finds only the rank of the best relevant content.

    Raises TrainingError where no row has two modalities, or for vectors that are missing or not finite.
    """
    ways = directions(examples)
    if not ways:
        raise TrainingError(
            "no row has two modalities, so there is nothing to measure",
            hint="give validation rows with at least two of image, text and audio",
        )
    found = np.mean([_recalls(vectors, match(examples, way), way, ks) for way in ways], axis=0)
    return tuple(found.tolist())


def _recalls(
    vectors: Mapping[Modality, FloatArray], matching: Matching, direction: Direction, ks: Sequence[int]
) -> list[float]:
    queries, gallery = checked_vectors(vectors, matching, direction)
    best = ranking.best_targets(queries, gallery, matching.relevance)
    ranks = ranking.relevant_ranks(queries, gallery, best)
    return [float((ranks <= k).mean()) for k in ks]


def checked_vectors(
    vectors: Mapping[Modality, FloatArray], matching: Matching, direction: Direction
) -> tuple[FloatArray, FloatArray]:
    """The vectors of a direction's queries (q, d) and gallery (g, d), float32.

    Raises TrainingError where a modality or a content has none, widths differ, or one is not finite.
    """
    picked = []
    for modality, contents in zip(direction, (matching.queries, matching.gallery), strict=True):
        table = vectors.get(modality)
        if table is None or table.ndim != 2 or len(table) <= int(contents.max()):
            came = "none" if table is None else f"an array of shape {table.shape}"
            raise TrainingError(
                f"the rows name {modality} content {int(contents.max())}, and {came} came as its vectors",
                hint="give one vector for each content of each modality",
            )
        picked.append(_finite(table[contents], f"{modality} vectors"))
    return _checked(picked[0], picked[1], matching.relevance)


def _checked(queries: FloatArray, gallery: FloatArray, relevance: Relevance) -> tuple[FloatArray, FloatArray]:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise TrainingError(
            f"queries of shape {queries.shape} and a gallery of shape {gallery.shape} cannot be compared",
            hint="both must be (rows, dimension) with the same dimension",
        )
    if not len(queries) or not len(gallery):
        raise TrainingError(
            f"{len(queries)} queries and {len(gallery)} gallery rows: nothing to measure",
            hint="give rows that have both modalities",
        )
    if len(relevance) != len(queries):
        raise TrainingError(
            f"{len(queries)} queries came with relevance of {len(relevance)}",
            hint="relevance needs one list a query",
        )
    empty = np.flatnonzero(relevance.counts() == 0)
    if len(empty):
        raise TrainingError(
            f"{len(empty)} queries have no relevant gallery row, the first is number {empty[0]}",
            hint="leave them out: no order can be right or wrong for them",
        )
    if len(relevance.indices) and not 0 <= relevance.indices.min() <= relevance.indices.max() < len(gallery):
        raise TrainingError(f"relevance names rows beyond the gallery's {len(gallery)}")
    return _finite(queries, "queries"), _finite(gallery, "gallery vectors")


def _finite(vectors: FloatArray, what: str) -> FloatArray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise TrainingError(
            f"{len(bad)} of {len(vectors)} {what} are not finite, the first is number {bad[0]}",
            hint="training diverged or a feature is broken: lower the learning rate, or check the model",
        )
    return vectors
