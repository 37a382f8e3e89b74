"""Postings on disk: which documents hold a word, and how often; written whole, mapped, read a word at a time.

Only numbers and bytes are known here: not where documents come from, nor how a text becomes words.

A file is `MAGIC`, seven little-endian uint64 (documents, words, postings, bytes of all words, the length of
all documents together, documents that hold a word, bytes of extra arrays), then arrays, each beginning at a
multiple of 8 bytes: the words' bytes (UTF-8, ascending, one after another), where each begins (words + 1,
uint32), where each word's postings begin (words + 1, uint32), the postings' documents (uint32, ascending
within a word), their counts (uint16), the documents' lengths (uint32), and what the writer of the file
adds.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.errors import IndexCorrupt
from indexer.generation import VERIFY_HINT

MAGIC = b"TRIPWRD1"
HEADER = 7  # numbers
MOST = 0xFFFF  # that a count can be

Counts = npt.NDArray[np.uint16]
Places = npt.NDArray[np.uint32]
IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Document:
    """What a document adds: how often it holds each word, and how long it counts."""

    counts: Mapping[str, int]
    length: int  # words as a reader sees them; a compound and its pieces are one


class Builder:
    """Collects documents in order, then gives the file."""

    def __init__(self) -> None:
        self._words: dict[str, int] = {}  # numbered as they come
        self._word = array("I")  # a posting each
        self._count = array("I")
        self._distinct = array("I")  # a document each
        self._length = array("I")

    def add(self, document: Document) -> None:
        words = self._words
        for word, count in document.counts.items():
            self._word.append(words.setdefault(word, len(words)))
            self._count.append(count)
        self._distinct.append(len(document.counts))
        self._length.append(document.length)

    def content(self, *extra: npt.NDArray[Any]) -> bytes:
        """The file, with these arrays after its own, in their order."""
        document = np.repeat(np.arange(len(self._distinct)), np.array(self._distinct, np.int64))
        held = Held(np.array(self._word, np.int64), document, np.array(self._count, np.int64))
        return content(self._words, held, np.array(self._length, np.int64), *extra)


class Held(NamedTuple):
    """Words that documents hold, by number; each pair of a word and a document once."""

    word: IndexArray  # (n,)
    document: IndexArray  # (n,), ascending within a word
    often: IndexArray  # (n,)


def content(words: Iterable[str], held: Held, lengths: IndexArray, *extra: npt.NDArray[Any]) -> bytes:
    """The file of some words, in the order of their numbers, with arrays after its own.

    `lengths` of shape (documents,) say how long each document counts.
    """
    encoded = [word.encode() for word in words]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    word = place[held.word]
    by_word = np.argsort(word, kind="stable")  # documents stay ascending within a word
    arrays: list[npt.NDArray[Any]] = [
        np.frombuffer(b"".join(encoded[number] for number in order), np.uint8),
        _starts(len(encoded[number]) for number in order),
        _starts(np.bincount(word, minlength=len(order)).tolist()),
        held.document[by_word].astype("<u4"),
        np.minimum(held.often[by_word], MOST).astype("<u2"),
        lengths.astype("<u4"),
    ]
    tail = b"".join(_padded(array) for array in extra)
    counted = len(lengths), len(order), len(word), arrays[0].nbytes
    totals = int(lengths.sum()), int(np.count_nonzero(lengths)), len(tail)
    header = np.array([*counted, *totals], "<u8").tobytes()
    return MAGIC + header + b"".join(_padded(array) for array in arrays) + tail


def _starts(lengths: Iterable[int]) -> Places:
    """Where each of some things begins that lie one after another, and where the last ends."""
    ends = np.cumsum(np.fromiter(lengths, np.int64))
    return np.concatenate([np.zeros(1, np.int64), ends]).astype("<u4")


def _padded(array: npt.ArrayLike) -> bytes:
    raw = np.asarray(array).tobytes()
    return raw + bytes(-len(raw) % 8)


class Postings:
    """A file of postings. Arrays are views of its bytes; a word costs a search for it and its postings."""

    def __init__(self, data: memoryview, *, name: str) -> None:
        start = len(MAGIC) + HEADER * 8
        self._data, self._name, self._at = data, name, start
        if data[: len(MAGIC)] != MAGIC or len(data) < start:
            raise self._corrupt()
        header = np.frombuffer(data, "<u8", HEADER, len(MAGIC)).tolist()
        self.documents, self.words, postings, letters, self.length, self.filled, tail = header
        self._letters = self.extra(np.uint8, letters)
        self._begin = self.extra("<u4", self.words + 1)
        self._first = self.extra("<u4", self.words + 1)
        self._document = self.extra("<u4", postings)
        self._count = self.extra("<u2", postings)
        self.lengths: Places = self.extra("<u4", self.documents)
        if len(data) != self._at + tail:
            raise self._corrupt()

    def extra(self, kind: npt.DTypeLike, count: int) -> Any:
        """The next array, shape (count,): after the constructor, the writer's own, in their order."""
        size = count * np.dtype(kind).itemsize
        if self._at + size > len(self._data):
            raise self._corrupt()
        found = np.frombuffer(self._data, kind, count, self._at)
        self._at += size + -size % 8
        return found

    def find(self, word: str) -> int | None:
        """The number of a word; None where no document holds it."""
        wanted, low, high = word.encode("utf-8", "replace"), 0, self.words
        letters, begin = memoryview(self._letters), self._begin
        while low < high:
            middle = (low + high) // 2
            if bytes(letters[int(begin[middle]) : int(begin[middle + 1])]) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == self.words or bytes(letters[int(begin[low]) : int(begin[low + 1])]) != wanted:
            return None
        return low

    def frequency(self, number: int) -> int:
        """In how many documents a word is."""
        return int(self._first[number + 1]) - int(self._first[number])

    def holding(self, number: int) -> tuple[Places, Counts]:
        """The documents that hold a word, ascending, and how often each does."""
        own = slice(int(self._first[number]), int(self._first[number + 1]))
        return self._document[own], self._count[own]

    def _corrupt(self) -> IndexCorrupt:
        return IndexCorrupt(f"{self._name} is no word list", hint=VERIFY_HINT)
