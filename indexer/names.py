"""The listing of items' names: folders and file names split into words, and metadata, of a whole item table.

The list is made anew with every item table, so it is made from columns: each folder, name and value is split
once, however many items have it, and what items hold is joined in arrays. How the list is read, and when it
is due, stands in words.py.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer import schema
from indexer.postings import Held, content
from indexer.tokens import found_by
from indexer.types import Modality
from indexer.vectors import BoolArray, IndexArray

if TYPE_CHECKING:
    import pyarrow as pa

_MEMBERS = ("modality", "path_bytes", "content_hash", "error")
COLUMNS = ("id", "path_bytes", *(f"members.list.element.{name}" for name in _MEMBERS), "metadata")
BIT = {modality: 1 << place for place, modality in enumerate(Modality)}
_STEM = re.compile(r"\.(?=[^.]*[A-Za-z])[A-Za-z0-9]{1,5}$")  # a file name's suffix


def names_list(table: pa.Table) -> bytes:
    """The list of the items of a table that has at least COLUMNS, in its order; see words.Names."""
    members = _members(table)
    texts, said = _said(table, members)
    halves, items = _by_half(members)
    held, lengths = texts.held(said, table.num_rows)
    kinds = np.zeros(table.num_rows, np.uint8)
    np.bitwise_or.at(kinds, members.row[members.alive], members.bit[members.alive])
    ids = bytes.fromhex("".join(schema.objects(table["id"])))
    counted = np.array([len(halves)], "<u8")
    return content(texts.words, held, lengths, np.frombuffer(ids, np.uint8), kinds, counted, halves, items)


class _Members(NamedTuple):
    """The members of all items, one after another."""

    bounds: IndexArray  # (items + 1,): where each item's begin
    row: IndexArray  # (members,): whose it is
    path: list[bytes | None]
    alive: BoolArray  # (members,): has segments
    half: npt.NDArray[np.uint64]  # (members,): the second half of its content hash, as a number
    bit: npt.NDArray[np.uint8]  # (members,): of its modality


def _members(table: pa.Table) -> _Members:
    lists = table["members"].combine_chunks()
    rows = schema.elements(lists)
    modality, path, content_hash, error = (_field(rows, name) for name in _MEMBERS)
    hashes, hashed = schema.hash_rows(content_hash)
    codes = modality.dictionary_encode()
    bits = np.array([BIT[Modality(name)] for name in codes.dictionary.to_pylist()], np.uint8)
    bounds = lists.offsets.to_numpy().astype(np.int64)
    return _Members(
        bounds - bounds[0],
        np.repeat(np.arange(len(lists)), np.diff(bounds)),
        schema.objects(path),
        hashed & ~error.is_valid().to_numpy(zero_copy_only=False),
        np.ascontiguousarray(hashes[:, 8:16]).view("<u8")[:, 0],
        bits[codes.indices.to_numpy()] if len(codes) else np.zeros(0, np.uint8),
    )


def _field(rows: Any, name: str) -> Any:
    return rows.field([field.name for field in rows.type].index(name))


def _by_half(members: _Members) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """Halves of the living members' hashes, ascending, and whose each is, ascending; each pair once."""
    half, row = members.half[members.alive], members.row[members.alive]
    order = np.lexsort((row, half))
    half, row = half[order], row[order]
    fresh = np.ones(len(half), bool)
    fresh[1:] = (half[1:] != half[:-1]) | (row[1:] != row[:-1])
    return half[fresh].astype("<u8"), row[fresh].astype("<u4")


class _Said(NamedTuple):
    """Which texts the items say, by the texts' numbers; a text once for an item."""

    row: IndexArray  # (n,): the item, ascending
    text: IndexArray  # (n,)


def _said(table: pa.Table, members: _Members) -> tuple[_Texts, _Said]:
    """The texts of the items that have a living member: each folder, name and value of an item once."""
    texts = _Texts()
    values = _metadata(table["metadata"])
    paths = schema.objects(table["path_bytes"])
    rows = np.unique(members.row[members.alive])
    numbers, many = array("I"), array("I")
    for row, start, stop in zip(
        rows.tolist(), members.bounds[rows].tolist(), members.bounds[rows + 1].tolist(), strict=True
    ):
        path, own = paths[row], members.path[start:stop]
        if row not in values and own == [path]:
            said: Iterable[int] = texts.of_path(path)
        else:
            distinct = {path, *(one for one in own if one is not None)}
            said = {texts.number(value) for value in values.get(row, ())}.union(*map(texts.of_path, distinct))
        before = len(numbers)
        numbers.extend(said)
        many.append(len(numbers) - before)
    return texts, _Said(np.repeat(rows, np.array(many, np.int64)), np.array(numbers, np.int64))


def _metadata(column: pa.ChunkedArray) -> dict[int, list[str]]:
    """The values of each row that has any."""
    maps = column.combine_chunks()
    bounds = maps.offsets.to_numpy()
    rows = np.flatnonzero(np.diff(bounds))
    if not len(rows):
        return {}
    first = int(bounds[0])
    kept = slice(first, int(bounds[-1]))
    keys, values = (schema.objects(one[kept]) for one in (maps.keys, maps.items))
    found = {}
    for row in rows.tolist():
        own = slice(int(bounds[row]) - first, int(bounds[row + 1]) - first)
        found[row] = list(dict(zip(keys[own], values[own], strict=True)).values())
    return found


class _Texts:
    """Texts, each numbered and split into words when it first comes."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}  # numbered as they come
        self._texts: dict[str, int] = {}
        self._folders: dict[str, tuple[int, ...]] = {}
        self._held = array("I")  # words of all texts, one after another
        self._begin = array("I", [0])
        self._length = array("I")  # of each text, in words as a reader sees them

    def number(self, text: str) -> int:
        """The number of a text."""
        found = self._texts.get(text)
        if found is None:
            found = self._texts[text] = len(self._texts)
            many, words = found_by(text)
            known = self.words
            self._held.extend([known.setdefault(word, len(known)) for word in words])
            self._begin.append(len(self._held))
            self._length.append(many)
        return found

    def of_path(self, raw: bytes) -> tuple[int, ...]:
        """The numbers of a path's folders and of its name without suffix, each once."""
        folder, _, name = raw.decode("utf-8", "surrogateescape").rpartition("/")
        numbers = self._folders.get(folder)
        if numbers is None:
            numbers = tuple({self.number(one) for one in folder.split("/")})
            self._folders[folder] = numbers
        stem = self.number(_STEM.sub("", name))
        return numbers if stem in numbers else (*numbers, stem)

    def held(self, said: _Said, documents: int) -> tuple[Held, IndexArray]:
        """What the items hold that say some texts, and their lengths, shape (documents,)."""
        begin = np.array(self._begin, np.int64)
        length = np.array(self._length, np.int64)
        lengths = np.zeros(documents, np.int64)
        np.add.at(lengths, said.row, length[said.text])
        many = np.diff(begin)[said.text]
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        word = np.array(self._held, np.int64)[np.repeat(begin[said.text], many) + within]
        pairs = word * max(documents, 1) + np.repeat(said.row, many)
        pairs, count = np.unique(pairs, return_counts=True)
        word, document = np.divmod(pairs, max(documents, 1))
        return Held(word, document, count.astype(np.int64)), lengths
