"""Folders that a process works in until it is done, and that are removed where it died.

What is written in them stands elsewhere. Whoever works in one holds its lease, which ends with the process.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from indexer.fsio import Lease
from retrieval.config import cache_dir

Locked = Callable[[], AbstractContextManager[object]]  # held for a moment


@contextmanager
def work_folder(
    parent: Path, prefix: str, *, lock: Locked = nullcontext, sweep: bool = True
) -> Iterator[Path]:
    """An empty folder in one of its own below `parent`, whose name begins with `prefix`; removed afterwards.

    With `sweep` those of processes that died go first; `lock` keeps a folder that is being made from looking
    like one of them. OSError where it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with lock():
        for left in parent.glob(f"{prefix}*") if sweep else ():
            _remove_dead(left)
        place = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lease = Lease(place)
        lease.acquire()
    try:
        work = place / "work"
        work.mkdir()
        yield work
    finally:
        lease.release()
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def staging() -> Iterator[Path]:
    """An empty folder in the cache, on the file system of the bundles so that files are linked into them."""
    from filelock import FileLock

    with work_folder(
        cache_dir() / "staging", "work-", lock=lambda: FileLock(cache_dir() / "staging.lock")
    ) as work:
        yield work


def _remove_dead(folder: Path) -> None:
    """Remove a work folder unless a live process holds its lease."""
    with suppress(OSError):
        lease = Lease(folder)
        if folder.is_dir() and lease.acquire():
            lease.release()
            shutil.rmtree(folder, ignore_errors=True)
