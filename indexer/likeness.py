"""When two contents are nearly the same: what is read of them, and the rule of each modality.

Knows segments, vectors and perceptual hashes; what groups they make stands in grouping.py, the file of them
in twins.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from indexer import schema
from indexer.snapshot import Candidates, Snapshot
from indexer.types import FloatArray, Modality, Source
from indexer.vectors import BoolArray, IndexArray

Hashes = npt.NDArray[np.void]  # content hashes of 16 bytes, shape (n,); sorted as bytes are
Words = npt.NDArray[np.uint64]  # 64-bit hashes

HASH = np.dtype("V16")
GATHERED = 32_768  # pairs whose vectors are held together: 100 MB at 384 dimensions
ASKED = 256  # contents compared with all others at a time
COMPARED = 8192  # contents that one matrix product takes
DENSE = 32  # where more than one in so many pairs has like hashes, a matrix product is the cheaper check
TILE, TILE_OTHERS = 64, 4096  # hashes that are compared at a time


@dataclass(frozen=True, slots=True)
class Nearness:
    """What two contents must at least share. Measured by benchmarks/duplicates.py on copies made for it."""

    image_cosine: float = 0.85
    image_bits: int = 6  # of 64, in which the perceptual hashes may differ
    image_close: float = 0.95  # or as close as this, with more bits: what was cropped turns many
    image_close_bits: int = 12
    audio_cosine: float = 0.7  # of each pair of windows
    audio_bits: int = 12  # of 64, in which the fingerprints may differ, averaged over the windows
    audio_cosine_alone: float = 0.97  # of windows where one has no fingerprint, as silence has none
    audio_seconds: float = 0.2  # by which the lengths may differ
    audio_least: float = 1.0  # seconds of sounds without any fingerprint: what is shorter says nothing
    text_cosine: float = 0.9  # beside the same words


NEARNESS = Nearness()


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """The living contents of one modality, sorted by hash, shape (n,); their segments one after another."""

    snapshot: Snapshot
    hashes: Hashes  # (n,)
    first: IndexArray  # (n + 1,): where each content's segments begin
    part: IndexArray  # (segments,)
    row: IndexArray  # (segments,): of the part's segment table
    word: Words  # (segments,): perceptual hash, fingerprint, or of a text its words' hash
    known: BoolArray  # (segments,): whether it has one
    end: npt.NDArray[np.float64]  # (n,): where the last segment ends; 0 where it is the whole medium

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def counts(self) -> IndexArray:
        """Segments of each content, (n,)."""
        return np.diff(self.first)

    def vectors(self, segments: IndexArray) -> FloatArray:
        """Vectors of some segments, shape (len(segments), dim)."""
        return self.snapshot.vectors_of(Candidates.at(self.part[segments], self.row[segments]))


class Pairs(NamedTuple):
    """Contents that are near one another; all of shape (n,)."""

    asked: IndexArray  # places among those that were asked for
    other: IndexArray  # places among those they were compared with
    cosine: FloatArray  # higher is nearer


NO_PAIRS = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


class Likeness(Protocol):
    """The rule of one modality."""

    def __call__(self, asked: IndexArray, others: IndexArray) -> Pairs:
        """Which of `asked` are near which of `others`, both places among the contents."""
        ...


def contents_of(
    snapshot: Snapshot,
    modality: Modality,
    words_of: Callable[[Hashes], tuple[BoolArray, Words]] | None = None,
) -> Contents:
    """The living contents of a modality in the default space, captions left out: two pictures may share one.

    `words_of` tells of which hashes the words' hash is known already, so that no text is read again.
    """
    hashes: list[Hashes] = []
    columns: list[tuple[IndexArray, IndexArray, Words, BoolArray, FloatArray, FloatArray]] = []
    for place, part in enumerate(snapshot.generation.parts):
        if part.space_id != snapshot.space_id or not part.counts.get(modality):
            continue
        offset, count = part.offset(modality), part.counts[modality]
        table = snapshot.segment_columns(place, ["content_hash", "source", "start", "end", "phash"])
        table = table.slice(offset, count)
        files = schema.word_codes(table["source"], [source.value for source in Source]) == 0
        rows = np.flatnonzero(snapshot.living(place)[offset : offset + count] & files)
        own = _as_hashes(schema.hash_rows(table["content_hash"])[0])[rows]
        start, end = (np.nan_to_num(_numbers(table[name])[rows]) for name in ("start", "end"))
        if modality is Modality.TEXT:
            word, known = _text_words(snapshot, place, offset, rows, own, words_of)
        else:
            word, known = _phashes(table["phash"], rows)
        hashes.append(own)
        columns.append((np.full(len(rows), place), rows + offset, word, known, start, end))
    if not hashes:
        return _gathered(snapshot, np.zeros(0, HASH), [np.zeros(0)] * 6)
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    return _gathered(snapshot, np.concatenate(hashes), joined)


def _gathered(snapshot: Snapshot, hashes: Hashes, columns: list[npt.NDArray[np.generic]]) -> Contents:
    """Segments in any order, by content and start."""
    part, row, word, known, start, end = columns
    unique, content = np.unique(hashes, return_inverse=True)
    order = np.lexsort((row, part, start, content))
    first = np.searchsorted(content[order], np.arange(len(unique) + 1))
    return Contents(
        snapshot,
        unique,
        first.astype(np.int64),
        part[order].astype(np.int64),
        row[order].astype(np.int64),
        word[order].astype(np.uint64),
        known[order].astype(bool),
        end[order][first[1:] - 1].astype(np.float64),
    )


def _as_hashes(rows: schema.ByteRows) -> Hashes:
    return np.ascontiguousarray(rows).view(HASH)[:, 0]


def _numbers(column: object) -> FloatArray:
    found: FloatArray = column.to_numpy().astype(np.float64)  # type: ignore[attr-defined]
    return found


def _phashes(column: object, rows: IndexArray) -> tuple[Words, BoolArray]:
    """A column of perceptual hashes, and which rows have one. Their upper bits do not survive a float."""
    array = column.combine_chunks()  # type: ignore[attr-defined]
    known = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), bool)[rows]
    return np.asarray(array.fill_null(0).to_numpy(), np.uint64)[rows], known


def _text_words(
    snapshot: Snapshot,
    place: int,
    offset: int,
    rows: IndexArray,
    hashes: Hashes,
    words_of: Callable[[Hashes], tuple[BoolArray, Words]] | None,
) -> tuple[Words, BoolArray]:
    """The hash of each text's words, case and white space aside, the same for all of its segments."""
    known, words = words_of(hashes) if words_of else (np.zeros(len(rows), bool), np.zeros(len(rows), "<u8"))
    if known.all():
        return words, known
    texts = snapshot.segment_columns(place, ["text", "start"])
    text = texts["text"].to_pylist()
    start = np.nan_to_num(_numbers(texts["start"]))
    pieces: dict[bytes, list[tuple[float, str]]] = {}
    for row, one in zip((rows + offset)[~known].tolist(), hashes[~known], strict=True):
        pieces.setdefault(one.tobytes(), []).append((float(start[row]), text[row] or ""))
    made = {one: _word_hash(" ".join(piece for _, piece in sorted(own))) for one, own in pieces.items()}
    words = words.copy()
    words[~known] = [made[one.tobytes()] for one in hashes[~known]]
    return words, np.ones(len(rows), bool)


def _word_hash(text: str) -> int:
    plain = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.sha256(plain.encode("utf-8", "replace")).digest()[:8], "little")


def likeness_of(contents: Contents, modality: Modality, nearness: Nearness = NEARNESS) -> Likeness:
    """The rule of a modality over its contents."""
    rules: dict[Modality, Likeness] = {
        Modality.IMAGE: _Pictures(contents, nearness),
        Modality.AUDIO: _Sounds(contents, nearness),
        Modality.TEXT: _Texts(contents, nearness),
    }
    return rules[modality]


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Perceptual hashes that differ in few bits, and vectors that lie close. Without a hash, no twin."""

    contents: Contents
    nearness: Nearness

    def __call__(self, asked: IndexArray, others: IndexArray) -> Pairs:
        mine, theirs = self._hashed(asked), self._hashed(others)
        if not len(mine) or not len(theirs):
            return NO_PAIRS
        near = self._among(asked[mine], others[theirs])
        return Pairs(mine[near.asked], theirs[near.other], near.cosine)

    def _hashed(self, some: IndexArray) -> IndexArray:
        """Places of the contents that have a hash."""
        return np.flatnonzero(self.contents.known[self.contents.first[some]])

    def _among(self, asked: IndexArray, others: IndexArray) -> Pairs:
        first, word = self.contents.first[:-1], self.contents.word
        most, found = max(self.nearness.image_bits, self.nearness.image_close_bits), []
        theirs = word[first[others]]
        for start in range(0, len(asked), ASKED):
            block = asked[start : start + ASKED]
            found.append(self._checked(start, block, others, _alike(word[first[block]], theirs, most)))
        return _joined(found)

    def _checked(
        self, start: int, block: IndexArray, others: IndexArray, pairs: tuple[IndexArray, IndexArray]
    ) -> Pairs:
        """Of pairs with like hashes those with like vectors."""
        first = self.contents.first[:-1]
        a, b = pairs
        rule, word = self.nearness, self.contents.word
        bits = np.bitwise_count(word[first[block[a]]] ^ word[first[others[b]]])
        if len(a) * DENSE > len(block) * len(others) and len(a) > GATHERED:
            cosine = _products(self.contents, first[block], first[others], a, b)
        else:
            cosine = _cosines(self.contents, first[block[a]], first[others[b]])
        near = (cosine >= rule.image_cosine) & (bits <= rule.image_bits)
        near |= (cosine >= rule.image_close) & (bits <= rule.image_close_bits)
        return Pairs(a[near] + start, b[near], cosine[near])


@dataclass(frozen=True, slots=True)
class _Sounds:
    """As long, and window by window vectors that lie close; and fingerprints, where both have them."""

    contents: Contents
    nearness: Nearness

    def __call__(self, asked: IndexArray, others: IndexArray) -> Pairs:
        if not len(asked) or not len(others):
            return NO_PAIRS
        first, end, counts = self.contents.first[:-1], self.contents.end, self.contents.counts
        others_order = np.argsort(end[others], kind="stable")
        asked_order = np.argsort(end[asked], kind="stable")
        lengths = end[others[others_order]]
        slack, found = self.nearness.audio_seconds, []
        for start in range(0, len(asked), ASKED):
            mine = asked_order[start : start + ASKED]
            left = asked[mine]
            vectors = self.contents.vectors(first[left])
            stop = int(np.searchsorted(lengths, end[asked[mine[-1]]] + slack, "right"))
            for low in range(int(np.searchsorted(lengths, end[asked[mine[0]]] - slack)), stop, COMPARED):
                theirs = others_order[low : min(low + COMPARED, stop)]
                right = others[theirs]
                scores = vectors @ self.contents.vectors(first[right]).T
                like = scores >= min(self.nearness.audio_cosine, self.nearness.audio_cosine_alone)
                like &= np.abs(end[left][:, None] - end[right][None, :]) <= slack
                like &= counts[left][:, None] == counts[right][None, :]
                a, b = np.nonzero(like)
                near, cosine = self._checked(left[a], right[b])
                found.append(Pairs(mine[a[near]], theirs[b[near]], cosine[near]))
        return _joined(found)

    def _checked(self, left: IndexArray, right: IndexArray) -> tuple[BoolArray, FloatArray]:
        """Which pairs are near in every window, and the least cosine of each, (n,)."""
        counts = self.contents.counts[left]
        pair = np.repeat(np.arange(len(left)), counts)
        step = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
        a, b = self.contents.first[left][pair] + step, self.contents.first[right][pair] + step
        word, known = self.contents.word, self.contents.known
        both = known[a] & known[b]
        cosine = _cosines(self.contents, a, b)
        wanted = np.where(both, self.nearness.audio_cosine, self.nearness.audio_cosine_alone)
        near = np.bincount(pair, cosine < wanted, len(left)) == 0
        least = np.ones(len(left), np.float32)
        np.minimum.at(least, pair, cosine)
        apart = np.bincount(pair, np.where(both, np.bitwise_count(word[a] ^ word[b]), 0), len(left))
        compared = np.bincount(pair, both, len(left))
        like = apart <= self.nearness.audio_bits * compared  # without any, 0 <= 0
        like &= (compared > 0) | (self.contents.end[left] >= self.nearness.audio_least)
        return near & like, least


@dataclass(frozen=True, slots=True)
class _Texts:
    """The same words, case and white space aside; the vectors guard against a model that minds the case."""

    contents: Contents
    nearness: Nearness

    def __call__(self, asked: IndexArray, others: IndexArray) -> Pairs:
        if not len(asked) or not len(others):
            return NO_PAIRS
        first, word = self.contents.first[:-1], self.contents.word
        mine, theirs = word[first[asked]], word[first[others]]
        order = np.argsort(theirs, kind="stable")
        low, high = (np.searchsorted(theirs[order], mine, side) for side in ("left", "right"))
        counts = high - low
        a = np.repeat(np.arange(len(asked)), counts)
        b = order[np.arange(len(a)) - np.repeat(np.cumsum(counts) - counts - low, counts)]
        cosine = _cosines(self.contents, first[asked[a]], first[others[b]])
        near = cosine >= self.nearness.text_cosine
        return Pairs(a[near], b[near], cosine[near])


def _alike(asked: Words, others: Words, most: int) -> tuple[IndexArray, IndexArray]:
    """Pairs of hashes that differ in at most so many bits: places among both, (n,).

    All with all, in tiles that stay in the cache: 5 s for 100,000 with one another. A filter on parts
    of the hashes would not help, since so many of the bits may differ.
    """
    differing = np.empty((min(TILE, len(asked)), min(TILE_OTHERS, len(others))), np.uint64)
    bits = np.empty(differing.shape, np.uint8)
    found_a, found_b = [], []
    for low in range(0, len(asked), TILE):
        mine = asked[low : low + TILE, None]
        for start in range(0, len(others), TILE_OTHERS):
            theirs = others[None, start : start + TILE_OTHERS]
            tile = slice(0, len(mine)), slice(0, theirs.shape[1])
            np.bitwise_xor(mine, theirs, out=differing[tile])
            np.bitwise_count(differing[tile], out=bits[tile])
            a, b = np.divmod(np.flatnonzero(bits[tile] <= most), theirs.shape[1])
            found_a.append(a + low)
            found_b.append(b + start)
    order = np.argsort(np.concatenate(found_a), kind="stable")
    return np.concatenate(found_a)[order], np.concatenate(found_b)[order]


def _joined(found: list[Pairs]) -> Pairs:
    return Pairs(*(np.concatenate(column) for column in zip(*found, strict=True))) if found else NO_PAIRS


def _cosines(contents: Contents, a: IndexArray, b: IndexArray) -> FloatArray:
    """Cosines of pairs of segments, shape (n,), a bounded number at a time."""
    found = np.empty(len(a), np.float32)
    for start in range(0, len(a), GATHERED):
        some = slice(start, start + GATHERED)
        found[some] = np.einsum("ij,ij->i", contents.vectors(a[some]), contents.vectors(b[some]))
    return found


def _products(
    contents: Contents, left: IndexArray, right: IndexArray, a: IndexArray, b: IndexArray
) -> FloatArray:
    """The same of pairs (a, b) of some segments where most are wanted: whole products, blocks of them."""
    found = np.empty(len(a), np.float32)
    mine = contents.vectors(left)
    for start in range(0, len(right), COMPARED):
        inside = np.flatnonzero((b >= start) & (b < start + COMPARED))
        scores = mine @ contents.vectors(right[start : start + COMPARED]).T
        found[inside] = scores[a[inside], b[inside] - start]
    return found
