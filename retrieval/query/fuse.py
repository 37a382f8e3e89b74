"""One list from several. Scores of unlike scales are never added; the order inside a list is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")

CONSTANT = 10  # of reciprocal ranks: the paper's 60 lost more than it won, see benchmarks/lexical.py


def interleave(lists: Sequence[Sequence[T]], *, key: Callable[[T], Hashable]) -> list[T]:
    """The first of each list, then the second of each, and so on.

    Within a rank the lists' own order decides. What has the same key comes once, where the first of it comes.
    """
    merged: list[T] = []
    seen: set[Hashable] = set()
    for depth in range(max(map(len, lists), default=0)):
        for hits in lists:
            if depth < len(hits) and key(hits[depth]) not in seen:
                seen.add(key(hits[depth]))
                merged.append(hits[depth])
    return merged


def by_score(
    lists: Sequence[Sequence[T]], *, score: Callable[[T], tuple[float, str]], key: Callable[[T], Hashable]
) -> list[T]:
    """Again and again the head of a list with the best score, then the least name.

    `score` gives both, of scores that can be compared; higher is better. What has the same key comes once.
    """
    merged: list[T] = []
    seen: set[Hashable] = set()
    heads = [0] * len(lists)
    while True:
        waiting = [
            (-score(hits[head])[0], score(hits[head])[1], place)
            for place, (hits, head) in enumerate(zip(lists, heads, strict=True))
            if head < len(hits)
        ]
        if not waiting:
            return merged
        place = min(waiting)[2]
        one = lists[place][heads[place]]
        heads[place] += 1
        if key(one) not in seen:
            seen.add(key(one))
            merged.append(one)


def reciprocal_rank(
    lists: Sequence[Sequence[str]], *, constant: float = CONSTANT, weights: Sequence[float] | None = None
) -> dict[str, float]:
    """The sum of weight / (constant + rank) over the lists that name an id, best first, ties by id.

    Ranks count from 1 within each list, an id's first place in it counts. Reciprocal rank fusion (Cormack,
    Clarke and Buettcher, SIGIR 2009): the lists' scores are of no matter. ValueError for a constant below 0,
    or weights that are not one positive number a list.
    """
    each = [1.0] * len(lists) if weights is None else list(weights)
    if constant < 0 or len(each) != len(lists) or not all(0 < weight < math.inf for weight in each):
        raise ValueError("a constant from 0 and a positive weight for each list were expected")
    shares: dict[str, list[float]] = {}
    for names, weight in zip(lists, each, strict=True):
        for rank, name in enumerate(dict.fromkeys(names), start=1):
            shares.setdefault(name, []).append(weight / (constant + rank))
    fused = {name: math.fsum(own) for name, own in shares.items()}  # exact, whatever the lists' order
    return dict(sorted(fused.items(), key=lambda pair: (-pair[1], pair[0])))
