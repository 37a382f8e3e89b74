"""Known answers from an index: its items that have members of two modalities, as calibration_fit.py takes
them.

A caption's own picture is what it should find. That is all an index knows, so pairs of like modalities are
not told of, and a picture that fits another's caption counts as wrong.
"""

from __future__ import annotations

import numpy as np

from indexer.errors import QueryError
from indexer.snapshot import Candidates, Snapshot
from indexer.types import FloatArray, Modality
from indexer.vectors import IndexArray
from retrieval.query.scores.bank import Bank, bank_key
from retrieval.query.scores.calibrate import Pair
from retrieval.query.scores.calibration_fit import Answers

MOST = 2000  # items that are taken, spread over the table
Side = tuple[FloatArray, IndexArray]  # vectors (n, dim), and the number of the item that each is of


def answers_of(snapshot: Snapshot) -> dict[Pair, Answers]:
    """The pairs of an index. QueryError where no item has two modalities, or there is no background yet."""
    key = bank_key(snapshot.generation)
    data = snapshot.derived(key) if key else None
    if data is None:
        raise QueryError(
            "the index has no background queries yet", hint="bring it up to date: triptych index"
        )
    bank = Bank.read(data)
    sides = _sides(snapshot)
    found = {
        (one, other): _between(asked, searched, bank.vectors[one])
        for one, asked in sides.items()
        for other, searched in sides.items()
        if one is not other and one in bank.vectors and len(np.intersect1d(asked[1], searched[1]))
    }
    if not found:
        raise QueryError(
            "no item of the index has both a caption and a picture or a sound",
            hint="put a caption beside each file (photo.jpg, photo.txt), or index a manifest with texts",
        )
    return found


def _between(asked: Side, searched: Side, bank: FloatArray) -> Answers:
    """Queries of the items that the other side has too, one an item."""
    vectors, owner = asked
    item = searched[1]
    _, first = np.unique(owner, return_index=True)
    kept = first[np.isin(owner[first], item)]
    relevant = owner[kept][:, None] == item[None, :]
    # The bank's own queries may be of these items: what is nearly the same vector is taken for one of them.
    near = bank @ vectors.T > 0.999
    foreign = np.ones((len(bank), len(item)), bool)
    for number, place in np.argwhere(near):
        foreign[number, item == owner[place]] = False
    return Answers(vectors[kept], searched[0], item, relevant, np.zeros_like(relevant), bank, foreign)


def _sides(snapshot: Snapshot) -> dict[Modality, Side]:
    """The vectors of items that have two modalities or more; items of one content are one."""
    mixed = [
        item
        for item in snapshot.item_list()
        if len({member.modality for member in item.members if member.content_hash}) > 1
    ]
    taken = np.unique(np.linspace(0, len(mixed) - 1, min(MOST, len(mixed))).astype(int)) if mixed else ()
    keys: dict[tuple, int] = {}
    for number, place in enumerate(taken):
        for member in mixed[place].members:
            if member.content_hash is not None:
                keys.setdefault(member.key, number)
    found: dict[Modality, list[tuple[int, int, int]]] = {}
    for key, places in snapshot.places_of(list(keys)).items():
        found.setdefault(key[1], []).extend((keys[key], part, row) for part, row in places)
    sides = {}
    for modality, rows in found.items():
        item, part, row = (np.array(column, np.int64) for column in zip(*sorted(rows), strict=True))
        sides[modality] = snapshot.vectors_of(Candidates.at(part, row)), item
    return sides
