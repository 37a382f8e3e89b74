"""What names an example: a file, an item of the index or a hit of the last search; and its vector.

What the index has vectors of is never encoded again. Both concepts and `--like` begin here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.errors import QueryError
from indexer.fsio import hash_bytes
from indexer.snapshot import Candidates, Snapshot
from indexer.types import FloatArray, Item, Modality, Range, Source
from retrieval.home import expanded
from retrieval.query.compose import unit
from retrieval.query.language.parse import parse_query

if TYPE_CHECKING:
    from retrieval.query.session import Session, SessionHit

ITEM_ID = re.compile(r"[0-9a-f]{32}")
HIT = re.compile(r"[0-9]{1,6}")
HINT = "name a file, an item's id (as --json prints it), or the number of a hit of the last search"


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One thing that was pointed at."""

    name: str
    modality: Modality
    content: bytes  # its content hash
    vector: FloatArray | None  # unit, shape (dim,); None: the index has none of it
    path: Path | None = None  # where to read it, if the index has none
    segment: Range | None = None  # which of its segments; None: the whole

    @property
    def indexed(self) -> bool:
        """Whether the index has it."""
        return self.vector is not None


def find(snapshot: Snapshot, which: str, *, session: Session | None = None) -> Example:
    """What `which` names. `session` is the last search, read when a number first asks for it.

    A file is known by its content, wherever it lies now, and one that is gone by the path that it had.
    QueryError where there is nothing of that name.
    """
    if HIT.fullmatch(which):
        from retrieval.query.session import last

        return _hit(snapshot, (session or last()).hit(int(which), snapshot.path), which)
    path = expanded(which)
    if path.is_file():
        return _file(snapshot, path)
    item = _item_at(snapshot, path)
    if item is None and ITEM_ID.fullmatch(which):
        item = _item_called(snapshot, which)
    if item is None and path.is_dir():
        raise QueryError(f"{which} is a folder, not a file", hint="name files of it")
    if item is None:
        raise QueryError(f"{which} is no file, and the index has nothing of that name", hint=HINT)
    return _of_item(snapshot, item, which)


def _file(snapshot: Snapshot, path: Path) -> Example:
    """A file, with the mean of its segments where the index knows its content."""
    query = parse_query(f"file:{path}")
    try:
        content = hash_bytes(path.read_bytes())
    except OSError as error:
        raise QueryError(f"{path} cannot be read: {error.strerror}", hint="check the file") from None
    for source in Source:
        vector = _mean(snapshot, (content, query.modality, source))
        if vector is not None:
            return Example(str(path), query.modality, content, vector)
    return Example(str(path), query.modality, content, None, path)


def _hit(snapshot: Snapshot, hit: SessionHit, which: str) -> Example:
    """The very segment of a hit. QueryError where the index has it no more."""
    key = hit.content, hit.modality, hit.source
    places = snapshot.places_of([key]).get(key, [])
    found = _candidates(places)
    for place, segment in enumerate(snapshot.segments(found)):
        if segment.range == hit.range:
            vector = snapshot.vectors_of(_candidates(places[place : place + 1]))[0]
            return Example(
                hit.path or hit.item_id, hit.modality, hit.content, unit(vector), segment=hit.range
            )
    raise QueryError(
        f"hit {which} of the last search is not in the index any more", hint="search again, then name the hit"
    )


def _of_item(snapshot: Snapshot, item: Item, which: str) -> Example:
    """An item by the first of its media that has a vector."""
    for member in item.members:
        if member.content_hash is not None:
            vector = _mean(snapshot, (member.content_hash, member.modality, member.source))
            if vector is not None:
                return Example(which, member.modality, member.content_hash, vector)
    raise QueryError(f"{which} gave no vector when it was indexed", hint="see `triptych info --failures`")


def _item_at(snapshot: Snapshot, path: Path) -> Item | None:
    """The item that has a file at a path, which need not be there any more."""
    wanted = os.path.abspath(path)  # noqa: PTH100 - links stay as they are
    roots = snapshot.roots
    for item in snapshot.item_list():
        base = roots[item.root_id].base if item.root_id in roots else ""
        for member in item.members:
            if member.path is not None and os.path.normpath(f"{base}/{member.path}") == wanted:
                return item
    return None


def _item_called(snapshot: Snapshot, item_id: str) -> Item | None:
    ids = snapshot.item_columns(["id"])["id"].to_pylist()
    return snapshot.items_at([ids.index(item_id)])[0] if item_id in ids else None


def _mean(snapshot: Snapshot, key: tuple[bytes, Modality, Source]) -> FloatArray | None:
    """The unit vector in the middle of a content's segments, as a query that is a file has it."""
    places = snapshot.places_of([key]).get(key)
    if not places:
        return None
    return unit(snapshot.vectors_of(_candidates(places)).astype(np.float64).mean(axis=0))


def _candidates(places: Sequence[tuple[int, int]]) -> Candidates:
    part, row = (np.array([place[axis] for place in places], np.int64) for axis in (0, 1))
    return Candidates.at(part, row)
