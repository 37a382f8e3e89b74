"""One runtime on several devices: a process on each, and every run's rows split among them.

To a tower this is one runtime. Rows travel through memory that parent and child share, vectors come back
through a pipe, in the order of the rows. Imports no torch; what a child runs stands in replica.py.

Each child is a fresh interpreter, neither forked nor multiprocessing's, so it never imports the program's
main module. One that dies is started again, once for any piece of work.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ModelError
from retrieval.runtime.protocol import Arrays, Runtime, available_threads

OUTPUT = "vectors"
ALIGN = 64  # bytes; where arrays begin in shared memory
TRIES = 2  # of a piece of work, each in another process
WAIT_S = 10.0  # that a child is given to end by itself
BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[4]); "
    "from retrieval.runtime.replica import main; main(*map(int, sys.argv[1:4]))"
)
Load = Callable[..., Runtime]  # picklable: a device as torch names it, and `note` -> the runtime there
Note = Callable[[str], None]  # takes one line for the user
Layout = list[tuple[str, str, tuple[int, ...], int]]  # name, dtype, shape and first byte of each array


class ReplicaDied(Exception):
    """A child ended without an answer. Never leaves this module."""


class Replicas:
    """A runtime whose runs are shared out to one process a device. Close it, or use it in a `with`."""

    def __init__(self, replicas: Sequence[_Replica], note: Note) -> None:
        self._replicas = list(replicas)
        self._note = note
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(len(self._replicas), "replica")

    @classmethod
    def open(cls, load: Load, places: Sequence[str], *, note: Note | None = None) -> Replicas:
        """Start a process a place and load the runtime in each, all at the same time.

        Raises what `load` raised there, as ModelError with its hint.
        """
        say = note or _silent
        threads = max(1, available_threads() // len(places))
        replicas = cls([_Replica(load, place, threads, say) for place in places], say)
        try:
            list(replicas._pool.map(_Replica.start, replicas._replicas))
        except BaseException:
            replicas.close()
            raise
        return replicas

    @property
    def precision(self) -> str:
        """Of all of them; ModelError where devices differ in what they can compute in."""
        found = {replica.precision for replica in self._replicas}
        if len(found) > 1:
            raise ModelError(
                f"the devices compute in different precisions: {', '.join(sorted(found))}",
                hint="name one precision, or one device: --device cuda:0",
            )
        return found.pop()

    @property
    def preferred_group(self) -> int:
        """Rows that one `run` handles best: what all of them do together."""
        return sum(replica.preferred_group for replica in self._replicas)

    @property
    def pids(self) -> list[int]:
        """The processes, one a place."""
        return [replica.pid for replica in self._replicas]

    def run(self, inputs: Arrays) -> Arrays:
        """As any runtime's; rows (texts, or segments with their views) are split evenly, in order.

        ModelError where a process died twice over the same rows, or its device cannot go on.
        """
        with self._lock:
            pieces = split(inputs, [replica.preferred_group for replica in self._replicas])
            work = zip(self._replicas, pieces, strict=True)
            done = [self._pool.submit(replica.run, piece) for replica, piece in work if piece is not None]
            wait(done)  # all of them, before an error lets the next run use the same processes
            return {OUTPUT: np.concatenate([one.result() for one in done])}

    def close(self) -> None:
        """End the processes."""
        for replica in self._replicas:
            replica.stop()
        self._pool.shutdown(wait=False)

    def __enter__(self) -> Replicas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the interpreter's end half of it is gone
            self.close()


def split(inputs: Arrays, weights: Sequence[int]) -> list[Arrays | None]:
    """Consecutive rows for each replica, in proportion to `weights`; None where too few rows are there."""
    views = "pool" in inputs
    count = len(inputs["pool"] if views else next(iter(inputs.values())))
    ends = np.ceil(np.cumsum(weights) * count / sum(weights)).astype(int)  # one row is the first one's
    starts = [0, *ends[:-1]]
    cut = _view_rows if views else _rows
    return [
        cut(inputs, slice(start, end)) if end > start else None
        for start, end in zip(starts, ends, strict=True)
    ]


def _rows(inputs: Arrays, part: slice) -> Arrays:
    return {name: array[part] for name, array in inputs.items()}


def _view_rows(inputs: Arrays, part: slice) -> Arrays:
    """Some segments, the views that they average, and their piece of the matrix."""
    pool = inputs["pool"][part]
    used = np.flatnonzero(pool.any(axis=0))
    views = slice(int(used[0]), int(used[-1]) + 1)
    return {"views": inputs["views"][views], "pool": pool[:, views]}


class SharedBlock:
    """Memory that a child maps too. It only grows; its file has no name, so nothing is left behind."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("triptych")
        else:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
        self.size = 0
        self._map: mmap | None = None

    def write(self, arrays: Arrays) -> Layout:
        """Copy arrays in; where each lies."""
        layout: Layout = []
        end = 0
        for name, array in arrays.items():
            layout.append((name, array.dtype.str, array.shape, end))
            end += -(-array.nbytes // ALIGN) * ALIGN
        if end > self.size:
            self._grow(end)
        for (_, _, _, start), array in zip(layout, arrays.values(), strict=True):
            self._at(start, array.dtype, array.shape)[...] = array
        return layout

    def _grow(self, size: int) -> None:
        self._map = None
        self.size = max(size, ALIGN)
        os.ftruncate(self.fd, self.size)
        self._map = mmap(self.fd, self.size)

    def _at(self, start: int, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        return np.ndarray(shape, dtype, buffer=self._map, offset=start)

    def close(self) -> None:
        self._map = None
        os.close(self.fd)


class _Replica:
    """One process on one device, used by one thread at a time."""

    def __init__(self, load: Load, place: str, threads: int, note: Note) -> None:
        self.place = place
        self.precision = ""
        self.preferred_group = 1
        self._load, self._threads, self._note = load, threads, note
        self._memory = SharedBlock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start the process and wait until it has loaded."""
        child_in, self._requests = multiprocessing.Pipe(duplex=False)
        self._answers, child_out = multiprocessing.Pipe(duplex=False)
        fds = (child_in.fileno(), child_out.fileno(), self._memory.fd)
        # The child's path begins where this package lies, whatever folder the program runs in.
        path = [str(Path(__file__).parents[2]), *sys.path]
        command = [sys.executable, "-c", BOOT, *map(str, fds), json.dumps(path)]
        try:
            self._process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
        finally:
            child_in.close()
            child_out.close()
        try:
            self._requests.send_bytes(pickle.dumps((self._load, self.place, self._threads)))
            self.precision, self.preferred_group = self._answer()
        except (OSError, ReplicaDied) as error:
            raise ModelError(
                f"the process for {self.place} ended while it loaded the model ({self._ending()})",
                hint="name one device that works: --device cuda:0, or --device cpu",
            ) from error

    def run(self, inputs: Arrays) -> npt.NDArray[Any]:
        """The vectors of some rows. A process that dies is replaced and asked once more."""
        for attempt in range(TRIES):
            if attempt:
                self._note(f"the process for {self.place} died ({self._ending()}): started again")
                self._restart()
            try:
                layout = self._memory.write(inputs)
                self._requests.send((layout, self._memory.size))
                shape, dtype = self._answer()
                return np.frombuffer(self._answers.recv_bytes(), dtype).reshape(shape)
            except (OSError, EOFError, ReplicaDied):
                continue
        raise ModelError(
            f"the process for {self.place} died {TRIES} times over the same inputs ({self._ending()})",
            hint="name other devices with --device, and look into the system's log for what ended it",
        )

    def _answer(self) -> Any:
        """The next answer; its notes on the way, and its errors raised here. ReplicaDied where it ended."""
        while True:
            try:
                kind, what = self._answers.recv()
            except (EOFError, OSError) as error:
                raise ReplicaDied from error
            if kind == "done":
                return what
            if kind == "failed":
                raise ModelError(f"{self.place}: {what[0]}", hint=what[1])
            self._note(what)

    def _restart(self) -> None:
        self._end_process()
        self.start()

    def _ending(self) -> str:
        """How the process ended, in words."""
        if self._process is None:
            return "never started"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(WAIT_S)
        code = self._process.returncode
        if code is None:
            return "it does not answer"
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def _end_process(self) -> None:
        """Close the pipes, which ends an idle process, and end a busy one."""
        if self._process is None:
            return
        self._requests.close()
        self._answers.close()
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        if not self._closed:
            self._closed = True
            self._end_process()
            self._memory.close()


def _silent(line: str) -> None:
    """For callers that want no notes."""
