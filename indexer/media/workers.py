"""Supervised decode processes: a file that crashes or hangs its decoder costs one line, not the run.

Each worker is a fresh interpreter, neither forked nor multiprocessing's: it imports the readers and what the
preparers need, never the program's main module. A thread of the parent looks after each worker.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType

from indexer.errors import WorkerError
from indexer.media.jobs import READY, Chunk, Failed, Finished, Job, Outcome, Setup
from indexer.types import Modality, Preparer

__all__ = ["Chunk", "DecodePool", "Failed", "Finished", "Job", "Outcome"]

CHUNK_BYTES = 4 << 20  # tensors of a long medium that travel together
BUFFER_BYTES = 96 << 20  # tensors that may wait for the consumer; workers pause above it
AHEAD = 3  # jobs a worker is given beyond the one it is at, so that it never waits for the parent
INLINE_TEXT = 1024  # characters; a job with more travels alone, or both ends could wait on full pipes
PIPE_BYTES = 1 << 20  # Linux lets a pipe hold this much

# Pillow and malloc keep freed memory for the next picture: its page faults took as long as decoding it.
KEEP_MEMORY = {
    "PILLOW_BLOCKS_MAX": "4",
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}
# The workers share the cores among themselves; a library's own threads would only get in their way.
ONE_THREAD = dict.fromkeys(
    [
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
        *("RAYON_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    ],
    "1",
) | {"TOKENIZERS_PARALLELISM": "false"}
BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[3]); "
    "from indexer.media.decoder import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


class _Worker:
    """One process and its two pipes."""

    def __init__(self) -> None:
        jobs_out, self.jobs = multiprocessing.Pipe(duplex=False)
        self.outcomes, outcomes_in = multiprocessing.Pipe(duplex=False)
        for connection in (self.jobs, self.outcomes):
            _widen(connection.fileno())
        ends = jobs_out.fileno(), outcomes_in.fileno()
        search_path = json.dumps([os.path.abspath(entry) for entry in sys.path])  # noqa: PTH100
        with jobs_out, outcomes_in:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT, *map(str, ends), search_path],
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **ONE_THREAD, **KEEP_MEMORY},
                process_group=0,  # an interrupt at the terminal is the parent's to handle
            )
        self.done = 0  # jobs it has served

    def set_up(self, setup: bytes) -> None:
        """Hand over the preparers. Raises WorkerError with the traceback of a worker that cannot start."""
        try:
            with contextlib.suppress(BrokenPipeError):
                self.jobs.send_bytes(setup)
            answer = self.outcomes.recv_bytes()
        except (EOFError, OSError):
            answer = f"it ended with status {self.stop()}".encode()
        if answer != READY:
            raise WorkerError(f"a decode worker could not start: {answer.decode('utf-8', 'replace').strip()}")

    def stop(self) -> int:
        """Kill the process, wait for its end, and give its status as subprocess does (negative: a signal)."""
        self.kill()
        status = self.process.wait()
        self.jobs.close()
        self.outcomes.close()
        return status

    def kill(self) -> None:
        self.process.kill()


def _widen(pipe: int) -> None:
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class _Buffer:
    """Messages from the workers to the consumer; whoever puts more than BUFFER_BYTES in waits."""

    def __init__(self) -> None:
        self._messages: deque[tuple[Outcome, ...]] = deque()
        self._bytes = 0
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, message: tuple[Outcome, ...]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < BUFFER_BYTES or self._closed)
            self._messages.append(message)
            self._bytes += _nbytes(message)
            self._changed.notify_all()

    def get(self) -> tuple[Outcome, ...]:
        """The next message; raises what a keeper could not handle."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._error)
            if self._error:
                raise self._error
            message = self._messages.popleft()
            self._bytes -= _nbytes(message)
            self._changed.notify_all()
            return message

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _nbytes(message: tuple[Outcome, ...]) -> int:
    return sum(outcome.nbytes for outcome in message if isinstance(outcome, Chunk))


class _Shared:
    """What the keepers of one pool have in common."""

    def __init__(self, setup: Setup) -> None:
        self.timeout_s = setup.timeout_s
        self.setup = pickle.dumps(setup, protocol=5)
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None: the pool is closing
        self.buffer = _Buffer()
        self.closing = False
        self.lock = threading.Lock()  # between starting a worker and closing the pool


class _Keeper:
    """Keeps one worker busy, and replaces it when it dies."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._worker: _Worker | None = None
        self._given: deque[Job] = deque()  # what the worker has; it is at the first
        self._again: deque[Job] = deque()  # what a dead worker left undone
        self._emitted = False  # whether the first of _given has given a chunk
        self.thread = threading.Thread(target=self._run, name="triptych-decode", daemon=True)

    def kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    def _run(self) -> None:
        try:
            while (worker := self._start()) is not None:
                try:
                    worker.set_up(self._shared.setup)
                    self._serve(worker)
                finally:
                    status = worker.stop()
                if not self._shared.closing:
                    self._bury(worker, status)
        except BaseException as error:
            if not self._shared.closing:
                self._shared.buffer.fail(error)

    def _start(self) -> _Worker | None:
        with self._shared.lock:
            if self._shared.closing:
                return None
            self._worker = _Worker()
            return self._worker

    def _serve(self, worker: _Worker) -> None:
        """Pass jobs and outcomes on until the worker dies or the pool closes."""
        while self._give(worker):
            try:
                message = pickle.loads(worker.outcomes.recv_bytes())
            except (EOFError, OSError):
                return
            self._emitted = isinstance(message[-1], Chunk)
            if not self._emitted:
                self._given.popleft()
                worker.done += 1
            self._shared.buffer.put(message)

    def _give(self, worker: _Worker) -> bool:
        """Fill up what the worker has; waits for a job only if it has none. False: the pool is closing."""
        while len(self._given) <= AHEAD:
            try:
                job = self._again.popleft() if self._again else self._shared.jobs.get(block=not self._given)
            except queue.Empty:
                break
            if job is None:
                return False
            if self._given and len(job.text or "") > INLINE_TEXT:
                self._again.appendleft(job)
                break
            self._given.append(job)
            with contextlib.suppress(BrokenPipeError):  # it has just died: reading from it will tell
                worker.jobs.send_bytes(pickle.dumps([job], protocol=5))
        return True

    def _bury(self, worker: _Worker, status: int) -> None:
        """Report the job that the worker died of, and keep the others.

        A worker that had served others before may have died of what they left in its memory: then the job
        is tried once more, alone with a fresh one. Not where it took too long or has given chunks already.
        """
        if not self._given:
            return
        job = self._given.popleft()
        self._again.extendleft(reversed(self._given))
        self._given.clear()
        if worker.done and not self._emitted and status != -signal.SIGALRM:
            self._again.appendleft(job)
        else:
            self._shared.buffer.put((Failed(job.id, _cause(status, self._shared.timeout_s)),))
        self._emitted = False


def _cause(status: int, timeout_s: float) -> str:
    """Why a worker died, from its exit status."""
    if status == -signal.SIGALRM:
        return f"took longer than {timeout_s:g} s"
    if status == -signal.SIGKILL:
        return "decoder was killed (signal 9), perhaps for want of memory"
    return f"decoder crashed (signal {-status})" if status < 0 else f"decoder ended itself (status {status})"


class DecodePool:
    """Prepares media in supervised processes; a context manager.

    `workers` processes (default: one a core this process may use) hold the preparers. A file may take
    `timeout_s` for each of its segments (a picture has one; a sound one every `hop_s`), time that a worker
    spends waiting for the consumer not counted. Beyond what its libraries take, a worker may map
    `memory_mb` (Linux only). At most `look_ahead` jobs are pulled beyond what the consumer has seen the end
    of, and about 96 MB of tensors wait for it, however long a medium is.
    """

    def __init__(
        self,
        preparers: Mapping[Modality, Preparer],
        *,
        workers: int | None = None,
        timeout_s: float = 60.0,
        memory_mb: int = 2048,
        look_ahead: int | None = None,
    ) -> None:
        self.workers = workers or available_cores()
        self.look_ahead = look_ahead or max(64, 16 * self.workers)
        self._setup = Setup(dict(preparers), timeout_s, memory_mb, CHUNK_BYTES)
        self._shared: _Shared | None = None
        self._keepers: list[_Keeper] = []

    def __enter__(self) -> DecodePool:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes of all jobs as they come: those of one job in order, Chunk, ..., Finished or Failed.

        Every job ends in exactly one Finished or Failed. A Failed one may have given chunks before:
        the consumer throws those away. Jobs are pulled one by one, in the consumer's thread. One run at a
        time; one that is left early ends the workers, and the next starts new ones. Raises ValueError for
        a modality without a preparer, WorkerError where no worker can start.
        """
        shared = self._open()
        source = iter(jobs)
        running, drained = 0, False
        try:
            while running or not drained:
                while not drained and running < self.look_ahead:
                    if (job := next(source, None)) is None:
                        drained = True
                    else:
                        shared.jobs.put(self._checked(job))
                        running += 1
                if not running:
                    return
                for outcome in shared.buffer.get():
                    running -= not isinstance(outcome, Chunk)
                    yield outcome
        finally:
            if running or not drained:
                self.close()

    def close(self) -> None:
        """End the workers at once. What they were at is lost; nothing is left behind."""
        shared, self._shared = self._shared, None
        if shared is None:
            return
        with shared.lock:
            shared.closing = True
        shared.buffer.close()
        for keeper in self._keepers:
            keeper.kill()
            shared.jobs.put(None)
        for keeper in self._keepers:
            keeper.thread.join()
        self._keepers = []

    def _open(self) -> _Shared:
        if self._shared is None:
            self._shared = _Shared(self._setup)
            self._keepers = [_Keeper(self._shared) for _ in range(self.workers)]
            for keeper in self._keepers:
                keeper.thread.start()
        return self._shared

    def _checked(self, job: Job) -> Job:
        if job.modality not in self._setup.preparers:
            raise ValueError(f"job {job.id} is of modality {job.modality}, for which there is no preparer")
        return job


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
