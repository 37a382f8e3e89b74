"""Groups of contents that are near one another, each around a leader that all of its members are near.

A union of near pairs would chain: a is near b, b near c, and a and c have nothing in common. Here the leader
alone tells who belongs to it. Pure functions over places; what near means is handed in.
"""

from __future__ import annotations

import numpy as np

from indexer.likeness import Likeness
from indexer.vectors import IndexArray

BLOCK = 2048  # contents that are placed at a time
WEIGHED = 64  # members of a group that stand for election as its leader
NONE = -1


def grouped(likeness: Likeness, leader: IndexArray, fresh: IndexArray) -> IndexArray:
    """The leader of each content, shape (n,), its own place where it leads or stands alone.

    `leader` holds those known so far, and NONE for the `fresh` ones (ascending), which are placed here.
    Groups that no fresh one joins keep their leader. So the result may depend on the order in which contents
    came, and on nothing else.
    """
    leader = leader.copy()
    _place(likeness, leader, fresh)
    elected = _elect(likeness, leader, np.unique(leader[fresh]))
    _place(likeness, leader, _loosen(likeness, leader, elected))
    return leader


def _place(likeness: Likeness, leader: IndexArray, fresh: IndexArray) -> None:
    """Give each fresh content the nearest leader, or make it one."""
    fixed = np.flatnonzero(leader == np.arange(len(leader)))
    made: list[IndexArray] = []
    for start in range(0, len(fresh), BLOCK):
        block = fresh[start : start + BLOCK]
        others = np.concatenate([fixed, *made])
        leader[block] = _nearest(likeness, block, others)
        rest = block[leader[block] == NONE]
        _among(likeness, leader, rest)
        made.append(rest[leader[rest] == rest])


def _nearest(likeness: Likeness, asked: IndexArray, others: IndexArray) -> IndexArray:
    """The nearest of `others` to each of `asked`, of equal ones the first; NONE where none is near."""
    found = np.full(len(asked), NONE)
    pairs = likeness(asked, others)
    order = np.lexsort((others[pairs.other], -pairs.cosine, pairs.asked))
    places, first = np.unique(pairs.asked[order], return_index=True)
    found[places] = others[pairs.other[order][first]]
    return found


def _among(likeness: Likeness, leader: IndexArray, rest: IndexArray) -> None:
    """Contents that no leader is near, in order: each joins the nearest leader before it, or becomes one."""
    pairs = likeness(rest, rest)
    before = pairs.other < pairs.asked
    a, b, cosine = (column[before] for column in pairs)
    order = np.lexsort((b, -cosine, a))
    a, b = a[order], b[order]
    bounds = np.searchsorted(a, np.arange(len(rest) + 1))
    leads = np.ones(len(rest), bool)
    leader[rest] = rest
    for place in np.unique(a).tolist():
        near = b[bounds[place] : bounds[place + 1]]
        chosen = near[leads[near]]
        if len(chosen):
            leads[place] = False
            leader[rest[place]] = rest[chosen[0]]


def _elect(likeness: Likeness, leader: IndexArray, groups: IndexArray) -> IndexArray:
    """In each of these groups the member that is near the most contents becomes the leader, of any group.

    Those that were not before, ascending. One that is near another with more is not elected.
    """
    weighed = _weighed(leader, groups)
    pairs = likeness(weighed, np.arange(len(leader)))
    votes = np.bincount(pairs.asked, minlength=len(weighed))
    weight = np.bincount(pairs.asked, pairs.cosine, len(weighed))
    order = np.lexsort((weighed, -weight, -votes))
    _, first = np.unique(leader[weighed[order]], return_index=True)
    best = order[np.sort(first)]  # of each group the first, those with the most votes in front
    place = np.zeros(len(leader), np.int64)
    place[weighed] = np.arange(len(weighed))
    best = best[votes[best] > votes[place[leader[weighed[best]]]]]
    bounds = np.searchsorted(pairs.asked, np.stack([best, best + 1]))
    taken = np.zeros(len(leader), bool)  # near one that was elected
    elected = []
    for one, low, high in zip(weighed[best].tolist(), *bounds.tolist(), strict=True):
        if not taken[one]:
            taken[pairs.other[low:high]] = True
            elected.append((int(leader[one]), one))
    heir = np.arange(len(leader))
    for old, new in elected:
        heir[old] = new
    leader[:] = heir[leader]
    return np.sort(np.array([new for _, new in elected], np.int64))


def _weighed(leader: IndexArray, groups: IndexArray) -> IndexArray:
    """Who stands for election: of each group of two and more the leader and the first members, ascending."""
    order = np.argsort(leader, kind="stable")
    low, high = (np.searchsorted(leader[order], groups, side) for side in ("left", "right"))
    counts = np.where(high - low > 1, np.minimum(high - low, WEIGHED), 0)
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.union1d(order[np.repeat(low, counts) + steps], groups[counts > 0])


def _loosen(likeness: Likeness, leader: IndexArray, elected: IndexArray) -> IndexArray:
    """Set free what a new leader is not near, and the groups whose leaders it is near; all, ascending."""
    if not len(elected):
        return elected
    new = np.zeros(len(leader), bool)
    new[elected] = True
    others = np.flatnonzero((leader == np.arange(len(leader))) & ~new)
    dissolved = np.zeros(len(leader), bool)
    dissolved[others[likeness(elected, others).other]] = True
    free = dissolved[leader] | new[leader]
    members = np.flatnonzero(new[leader])
    pairs = likeness(elected, members)
    own = leader[members[pairs.other]] == elected[pairs.asked]
    free[members[pairs.other[own]]] = False
    free[elected] = False
    leader[free] = NONE
    return np.flatnonzero(free)
