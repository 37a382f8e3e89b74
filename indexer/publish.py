"""What a run has finished, on its way into the index: contents in a buffer, items over the generation below.

A commit is compare-and-swap. Where another writer committed first, the items and contents of this run are
laid over what that one left, so that nothing is encoded twice and neither loses the other's work.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from indexer import gpu
from indexer.contents import Encoded, Key
from indexer.errors import CommitConflict, IndexNotFound, SpaceMismatch, StoreError
from indexer.generation import Generation, Root, Space
from indexer.ledger import Completed
from indexer.report import BuildOptions, Committed, OnEvent, Stopwatch, Warned
from indexer.snapshot import Snapshot
from indexer.store import StagedPart, Writer
from indexer.types import Item


@dataclass(frozen=True, slots=True)
class Base:
    """The generation that a run builds on; all empty where there is none."""

    generation: Generation | None = None
    items: dict[str, Item] = field(default_factory=dict)  # by id
    roots: dict[str, Root] = field(default_factory=dict)  # by id

    @classmethod
    def read(cls, index_dir: Path) -> Base:
        """What the index holds now. Raises IndexCorrupt for damage that shows at a glance."""
        try:
            snapshot = Snapshot.open(index_dir)
        except IndexNotFound:
            return cls()
        with snapshot:
            snapshot.glance()
            items = {item.id: item for item in snapshot.item_list()}
            return cls(snapshot.generation, items, snapshot.roots)


class Publisher:
    """Collects what a run finishes and commits it. The writer's place is given back by `stack`."""

    def __init__(
        self,
        index_dir: Path,
        space: tuple[str, Space],
        options: BuildOptions,
        clock: Stopwatch,
        *,
        on_event: OnEvent,
        stack: ExitStack,
    ) -> None:
        self.index_dir = index_dir
        self.space_id, self.space = space
        self.options = options
        self.clock = clock
        self.on_event = on_event
        self.base = Base()
        self.committed = False
        self.warned: list[Warned] = []
        self._stack = stack
        self._writer: Writer | None = None
        self._items: dict[str, Completed] = {}  # done since the last commit, by id
        self._removed: set[str] = set()
        self._roots: dict[str, Root] = {}
        self._buffer: dict[Key, Encoded] = {}
        self._segments = 0  # in the buffer
        self._part: StagedPart | None = None  # the buffer, staged
        self._last = time.monotonic()

    def read_base(self) -> Base:
        """Read the index as it is now. Raises SpaceMismatch where its vectors are another model's."""
        self.base = Base.read(self.index_dir)
        generation = self.base.generation
        if generation is not None and generation.spaces and self.space_id not in generation.spaces:
            theirs = ", ".join(f"{s.model} ({key[:12]})" for key, s in generation.spaces.items())
            raise SpaceMismatch(
                f"the index holds vectors of {theirs}; these would be of {self.space.model} "
                f"({self.space_id[:12]})",
                hint="use the model that the index names, or make a new index",
            )
        return self.base

    def open(self) -> Writer:
        """Take a place to stage parts in, once; the index is made where there is none."""
        if self._writer is None:
            # Asked for, a GPU is looked for now, whether or not this run will have so much to train on.
            use = gpu.chosen(True, note=self._warn) if self.options.gpu else self.options.gpu
            self._writer = self._stack.enter_context(
                Writer.open(self.index_dir, create=True, gpu=use, note=self._warn)
            )
        return self._writer

    def _warn(self, line: str) -> None:
        if all(line != said.message for said in self.warned):  # every large part would say it
            self.warned.append(Warned(line))
            self.on_event(self.warned[-1])

    def tidy(self) -> None:
        """Clean up after a writer that died, where this run had nothing to commit and so did not.

        A process that dies in a commit leaves its staging folder, whatever else it leaves. An index that
        cannot be written to, or whose lock another holds, stays as it is.
        """
        staging = self.index_dir / "staging"
        if self._writer is None:
            with contextlib.suppress(OSError, StoreError):
                if any(staging.iterdir()):
                    self.open()

    def keys(self) -> set[Key]:
        """Contents that the index has vectors of, tombstoned ones included."""
        if self.base.generation is None:
            return set()
        with Snapshot.open(self.index_dir, generation=self.base.generation.name) as snapshot:
            return snapshot.keys(space_id=self.space_id)

    def add_root(self, root: Root) -> None:
        self._roots[root.id] = root

    def add_item(self, completed: Completed) -> None:
        """An item whose contents were all added, or known, or given up."""
        if self.base.items.get(completed.item.id) != completed.item:
            self._items[completed.item.id] = completed

    def add_content(self, encoded: Encoded) -> None:
        self._buffer[encoded.medium.key] = encoded
        self._segments += len(encoded.segments)

    def remove(self, items: Iterable[Item]) -> None:
        """Leave these items out of the next commit."""
        self._removed.update(item.id for item in items)

    def due(self) -> bool:
        """Whether enough came together, or time passed, for a commit."""
        if self._segments >= self.options.commit_segments:
            return True
        return bool(self._segments) and time.monotonic() - self._last > self.options.commit_seconds

    def commit(self) -> None:
        """Make what was added current; nothing happens where that changes nothing.

        Raises CommitConflict where other writers committed first each time, or took away contents that this
        run counted on.
        """
        for _ in range(self.options.commit_attempts):
            if not self._differs():
                return
            try:
                self._try_commit()
                return
            except CommitConflict:
                self._rebase()
        raise CommitConflict(
            f"other writers committed to {self.index_dir} first, {self.options.commit_attempts} times",
            hint="wait until they are done and run this again; what was committed so far is kept",
        )

    def derive(self) -> None:
        """Work out and commit what the index lacks beside its vectors. Other writers that commit go first."""
        for _ in range(self.options.commit_attempts):
            base = self.base.generation
            if base is None or not self.options.derivations:
                return
            if self._writer is None and not self._due(base):
                return  # a writer at hand looks for itself, and opens the generation once
            with self.clock.stage("derive"):
                try:
                    generation = self.open().derive(base, self.options.derivations)
                except CommitConflict:
                    self.read_base()
                    continue
            self.committed |= generation is not base
            self.base = replace(self.base, generation=generation)
            return

    def _due(self, base: Generation) -> bool:
        """Whether a writer is needed: something is to be worked out, or what was is damaged."""
        with Snapshot.open(self.index_dir, generation=base.name) as snapshot:
            sound = snapshot.sound
        return any(one.due(sound) for one in self.options.derivations)

    def _differs(self) -> bool:
        return bool(
            self._buffer
            or self._items
            or any(item_id in self.base.items for item_id in self._removed)
            or any(self.base.roots.get(root.id) != root for root in self._roots.values())
        )

    def _try_commit(self) -> None:
        writer = self.open()
        if self._buffer and self._part is None:
            with self.clock.stage("write"):
                segments = [one for encoded in self._buffer.values() for one in encoded.segments]
                vectors = np.concatenate([encoded.vectors for encoded in self._buffer.values()])
                made_in = {encoded.medium.key[1]: encoded.precision for encoded in self._buffer.values()}
                self._part = writer.add_part(segments, vectors, space_id=self.space_id, precisions=made_in)
        with self.clock.stage("commit"):
            items = {key: item for key, item in self.base.items.items() if key not in self._removed}
            items.update((key, done.item) for key, done in self._items.items())
            roots = self.base.roots | self._roots
            spaces = dict(self.base.generation.spaces) if self.base.generation else {}
            generation = writer.commit(
                self.base.generation,
                roots=list(roots.values()),
                items=sorted(items.values(), key=lambda item: (item.root_id, item.path)),
                spaces=spaces | {self.space_id: self.space},
                parts=[self._part] if self._part else [],
            )
        said = Committed(generation.number, self._segments)
        self.base = Base(generation, items, roots)
        self.committed = True
        self._items.clear()
        self._removed.clear()
        self._buffer.clear()
        self._segments, self._part, self._last = 0, None, time.monotonic()
        self.on_event(said)

    def _rebase(self) -> None:
        """Take another writer's generation as the base; what it has vectors of need not come again."""
        self.read_base()
        there = self.keys()
        double = [key for key in self._buffer if key in there]
        for key in double:
            self._segments -= len(self._buffer.pop(key).segments)
        if double:
            self._part = None  # staged anew without them; cleaning takes the old one
        for completed in self._items.values():
            if not all(key in there or key in self._buffer for key in completed.needs):
                raise CommitConflict(
                    f"another writer removed contents from {self.index_dir} that this run found there",
                    hint="run this again",
                )
