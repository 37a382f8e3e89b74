"""What an update is asked to do and what it says: options, events while it runs, and its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from indexer.derived import Derivation
from indexer.diff import Change
from indexer.types import Modality


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How an update works. The defaults are right for a machine that does little else."""

    model: str = "starter"  # the encoders' model, named in the index for whoever queries it
    prune: bool = False  # delete even more than a fifth of a root's items
    retry_failed: bool = False  # decode again what failed before, though it did not change
    workers: int = 0  # decode processes; 0: one a core
    timeout_s: float = 60.0  # a file may take so long for each of its segments
    memory_mb: int = 2048  # a decode process may map so much beyond its libraries
    hash_threads: int = 2
    commit_segments: int = 20_000  # a generation is committed after so many new segments
    commit_seconds: float = 300.0  # and after so long
    commit_attempts: int = 5  # while other writers commit first
    gpu: bool | None = None  # train search structures on a GPU: None where there is one
    derivations: tuple[Derivation, ...] = ()  # what is worked out of the index once its vectors are written


@dataclass(frozen=True, slots=True)
class Planned:
    """The roots were scanned: how many items must be looked into, and how many need nothing."""

    total: int
    unchanged: int
    gone: int


@dataclass(frozen=True, slots=True)
class Progress:
    """An item is done with. `segments` counts those encoded so far in this run."""

    done: int
    total: int
    segments: int


@dataclass(frozen=True, slots=True)
class FileFailed:
    """A file, a folder or a manifest's row that gave nothing, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """Media for which there is no encoder; said once a modality, at the end of planning."""

    modality: Modality
    count: int


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that went wrong beside the index, which is as it should be."""

    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """A generation was committed; a run that is killed from here on loses nothing before it."""

    generation: int
    segments: int  # newly in it


Event = Planned | Progress | FileFailed | Skipped | Warned | Committed
OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What an update did. Items are counted in the roots that it was given, unless said otherwise."""

    changes: Mapping[Change, int]
    failures: tuple[FileFailed, ...]  # of this run
    failed_before: int  # files that failed earlier and did not change
    skipped: Mapping[Modality, int]  # media without an encoder
    encoded: Mapping[Modality, int]  # segments that the model saw in this run
    reused: int  # contents that items needed and that had vectors already
    items: int  # in the whole index
    segments: Mapping[Modality, int]  # searchable in the whole index
    generation: int  # current when the update ended
    committed: bool  # whether this update made it
    seconds: Mapping[str, float]  # by stage: scan, hash, decode, encode, write, commit
    warnings: tuple[Warned, ...] = ()

    @property
    def added(self) -> int:
        return self.changes.get(Change.ADDED, 0)

    @property
    def changed(self) -> int:
        return self.changes.get(Change.CHANGED, 0)

    @property
    def touched(self) -> int:
        return self.changes.get(Change.TOUCHED, 0)

    @property
    def moved(self) -> int:
        return self.changes.get(Change.MOVED, 0)

    @property
    def copied(self) -> int:
        return self.changes.get(Change.COPIED, 0)

    @property
    def deleted(self) -> int:
        return self.changes.get(Change.DELETED, 0)

    @property
    def unchanged(self) -> int:
        return self.changes.get(Change.UNCHANGED, 0)

    @property
    def unknown(self) -> int:
        """Items kept as they were, since their root or folder could not be looked at."""
        return self.changes.get(Change.UNKNOWN, 0)

    @property
    def failed(self) -> int:
        """Files, folders and rows that gave nothing in this run."""
        return len(self.failures)


@dataclass(slots=True)
class Stopwatch:
    """Seconds by stage. Stages nest: what an inner one takes is not the outer one's."""

    seconds: dict[str, float] = field(default_factory=dict)
    _inner: list[float] = field(default_factory=lambda: [0.0])

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._inner.pop()
            self._inner[-1] += spent
