"""Evaluating 100,000 pairs in every direction: time, and memory beyond the vectors.

    python benchmarks/evaluate_large.py [--pairs 100000] [--dim 384]

Vectors are made: topics with noise, so that ranks are neither all first nor by chance.
"""

from __future__ import annotations

import argparse
import resource
import time

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
    before, start = peak_mb(), time.perf_counter()
    found = evaluate(vectors, examples)
    seconds, grown = time.perf_counter() - start, peak_mb() - before
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


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
