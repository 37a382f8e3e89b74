"""One list from several. Scores of unlike scales are never added; the order inside a list is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
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


def reciprocal_rank(lists: Sequence[Mapping[str, float]], *, constant: float = CONSTANT) -> dict[str, float]:
    """The sum of 1 / (constant + rank) over the lists that name an id, best first, ties by id.

    Each list says the ranks of its ids, from 1. Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR
    2009): the lists' scores are of no matter. ValueError for a constant below 0.
    """
    if constant < 0:
        raise ValueError(f"the constant is {constant}, 0 or more was expected")
    shares: dict[str, list[float]] = {}
    for ranks in lists:
        for name, rank in ranks.items():
            shares.setdefault(name, []).append(1 / (constant + rank))
    fused = {name: math.fsum(own) for name, own in shares.items()}  # exact, whatever the lists' order
    return dict(sorted(fused.items(), key=lambda pair: (-pair[1], pair[0])))


def places(names: Sequence[str]) -> dict[str, float]:
    """The place of each id in a list, from 1; the first one counts."""
    return {name: float(place) for place, name in enumerate(dict.fromkeys(names), start=1)}


def middle_ranks(names: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """The rank of each id, best first, from 1: of those that score the same the mean of their places.

    So a list that tells nothing between some adds nothing between them. Ids are unlike each other.
    """
    ranks: dict[str, float] = {}
    for _, own in groupby(zip(names, scores, strict=True), key=itemgetter(1)):
        tied = [name for name, _ in own]
        ranks |= dict.fromkeys(tied, len(ranks) + (len(tied) + 1) / 2)
    return ranks
