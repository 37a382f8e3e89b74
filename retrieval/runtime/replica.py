"""The child of replicas.py: loads one runtime, then answers runs until its pipe closes.

It has the parent's word for what to load, over a pipe that only the parent holds.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections.abc import Mapping
from mmap import mmap
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import TriptychError


def main(requests_fd: int, answers_fd: int, memory_fd: int) -> None:
    """Serve until the parent closes the pipe, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears ctrl-C, and ends this process
    requests, answers = Connection(requests_fd, writable=False), Connection(answers_fd, readable=False)
    with contextlib.suppress(EOFError, BrokenPipeError):
        load, place, threads = pickle.loads(requests.recv_bytes())
        _few_threads(threads)
        try:
            runtime = load(place, note=lambda line: answers.send(("note", line)))
        except Exception as error:
            answers.send(("failed", _told(error)))
            return
        group = int(getattr(runtime, "preferred_group", 1))
        answers.send(("done", (runtime.precision, group)))
        memory = _Memory(memory_fd)
        while True:
            layout, size = requests.recv()
            try:
                vectors = np.ascontiguousarray(next(iter(runtime.run(memory.arrays(layout, size)).values())))
            except Exception as error:
                answers.send(("failed", _told(error)))
                continue
            answers.send(("done", (vectors.shape, vectors.dtype.str)))
            answers.send_bytes(vectors.data.cast("B"))


class _Memory:
    """The parent's block, mapped again each time that it has grown."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap | None = None

    def arrays(self, layout: list[Any], size: int) -> Mapping[str, npt.NDArray[Any]]:
        """The arrays that the parent wrote, in place: they are overwritten by its next request."""
        if self._map is None or len(self._map) != size:
            self._map = mmap(self._fd, size)
        return {
            name: np.ndarray(shape, dtype, buffer=self._map, offset=start)
            for name, dtype, shape, start in layout
        }


def _few_threads(threads: int) -> None:
    """This process's share of the cores, for what reads it when it is loaded."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _told(error: Exception) -> tuple[str, str | None]:
    """An error's one line and its hint."""
    if isinstance(error, TriptychError):
        return error.message, error.hint
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}", None
