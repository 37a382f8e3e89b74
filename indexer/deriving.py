"""Derived files made outside of an update, committed; tried again where other writers come first.

What they hold their makers know; how a commit goes, the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.derived import Derivation
from indexer.errors import CommitConflict, StoreError
from indexer.generation import Generation
from indexer.snapshot import Snapshot
from indexer.store import Writer

ATTEMPTS = 5  # while other writers commit first


@dataclass(frozen=True, slots=True)
class Kept:
    """A file whose content is at hand, as a derivation. No bytes: it goes."""

    key: str
    data: bytes

    def due(self, generation: Generation) -> bool:
        return bool(self.data) or self.key in generation.derived

    def derive(self, snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
        yield self.key, self.data


def derive(
    index_dir: Path,
    derivations: Sequence[Derivation],
    *,
    may: Callable[[Generation], None] | None = None,
) -> None:
    """Commit what derivations make of an index as it is now.

    `may` is asked about the generation before each attempt, and raises where it must not be. StoreError for
    an index without any generation, CommitConflict where other writers kept committing.
    """
    with Writer.open(index_dir) as writer:
        for _ in range(ATTEMPTS):
            parent = writer.current()
            if parent is None:
                raise StoreError(f"{index_dir} holds nothing yet", hint="index something first")
            if may is not None:
                may(parent)
            due = [one for one in derivations if one.due(parent)]
            try:
                writer.derive(parent, due)
                return
            except CommitConflict:
                continue
    raise CommitConflict(
        f"other writers committed to {index_dir} first, {ATTEMPTS} times",
        hint="wait until they are done and run this again",
    )
