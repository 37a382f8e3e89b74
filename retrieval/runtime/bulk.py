"""Bulk exact search on a device: torch's product and top-k, or faiss's flat search, whichever is quicker.

Order and scores are indexer.nearest's, so that the choice is seen in the time alone. Imports torch only where
a device other than the CPU is asked for.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from indexer import gpu
from indexer.errors import ConfigError
from indexer.gpu import Note
from indexer.nearest import SPARE, Found, Rough, Rows, nearest
from indexer.types import FloatArray
from indexer.vectors import MARGIN, IndexArray
from retrieval.runtime.devices import CPU, Device, Kind, may_have_device, resolve

BLOCK_ROWS = 1 << 18  # stored vectors that one product takes
BLOCK_SCORES = 1 << 28  # scores held on the device at once: 1 GB
TRIED = 256  # queries that decide between engines
WORTH_TRYING = 4096  # queries; below, trying takes longer than it saves


def search_device(use: bool | None, *, setting: str = "auto", note: Note | None = None) -> Device:
    """Where to search: `use` True is a GPU, and a line to `note` where there is none; None one that is there.

    `setting` is the user's word for devices in general: a certain one, or "cpu", which only True overrules.
    """
    if use is False or (use is None and (setting == CPU.first or not may_have_device())):
        return CPU
    try:
        device = resolve("auto" if setting == CPU.first else setting)
        reason = gpu.why_none() if not may_have_device() else "torch sees none"
    except ConfigError as error:  # the setting names one that is not there
        device, reason = CPU, error.message
    if device.is_cpu and use and note:
        note(f"no GPU for the search ({reason}): the CPU does it")
    return device


class TorchFlat:
    """Inner products of living rows on a device, in float32 of float16 rows; as indexer.nearest's `rough`."""

    margin = MARGIN

    def __init__(self, rows: Rows, device: str) -> None:
        """Copy the living rows (n, d) to the device, in float16, block by block."""
        import torch

        self._torch = torch
        self._living = None if rows.alive is None else np.flatnonzero(rows.alive)
        self.rows = torch.empty((rows.living, rows.stored.shape[1]), dtype=torch.float16, device=device)
        start = 0
        for block in gpu.living_blocks(rows.stored, self._living, gpu.ADD_ROWS):
            self.rows[start : start + len(block)] = torch.from_numpy(
                np.require(block, np.float16, ["C", "W"])
            )
            start += len(block)

    @property
    def deepest(self) -> int:
        """The most results that it gives for one query."""
        return min(len(self.rows), 8 * gpu.DEEPEST)

    def __call__(self, queries: FloatArray, depth: int) -> tuple[FloatArray, IndexArray]:
        """Scores and rows (q, depth), best first; `depth` at most the rows there are."""
        torch = self._torch
        wide = torch.from_numpy(np.require(queries, np.float32, ["C", "W"])).to(self.rows.device)
        step = max(1, BLOCK_SCORES // min(len(self.rows), BLOCK_ROWS))
        with torch.inference_mode(), _full_float32(torch):
            parts = [self._best(wide[start : start + step], depth) for start in range(0, len(wide), step)]
        scores, places = (torch.cat(found).cpu().numpy() for found in zip(*parts, strict=True))
        return scores, places if self._living is None else self._living[places]

    def _best(self, queries: Any, depth: int) -> tuple[Any, Any]:
        """The best of every block, merged block by block."""
        torch = self._torch
        best = rows = None
        for start in range(0, len(self.rows), BLOCK_ROWS):
            block = self.rows[start : start + BLOCK_ROWS].float()
            scores, places = (queries @ block.T).topk(min(depth, len(block)), dim=1)
            places = places + start
            if best is not None:
                scores, places = torch.cat([best, scores], dim=1), torch.cat([rows, places], dim=1)
                scores, kept = scores.topk(min(depth, scores.shape[1]), dim=1)
                places = places.gather(1, kept)
            best, rows = scores, places
        return best, rows


class Bulk:
    """`nearest` on a device, or on the CPU. What it puts on a device stays there for the next queries.

    `engine` is "torch", "faiss" or "auto", which tries both on a few queries where there are many, and takes
    torch otherwise: it needs no other library's GPU build. A device that fails costs one line to `note`, and
    the CPU goes on from there.
    """

    def __init__(self, device: Device, *, engine: str = "auto", note: Note | None = None) -> None:
        self.device = device
        self._engine = engine
        self._note = note
        self._kept: dict[str, Rough] = {}  # by the name of the rows

    def __call__(self, queries: FloatArray, rows: Rows, k: int) -> list[Found]:
        """As `nearest`: for each query (q, d) the k best living rows with their scores, and ties."""
        while not self.device.is_cpu and rows.living:
            try:
                if rows.name not in self._kept:
                    self._kept[rows.name] = self._made(queries, rows, k)
                return nearest(queries, rows, k, rough=self._kept[rows.name])
            except RuntimeError as error:  # too little memory on the device, or a driver that does not fit
                others = self._kept.keys() - {rows.name}
                self._kept.clear()  # perhaps these rows fit without the others
                if not others:
                    self._give_up(error)
        return nearest(queries, rows, k)

    def _give_up(self, error: RuntimeError) -> None:
        if self._note:
            line = (str(error).splitlines() or [""])[0][:120]
            self._note(f"the search on {self.device.first} failed, the CPU goes on: {line}")
        self.device = CPU

    def _made(self, queries: FloatArray, rows: Rows, k: int) -> Rough:
        """What finds candidates among these rows: the quicker one where it is worth trying."""
        names = ["torch"] if self._engine == "auto" else [self._engine]
        if self.device.kind is not Kind.CUDA or not gpu.devices():
            names = ["torch"]
        elif self._engine == "auto" and len(queries) >= WORTH_TRYING:
            names = ["torch", "faiss"]
        made = [_on(name, rows, self.device.first) for name in names]
        if len(made) == 1:
            return made[0]
        depth = min(rows.living, gpu.DEEPEST, k + SPARE)
        return min(made, key=lambda one: seconds(one, queries[:TRIED], depth))


def _on(name: str, rows: Rows, place: str) -> Rough:
    if name == "torch":
        return TorchFlat(rows, place)
    return gpu.FlatOnGpu(rows.stored, alive=rows.alive, device=int(place.partition(":")[2] or 0))


def seconds(rough: Rough, queries: FloatArray, depth: int) -> float:
    """How long candidates take, the second time: the first loads kernels."""
    rough(queries, depth)
    start = time.perf_counter()
    rough(queries, depth)
    return time.perf_counter() - start


class _full_float32:
    """Products of float32 in float32, whatever the program set: the margin rests on it."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __enter__(self) -> None:
        self._before = self._torch.get_float32_matmul_precision()
        self._torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_: object) -> None:
        self._torch.set_float32_matmul_precision(self._before)
