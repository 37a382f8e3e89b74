"""Small indexes for the store's tests: contents are words, and a word's vector follows from its hash.

`World` is the oracle: a dict of items, searched by brute force over the same float16 vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from indexer.errors import IndexNotFound
from indexer.generation import Generation, Root, Space
from indexer.snapshot import Snapshot
from indexer.store import StagedPart, Writer
from indexer.types import FloatArray, Item, Member, Modality, Range, Segment, Source

DIM = 16
SPACE_ID = "toy-space"
SPACES = {SPACE_ID: Space("toy", DIM)}
ROOTS = [Root("a" * 16, "/media", "folder")]


def digest(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()[:16]


def modality_of(word: str) -> Modality:
    """Words are pictures, texts or sounds by their hash, unless they begin with the modality's name."""
    for modality in Modality:
        if word.startswith(modality.value):
            return modality
    return list(Modality)[digest(word)[0] % 3]


def unit(word: str, dim: int = DIM) -> FloatArray:
    """A unit vector, shape (dim,); words that share the part before `=` share it."""
    seed = int.from_bytes(digest(word.partition("=")[0])[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def segments_of(word: str) -> tuple[list[Segment], FloatArray]:
    """One segment of a picture or text, two windows of a sound."""
    modality = modality_of(word)
    if modality is Modality.AUDIO:
        ranges: list[Range | None] = [Range(0.0, 10.0), Range(5.0, 15.0)]
    else:
        ranges = [Range(0, len(word)) if modality is Modality.TEXT else None]
    text = word if modality is Modality.TEXT else None
    phash = int.from_bytes(digest(word)[:8], "big") if modality is Modality.IMAGE else None
    segments = [Segment(digest(word), modality, Source.FILE, place, text, phash) for place in ranges]
    names = [word, f"{word.partition('=')[0]}+second"]
    return segments, np.stack([unit(name) for name, _ in zip(names, ranges, strict=False)])


def item(path: str, word: str) -> Item:
    member = Member(modality_of(word), Source.FILE, path, len(word), 7, digest(word))
    return Item(digest(path).hex(), ROOTS[0].id, path, (member,))


def items(world: dict[str, str]) -> list[Item]:
    """Items of a world: path -> word."""
    return [item(path, word) for path, word in sorted(world.items())]


def stage(writer: Writer, words: Iterable[str]) -> list[StagedPart]:
    """One part with these contents; none for no words."""
    pieces = [segments_of(word) for word in words]
    if not pieces:
        return []
    segments = [segment for own, _ in pieces for segment in own]
    vectors = np.concatenate([own for _, own in pieces])
    return [writer.add_part(segments, vectors, space_id=SPACE_ID)]


def commit(
    writer: Writer, parent: Generation | None, world: dict[str, str], parts: Sequence[StagedPart] = ()
) -> Generation:
    return writer.commit(parent, roots=ROOTS, items=items(world), spaces=SPACES, parts=parts)


def update(index: Path, world: dict[str, str]) -> Generation:
    """Bring an index to a state of the world, encoding only what it has no vectors of."""
    with Writer.open(index, create=True) as writer:
        return commit(writer, writer.current(), world, stage(writer, lacking(index, world)))


def lacking(index: Path, world: dict[str, str]) -> list[str]:
    """The words of a world that an index has no vectors of, sorted; all where it has no generation."""
    try:
        with Snapshot.open(index) as snapshot:
            keys = snapshot.keys()
        known = {content_hash for content_hash, _, _ in keys}
    except IndexNotFound:
        known = set()
    return sorted(word for word in set(world.values()) if digest(word) not in known)


Found = list[tuple[float, bytes, float]]  # score, content hash, start


def oracle(world: dict[str, str], modality: Modality, query: FloatArray, k: int) -> Found:
    """The k best segments by brute force: score rounded once, then content hash, then start."""
    rows = []
    for word in set(world.values()):
        segments, vectors = segments_of(word)
        for segment, vector in zip(segments, vectors, strict=True):
            if segment.modality is modality:
                exact = vector.astype(np.float16).astype(np.float64) * query.astype(np.float64)
                start = -1.0 if segment.range is None else segment.range.start
                rows.append((float(np.float32(exact.sum())), segment.content_hash, start))
    return sorted(rows, key=lambda row: (-row[0], row[1], row[2]))[:k]


def found(snapshot: Snapshot, modality: Modality, query: FloatArray, k: int) -> Found:
    """What a snapshot finds, in the oracle's form."""
    candidates = snapshot.search(modality, query, k)
    starts = [-1.0 if s.range is None else s.range.start for s in snapshot.segments(candidates)]
    hashes = [segment.content_hash for segment in snapshot.segments(candidates)]
    return list(zip(candidates.score.tolist(), hashes, starts, strict=True))


def check(index: Path, world: dict[str, str]) -> None:
    """An index holds exactly this world: items, and the best of every modality for some queries."""
    with Snapshot.open(index) as snapshot:
        assert snapshot.item_list() == items(world)
        for modality in Modality:
            for query in (unit("query one"), unit("query two")):
                for k in (1, 5, 1000):
                    assert found(snapshot, modality, query, k) == oracle(world, modality, query, k)


def words(count: int, prefix: str = "w") -> dict[str, str]:
    """A world of that many files with a content each."""
    return {f"{prefix}/{i}.bin": f"{prefix}{i}" for i in range(count)}
