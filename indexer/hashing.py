"""Content hashes of files that are new or look changed, read in a few threads, a bounded number at a time.

A hash stands beside the size and mtime_ns that the file had when it was read, so that the decoder can tell
whether it saw the same file.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from indexer.diff import Pending, is_dirty
from indexer.scan import FoundMember
from indexer.types import Member

CHANGED = "changed while it was read"
_TASK = 8  # items one thread takes at a time


class Reading(NamedTuple):
    """A file as it was when it was hashed."""

    content_hash: bytes
    size: int
    mtime_ns: int
    dirty: bool  # written so shortly before that a later write may leave the same size and time


class HashedItem(NamedTuple):
    """An item with its members' content hashes; None where a member could not be read."""

    pending: Pending
    members: tuple[Member, ...]
    readings: tuple[Reading | None, ...]  # what the hashes vouch for; None: inline text, or unreadable
    errors: tuple[str | None, ...]  # why a member could not be read


class Unreadable(Exception):
    """A file that could not be read, or that changed each time it was."""


def hash_items(pending: Iterable[Pending], *, threads: int = 2, trust: bool = True) -> Iterator[HashedItem]:
    """Hash the members of items, in order; `trust` as for `hash_item`. Few items are read ahead."""
    tasks = _chunks(pending, _TASK)
    first = next(tasks, None)
    if first is None:
        return
    with ThreadPoolExecutor(threads, "hash") as pool:
        ahead: deque[Future[list[HashedItem]]] = deque()
        try:
            for task in itertools.chain([first], tasks):
                ahead.append(pool.submit(_hash_all, task, trust))
                if len(ahead) > 2 * threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _chunks(pending: Iterable[Pending], size: int) -> Iterator[list[Pending]]:
    rest = iter(pending)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


def _hash_all(pending: list[Pending], trust: bool) -> list[HashedItem]:
    return [hash_item(entry, trust=trust) for entry in pending]


def hash_item(pending: Pending, *, trust: bool = True) -> HashedItem:
    """One item with its members' hashes. `trust`: do not read what size and time say is as it was."""
    members: list[Member] = []
    readings: list[Reading | None] = []
    errors: list[str | None] = []
    for found in pending.found.members:
        reading: Reading | None = None
        error = found.error
        known = pending.trusted_hash(found) if trust or found.path is None else None
        if error is not None:
            known = None
        elif known is not None and found.path is not None:
            reading = Reading(known, found.size, found.mtime_ns, dirty=False)
        elif known is None:
            try:
                reading = read_hash(os.path.join(pending.base, found.path or ""))  # noqa: PTH118
            except Unreadable as unreadable:
                error = str(unreadable)
        members.append(_member(found, known, reading))
        readings.append(reading)
        errors.append(error)
    return HashedItem(pending, tuple(members), tuple(readings), tuple(errors))


def _member(found: FoundMember, known: bytes | None, reading: Reading | None) -> Member:
    size, mtime_ns = found.size, found.mtime_ns
    if reading is not None:
        known, size = reading.content_hash, reading.size
        mtime_ns = -abs(reading.mtime_ns) if reading.dirty else reading.mtime_ns  # see diff.is_dirty
    return Member(found.modality, found.source, found.path, size, mtime_ns, known, found.text)


def read_hash(path: str) -> Reading:
    """A file's content hash, with the size and time it had before and after.

    A file that changes meanwhile is read once more. Raises Unreadable with the reason.
    """
    for _ in range(2):
        reading = _read_once(path)
        if reading is not None:
            return reading
    raise Unreadable(CHANGED)


def _read_once(path: str) -> Reading | None:
    try:
        # O_NONBLOCK: a pipe that took the file's name since the scan must not stop the run.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb", buffering=0) as file:
            now = time.time_ns()
            before = os.fstat(handle)
            if not stat.S_ISREG(before.st_mode):
                raise Unreadable("not a regular file any more")
            digest = hashlib.file_digest(file, "sha256").digest()
            after = os.fstat(handle)
    except (OSError, ValueError) as error:
        raise Unreadable((getattr(error, "strerror", None) or str(error)).lower()) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        return None
    return Reading(digest[:16], after.st_size, after.st_mtime_ns, is_dirty(after.st_mtime_ns, now))
