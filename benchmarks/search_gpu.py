"""Bulk search and index training on a GPU against the CPU, and torch's product and top-k against faiss.

Vectors are clustered at random, 384-d unit float16; they stand for no collection, so only times and equality
are told. Takes some three minutes with a million vectors. What is not installed is left out.

    PYTHONPATH=. python benchmarks/search_gpu.py
    PYTHONPATH=. python benchmarks/search_gpu.py --device cpu --quick
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gpu as shared
import numpy as np
import torch
from gpu import rate, rounded, say

from indexer import gpu, vectors
from indexer.nearest import SPARE, OnHost, Rough, Rows, nearest
from retrieval.runtime.bulk import TorchFlat

K = 10


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    rows: int
    dim: int
    queries: int
    checked: int  # queries that the CPU's scan answers too
    trained: int  # vectors that inverted lists are trained for
    seconds: float


FULL = Sizes(rows=1_000_000, dim=384, queries=4096, checked=64, trained=1_000_000, seconds=2.0)
QUICK = Sizes(rows=3000, dim=32, queries=40, checked=10, trained=3000, seconds=0.01)


def clustered(count: int, dim: int, *, seed: int, device: str) -> np.ndarray:
    """Unit vectors around one centre for each 200, float16 (count, dim)."""
    torch.manual_seed(99)
    centres = torch.randn(max(count // 200, 8), dim, device=device)
    torch.manual_seed(seed)
    rows = centres[torch.randint(len(centres), (count,), device=device)]
    rows += 0.5 * torch.randn(count, dim, device=device)
    return torch.nn.functional.normalize(rows, dim=1).half().cpu().numpy()


class Tf32(TorchFlat):
    """As TorchFlat, with tf32 products: faster, and rounded like float16 queries."""

    margin = gpu.HALF_MARGIN

    def __call__(self, queries: Any, depth: int) -> Any:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            wide = torch.from_numpy(queries).to(self.rows.device)
            with torch.inference_mode():
                scores, rows = self._best(wide, depth)
            return scores.cpu().numpy(), rows.cpu().numpy()
        finally:
            torch.set_float32_matmul_precision(before)


def engines(stored: np.ndarray, device: str) -> dict[str, Callable[[], Rough]]:
    """What finds candidates, by name."""
    found: dict[str, Callable[[], Rough]] = {
        "torch float32": lambda: TorchFlat(Rows(stored), device),
        "torch tf32": lambda: Tf32(Rows(stored), device),
        "numpy float32": lambda: OnHost(Rows(stored)),
    }
    if importlib.util.find_spec("faiss") is None:
        return found
    if gpu.devices():
        found["faiss GPU flat float16"] = lambda: gpu.FlatOnGpu(stored)
        found["faiss GPU flat float32"] = lambda: gpu.FlatOnGpu(stored, half=False)
    found["faiss CPU flat float16"] = lambda: FlatOnCpu(stored)
    return found


class FlatOnCpu:
    """The host's flat structure, every core."""

    margin = gpu.HALF_MARGIN
    deepest = gpu.DEEPEST

    def __init__(self, stored: np.ndarray) -> None:
        self.index = vectors.index_for(1, stored.shape[1])
        for start in range(0, len(stored), gpu.ADD_ROWS):
            self.index.add(stored[start : start + gpu.ADD_ROWS].astype(np.float32))

    def __call__(self, queries: Any, depth: int) -> Any:
        return self.index.search(queries, depth)


def scanned(stored: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a search of one query finds, and what ties with the last of it."""
    ((rows, scores),) = vectors.exact_candidates(stored, query[None], K)
    order = np.argsort(-scores, kind="stable")
    kept = order[scores[order] >= scores[order[min(K, len(order)) - 1]]]
    return rows[kept], scores[kept]


def searched(stored: np.ndarray, queries: np.ndarray, device: str, sizes: Sizes) -> dict[str, Any]:
    """Queries a second of each engine, alone and with exact scores; does it give the scan's result?"""
    expected = [scanned(stored, query) for query in queries[: sizes.checked]]
    found: dict[str, Any] = {}
    for name, make in engines(stored, device).items():
        say(name)
        start = time.perf_counter()
        try:
            rough = make()
        except RuntimeError as error:
            found[name] = {"failed": str(error).splitlines()[0][:200]}
            continue
        ready = time.perf_counter() - start
        asked = queries if "CPU" not in name and "numpy" not in name else queries[: max(1, len(queries) // 8)]
        depth = min(len(stored), K + SPARE)
        alone = rate(partial(rough, asked, depth), len(asked), device=device, seconds=sizes.seconds)
        start = time.perf_counter()
        answers = nearest(asked, Rows(stored), K, rough=rough)
        exact = len(asked) / (time.perf_counter() - start)
        same = all(
            np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
            for one, other in zip(answers, expected, strict=False)
        )
        found[name] = {
            "ready_s": ready,
            "candidates_per_s": alone,
            "exact_per_s": exact,
            "equals_the_scan": same,
        }
        del rough
        if device == "cuda":
            torch.cuda.empty_cache()
    return found


def trained(stored: np.ndarray, sizes: Sizes, quick: bool) -> dict[str, Any]:
    """Seconds to train the inverted lists on a GPU and on the CPU, and how near their centres serve."""
    if importlib.util.find_spec("faiss") is None:
        return {"left out": "faiss is not installed"}
    if quick:
        vectors.IVF_FROM = 1000
    sample = stored[: sizes.trained]
    notes: list[str] = []
    found: dict[str, Any] = {"vectors": len(sample)}
    for name, use in (("gpu", True), ("cpu", False)):
        start = time.perf_counter()
        index = vectors.train_codebook(sample, use_gpu=use, note=notes.append)
        found[f"{name}_s"] = time.perf_counter() - start
        found[f"{name}_mean_score_of_nearest_centre"] = float(
            index.quantizer.search(sample[:2000].astype(np.float32), 1)[0].mean()
        )
    return found | {"notes": notes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does every line run?")
    options = parser.parse_args()
    if shared.not_run("benchmarks/search_gpu.py", options.device):
        return
    sizes = QUICK if options.quick else FULL
    stored = clustered(sizes.rows, sizes.dim, seed=1, device=options.device)
    queries = clustered(sizes.queries, sizes.dim, seed=2, device=options.device).astype(np.float32)
    result = {
        "rows": sizes.rows,
        "dim": sizes.dim,
        "queries": sizes.queries,
        "k": K,
        "search": rounded(searched(stored, queries, options.device, sizes)),
        "training": rounded(trained(stored, sizes, options.quick)),
    }
    shared.save("search_gpu", options.device, result, quick=options.quick)


if __name__ == "__main__":
    main()
