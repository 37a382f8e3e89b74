"""FAISS on a GPU: whether there is one, what k-means assigns with there, a flat half-precision search.

Nothing here stores anything that only a GPU could read: what is kept on disk is a host structure. faiss is
imported only where a GPU may be, and where there is none, one line to `note` says so. Knows no torch. Exact
order around a GPU's rounded scores stands in nearest.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import FloatArray

Note = Callable[[str], None]  # takes one line for the user
IndexArray = npt.NDArray[np.int64]

DEEPEST = 2048  # the most results that a GPU gives for one query
HALF_MARGIN = 1.5e-3  # more than float16 queries move a score: 2**-11 of a unit vector, and float32 sums
ADD_ROWS = 1 << 18  # rows converted and sent at a time
SIGNS = (
    "nvidia[0-9]*",
    "nvidiactl",
    "nvhost-*",
    "nvgpu*",
    "kfd",
    "dxg",
)  # in /dev: NVIDIA, Jetson, ROCm, WSL


def may_have_cuda() -> bool:
    """Whether this machine may have a CUDA device, told without any library; False is certain."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    if sys.platform == "darwin":
        return False
    if sys.platform != "linux" or Path("/proc/driver/nvidia").exists():
        return True
    return any(next(Path("/dev").glob(sign), None) is not None for sign in SIGNS)


def devices() -> int:
    """GPUs that faiss can use; 0 where its build has none. faiss is imported only where one may be."""
    if not may_have_cuda():
        return 0
    try:
        import faiss
    except ImportError:  # a machine with torch alone can still search, see nearest.py
        return 0
    count = getattr(faiss, "get_num_gpus", None)
    return int(count()) if count else 0


def chosen(gpu: bool | None, *, note: Note | None = None) -> bool:
    """Whether to use a GPU: None means where there is one; True says in a line that there is none."""
    if gpu is False:
        return False
    if devices():
        return True
    if gpu and note:
        note(f"no GPU for the search structures ({why_none()}): the CPU makes them")
    return False


def why_none() -> str:
    """Why `devices` is 0, in a few words."""
    if not may_have_cuda():
        return "this machine has none, or CUDA_VISIBLE_DEVICES hides it"
    try:
        import faiss
    except ImportError:
        return "faiss is not installed: install faiss-gpu"
    if not hasattr(faiss, "StandardGpuResources"):
        return "this faiss is built for the CPU: install faiss-gpu"
    return "faiss sees none: its CUDA build and the driver do not fit"


def clustering_index(dim: int) -> Any:
    """A flat index over every GPU, for k-means to assign with; what it trains stays on the host."""
    import faiss

    return faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(dim))


class FlatOnGpu:
    """Inner products of all rows in float16, on one GPU. Rows that are float16 already lose nothing.

    Queries are rounded to float16 too, which moves a unit query's score by less than HALF_MARGIN.
    """

    margin = HALF_MARGIN
    deepest = DEEPEST

    def __init__(
        self,
        rows: npt.NDArray[Any],
        *,
        alive: npt.NDArray[np.bool_] | None = None,
        device: int = 0,
        half: bool = True,
    ) -> None:
        """Copy the living ones of rows (n, d), float16 or float32, to a GPU. RuntimeError if it fails."""
        import faiss

        config = faiss.GpuIndexFlatConfig()
        config.device, config.useFloat16 = device, half
        self._resources = faiss.StandardGpuResources()
        self._living = None if alive is None else np.flatnonzero(alive)
        self.index = faiss.GpuIndexFlatIP(self._resources, rows.shape[1], config)
        for block in living_blocks(rows, self._living, ADD_ROWS):
            self.index.add(np.ascontiguousarray(block, np.float32))

    def __call__(self, queries: FloatArray, depth: int) -> tuple[FloatArray, IndexArray]:
        """Scores and rows (q, depth), best first, rounded; `depth` at most DEEPEST."""
        return self.search(queries, depth)

    def search(self, queries: FloatArray, depth: int) -> tuple[FloatArray, IndexArray]:
        """The same, as a host's index names it."""
        scores, places = self.index.search(np.ascontiguousarray(queries, np.float32), depth)
        places = places.astype(np.int64)
        if self._living is None:
            return scores, places
        return scores, np.where(places >= 0, self._living[places], -1)


def living_blocks(rows: npt.NDArray[Any], living: IndexArray | None, size: int) -> Iterator[npt.NDArray[Any]]:
    """The rows (n, d) whose numbers are in `living`, all for None, `size` at a time."""
    for start in range(0, len(rows) if living is None else len(living), size):
        yield rows[start : start + size] if living is None else rows[living[start : start + size]]
