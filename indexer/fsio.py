"""Files that survive a crash: hashes, atomic writes, leases, and the hook that fault tests stop at.

Nothing here knows what an index is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time


def hash_bytes(data: bytes) -> bytes:
    """Content hash: the first 16 bytes of SHA-256."""
    return hashlib.sha256(data).digest()[:16]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_dir(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Make a file's content durable; for files that a library wrote."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes, *, private: bool = False, durable: bool = True) -> None:
    """Write beside, fsync, replace: a reader sees the old bytes or the new ones, never a mixture.

    `private` files only their owner may read, others are as readable as the files beside them. What is not
    `durable` is not waited for: after a crash of the machine it may be gone.
    """
    name = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        name.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            name.unlink()
        raise
    if durable:
        fsync_dir(path.parent)


class Lease:
    """A folder's owner, as long as its process lives: a lock file held open, and a note of who holds it.

    The kernel frees the lock when the process dies, however it dies, so a lease never has to time out.
    """

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock  # costs a search, which takes no lock, a twentieth of its time

        self.folder = folder
        self._lock = FileLock(folder / "lease.lock")

    def acquire(self) -> bool:
        """Whether the lease is now ours."""
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        note = {"pid": os.getpid(), "since": time.time()}
        (self.folder / "lease.json").write_text(json.dumps(note))
        return True

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextlib.contextmanager
def short_lock(path: Path, timeout_s: float = 30.0) -> Iterator[None]:
    """Hold a lock for the moment of a commit; `filelock.Timeout` where another holds it for longer."""
    from filelock import FileLock

    with FileLock(path).acquire(timeout=timeout_s):
        yield


def step(name: str) -> None:
    """A named point of a commit. Under TRIPTYCH_STOP_AT=name the process stops here, for a test to kill."""
    if os.environ.get("TRIPTYCH_STOP_AT") == name:
        print(f"stopped at {name}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
