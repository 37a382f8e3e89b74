"""Evaluating 100,000 pairs in every direction: time, and memory beyond the vectors.

    python benchmarks/evaluate_large.py [--pairs 100000] [--dim 384]

Vectors are made: topics with noise, so that ranks are neither all first nor by chance.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from pathlib import Path

import numpy as np
from common import Budget, save, say

from indexer.types import Modality
from retrieval.evaluation.run import evaluate
from retrieval.training.types import Examples

LIMIT_MB = 1024  # beyond the vectors, whatever the number of pairs: the whole matrix has 40,000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    options = parser.parse_args()
    vectors = made(options.pairs, options.dim)
    numbers = np.arange(options.pairs)
    examples = Examples(
        dict.fromkeys(vectors, numbers[:, None]),
        np.full(options.pairs, -1),
        numbers,
        np.ones(options.pairs, np.float32),
    )
    start = time.perf_counter()
    with Watch() as watch:
        found = evaluate(vectors, examples)
    seconds, grown = time.perf_counter() - start, watch.grown
    recalls = {way.name: round(way.metrics["R@10"].value, 4) for way in found.directions}
    say(
        f"{options.pairs} pairs both ways: {seconds:.0f} s, {grown:.0f} MB beyond the vectors; R@10 {recalls}"
    )
    budget = Budget("memory to evaluate 100,000 pairs, beyond the vectors", grown, LIMIT_MB, unit=" MB")
    result = {"pairs": options.pairs, "dim": options.dim, "seconds": round(seconds, 1), "R@10": recalls}
    save("evaluate_large", {**result, "budgets": [budget.as_dict()]})


def made(pairs: int, dim: int) -> dict[Modality, np.ndarray]:
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((500, dim), dtype=np.float32)
    shared = topics[rng.integers(0, 500, pairs)] + rng.standard_normal((pairs, dim), dtype=np.float32)
    found = {}
    for modality in (Modality.IMAGE, Modality.TEXT):
        rows = shared + 2.5 * rng.standard_normal((pairs, dim), dtype=np.float32)
        found[modality] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


class Watch:
    """The largest resident memory inside the `with`, in MB beyond what it began with; looked at 100 times a
    second, since the process's own peak hides what is less than making the vectors took.
    """

    def __enter__(self) -> Watch:
        self.first = self.most = resident_mb()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, resident_mb())

    @property
    def grown(self) -> float:
        return self.most - self.first


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
