"""The words of an index: a list of postings for each part's contents, and one for the items' names.

A part's documents are its contents: captions, text files, and what is known of a medium's inside (title,
camera). They are numbered within the part, so an update makes only the new part's list. The items' documents
are their names: folders and file names split into words, and metadata; that list is made anew with the item
table. How documents are scored is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from indexer import schema
from indexer.derived import items_id, key_of
from indexer.facts import WORDS as FACTS
from indexer.postings import Builder, Document, Places, Postings
from indexer.tokens import every, words
from indexer.types import Item, Modality, Source
from indexer.vectors import BoolArray

if TYPE_CHECKING:
    from indexer.generation import Generation
    from indexer.snapshot import Snapshot

KIND = "words-1"  # counted up whenever words are made in another way, so that lists are made anew
_STEM = re.compile(r"\.(?=[^.]*[A-Za-z])[A-Za-z0-9]{1,5}$")  # a file name's suffix
_NOTHING = Document({}, 0)
_BIT = {modality: 1 << place for place, modality in enumerate(Modality)}
SHORT = 64  # letters of a text whose words are remembered


def document(texts: Iterable[str]) -> Document:
    """The words of some texts, counted as one document."""
    counts: dict[str, int] = {}
    length = 0
    for text in texts:
        many, found = (_short if len(text) <= SHORT else _in)(text)
        length += many
        for word in found:
            counts[word] = counts.get(word, 0) + 1
    return Document(counts, length)


def _in(text: str) -> tuple[int, list[str]]:
    """How many words a text has, and what it is found by: those and their pieces."""
    found: list[str] = []
    many = 0
    for word in words(text):
        many += 1
        found += every(word) if word.pieces else (word.text,)
    return many, found


_short = lru_cache(1 << 14)(_in)  # folders come again and again


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
            yield names_key(generation), names_list(snapshot.item_list())
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
    texts = [table[name].to_pylist() for name in ("text", *FACTS)]
    builder = Builder()
    rows: list[int] = []
    for first, stop in _runs(keys):
        own = [texts[0][row] for row in range(first, stop)] + [column[first] for column in texts[1:]]
        found = document(text for text in own if text)
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
        return (self._kinds & _bits(modalities)) != 0

    def items_of(self, halves: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For hashes (n,): places among them, and the items that have each; (m,) and (m,)."""
        order = np.argsort(halves)  # looked up in order, neighbours share what the cache holds
        ascending = halves[order]
        first = np.searchsorted(self.halves, ascending, "left")
        count = np.searchsorted(self.halves, ascending, "right") - first
        place = np.repeat(order, count)
        within = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
        return place, self.items[np.repeat(first, count) + within].astype(np.int64)


@dataclass(slots=True)
class _Name:
    """What an item adds to the list beside its words."""

    id: bytes
    kinds: int
    halves: list[int]


def names_list(items: Sequence[Item]) -> bytes:
    """The list of items' names."""
    builder = Builder()
    found: list[_Name] = []
    for item in items:
        living = [one for one in item.members if one.error is None and one.content_hash is not None]
        builder.add(document(_names(item)) if living else _NOTHING)
        own = {int.from_bytes(one.content_hash[8:16], "little") for one in living if one.content_hash}
        found.append(_Name(bytes.fromhex(item.id), _bits(one.modality for one in living), sorted(own)))
    halves = np.array([half for one in found for half in one.halves], "<u8")
    rows = np.repeat(np.arange(len(found)), [len(one.halves) for one in found])
    order = np.argsort(halves, kind="stable")
    return builder.content(
        np.frombuffer(b"".join(one.id for one in found), np.uint8),
        np.array([one.kinds for one in found], np.uint8),
        np.array([len(halves)], "<u8"),
        halves[order],
        rows[order].astype("<u4"),
    )


def _names(item: Item) -> Iterator[str]:
    """Each folder, name and value once, however many files of the item have it."""
    paths = {item.path, *(member.path for member in item.members if member.path is not None)}
    seen: set[str] = set()
    for path in sorted(paths):
        folders, _, name = path.rpartition("/")
        seen.update(folders.split("/"))
        seen.add(_STEM.sub("", name))
    seen.update(item.metadata.values())
    yield from sorted(seen)


def _bits(modalities: Iterable[Modality]) -> int:
    return sum({_BIT[modality] for modality in modalities})
