"""The bank of background queries, and what each part of an index is to it: what `triptych index` works out.

Nothing of this is read here while searching: background.py does that. The bank holds queries by their
modality: phrases that ship and the collection's own captions for words, a sample of the collection's own
vectors for pictures and sounds. No segment is ever compared with a query that is of the same item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from indexer.derived import key_of
from indexer.errors import TriptychError
from indexer.generation import Generation, Part
from indexer.snapshot import Candidates, Snapshot
from indexer.types import FloatArray, Modality
from indexer.vectors import IndexArray
from retrieval.query.sample import sampled
from retrieval.query.scores import hubness
from retrieval.query.scores.packed import Packed, packed, unpacked

if TYPE_CHECKING:
    from retrieval.models.model import Model

PHRASES = 1024  # of those that ship
SAMPLE = 512  # of the collection's own vectors, a modality
GROWTH = 4  # a bank is made anew when the collection has so many times the segments
BEST = 4  # of each background query, the best segments kept a part: one may be deleted later
BLOCK = 2032  # segments scored at a time: 16 MB; a power of 2 would cost 15 % more, in the transposes
VERSION = "2"  # of these files; another is as good as none
HASH = 16  # bytes of a content hash

Hashes = npt.NDArray[np.uint8]  # (n, 16)


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Background queries of each modality, and whose they are."""

    id: str  # 16 hex digits, of what is in it
    vectors: dict[Modality, FloatArray]  # unit, (b, dim)
    owner: dict[Modality, IndexArray]  # (o,): a query's number, for each content hash of its items
    owned: dict[Modality, Hashes]  # (o, 16): that hash
    sampled: dict[Modality, int]  # how many of the queries, the first ones, are the collection's own

    @classmethod
    def read(cls, data: memoryview) -> Bank:
        """A bank as `bytes` gives it. IndexCorrupt."""
        held: Packed = unpacked(data)
        vectors, owner, owned, own = {}, {}, {}, {}
        for modality in Modality:
            if f"{modality}.vectors" in held.arrays:
                vectors[modality] = held.array(f"{modality}.vectors", (None, None)).astype(np.float32)
                owned[modality] = held.array(f"{modality}.owned", (None, HASH))
                owner[modality] = held.array(f"{modality}.owner", (len(owned[modality]),)).astype(np.int64)
                own[modality] = int(held.array(f"{modality}.sampled", (1,))[0])
        return cls(held.words.get("bank", ""), vectors, owner, owned, own)

    def to_bytes(self) -> bytes:
        arrays: dict[str, npt.NDArray] = {}
        for modality, rows in self.vectors.items():
            arrays[f"{modality}.vectors"] = rows.astype(np.float16)
            arrays[f"{modality}.owner"] = self.owner[modality].astype(np.int32)
            arrays[f"{modality}.owned"] = self.owned[modality]
            arrays[f"{modality}.sampled"] = np.array([self.sampled[modality]], np.int64)
        return packed(arrays, {"bank": self.id, "version": VERSION})


class BankDerivation:
    """Makes the bank, and each part's nearness to it. See indexer.derived.Derivation."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def due(self, generation: Generation) -> bool:
        """Whether there is no bank, it is outgrown, or a part lacks what it is to it."""
        if not any(generation.counts.values()):
            return False
        return bank_key(generation) is None or bool(list(_missing(generation)))

    def derive(self, snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
        """The bank where a new one is due, and the files of every part that has none of it."""
        generation = snapshot.generation
        key = bank_key(generation)
        wanted = list(_missing(generation)) if key else list(_all(generation))
        if key:
            data = snapshot.derived(key)
            bank = Bank.read(data) if data is not None else None
        else:
            bank = None
        if bank is None:
            bank, wanted = made_bank(snapshot, self.model), list(_all(generation))
            for old in _banks(generation):
                yield old, b""
            total = sum(generation.counts.values())
            yield key_of("bank", detail=f"{VERSION}-{total}"), bank.to_bytes()
        for place, modality in wanted:
            part = generation.parts[place]
            hubs, peaks = part_files(snapshot, place, modality, bank)
            yield key_of("hubs", part.id, modality), hubs
            yield key_of("peaks", part.id, modality), peaks


def bank_key(generation: Generation) -> str | None:
    """The key of the bank that serves a generation; None where there is none or it is outgrown."""
    total = sum(generation.counts.values())
    for key in _banks(generation):
        version, _, made = key.rpartition("/")[2].partition("-")
        if version == VERSION and made.isdigit() and total < GROWTH * max(1, int(made)):
            return key
    return None


def _banks(generation: Generation) -> list[str]:
    return [key for key in generation.derived if key.startswith("bank/")]


def _all(generation: Generation) -> Iterator[tuple[int, Modality]]:
    space = next(iter(generation.spaces), None)
    for place, part in enumerate(generation.parts):
        if part.space_id == space:
            yield from ((place, modality) for modality in part.counts)


def _missing(generation: Generation) -> Iterator[tuple[int, Modality]]:
    for place, modality in _all(generation):
        part: Part = generation.parts[place]
        if not {key_of("hubs", part.id, modality), key_of("peaks", part.id, modality)} <= set(
            generation.derived
        ):
            yield place, modality


# The bank


def made_bank(snapshot: Snapshot, model: Model | None) -> Bank:
    """A bank for a snapshot: the same one for the same collection and model."""
    vectors, owner, owned, own = {}, {}, {}, {}
    for modality, count in snapshot.counts.items():
        rows = sampled(snapshot, modality, min(SAMPLE, count))
        vectors[modality], own[modality] = snapshot.vectors_of(rows), len(rows)
        owner[modality], owned[modality] = _owners(snapshot, rows)
    spoken = phrase_vectors(model) if model is not None else None
    if spoken is not None and len(spoken):
        captions = vectors.get(Modality.TEXT, np.zeros((0, spoken.shape[1]), np.float32))
        vectors[Modality.TEXT] = np.concatenate([captions, spoken])
        owner.setdefault(Modality.TEXT, np.zeros(0, np.int64))
        owned.setdefault(Modality.TEXT, np.zeros((0, HASH), np.uint8))
    vectors = {modality: rows for modality, rows in vectors.items() if len(rows)}
    told = hashlib.sha256(VERSION.encode())
    for modality in sorted(vectors):
        told.update(modality.encode() + vectors[modality].astype("<f2").tobytes())
    return Bank(told.hexdigest()[:16], vectors, owner, owned, own)


def _owners(snapshot: Snapshot, found: Candidates) -> tuple[IndexArray, Hashes]:
    """For each segment the content hashes of all members of the items that hold it."""
    segments = snapshot.segments(found)
    items = snapshot.items_of({(one.content_hash, one.modality, one.source) for one in segments})
    owner, owned = [], []
    for number, one in enumerate(segments):
        own = {one.content_hash}
        for item in items.get((one.content_hash, one.modality, one.source), ()):
            own |= {member.content_hash for member in item.members if member.content_hash}
        owner += [number] * len(own)
        owned += sorted(own)
    hashes = np.frombuffer(b"".join(owned), np.uint8).reshape(-1, HASH)
    return np.array(owner, np.int64), hashes


def phrase_vectors(model: Model) -> FloatArray | None:
    """Unit vectors of the phrases that ship, as queries, kept in the cache; None without a text tower."""
    from indexer.fsio import write_atomic
    from retrieval.config import cache_dir
    from retrieval.query.compose import encode_many, pooled
    from retrieval.types import Query

    phrases = shipped_phrases()
    told = hashlib.sha256("\n".join([VERSION, *phrases]).encode()).hexdigest()[:8]
    kept = cache_dir() / "background" / f"{model.space_id[:32]}-{told}.f16"
    try:
        dim = model.tower(Modality.TEXT).dim
        if kept.exists() and kept.stat().st_size == len(phrases) * dim * 2:
            return np.fromfile(kept, "<f2").reshape(-1, dim).astype(np.float32)
        found = encode_many([Query(Modality.TEXT, text=phrase) for phrase in phrases], model.tower)
    except TriptychError:
        return None
    rows = np.stack([pooled(one) for one in found if isinstance(one, list)]).astype("<f2")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, rows.tobytes())
    except OSError:
        pass  # they are encoded again another time
    return rows.astype(np.float32)


def shipped_phrases(count: int | None = None) -> list[str]:
    """Captions of the shipped bank, spread over it: always the same ones for a count; PHRASES of them."""
    from retrieval.models.captions.bank import captions

    every = captions()
    places = np.linspace(0, len(every) - 1, min(count or PHRASES, len(every))).astype(int)
    return [every[place].text for place in dict.fromkeys(places.tolist())]


# What a part is to it


def part_files(snapshot: Snapshot, place: int, modality: Modality, bank: Bank) -> tuple[bytes, bytes]:
    """Of one modality of a part: each segment's hub numbers; each background query's best segments, and the
    sum.

    `hubs`: <query modality>.neighbourhood and .normaliser, (n,) float32. `peaks`: <query modality>.score,
    .row (b, BEST), a row being of the part's table or -1; sum (dim,) float32 and count of all vectors.
    """
    part = snapshot.generation.parts[place]
    count, first = part.counts[modality], part.offset(modality)
    hashes = _content_hashes(snapshot, place)[first : first + count]
    own = {query: _own_rows(bank, query, hashes) for query in bank.vectors}
    near = {query: np.zeros((2, count), np.float32) for query in bank.vectors}
    peaks = {query: _Peaks.empty(len(rows)) for query, rows in bank.vectors.items()}
    total = np.zeros(next(iter(bank.vectors.values())).shape[1], np.float64)
    for start in range(0, count, BLOCK):
        rows = np.arange(start, min(start + BLOCK, count))
        block = snapshot.vectors_of(Candidates.at(np.full(len(rows), place), rows + first))
        total += block.sum(axis=0, dtype=np.float64)
        for query, asked in bank.vectors.items():
            scores = asked @ block.T
            numbers, places = own[query]
            inside = (places >= start) & (places < start + len(rows))
            scores[numbers[inside], places[inside] - start] = -np.inf
            near[query][0, rows] = hubness.neighbourhoods(scores)
            near[query][1, rows] = hubness.normalisers(scores)
            peaks[query].take(scores, start + first)
    words = {"bank": bank.id, "version": VERSION}
    hubs = {f"{q}.neighbourhood": two[0] for q, two in near.items()}
    hubs |= {f"{q}.normaliser": two[1] for q, two in near.items()}
    best: dict[str, npt.NDArray] = {f"{q}.score": one.score for q, one in peaks.items()}
    best |= {f"{q}.row": one.row for q, one in peaks.items()}
    best |= {"sum": total.astype(np.float32), "count": np.array([count], np.int64)}
    return packed(hubs, words), packed(best, words)


@dataclass(slots=True, eq=False)
class _Peaks:
    """The best segments of each background query so far, best first."""

    score: FloatArray  # (b, BEST); -inf: none
    row: npt.NDArray[np.int32]  # (b, BEST); -1: none

    @classmethod
    def empty(cls, count: int) -> _Peaks:
        return cls(np.full((count, BEST), -np.inf, np.float32), np.full((count, BEST), -1, np.int32))

    def take(self, scores: FloatArray, first: int) -> None:
        """Look at (b, n) more scores, of rows from `first` on."""
        width = min(BEST, scores.shape[1])
        top = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        score = np.concatenate([self.score, np.take_along_axis(scores, top, axis=1)], axis=1)
        row = np.concatenate([self.row, (top + first).astype(np.int32)], axis=1)
        row = np.where(np.isfinite(score), row, -1).astype(np.int32)
        order = np.lexsort((row, -score), axis=1)[:, :BEST]
        self.score = np.take_along_axis(score, order, axis=1)
        self.row = np.take_along_axis(row, order, axis=1)


def _content_hashes(snapshot: Snapshot, place: int) -> Hashes:
    """The content hash of each row of a part, (rows, 16)."""
    from indexer import schema

    column = snapshot.segment_columns(place, ["content_hash"])["content_hash"].combine_chunks()
    return np.asarray(schema.hash_rows(column)[0], np.uint8).reshape(-1, HASH)


def _own_rows(bank: Bank, query: Modality, hashes: Hashes) -> tuple[IndexArray, IndexArray]:
    """Pairs of a background query and a row of `hashes` that are of one item."""
    owned = bank.owned.get(query)
    if owned is None or not len(owned) or not len(hashes):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    theirs = np.ascontiguousarray(owned).view("V16").ravel()
    ours = np.ascontiguousarray(hashes).view("V16").ravel()
    places: dict[bytes, list[int]] = {}
    known = {one.tobytes() for one in theirs}
    for place, one in enumerate(ours):
        if (key := one.tobytes()) in known:
            places.setdefault(key, []).append(place)
    pairs = [
        (int(number), place)
        for number, one in zip(bank.owner[query], theirs, strict=True)
        for place in places.get(one.tobytes(), ())
    ]
    numbers, rows = (np.array(column, np.int64) for column in zip(*pairs, strict=True)) if pairs else ([], [])
    return np.asarray(numbers, np.int64), np.asarray(rows, np.int64)
