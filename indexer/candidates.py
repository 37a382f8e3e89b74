"""Segments that a search found, as places in parts, and the total order they are ranked by.

Arrays only: no file is read here. Who ranks them says what breaks a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.nearest import Found
from indexer.types import FloatArray
from indexer.vectors import IndexArray

TieName = tuple[bytes, float, str]  # content hash, start, source


@dataclass(frozen=True, slots=True)
class Candidates:
    """Segments found, best first: score, then content hash, start and source. All arrays have shape (n,)."""

    part: IndexArray  # place of the part in generation.parts
    row: IndexArray  # row of the part's segment table
    score: FloatArray  # cosine, higher is better

    @classmethod
    def at(cls, part: IndexArray, row: IndexArray) -> Candidates:
        """Segments at some places, both of shape (n,), with no score yet: 0 for each."""
        return cls(part, row, np.zeros(len(row), np.float32))

    def __len__(self) -> int:
        return len(self.row)


def joined(places: Sequence[int], offsets: Sequence[int], found: Sequence[Found]) -> Candidates:
    """Vector rows that each part gave, as rows of segments; not in order."""
    if not places:
        return Candidates.at(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Candidates(
        np.repeat(places, [len(rows) for rows, _ in found]),
        np.concatenate([rows + offset for (rows, _), offset in zip(found, offsets, strict=True)]),
        np.concatenate([scores for _, scores in found]),
    )


def best(found: Candidates, k: int, *, name_of: Callable[[int, int], TieName]) -> Candidates:
    """The k best in total order. Of a part and row, `name_of` is asked only where scores are the same."""
    order = np.argsort(-found.score, kind="stable")
    if len(order) > k:
        order = order[found.score[order] >= found.score[order[k - 1]]]
    scores = found.score[order]
    tied = np.zeros(len(order), bool)
    if len(order) > 1:
        same = scores[1:] == scores[:-1]
        tied[1:] |= same
        tied[:-1] |= same
    if tied.any():
        names = {
            place: name_of(int(found.part[order[place]]), int(found.row[order[place]]))
            for place in np.flatnonzero(tied).tolist()
        }
        nothing = (b"", 0.0, "")
        ranked = sorted(range(len(order)), key=lambda i: (-float(scores[i]), *names.get(i, nothing)))
        order = order[ranked]
    order = order[:k]
    return Candidates(found.part[order], found.row[order], found.score[order])
