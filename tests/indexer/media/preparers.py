"""Preparers that misbehave on command, importable by the decode workers. The text is the command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import DecodeHint, Modality, Range


@dataclass(frozen=True)
class Obedient:
    """Echoes a text as bytes, one segment a line, or does what the line says."""

    modality: Modality = Modality.TEXT
    hint: DecodeHint = field(default=DecodeHint(sample_rate=8000))

    def plan(self, text: str) -> Sequence[Range]:
        out, start = [], 0
        for line in text.splitlines(keepends=True):
            out.append(Range(start, start + len(line)))
            start += len(line)
        return out

    def tensor(self, media: Any) -> npt.NDArray[Any]:
        word, _, rest = media.strip().partition(" ")
        if word in ORDERS:
            ORDERS[word](rest)
        return np.frombuffer(media.encode(), dtype=np.uint8)


def hang(_: str) -> None:
    while True:
        signal.pause()


def crash_after_others(rest: str) -> None:
    """Crashes only in a process that has prepared something before; `rest` names a file to remember it in."""
    if SEEN:
        os.abort()


def remember(rest: str) -> None:
    SEEN.append(rest)


def grow(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("more")


def fail(message: str) -> None:
    raise RuntimeError(message + "\nsecond line")


def stop(message: str) -> None:
    raise SystemExit(message)


def shout(_: str) -> None:
    os.write(1, b"noise on stdout\n")
    os.write(2, b"noise on stderr\n")


def tell_environment(path: str) -> None:
    modules = [name for name in ("torch", "typer", "rich", "faiss", "pyarrow", "cli") if name in sys.modules]
    main = getattr(sys.modules["__main__"], "__file__", None)
    lines = [str(os.getpid()), os.environ["OMP_NUM_THREADS"], ",".join(modules), str(main)]
    Path(path).write_text("\n".join(lines))


SEEN: list[str] = []
ORDERS: dict[str, Any] = {
    "abort": lambda _: os.abort(),
    "segfault": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda code: os._exit(int(code)),
    "hang": hang,
    "allocate": lambda gigabytes: np.ones(int(gigabytes) << 27, dtype=np.float64),
    "crash_after_others": crash_after_others,
    "remember": remember,
    "grow": grow,
    "fail": fail,
    "stop": stop,
    "shout": shout,
    "tell": tell_environment,
}


@dataclass(frozen=True)
class Heavy:
    """A megabyte a second of sound; says in a file how far it has come."""

    progress: str
    modality: Modality = Modality.AUDIO
    hint: DecodeHint = field(default=DecodeHint(sample_rate=8000, window_s=1.0, hop_s=1.0))

    def plan(self, text: str) -> Sequence[Range]:
        raise NotImplementedError

    def tensor(self, media: Any) -> npt.NDArray[Any]:
        with Path(self.progress).open("ab") as file:
            file.write(b".")
        return np.full((1 << 18,), media[0], dtype=np.float32)


class Unloadable:
    """Cannot be unpickled in a worker."""

    modality = Modality.TEXT
    hint = DecodeHint()

    def __reduce__(self) -> Any:
        return (explode, ())


def explode() -> None:
    raise ImportError("a library that is not installed")
