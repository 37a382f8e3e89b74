"""Made pictures with planted near-duplicates, in an index of their own: time, memory, and what is found.

Vectors lie in clusters, as real ones do, with perceptual hashes drawn at random; one picture in ten is a copy
of another: its vector a little off, a few bits of its hash turned. Such hashes are kinder than those of
drawings on white, which share more bits.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from indexer.generation import Root, Space
from indexer.likeness import Nearness
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.twins import Twins, TwinsDerivation
from indexer.types import FloatArray, Item, Member, Modality, Segment, Source

DIM, CLUSTERS, PART = 384, 500, 20_000
SPACE = {"made": Space("made", DIM)}
ROOTS = [Root("a" * 16, "/made", "folder")]


def drawn(count: int, seed: int) -> tuple[FloatArray, Any, Any]:
    """Vectors (count, DIM), hashes (count,), and of each the picture that it is a copy of, or -1."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((CLUSTERS, DIM)).astype(np.float32)
    vectors = centres[rng.integers(0, CLUSTERS, count)]
    vectors += 0.7 * rng.standard_normal((count, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    words = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = rng.choice(count, count // 10, replace=False)
    originals = np.setdiff1d(np.arange(count), copies)
    of = np.full(count, -1)
    of[copies] = rng.choice(originals, len(copies), replace=False)
    near = vectors[of[copies]] + 0.01 * rng.standard_normal((len(copies), DIM), dtype=np.float32)
    vectors[copies] = near / np.linalg.norm(near, axis=1, keepdims=True)
    turned = rng.integers(0, 64, (len(copies), 4)).astype(np.uint64)
    words[copies] = words[of[copies]] ^ np.bitwise_or.reduce(np.uint64(1) << turned, axis=1)
    return vectors, words, of


def _hash(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()[:16]


def _commit(index: Path, vectors: FloatArray, words: Any, start: int) -> None:
    """One more part with all of these."""
    numbers = range(start, len(vectors))
    segments = [
        Segment(_hash(number), Modality.IMAGE, Source.FILE, phash=int(words[number])) for number in numbers
    ]
    items = [
        Item(
            hashlib.sha256(b"%d" % number).hexdigest()[:32],
            ROOTS[0].id,
            f"{number}.jpg",
            (Member(Modality.IMAGE, Source.FILE, f"{number}.jpg", 9, 7, _hash(number)),),
        )
        for number in range(len(vectors))
    ]
    with Writer.open(index, create=True) as writer:
        parts = [
            writer.add_part(segments[low : low + PART], vectors[start:][low : low + PART], space_id="made")
            for low in range(0, len(segments), PART)
        ]
        writer.commit(writer.current(), roots=ROOTS, items=items, spaces=SPACE, parts=parts)


def _derived(index: Path, derivation: TwinsDerivation) -> tuple[float, float]:
    """Seconds, and those of the processor."""
    start, busy = time.perf_counter(), time.process_time()
    with Writer.open(index) as writer:
        parent = writer.current()
        assert parent is not None
        writer.derive(parent, [derivation])
    return round(time.perf_counter() - start, 2), round(time.process_time() - busy, 2)


def measured(index: Path, count: int, nearness: Nearness) -> dict[str, Any]:
    """Seconds for all, and for one in a hundred more; which planted copies were found, and what else was."""
    derivation = TwinsDerivation(nearness)
    vectors, words, of = drawn(count + count // 100, seed=0)
    of[(of >= count) | (np.arange(len(of)) >= count)] = -1
    _commit(index, vectors[:count], words, 0)
    seconds, busy = _derived(index, derivation)
    with Snapshot.open(index) as snapshot:
        twins = Twins.open(snapshot)
        assert twins is not None
        found = [twins.group(_hash(number), Modality.IMAGE) for number in range(count)]
    copies = np.flatnonzero(of[:count] >= 0).tolist()
    hits = sum(found[copy] is not None and found[copy] == found[of[copy]] for copy in copies)
    planted = {*copies, *of[copies].tolist()}
    others = sum(one is not None and number not in planted for number, one in enumerate(found))
    _commit(index, vectors, words, count)
    more, more_busy = _derived(index, derivation)
    return {
        "pictures": count,
        "planted": len(copies),
        "recall": round(hits / len(copies), 4),
        "others_grouped": others,
        "seconds": seconds,
        "cpu_seconds": busy,
        "seconds_of_1_percent_more": more,
        "cpu_seconds_of_1_percent_more": more_busy,
    }
