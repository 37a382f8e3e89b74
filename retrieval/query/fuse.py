"""One list from several. Scores of unlike scales are never added: lists are interleaved by rank."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from retrieval.types import Hit


def interleave(
    lists: Sequence[Sequence[Hit]], k: int, *, key: Callable[[Hit], Hashable] = lambda hit: hit.item_id
) -> list[Hit]:
    """The first of each list, then the second of each, and so on; at most k hits, ranked from 1.

    Within a rank the lists' own order decides. Hits of the same key are shown once, where the first of them
    comes.
    """
    merged: list[Hit] = []
    seen: set[Hashable] = set()
    for depth in range(max(map(len, lists), default=0)):
        for hits in lists:
            if depth < len(hits) and key(hits[depth]) not in seen:
                seen.add(key(hits[depth]))
                merged.append(hits[depth])
    return [replace(hit, rank=rank) for rank, hit in enumerate(merged[:k], start=1)]
