"""What goes to a decode worker and what comes back. Plain data, known to both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from indexer.types import Modality, Prepared, Preparer


@dataclass(frozen=True, slots=True)
class Job:
    """One medium to prepare: a file by its absolute path, or a text at hand."""

    id: int  # the caller's; outcomes name it
    modality: Modality
    path: str | None = None  # absolute, undecodable bytes as os.fsdecode leaves them
    text: str | None = None  # inline text, instead of a path


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some segments of a job, in their order. A long medium gives several chunks."""

    job_id: int
    prepared: list[Prepared]

    @property
    def nbytes(self) -> int:
        return sum(one.tensor.nbytes for one in self.prepared)


@dataclass(frozen=True, slots=True)
class Finished:
    """A job's last outcome where all went well: what the file was, before and after it was read."""

    job_id: int
    size: int  # bytes; of the UTF-8 form for a text at hand
    mtime_ns: int  # 0 for a text at hand


@dataclass(frozen=True, slots=True)
class Failed:
    """A job's last outcome where it went wrong. Chunks that came before it are to be thrown away."""

    job_id: int
    reason: str  # one line, without the path


Outcome = Chunk | Finished | Failed
READY = b"ready"  # a worker's first message


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker is told once, when it starts."""

    preparers: Mapping[Modality, Preparer]
    timeout_s: float
    memory_mb: int
    chunk_bytes: int  # a chunk is sent once its tensors reach this
