"""Content hashes of files that an earlier run read, so that a run over the same files need not read them all.

A file counts as the same while its size and time are what they were, as for an index; what was written so
shortly before it was read that its time cannot vouch for it is not kept. One run at a time writes this.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Self

from indexer.fsio import write_atomic
from indexer.hashing import Reading

NAME = "hashes.json"
VERSION = 1
MOST = 500_000  # files, some 60 MB; those of the longest ago go first
Entry = tuple[int, int, str]  # size, mtime_ns, 32 hex digits


class KnownHashes:
    """What was read before, by absolute path."""

    def __init__(self, path: Path, files: dict[str, Entry]) -> None:
        self.path = path
        self._files = files

    @classmethod
    def open(cls, folder: Path) -> Self:
        """What a folder's file says; nothing where there is none, or it is damaged or of another version."""
        path = folder / NAME
        try:
            said = json.loads(path.read_bytes())
            files = {
                str(name): (int(size), int(time), bytes.fromhex(digest).hex())
                for name, (size, time, digest) in said["files"].items()
            }
            return cls(path, files if said["version"] == VERSION else {})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return cls(path, {})

    def find(self, path: str) -> Reading | None:
        """The reading of a file that looks as it did then."""
        if path not in self._files:
            return None
        size, time, digest = self._files[path]
        try:
            now = os.stat(path)  # noqa: PTH116 - names stay bytes-exact
        except (OSError, ValueError):
            return None
        same = stat.S_ISREG(now.st_mode) and (now.st_size, now.st_mtime_ns) == (size, time)
        return Reading(bytes.fromhex(digest), size, time, dirty=False) if same else None

    def keep(self, readings: Iterable[tuple[str, Reading]]) -> None:
        """Write down what this run knows, beside what earlier ones did. OSError where that cannot be."""
        fresh = {
            path: (one.size, one.mtime_ns, one.content_hash.hex()) for path, one in readings if not one.dirty
        }
        if all(self._files.get(path) == entry for path, entry in fresh.items()):
            return
        kept = {path: entry for path, entry in self._files.items() if path not in fresh} | fresh
        self._files = dict(islice(kept.items(), max(0, len(kept) - MOST), None))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, json.dumps({"version": VERSION, "files": self._files}).encode("ascii"))
