"""The inside of a decode worker: takes jobs from a pipe, sends outcomes into another, until a pipe closes.

Runs in a process of its own (workers.py starts it): a decoder may crash here, hang or eat memory. It is no
wall against code that means harm; it keeps a broken file from ending the run.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection

from indexer.errors import MediaError
from indexer.media.jobs import READY, Chunk, Failed, Finished, Job, Outcome, Setup
from indexer.media.kinds import open_regular
from indexer.media.prepare import prepare_file, prepare_text
from indexer.types import Prepared


def main(jobs_fd: int, outcomes_fd: int) -> None:
    """Serve until the parent closes its end. The first message in is the Setup, the first one out READY."""
    jobs = Connection(jobs_fd, writable=False)
    outcomes = Connection(outcomes_fd, readable=False)
    try:
        setup = _start(jobs)
    except BaseException:
        outcomes.send_bytes(traceback.format_exc().encode("utf-8", "replace"))
        return
    try:
        outcomes.send_bytes(READY)
        while True:
            for job in pickle.loads(jobs.recv_bytes()):
                _serve(job, setup, outcomes)
    except (EOFError, OSError):  # the parent has closed its ends, or is gone
        return


def _start(jobs: Connection) -> Setup:
    """Unpickle the preparers, which imports what they need, and only then bound the memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    setup: Setup = pickle.loads(jobs.recv_bytes())
    # One byte, not none: the kernel hands a core to a crash reporter at a limit of 0, but not at 1.
    _limit(resource.RLIMIT_CORE, 1 if sys.platform == "linux" else 0)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, _address_space() + (setup.memory_mb << 20))
    return setup


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def _address_space() -> int:
    """Bytes mapped now: libraries, thread stacks and reserves, which the limit must not count."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _serve(job: Job, setup: Setup, outcomes: Connection) -> None:
    """Prepare one job and send what it gives. The alarm kills the process, also inside a decoder's C code."""

    def send(*message: Outcome) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)  # waiting for the parent is not the file's fault
        outcomes.send_bytes(pickle.dumps(message, protocol=5))

    held: list[Prepared] = []
    size = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, setup.timeout_s)
        before = _state(job, regular=True)
        for one in _segments(job, setup):
            held.append(one)
            size += one.tensor.nbytes
            if size >= setup.chunk_bytes:
                send(Chunk(job.id, held))
                held, size = [], 0
            signal.setitimer(signal.ITIMER_REAL, setup.timeout_s)
        if _state(job) != before:
            raise MediaError("changed while it was read")
        last: tuple[Outcome, ...] = (Finished(job.id, size=before[0], mtime_ns=before[1]),)
        message = (Chunk(job.id, held), *last) if held else last
    except BaseException as error:
        message = (Failed(job.id, _reason(error, setup)),)
    send(*message)


def _segments(job: Job, setup: Setup) -> Iterator[Prepared]:
    preparer = setup.preparers[job.modality]
    if job.path is None:
        return prepare_text(job.text or "", preparer)
    return prepare_file(job.path, job.modality, preparer)


def _state(job: Job, *, regular: bool = False) -> tuple[int, int, int, int]:
    """Size, mtime_ns, inode and device; `regular`: refuse whatever is no regular file."""
    if job.path is None:
        return len((job.text or "").encode("utf-8", "surrogatepass")), 0, 0, 0
    if regular:
        with open_regular(job.path) as file:
            status = os.fstat(file.fileno())
    else:
        status = os.stat(job.path)  # noqa: PTH116 - a job's path is a str
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def _reason(error: BaseException, setup: Setup) -> str:
    """One line for the failure report."""
    if isinstance(error, MediaError):
        return error.message
    if isinstance(error, MemoryError):
        return f"needs more than {setup.memory_mb} MB of memory"
    if isinstance(error, FileNotFoundError):
        return "no such file any more"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
