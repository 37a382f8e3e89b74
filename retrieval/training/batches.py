"""What a batch's losses compare: distinct contents of two modalities, which of them belong together, weights.

numpy only, no torch. A content that comes with several rows of a batch is one row or column of the
comparison, its weights added up, and everything that the training rows know to belong together counts as
positive, also where the row that says so is in another batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.types import Modality
from retrieval.training.sampler import Batch
from retrieval.training.types import Examples, Ints, PairKind

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Mined = Mapping[tuple[Modality, Modality], Ints]  # (query, gallery) -> (contents, k), padded with -1


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Contents that belong together by any row, as sorted lists: `found[starts[a]:starts[a + 1]]` for a."""

    starts: Ints  # (contents + 1,)
    found: Ints

    @classmethod
    def of(cls, examples: Examples, a: Modality, b: Modality) -> Matches:
        """What the rows of `examples` say, every text of a row with its other media."""
        first, second = examples.contents[a], examples.contents[b]
        left = np.repeat(first, second.shape[1], axis=1).ravel()
        right = np.tile(second, (1, first.shape[1])).ravel()
        both = (left >= 0) & (right >= 0)
        pairs = np.unique(np.stack([left[both], right[both]], axis=1), axis=0)
        size = int(first.max(initial=-1)) + 1
        starts = np.zeros(size + 1, np.int64)
        np.cumsum(np.bincount(pairs[:, 0], minlength=size), out=starts[1:])
        return cls(starts, np.ascontiguousarray(pairs[:, 1]))

    def mask(self, a: Ints, b: Ints) -> Bools:
        """Which of distinct contents a (n,) and b (m,), b ascending, belong together; bool (n, m)."""
        begin, counts = self.starts[a], self.starts[a + 1] - self.starts[a]
        row = np.repeat(np.arange(len(a)), counts)
        before = np.cumsum(counts) - counts
        listed = self.found[np.arange(len(row)) - before[row] + begin[row]]
        column = np.searchsorted(b, listed)
        column[column == len(b)] = 0
        hit = b[column] == listed
        mask = np.zeros((len(a), len(b)), bool)
        mask[row[hit], column[hit]] = True
        return mask

    def lists(self, a: Ints) -> tuple[Ints, Ints]:
        """(indptr, indices) of these contents only."""
        counts = self.starts[a + 1] - self.starts[a]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        row = np.repeat(np.arange(len(a)), counts)
        return indptr, self.found[np.arange(len(row)) - indptr[row] + self.starts[a][row]]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One side of a comparison."""

    modality: Modality
    contents: Ints  # (n,) ascending, each once
    weights: Floats  # (n,); 0: a mined negative, which asks for nothing itself
    places: Ints | None  # (n,) rows of the step's vectors of the modality; None: all of them, in order


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One kind of pair in one batch."""

    kind: PairKind
    a: Side
    b: Side
    positive: Bools  # (n, m)
    ignore: Bools | None = None  # (n, m): neither, as a mined negative is to all but whom it was mined for


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All that one step compares."""

    contents: Mapping[Modality, Ints]  # what must be encoded, ascending, each once
    comparisons: tuple[Comparison, ...]
    pairs: int  # rows with a pair, summed over kinds


class Planner:
    """Batches -> plans, for the kinds of pairs in `kinds`."""

    def __init__(self, examples: Examples, kinds: tuple[PairKind, ...], *, by_label: bool = False) -> None:
        """With `by_label` contents whose rows have the same label belong together, too."""
        self._weights = examples.weights if len(examples.weights) else np.ones(len(examples), np.float32)
        self._kinds = kinds
        self.known = {
            (a, b): Matches.of(examples, a, b) for kind in kinds for a, b in (kind, (kind[1], kind[0]))
        }
        self._labels = {m: _label_of(examples, m) for m in examples.contents} if by_label else None

    def plan(self, batch: Batch, mined: Mined | None = None) -> Plan:
        """What to encode and compare; kinds with fewer than two rows in the batch are left out."""
        sides: list[tuple[PairKind, list[tuple[Ints, Floats]], Bools | None]] = []
        needed: dict[Modality, list[Ints]] = {}
        pairs = 0
        for kind in self._kinds:
            have = (batch.contents[kind[0]] >= 0) & (batch.contents[kind[1]] >= 0)
            if have.sum() < 2:
                continue
            pairs += int(have.sum())
            found = [self._side(batch, m, have) for m in kind]
            ignore = None
            if mined:
                own = (found[0][0], found[1][0])
                extra = [_negatives(mined, (kind[1 - i], kind[i]), own[1 - i]) for i in (0, 1)]
                found = [_widened(side, more) for side, more in zip(found, extra, strict=True)]
                ignore = _not_mined_for(mined, kind, own, (found[0][0], found[1][0]))
            sides.append((kind, found, ignore))
            for modality, (contents, _) in zip(kind, found, strict=True):
                needed.setdefault(modality, []).append(contents)
        whole = {
            m: lists[0] if len(lists) == 1 else np.unique(np.concatenate(lists))
            for m, lists in needed.items()
        }
        compared = tuple(self._comparison(kind, found, ignore, whole) for kind, found, ignore in sides)
        return Plan(whole, compared, pairs)

    def _side(self, batch: Batch, modality: Modality, have: Bools) -> tuple[Ints, Floats]:
        contents, place = np.unique(batch.contents[modality][have], return_inverse=True)
        weights = np.bincount(place, self._weights[batch.rows[have]], minlength=len(contents))
        return contents, weights.astype(np.float32)

    def _comparison(
        self,
        kind: PairKind,
        found: list[tuple[Ints, Floats]],
        ignore: Bools | None,
        whole: Mapping[Modality, Ints],
    ) -> Comparison:
        (a, _), (b, _) = found
        positive = self.known[kind].mask(a, b)
        if self._labels is not None:
            first, second = self._labels[kind[0]][a], self._labels[kind[1]][b]
            positive |= (first[:, None] == second) & (first >= 0)[:, None]
        sides = [
            Side(m, contents, weights, _places(contents, whole[m]))
            for m, (contents, weights) in zip(kind, found, strict=True)
        ]
        return Comparison(kind, sides[0], sides[1], positive, None if ignore is None else ignore & ~positive)


def _places(contents: Ints, whole: Ints) -> Ints | None:
    return None if len(contents) == len(whole) else np.searchsorted(whole, contents)


def _negatives(mined: Mined, way: tuple[Modality, Modality], queries: Ints) -> Ints:
    if way not in mined:
        return np.empty(0, np.int64)
    found = np.unique(mined[way][queries])
    return found[found >= 0]


def _not_mined_for(mined: Mined, kind: PairKind, own: tuple[Ints, Ints], wide: tuple[Ints, Ints]) -> Bools:
    """Pairs (n, m) of `wide` contents in which one was mined, but not for the other.

    Mining leaves out what looks like an unlabelled positive of a query. To another query of the batch, for
    which the same content was mined, it must not come back as a negative of this one.
    """
    added = [~np.isin(every, mine) for every, mine in zip(wide, own, strict=True)]
    ignore = added[0][:, None] | added[1]
    for way, (queries, gallery) in ((kind, wide), (kind[::-1], wide[::-1])):
        if way not in mined:
            continue
        asking = np.flatnonzero(~added[0] if way == kind else ~added[1])
        for negatives in mined[way][queries[asking]].T:  # a column a rank, (asking,)
            place = np.minimum(np.searchsorted(gallery, negatives), len(gallery) - 1)
            hit = gallery[place] == negatives
            rows, columns = asking[hit], place[hit]
            if way == kind:
                ignore[rows, columns] = False
            else:
                ignore[columns, rows] = False
    return np.asarray(ignore)


def _widened(side: tuple[Ints, Floats], more: Ints) -> tuple[Ints, Floats]:
    """A side with mined contents that it has not yet, at weight 0."""
    contents, weights = side
    whole = np.union1d(contents, more)
    wide = np.zeros(len(whole), np.float32)
    wide[np.searchsorted(whole, contents)] = weights
    return whole, wide


def _label_of(examples: Examples, modality: Modality) -> Ints:
    """The label of each content, -1 where no row with it has one; of several the least number."""
    slots = examples.contents[modality]
    size = int(slots.max(initial=-1)) + 1
    none = np.iinfo(np.int64).max
    labels = np.full(size, none)
    row, slot = np.nonzero((slots >= 0) & (examples.labels >= 0)[:, None])
    np.minimum.at(labels, slots[row, slot], examples.labels[row])
    labels[labels == none] = -1
    return labels
