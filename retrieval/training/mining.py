"""Hard negatives: for each query the gallery's most similar contents that are not known to belong to it.

Works on vectors and numbers, imports no torch, and faiss (300 MB) only when it mines. What a loss does with
mined negatives stands in losses/; who asks for them each epoch, in trainer.py.

False negatives are masked in two ways: what the data pairs with a query, or any content the same as that, is
never a negative; and a candidate nearly as similar as the best positive is taken for an unlabelled positive
(the positive-aware top-k of NV-Retriever, Moreira et al. 2024, arXiv:2407.15831).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from indexer import gpu
from indexer.errors import TrainingError
from indexer.gpu import Note
from indexer.types import FloatArray
from retrieval.training.types import Ints

EXACT_UP_TO = 200_000  # gallery vectors searched exactly; more go through inverted lists
BLOCK = 1 << 24  # float64 numbers held at once
DEEPEST = 2048  # candidates a query that are asked of inverted lists before the rest is left as padding
ROUNDING = 1e-5  # by which float32 scores of unit vectors may be off, generously
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Search:
    """How candidates are found."""

    exact_up_to: int = EXACT_UP_TO  # gallery vectors; above, most of the hardest are found
    gpu: bool | None = False  # by faiss on a GPU: True, or None where there is one
    device: int = 0  # which GPU
    note: Note | None = None  # hears in one line of a GPU that is not there or fails


class Known(Protocol):
    """What belongs to each query, in CSR form: `indices[indptr[i]:indptr[i + 1]]` are gallery rows."""

    @property
    def indptr(self) -> Ints: ...

    @property
    def indices(self) -> Ints: ...


@dataclass(frozen=True, slots=True, eq=False)
class KnownPairs:
    """Known positives of each query, made of pairs."""

    indptr: Ints  # (queries + 1,)
    indices: Ints  # (pairs,)


def mine_negatives(
    queries: FloatArray,
    gallery: FloatArray,
    known: Known,
    *,
    k: int,
    relative_margin: float | None = 0.95,
    contents: Ints | None = None,
    search: Search | None = None,
) -> Ints:
    """Gallery rows (queries, k), the hardest negative first, padded with -1 where there are fewer.

    Order is total: score descending, then gallery row ascending, scores being summed in float64. `queries`
    (q, d) and `gallery` (g, d) are unit vectors. A candidate is dropped where the query is known to match
    it, where it has the same number in `contents` (g,) as one that it matches (below 0: as none), and where
    its score is above p - (1 - relative_margin) |p| with p the score of the query's best known positive,
    which for p > 0 is relative_margin * p. None turns that off, as does a query without a positive.

    Up to `search.exact_up_to` gallery vectors the result is exact. Above, an index of inverted lists finds
    most of them, and may leave more padding; a GPU compares all of them, to a depth. TrainingError for
    vectors and lists that do not fit together.
    """
    queries, gallery = (np.ascontiguousarray(one, np.float32) for one in (queries, gallery))
    _check(queries, gallery, known, k, contents)
    if not len(queries) or not len(gallery):
        return np.full((len(queries), k), -1, np.int64)
    masks = _Masks(queries, gallery, known, relative_margin, contents)
    search = search or Search()
    exact = len(gallery) <= search.exact_up_to
    index = _on_gpu(gallery, k, search) or _index(gallery, exact=exact)
    found = np.full((len(queries), k), -1, np.int64)
    depth = min(len(gallery), 4 * k + 64)
    waiting = _from_index(index, masks, np.arange(len(queries)), depth, found, exact=exact)
    if exact:
        _from_scan(masks, waiting, found)
        return found
    while len(waiting) and depth < min(len(gallery), DEEPEST):
        depth = min(4 * depth, len(gallery), DEEPEST)
        waiting = _from_index(index, masks, waiting, depth, found, exact=False)
    return found


class _Masks:
    """Which candidates a query may have, and their exact scores."""

    def __init__(
        self,
        queries: FloatArray,
        gallery: FloatArray,
        known: Known,
        margin: float | None,
        contents: Ints | None,
    ) -> None:
        self.queries, self.gallery = queries, gallery
        own = np.arange(len(gallery))
        if contents is None:
            contents = own
        # Rows of the same content share a kind; those without one are alone in theirs.
        _, self._kind, sizes = np.unique(
            np.where(contents < 0, -1 - own, contents), return_inverse=True, return_counts=True
        )
        self._members = np.argsort(self._kind, kind="stable")  # rows, kind by kind
        self._first = np.concatenate([[0], np.cumsum(sizes)])
        self._query = np.repeat(np.arange(len(queries)), np.diff(known.indptr))
        self._keys = np.unique(self._query * len(gallery) + self._kind[known.indices])
        self.ceiling = self._ceilings(known, margin)

    def _ceilings(self, known: Known, margin: float | None) -> Scores:
        """The highest score that a negative of each query may have."""
        best = np.full(len(self.queries), -np.inf)
        step = max(1, BLOCK // self.queries.shape[1])
        for start in range(0, len(self._query), step):
            part = self._query[start : start + step]
            scores = self.scores(part, known.indices[start : start + step, None])[:, 0]
            np.maximum.at(best, part, scores)
        if margin is None:
            return np.full(len(best), np.inf)
        none = np.isinf(best)
        best[none] = 0.0
        return np.where(none, np.inf, best - (1.0 - margin) * np.abs(best))

    def scores(self, queries: Ints, rows: Ints) -> Scores:
        """Products (len(queries), c) of queries with each one's rows (len(queries), c), summed in float64.

        A score depends on its two vectors only, not on what else is asked for, so that equal vectors tie.
        """
        vectors = self.gallery[rows].astype(np.float64)
        vectors *= self.queries[queries, None, :]
        return np.asarray(vectors.sum(axis=2))

    def allowed(self, queries: Ints, rows: Ints) -> npt.NDArray[np.bool_]:
        """Which of each query's rows (len(queries), c) are not known to match it; -1 is never allowed."""
        keys = queries[:, None] * len(self.gallery) + self._kind[rows]
        if not len(self._keys):
            return np.asarray(rows >= 0)
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.asarray((rows >= 0) & (self._keys[at] != keys))

    def forbidden(self, query: int) -> Ints:
        """The rows that are known to match one query, with all of the same content."""
        first, last = np.searchsorted(
            self._keys, [query * len(self.gallery), (query + 1) * len(self.gallery)]
        )
        kinds = self._keys[first:last] % len(self.gallery)
        lists = [self._members[self._first[kind] : self._first[kind + 1]] for kind in kinds]
        return np.concatenate(lists) if lists else np.zeros(0, np.int64)


def _on_gpu(gallery: FloatArray, k: int, search: Search) -> Any | None:
    """A flat float32 index on a GPU; None where none is wanted, there, or large enough."""
    if 4 * k + 64 > gpu.DEEPEST or not gpu.chosen(search.gpu, note=search.note):
        return None
    try:
        return gpu.FlatOnGpu(gallery, device=search.device, half=False)
    except RuntimeError as error:  # faiss has no other type: too little memory, a driver that does not fit
        if search.note:
            search.note(f"mining on the GPU failed, the CPU does it: {str(error).splitlines()[0][:120]}")
        return None


def _index(gallery: FloatArray, *, exact: bool) -> Any:
    """A faiss index of the gallery: flat, or inverted lists of which a sixteenth are visited."""
    import faiss

    width = gallery.shape[1]
    index: Any
    if exact:
        index = faiss.IndexFlatIP(width)
    else:
        lists = max(
            1, min(int(4 * len(gallery) ** 0.5), len(gallery) // 39)
        )  # k-means wants 39 points a list
        quantizer = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFFlat(quantizer, width, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = 1
        index.nprobe = max(8, lists // 16)
        index.train(gallery)
    index.add(gallery)
    return index


def _from_index(index: Any, masks: _Masks, waiting: Ints, depth: int, found: Ints, *, exact: bool) -> Ints:
    """Fill in what `depth` candidates a query decide; returns the queries that need more of them."""
    k, whole = found.shape[1], len(masks.gallery)
    step = max(1, BLOCK // (depth * masks.queries.shape[1]))
    undecided = []
    for start in range(0, len(waiting), step):
        part = waiting[start : start + step]
        rough, rows = index.search(masks.queries[part], depth)
        scores = masks.scores(part, rows)
        good = masks.allowed(part, rows) & (scores <= masks.ceiling[part, None])
        chosen, last = _best(scores, rows, good, k)
        # What was not fetched scores no more than the last fetched: it may tie with or replace the k-th
        # unless that lies clearly above.
        sure = last > rough[:, -1] + ROUNDING
        if depth == whole:
            sure[:] = True
        if not exact:
            sure = chosen[:, -1] >= 0
        found[part] = chosen
        undecided.append(part[~sure])
    return np.concatenate(undecided)


def _from_scan(masks: _Masks, waiting: Ints, found: Ints) -> None:
    """Fill in queries by comparing them with the whole gallery, block by block."""
    step = max(1, BLOCK // len(masks.gallery))
    for start in range(0, len(waiting), step):
        part = waiting[start : start + step]
        rough = masks.queries[part] @ masks.gallery.T
        for query, line in zip(part, rough, strict=True):
            line[masks.forbidden(int(query))] = -np.inf
            line[line > masks.ceiling[query] + ROUNDING] = -np.inf
            found[query] = _best_of_line(masks, int(query), line, found.shape[1])


def _best_of_line(masks: _Masks, query: int, line: FloatArray, k: int) -> Ints:
    """The k best of one query's rough scores of the whole gallery, -inf where masked, in exact order."""
    unsure = int(np.count_nonzero(line > masks.ceiling[query] - ROUNDING))  # may prove too high
    left = len(line) - unsure - k
    lowest = np.partition(line, left)[left] - 2 * ROUNDING if left > 0 else -np.inf
    rows = np.flatnonzero((line >= lowest) & (line > -np.inf))[None]
    scores = masks.scores(np.array([query]), rows)
    chosen, _ = _best(scores, rows, scores <= masks.ceiling[query], k)
    return chosen[0]


def _best(scores: Scores, rows: Ints, good: npt.NDArray[np.bool_], k: int) -> tuple[Ints, Scores]:
    """The k best good rows of each line, -1 padded, and the score of the k-th (-inf where there is none)."""
    ranked = np.where(good, -scores, np.inf)
    order = np.lexsort((rows, ranked), axis=1)[:, :k]
    values = np.take_along_axis(ranked, order, axis=1)
    chosen = np.where(np.isinf(values), -1, np.take_along_axis(rows, order, axis=1))
    result = np.full((len(rows), k), -1, np.int64)
    result[:, : chosen.shape[1]] = chosen
    enough = chosen.shape[1] == k
    return result, (-values[:, -1] if enough else np.full(len(rows), -np.inf))


def _check(queries: FloatArray, gallery: FloatArray, known: Known, k: int, contents: Ints | None) -> None:
    if k < 1:
        raise TrainingError(f"{k} negatives are asked for, expected 1 or more")
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise TrainingError(f"queries {queries.shape} and gallery {gallery.shape} are not of one space")
    if len(known.indptr) != len(queries) + 1:
        raise TrainingError(f"{len(known.indptr) - 1} lists of known pairs for {len(queries)} queries")
    if len(known.indices) and not 0 <= known.indices.min() <= known.indices.max() < len(gallery):
        raise TrainingError(f"a known pair points outside of the {len(gallery)} gallery vectors")
    if contents is not None and len(contents) != len(gallery):
        raise TrainingError(f"{len(contents)} contents for {len(gallery)} gallery vectors")
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        if not np.isfinite(vectors).all():
            raise TrainingError(
                f"the {name} hold numbers that are not finite", hint="lower the learning rate"
            )
