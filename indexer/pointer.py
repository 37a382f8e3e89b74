"""The pointer of an index: which generation is current, and how a commit moves it.

What a generation holds is not known here: store.py makes those of parts and items, derivedfiles.py those that
differ in what is derived. Both hold the commit lock while they move files and swap.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path

from indexer import cleaning
from indexer.errors import CommitConflict, IndexNotFound
from indexer.fsio import fsync_dir, short_lock, step, write_atomic
from indexer.generation import CURRENT, Generation, read_current, to_json

LOCK = "commit.lock"


class Pointer:
    """CURRENT of one index, for a writer."""

    def __init__(self, index_dir: Path) -> None:
        self.index_dir = index_dir

    def current(self) -> Generation | None:
        """The generation to plan against; None for an index without one."""
        try:
            return read_current(self.index_dir)
        except IndexNotFound:
            return None

    def require(self, parent: Generation | None) -> None:
        """CommitConflict unless CURRENT is still `parent`."""
        current = self.current()
        if (current and current.name) != (parent and parent.name) or (
            current and parent and current.created != parent.created
        ):
            raise CommitConflict(
                f"another writer committed generation {current.name if current else 'none'} meanwhile",
                hint="run the command again; what was encoded is kept where it can be",
            )

    @contextlib.contextmanager
    def committing(self, parent: Generation | None) -> Iterator[None]:
        """The commit lock, for a commit on `parent`; what nothing names is cleaned away afterwards.

        CommitConflict where CURRENT is no longer `parent`.
        """
        with short_lock(self.index_dir / LOCK):
            self.require(parent)
            yield
            with contextlib.suppress(OSError):  # it is committed; what stays is cleaned another time
                cleaning.clean(self.index_dir)

    def move(self, moves: Mapping[str, Path]) -> None:
        """Rename staged files and folders into the index, durably."""
        for name, path in moves.items():
            path.rename(self.index_dir / name)
        for folder in {(self.index_dir / name).parent for name in moves}:
            fsync_dir(folder)

    def swap(self, generation: Generation) -> None:
        """Write the manifest, then make CURRENT name it: the commit."""
        write_atomic(self.index_dir / "generations" / f"{generation.name}.json", to_json(generation))
        step("generation-written")
        write_atomic(self.index_dir / CURRENT, f"{generation.name}\n".encode())
        step("current-swapped")


def program_version() -> str:
    """The version of this program, as a generation names it."""
    try:
        return importlib.metadata.version("triptych")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
