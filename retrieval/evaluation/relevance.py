"""Which gallery contents answer which query: relevance lists from rows, and the directions there are.

Numbers only: no vectors, no scores. How contents are ranked stands in ranking.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.errors import TrainingError
from indexer.types import Modality
from retrieval.training.types import Examples, Ints

Direction = tuple[Modality, Modality]  # (of the queries, of the gallery)


@dataclass(frozen=True, slots=True, eq=False)
class Relevance:
    """Lists of relevant gallery rows in CSR form: list i is `indices[indptr[i]:indptr[i + 1]]`.

    List i belongs to query i, unless `lists` says which list each query has: with labels, the queries of a
    class share one, so that memory stays in proportion to queries and gallery and not to their product.
    """

    indptr: Ints  # (lists + 1,)
    indices: Ints  # (relevant pairs,), ascending and distinct within a list
    lists: Ints | None = None  # (queries,)

    def __len__(self) -> int:
        return len(self.indptr) - 1 if self.lists is None else len(self.lists)

    def counts(self) -> Ints:
        """How many relevant rows each query has, (queries,)."""
        lengths = np.diff(self.indptr)
        return lengths if self.lists is None else lengths[self.lists]

    def of(self, query: int) -> Ints:
        """The relevant gallery rows of one query, ascending."""
        number = query if self.lists is None else int(self.lists[query])
        return self.indices[self.indptr[number] : self.indptr[number + 1]]

    def padded(self, queries: Ints) -> Ints:
        """The lists of some queries side by side, (len(queries), longest of them), filled up with -1."""
        numbers = queries if self.lists is None else self.lists[queries]
        starts, counts = self.indptr[numbers], self.indptr[numbers + 1] - self.indptr[numbers]
        slots = np.arange(int(counts.max(initial=0)))
        there = slots < counts[:, None]
        table = np.full(there.shape, -1, np.int64)
        table[there] = self.indices[(starts[:, None] + slots)[there]]
        return table


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """One direction of an evaluation: the contents asked with, those searched, and what is right."""

    queries: Ints  # (queries,) content numbers, ascending
    gallery: Ints  # (gallery,) content numbers, ascending
    relevance: Relevance  # over rows of `gallery`
    groups: Ints  # (queries,) the group of the first row that each query occurs in


def directions(examples: Examples) -> list[Direction]:
    """Every direction that some row has both modalities of, in the order of Modality, there and back."""
    return [way for a, b in examples.pair_counts() for way in ((a, b), (b, a))]


def match(examples: Examples, direction: Direction, *, by_label: bool = False) -> Matching:
    """Queries, gallery and relevance of a direction, over the rows that have both of its modalities.

    Contents are distinct: a picture that stands in several rows is one query. Relevant is what shares a row
    with the query, so that several texts of a picture are several positives; with `by_label`, what stands
    in a row of the same label (a row without a label is a class of its own).

    Raises TrainingError where no row has both modalities.
    """
    first, second = direction
    rows = np.flatnonzero(examples.has(first) & examples.has(second))
    if not len(rows):
        raise TrainingError(
            f"no row has both {first} and {second}",
            hint="evaluate a direction that the data has, or add rows with both",
        )
    classes = np.arange(len(rows))
    if by_label:
        labels = examples.labels[rows]
        classes = np.where(labels >= 0, labels, -1 - classes)  # negative: the row's own class
    asked, asked_rows = _occurrences(examples.contents[first][rows])
    held, held_rows = _occurrences(examples.contents[second][rows])
    queries, query_of, first_at = _distinct(asked)
    gallery, place_of, _ = _distinct(held)
    relevance = _share_class(query_of, classes[asked_rows], place_of, classes[held_rows], len(queries))
    return Matching(queries, gallery, relevance, examples.groups[rows][asked_rows[first_at]])


def _occurrences(slots: Ints) -> tuple[Ints, Ints]:
    """Every content that stands in a slot and its row, in the order of rows."""
    rows, columns = np.nonzero(slots >= 0)
    return slots[rows, columns].astype(np.int64), rows.astype(np.int64)


def _distinct(contents: Ints) -> tuple[Ints, Ints, npt.NDArray[np.intp]]:
    """Distinct contents, each occurrence's number among them, and where each occurs first."""
    distinct, first_at, number = np.unique(contents, return_index=True, return_inverse=True)
    return distinct, number.reshape(-1).astype(np.int64), first_at


def _share_class(
    queries: Ints, query_classes: Ints, places: Ints, place_classes: Ints, count: int
) -> Relevance:
    """Relevant are the places that stand in one of a query's classes. Queries of one class share its list."""
    members = np.unique(np.stack([place_classes, places], axis=1), axis=0)
    classes, starts = np.unique(members[:, 0], return_index=True)
    bounds = np.append(starts, len(members))
    own = np.unique(np.stack([queries, np.searchsorted(classes, query_classes)], axis=1), axis=0)
    lists = np.full(count, -1, np.int64)
    lists[own[:, 0]] = own[:, 1]
    several = np.flatnonzero(np.bincount(own[:, 0], minlength=count) > 1)
    parts, indptr = [members[:, 1]], bounds.tolist()
    edges = np.searchsorted(own[:, 0], np.stack([several, several + 1]))
    for query, start, end in zip(several.tolist(), *edges.tolist(), strict=True):
        merged = np.unique(np.concatenate([members[bounds[c] : bounds[c + 1], 1] for c in own[start:end, 1]]))
        lists[query] = len(indptr) - 1
        parts.append(merged)
        indptr.append(indptr[-1] + len(merged))
    return Relevance(np.asarray(indptr, np.int64), np.concatenate(parts), lists)
