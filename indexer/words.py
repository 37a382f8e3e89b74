"""The words of an index: a list of postings for each part's contents, and one for the items' names.

A part's documents are its contents: captions, text files, and what is known of a medium's inside (title,
camera). They are numbered within the part, so an update makes only the new part's list. The items' documents
are their names: folders and file names split into words, and metadata; that list is made anew with the item
table. How documents are scored is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from indexer import schema
from indexer.derived import items_id, key_of
from indexer.facts import WORDS as FACTS
from indexer.names import BIT, COLUMNS, names_list
from indexer.postings import Builder, Document, Places, Postings
from indexer.tokens import found_by
from indexer.types import Modality, Source
from indexer.vectors import BoolArray

if TYPE_CHECKING:
    from indexer.generation import Generation
    from indexer.snapshot import Snapshot

KIND = "words-1"  # counted up whenever words are made in another way, so that lists are made anew
SHORT = 64  # letters of a text whose words are remembered


def document(texts: Iterable[str]) -> Document:
    """The words of some texts, counted as one document."""
    counts: dict[str, int] = {}
    length = 0
    for text in texts:
        many, found = (_short if len(text) <= SHORT else found_by)(text)
        length += many
        for word in found:
            counts[word] = counts.get(word, 0) + 1
    return Document(counts, length)


_short = lru_cache(1 << 14)(found_by)  # labels and artists come again and again


class WordLists:
    """The derivation; see indexer.derived."""

    def due(self, generation: Generation) -> bool:
        wanted = set(_wanted(generation))
        return bool(wanted - set(generation.derived) or _stale(generation))

    def derive(self, snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
        generation = snapshot.generation
        for place, part in enumerate(generation.parts):
            if content_key(part.id) not in generation.derived:
                yield content_key(part.id), contents_list(snapshot, place)
        if names_key(generation) not in generation.derived:
            yield names_key(generation), names_list(snapshot.item_columns(COLUMNS))
        for key in _stale(generation):
            yield key, b""


def content_key(part_id: str) -> str:
    """The key of a part's list."""
    return key_of(KIND, part_id)


def names_key(generation: Generation) -> str:
    """The key of the list of items' names."""
    return key_of(KIND, items_id(generation.items_file))


def _wanted(generation: Generation) -> list[str]:
    return [*(content_key(part.id) for part in generation.parts), names_key(generation)]


def _stale(generation: Generation) -> list[str]:
    """Lists of another version of this program."""
    return [
        key for key in generation.derived if re.match(r"words-\d+/", key) and not key.startswith(f"{KIND}/")
    ]


# Contents


class Contents(Postings):
    """A part's list. A document is a content that has words."""

    def __init__(self, data: memoryview, *, name: str) -> None:
        super().__init__(data, name=name)
        self.row: Places = self.extra("<u4", self.documents)  # the first
        packed = self.extra(np.uint8, self.documents * schema.KEY_BYTES)
        self.keys: schema.ByteRows = packed.reshape(-1, schema.KEY_BYTES)  # see schema.pack_key

    @classmethod
    def of(cls, snapshot: Snapshot, place: int) -> Contents | None:
        """A part's list; None where it has not been made."""
        key = content_key(snapshot.generation.parts[place].id)
        data = snapshot.derived(key)
        return None if data is None else cls(data, name=key)

    def key(self, number: int) -> tuple[bytes, Modality, Source]:
        """What a document's segments are found by."""
        return schema.unpack_key(self.keys[number].tobytes())

    def halves(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """The second half of some documents' content hashes, as numbers like `Names.halves`."""
        return np.ascontiguousarray(self.keys[numbers, 8:16]).view("<u8")[:, 0]


def contents_list(snapshot: Snapshot, place: int) -> bytes:
    """The list of a part, deleted contents included, since they may come back."""
    table = snapshot.segment_columns(place, ["content_hash", "modality", "source", "text", *FACTS])
    keys = schema.segment_keys(table)
    said = [name for name in ("text", *FACTS) if table[name].null_count < table.num_rows]
    columns = {name: table[name].to_pylist() for name in said}
    text = columns.pop("text", [])
    builder = Builder()
    rows: list[int] = []
    for first, stop in _runs(keys) if said else ():
        found = document(filter(None, [*text[first:stop], *(one[first] for one in columns.values())]))
        if found.length:
            builder.add(found)
            rows.append(first)
    return builder.content(np.array(rows, "<u4"), keys[np.array(rows, np.int64)])


def _runs(keys: schema.ByteRows) -> Iterator[tuple[int, int]]:
    """Where the rows of each content begin and end; keys have shape (rows, 18)."""
    if len(keys):
        changes = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
        yield from pairwise([0, *changes.tolist(), len(keys)])


# Names


class Names(Postings):
    """The items' list. A document is an item, in the item table's order; one that failed has no words."""

    def __init__(self, data: memoryview, *, name: str) -> None:
        super().__init__(data, name=name)
        self._ids = self.extra(np.uint8, self.documents * 16)
        self._kinds: npt.NDArray[np.uint8] = self.extra(np.uint8, self.documents)
        count = int(self.extra("<u8", 1)[0])
        self.halves: npt.NDArray[np.uint64] = self.extra("<u8", count)  # of members' hashes, ascending
        self.items: Places = self.extra("<u4", count)  # whose member it is, ascending for one hash

    @classmethod
    def of(cls, snapshot: Snapshot) -> Names | None:
        """The list of an index's items; None where it has not been made."""
        key = names_key(snapshot.generation)
        data = snapshot.derived(key)
        return None if data is None else cls(data, name=key)

    def id(self, row: int) -> str:
        """The id of the item in a row of the item table."""
        return bytes(self._ids[row * 16 : row * 16 + 16]).hex()

    def id_halves(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """The ids of some items as two numbers each, that order them as the ids do."""
        numbers = self._ids.view(">u8").reshape(-1, 2)[rows]
        return numbers[:, 0].astype(np.uint64), numbers[:, 1].astype(np.uint64)

    def having(self, modalities: Sequence[Modality]) -> BoolArray:
        """Which items can be found as one of these modalities, shape (items,)."""
        return (self._kinds & sum(BIT[modality] for modality in set(modalities))) != 0

    def items_of(self, halves: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For hashes (n,): places among them, and the items that have each; (m,) and (m,)."""
        order = np.argsort(halves)  # looked up in order, neighbours share what the cache holds
        ascending = halves[order]
        first = np.searchsorted(self.halves, ascending, "left")
        count = np.searchsorted(self.halves, ascending, "right") - first
        place = np.repeat(order, count)
        within = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
        return place, self.items[np.repeat(first, count) + within].astype(np.int64)
