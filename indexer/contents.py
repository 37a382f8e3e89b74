"""Contents to vectors: workers decode, the model sees full batches, a content comes out whole or not at all.

Workers decode while the encoder runs here, in the caller's thread. Memory holds the workers' bounded
look-ahead, less than one batch a modality, and the vectors of contents that are not complete. Nothing here
knows an index or an item.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.errors import ModelError
from indexer.hashing import CHANGED, Reading, Unreadable, read_hash
from indexer.media.workers import Chunk, DecodePool, Failed, Finished, Job
from indexer.report import Stopwatch
from indexer.types import Encoder, FloatArray, Modality, Segment, Source

Key = tuple[bytes, Modality, Source]


class Medium(NamedTuple):
    """One medium to encode. `reading` is the file as it was when it was hashed; None for inline text."""

    key: Key
    path: str | None  # absolute
    text: str | None = None
    reading: Reading | None = None


class Encoded(NamedTuple):
    """All segments of a content, their unit vectors, (segments, dim), and what those are computed in."""

    medium: Medium
    segments: list[Segment]
    vectors: FloatArray
    precision: str


class Broken(NamedTuple):
    """A content that gave nothing. `changed`: its file is no longer what was hashed, so try again."""

    medium: Medium
    reason: str
    changed: bool = False


@dataclass(slots=True)
class _Open:
    """A content under way."""

    medium: Medium
    segments: list[Segment] = field(default_factory=list)
    vectors: list[FloatArray | None] = field(default_factory=list)  # by segment; None until encoded
    missing: int = 0  # segments without a vector
    finished: bool = False  # no more segments come


class _Waiting(NamedTuple):
    job_id: int
    place: int  # which of the content's segments
    tensor: npt.NDArray[Any]


class ContentEncoder:
    """Decode workers in front of one encoder a modality; all of one space."""

    def __init__(self, pool: DecodePool, encoders: Mapping[Modality, Encoder], clock: Stopwatch) -> None:
        self.encoders = encoders
        self.clock = clock
        self._pool = pool
        self._open: dict[int, _Open] = {}
        self._queues: dict[Modality, deque[_Waiting]] = {modality: deque() for modality in encoders}
        self._warmed: set[Modality] = set()
        self._next_id = 0

    def run(self, media: Iterable[Medium]) -> Iterator[Encoded | Broken]:
        """Each content once, in the order of completion. `media` is pulled as workers get free."""
        for outcome in self._pool.run(self._jobs(media)):
            yield from self._take(outcome)
        for modality, queue in self._queues.items():
            while queue:
                yield from self._encode(modality)

    def _jobs(self, media: Iterable[Medium]) -> Iterator[Job]:
        for medium in media:
            self._warm(medium.key[1])
            self._next_id += 1
            self._open[self._next_id] = _Open(medium)
            yield Job(self._next_id, medium.key[1], medium.path, medium.text)

    def _warm(self, modality: Modality) -> None:
        """Load a modality's model, while the workers start: each takes as long as dozens of pictures."""
        if modality in self._warmed or modality not in self.encoders:
            return
        self._warmed.add(modality)

        def load() -> None:
            with contextlib.suppress(Exception):  # `encode` meets it again, and raises it where it is heard
                self.encoders[modality].warm()

        # Not a daemon: an interpreter that ends while a library loads in a thread aborts.
        threading.Thread(target=load, name=f"warm {modality}", daemon=False).start()

    def _take(self, outcome: Chunk | Finished | Failed) -> Iterator[Encoded | Broken]:
        entry = self._open.get(outcome.job_id)
        if entry is None:
            return
        if isinstance(outcome, Chunk):
            yield from self._add(entry, outcome)
            return
        entry.finished = True
        problem = _problem(entry, outcome)
        if problem is not None:
            del self._open[outcome.job_id]
            yield problem
        else:
            yield from self._complete(outcome.job_id)

    def _add(self, entry: _Open, chunk: Chunk) -> Iterator[Encoded | Broken]:
        content_hash, modality, source = entry.medium.key
        queue = self._queues[modality]
        for prepared in chunk.prepared:
            queue.append(_Waiting(chunk.job_id, len(entry.segments), prepared.tensor))
            entry.segments.append(
                Segment(
                    content_hash,
                    modality,
                    source,
                    prepared.range,
                    prepared.text,
                    prepared.phash,
                    prepared.facts,
                )
            )
            entry.vectors.append(None)
            entry.missing += 1
        while len(queue) >= self.encoders[modality].batch_size:
            yield from self._encode(modality)

    def _encode(self, modality: Modality) -> Iterator[Encoded | Broken]:
        """One batch of a modality, without segments of contents that failed meanwhile."""
        queue, encoder = self._queues[modality], self.encoders[modality]
        batch: list[_Waiting] = []
        while queue and len(batch) < encoder.batch_size:
            waiting = queue.popleft()
            if waiting.job_id in self._open:
                batch.append(waiting)
        if not batch:
            return
        with self.clock.stage("encode"):
            vectors = np.asarray(encoder.encode([waiting.tensor for waiting in batch]), np.float32)
        if vectors.shape != (len(batch), encoder.dim):
            raise ModelError(
                f"the {modality} encoder gave vectors of shape {vectors.shape}, "
                f"expected {(len(batch), encoder.dim)}"
            )
        for waiting, vector in zip(batch, vectors, strict=True):
            entry = self._open.get(waiting.job_id)
            if entry is None:
                continue
            if not np.isfinite(vector).all():
                del self._open[waiting.job_id]
                yield Broken(entry.medium, "the model's vector for it is not finite")
                continue
            entry.vectors[waiting.place] = vector
            entry.missing -= 1
            yield from self._complete(waiting.job_id)

    def _complete(self, job_id: int) -> Iterator[Encoded]:
        entry = self._open[job_id]
        if entry.finished and not entry.missing:
            del self._open[job_id]
            vectors = np.stack([vector for vector in entry.vectors if vector is not None])
            precision = self.encoders[entry.medium.key[1]].precision
            yield Encoded(entry.medium, entry.segments, vectors, precision)


def _problem(entry: _Open, outcome: Finished | Failed) -> Broken | None:
    """Why a medium cannot be used: its file is not what was hashed, it cannot be decoded, or it is empty."""
    medium = entry.medium
    if medium.path is not None and medium.reading is not None:
        if isinstance(outcome, Finished):
            same = (outcome.size, outcome.mtime_ns) == (medium.reading.size, medium.reading.mtime_ns)
        else:
            same = _state(medium.path) == (medium.reading.size, medium.reading.mtime_ns)
        if same and medium.reading.dirty:  # its time alone cannot vouch for it
            same = _hash(medium.path) == medium.reading.content_hash
        if not same:
            return Broken(medium, CHANGED, changed=True)
    if isinstance(outcome, Failed):
        return Broken(medium, outcome.reason)
    return None if entry.segments else Broken(medium, "nothing in it that can be indexed")


def _state(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - names stay bytes-exact
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _hash(path: str) -> bytes | None:
    try:
        return read_hash(path).content_hash
    except Unreadable:
        return None
