"""Near-duplicates by the cosine of features: pairs of contents, and groups of rows of bounded size.

Imports no torch. Knows features and row numbers; what a split is stands in splits.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.types import FloatArray, Modality
from retrieval.training.types import Features, Ints

# Cosine of backbone features from which two contents count as nearly the same. Measured with the starter's
# networks. Drawings as PNG and as SVG: .965 and more; mirrored or brightened: nine of ten .955 and more; with
# 5 % cut off each side: half .945 and more; unlike ones: under .90, but for eyes of two colours. Sounds as
# Vorbis: .99 and more; without their first 50 ms: three of four .98; unlike ones of one voice: up to .97.
NEAR: Mapping[Modality, float] = {Modality.IMAGE: 0.92, Modality.AUDIO: 0.98}
NEIGHBOURS = 16  # of one content that are looked at
EXACT_MULTIPLICATIONS = 1e12  # queries x gallery x width; beyond it inverted lists choose what is compared
QUERY_BLOCK, GALLERY_BLOCK = 512, 8192
LISTS_PROBED = 16
TRAINED_ON = 40_000  # features that inverted lists are trained on
NEAR_CAP = 0.25  # share of the rows that near-duplicates may join into one group
SMALLEST_CAP = 5  # rows, where a share of few rows would be less


class Pairs(NamedTuple):
    """Pairs of contents, all of shape (n,), ordered by cosine descending, then by numbers."""

    a: Ints
    b: Ints
    cosine: FloatArray


class Grouping(NamedTuple):
    """Rows by group: numbers of shape (rows,), counted in order of first rows; and what was left apart."""

    numbers: Ints
    notes: tuple[str, ...]


class Linker:
    """Union-find over rows, with a bound on how large a group a link may make."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))
        self._size = [1] * count

    def find(self, row: int) -> int:
        root = row
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[row] != root:
            self._parent[row], row = root, self._parent[row]
        return root

    def link(self, rows: Iterable[int], *, cap: int | None = None) -> bool:
        """Put rows into one group; False, and nothing done, where it would have more than `cap` rows."""
        roots = list(dict.fromkeys(self.find(row) for row in rows))
        if len(roots) < 2:
            return True
        if cap is not None and sum(self._size[root] for root in roots) > cap:
            return False
        largest = max(roots, key=lambda root: self._size[root])
        for root in roots:
            if root != largest:
                self._parent[root] = largest
                self._size[largest] += self._size[root]
        return True

    def numbers(self) -> Ints:
        """Group of each row, (rows,), counted in order of first rows."""
        seen: dict[int, int] = {}
        found = [seen.setdefault(self.find(row), len(seen)) for row in range(len(self._parent))]
        return np.array(found, np.int64)


def cap_of(rows: int, share: float) -> int:
    """The largest group that a share of so many rows allows."""
    return max(SMALLEST_CAP, int(share * rows))


def group_near(
    features: Features,
    contents: Mapping[Modality, Ints],
    *,
    thresholds: Mapping[Modality, float] = NEAR,
    cap: float = NEAR_CAP,
) -> Grouping:
    """Rows of the same or nearly the same picture or sound in one group.

    `contents[m]` of shape (rows, slots) points into `features[m]`, -1 for none. The same content always
    joins; near ones join in order of cosine as long as the group stays under `cap`, a share of the rows:
    features have hubs, and a chain of near-duplicates could otherwise swallow the data. Notes say how many
    were left apart.
    """
    rows = max((len(slots) for slots in contents.values()), default=0)
    linker = Linker(rows)
    holders = {m: _holders(contents[m], len(features[m])) for m in thresholds if m in contents}
    for held in holders.values():
        for mine in held:
            linker.link(mine)
    notes: list[str] = []
    limit = cap_of(rows, cap)
    for modality, held in holders.items():
        everyone = np.arange(len(features[modality]))
        pairs = near_pairs(features[modality], everyone, everyone, threshold=thresholds[modality])
        apart = 0
        for a, b in zip(pairs.a.tolist(), pairs.b.tolist(), strict=True):
            if held[a] and held[b]:
                apart += not linker.link((held[a][0], held[b][0]), cap=limit)
        if apart:
            notes.append(
                f"{apart} pairs of nearly the same {modality} were left apart, since a group would have had "
                f"more than {limit} of {rows} rows"
            )
    return Grouping(linker.numbers(), tuple(notes))


def _holders(slots: Ints, count: int) -> list[list[int]]:
    """Of each content the rows that have it."""
    held: list[list[int]] = [[] for _ in range(count)]
    rows, places = np.nonzero(slots >= 0)
    for row, content in zip(rows.tolist(), slots[rows, places].tolist(), strict=True):
        held[content].append(row)
    return held


def near_pairs(
    features: npt.NDArray[np.floating], queries: Ints, gallery: Ints, *, threshold: float, k: int = NEIGHBOURS
) -> Pairs:
    """Pairs of a query and a gallery content whose cosine is at least `threshold`, each pair once (a < b).

    `features` has shape (contents, width); `queries` and `gallery` are numbers of contents and may overlap.
    Of a query its k nearest are looked at. Rows without a direction (zeros, NaN, infinite) are near nothing.
    Memory stays under some 150 MB up to EXACT_MULTIPLICATIONS, 28,000 pictures with one another; beyond it
    inverted lists take a float16 copy and 200 MB more, and may miss a pair whose ends are in distant lists.
    """
    queries, gallery = _usable(features, queries), _usable(features, gallery)
    empty = np.zeros(0, np.int64)
    if not len(queries) or not len(gallery):
        return Pairs(empty, empty, np.zeros(0, np.float32))
    work = float(len(queries)) * len(gallery) * features.shape[1]
    listed = _Listed(features, gallery) if work > EXACT_MULTIPLICATIONS else None
    found_a, found_b, cosines = [], [], []
    for start in range(0, len(queries), QUERY_BLOCK):
        block = queries[start : start + QUERY_BLOCK]
        nearest, cosine = (
            listed.nearest(block, k + 1) if listed else _nearest(features, block, gallery, threshold, k + 1)
        )
        keep = (nearest >= 0) & (cosine >= threshold) & (nearest != block[:, None])
        row, _ = np.nonzero(keep)
        found_a.append(block[row])
        found_b.append(nearest[keep])
        cosines.append(cosine[keep])
    return _once(np.concatenate(found_a), np.concatenate(found_b), np.concatenate(cosines))


def _once(a: Ints, b: Ints, cosine: FloatArray) -> Pairs:
    low, high = np.minimum(a, b), np.maximum(a, b)
    ends, first = np.unique(np.stack((low, high), axis=1), axis=0, return_index=True)
    order = np.lexsort((ends[:, 1], ends[:, 0], -cosine[first]))
    return Pairs(ends[order, 0], ends[order, 1], cosine[first][order])


def _usable(features: npt.NDArray[np.floating], numbers: Ints) -> Ints:
    """Those whose features have a direction."""
    kept = []
    for start in range(0, len(numbers), GALLERY_BLOCK):
        block = numbers[start : start + GALLERY_BLOCK]
        lengths = np.linalg.norm(features[block].astype(np.float32), axis=1)
        kept.append(block[np.isfinite(lengths) & (lengths > 1e-6)])
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def _units(features: npt.NDArray[np.floating], numbers: Ints) -> FloatArray:
    rows = features[numbers].astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _nearest(
    features: npt.NDArray[np.floating], queries: Ints, gallery: Ints, threshold: float, k: int
) -> tuple[Ints, FloatArray]:
    """The k nearest of each query by exact cosine, (queries, k), -1 where fewer reach the threshold."""
    wanted = _units(features, queries)
    numbers = np.full((len(queries), k), -1, np.int64)
    cosines = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(gallery), GALLERY_BLOCK):
        block = gallery[start : start + GALLERY_BLOCK]
        scores = wanted @ _units(features, block).T
        rows = np.flatnonzero((scores >= threshold).any(axis=1))
        if not len(rows):
            continue
        all_cosines = np.concatenate((cosines[rows], scores[rows]), axis=1)
        all_numbers = np.concatenate((numbers[rows], np.broadcast_to(block, (len(rows), len(block)))), axis=1)
        best = np.argpartition(-all_cosines, k - 1, axis=1)[:, :k]
        cosines[rows] = np.take_along_axis(all_cosines, best, axis=1)
        numbers[rows] = np.take_along_axis(all_numbers, best, axis=1)
    return numbers, cosines


class _Listed:
    """Inverted lists over the gallery in float16, for more than brute force is good for."""

    def __init__(self, features: npt.NDArray[np.floating], gallery: Ints) -> None:
        import faiss

        self._features, self._gallery = features, gallery
        most = min(len(gallery), TRAINED_ON) // 40  # faiss wants 39 training features a list
        width, lists = features.shape[1], max(1, min(int(4 * len(gallery) ** 0.5), most))
        kind = faiss.ScalarQuantizer.QT_fp16
        quantizer = faiss.IndexFlatIP(width)
        self._index = faiss.IndexIVFScalarQuantizer(
            quantizer, width, lists, kind, faiss.METRIC_INNER_PRODUCT, False
        )
        self._index.cp.niter = 5  # coarse lists are good enough: near-duplicates fall together
        chosen = np.random.default_rng(0).permutation(len(gallery))[: 40 * lists]
        self._index.train(_units(features, gallery[np.sort(chosen)]))
        for start in range(0, len(gallery), GALLERY_BLOCK):
            self._index.add(_units(features, gallery[start : start + GALLERY_BLOCK]))
        self._index.nprobe = LISTS_PROBED

    def nearest(self, queries: Ints, k: int) -> tuple[Ints, FloatArray]:
        """The k nearest, (queries, k), -1 padded; cosines computed anew from the features themselves."""
        wanted = _units(self._features, queries)
        _, places = self._index.search(wanted, k)
        numbers = np.where(places >= 0, self._gallery[places], -1)
        cosines = np.full(places.shape, -np.inf, np.float32)
        for column in range(places.shape[1]):
            there = np.flatnonzero(places[:, column] >= 0)
            units = _units(self._features, numbers[there, column])
            cosines[there, column] = np.einsum("ij,ij->i", wanted[there], units)
        return numbers, cosines
