"""Files of an index, opened once and checked against their size and SHA-256 before anything reads them.

What a file holds is not known here. That a file was found whole is remembered in the user's cache, by path,
size, times and inode, so that large vector files are hashed once and not for every search.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from indexer.errors import IndexCorrupt
from indexer.fsio import CHUNK
from indexer.generation import VERIFY_HINT, StoredFile

SETTLED_NS = 50_000_000  # a file younger than this may change again without its times showing it


def cache_folder() -> Path:
    """The user's cache of this program; TRIPTYCH_HOME overrides the platform's place."""
    home = os.environ.get("TRIPTYCH_HOME")
    if home:
        return Path(home)
    import platformdirs

    return platformdirs.user_cache_path("triptych")


class Verified:
    """Which files of one index were found whole, as they were then."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._known: dict[str, list[object]] = {}
        self._changed = False

    @classmethod
    def load(cls, index_dir: Path) -> Verified:
        """What is remembered of this index; nothing where there is no such note, or an unreadable one."""
        path = os.fsencode(index_dir.resolve())
        found = cls(cache_folder() / "verified" / f"{hashlib.sha256(path).hexdigest()[:16]}.json")
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(found._place.read_bytes())
            if isinstance(known, dict):
                found._known = known
        return found

    def knows(self, name: str, expected: StoredFile, status: os.stat_result) -> bool:
        return self._known.get(name) == _fingerprint(expected, status)

    def doubts(self, name: str, expected: StoredFile, status: os.stat_result) -> bool:
        """Whether a file that was found whole has been written or replaced since, which nothing here does."""
        known = self._known.get(name)
        return (
            known is not None and known[:1] == [expected.sha256] and known != _fingerprint(expected, status)
        )

    def remember(self, name: str, expected: StoredFile, status: os.stat_result) -> None:
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS:
            self._known[name] = _fingerprint(expected, status)
            self._changed = True

    def save(self, keep: Mapping[str, StoredFile]) -> None:
        """Write what is new, for the files in `keep` only. A cache that cannot be written is no error."""
        if not self._changed:
            return
        self._changed = False
        known = {name: print_ for name, print_ in self._known.items() if name in keep}
        with contextlib.suppress(OSError):
            self._place.parent.mkdir(parents=True, exist_ok=True)
            beside = self._place.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(known))
            beside.replace(self._place)


def _fingerprint(expected: StoredFile, status: os.stat_result) -> list[object]:
    return [expected.sha256, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


class CheckedFile:
    """One file of an index, held open, so that pruning its name does not take it from a reader."""

    def __init__(self, handle: BinaryIO, name: str, expected: StoredFile, verified: Verified | None) -> None:
        self.name = name
        self.expected = expected
        self._handle = handle
        self._verified = verified
        self._whole = False
        self._map: mmap.mmap | None = None
        self._lock = threading.Lock()  # a search may warm files in a thread beside it

    @classmethod
    def open(
        cls, folder: Path, name: str, expected: StoredFile, *, label: str, verified: Verified | None
    ) -> CheckedFile:
        """Open `folder/name` and compare its size; `label` is its path relative to the index.

        Raises IndexCorrupt for another size, FileNotFoundError where it is missing.
        """
        handle = (folder / name).open("rb", buffering=0)
        size = os.fstat(handle.fileno()).st_size
        if size != expected.size:
            handle.close()
            raise IndexCorrupt(f"{label} has {size} bytes, {expected.size} expected", hint=VERIFY_HINT)
        return cls(handle, label, expected, verified)  # type: ignore[arg-type]

    def check(self) -> None:
        """Compare the checksum, unless this very file was found whole before; raises IndexCorrupt."""
        with self._lock:
            if self._whole:
                return
            status = os.fstat(self._handle.fileno())
            if self._verified is None or not self._verified.knows(self.name, self.expected, status):
                if self._digest() != self.expected.sha256:
                    raise IndexCorrupt(f"{self.name} does not match its checksum", hint=VERIFY_HINT)
                if self._verified is not None:
                    self._verified.remember(self.name, self.expected, status)
            self._whole = True

    def glance(self) -> None:
        """`check`, but only where the file is not as it was when it was found whole; raises IndexCorrupt."""
        status = os.fstat(self._handle.fileno())
        if self._verified is not None and self._verified.doubts(self.name, self.expected, status):
            self.check()

    def peek(self, start: int, size: int) -> bytes:
        """Some bytes, unchecked; a negative start counts from the end."""
        return os.pread(self._handle.fileno(), size, start if start >= 0 else self.expected.size + start)

    def _digest(self) -> str:
        """SHA-256, by reading and not by mapping: pages of a map would count as this process's memory."""
        digest = hashlib.sha256()
        offset = 0
        while block := os.pread(self._handle.fileno(), CHUNK, offset):
            digest.update(block)
            offset += len(block)
        return digest.hexdigest()

    def map(self) -> mmap.mmap:
        """The checked content, mapped; valid as long as something refers to it."""
        self.check()
        if self._map is None:
            if not self.expected.size:
                raise IndexCorrupt(f"{self.name} is empty", hint=VERIFY_HINT)
            self._map = mmap.mmap(self._handle.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def read(self) -> bytes:
        """The checked content."""
        self.check()
        blocks, size = [], 0
        while block := os.pread(self._handle.fileno(), self.expected.size - size, size):
            blocks.append(block)  # more than one only above 2 GiB, the most that one call reads
            size += len(block)
        if size != self.expected.size:
            raise IndexCorrupt(f"{self.name} became shorter while it was read", hint=VERIFY_HINT)
        return b"".join(blocks)

    def close(self) -> None:
        self._handle.close()
        self._map = None


def describe(path: Path) -> StoredFile:
    """Size and SHA-256 of a file just written, read back from the file system."""
    from indexer.fsio import sha256_file

    return StoredFile(path.stat().st_size, sha256_file(path))
