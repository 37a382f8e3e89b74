"""Recall at 1, 5 and 10 between two sets of unit vectors, with bootstrap intervals. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
CUTS = (1, 5, 10)


def ranks(queries: Array, gallery: Array, query_labels: Sequence[str], labels: Sequence[str]) -> Array:
    """The rank, from 1, of each query's best match that has its label, shape (queries,).

    A gallery item that ties with it counts as ranked before it, so that equal scores never help.
    """
    scores = queries @ gallery.T
    same = np.array(query_labels)[:, None] == np.array(labels)[None, :]
    best = np.where(same, scores, -np.inf).max(axis=1)
    return (1 + ((scores >= best[:, None]) & ~same).sum(axis=1)).astype(np.float32)


def recall_table(found: Array, *, seed: int = 0, draws: int = 2000) -> dict[str, list[float]]:
    """{"R@1": [share, low, high], ...}: shares of ranks within each cut, with 95 % bootstrap intervals."""
    picks = np.random.default_rng(seed).integers(0, len(found), size=(draws, len(found)))
    table = {}
    for cut in CUTS:
        hit = found <= cut
        low, high = np.quantile(hit[picks].mean(axis=1), [0.025, 0.975])
        table[f"R@{cut}"] = [round(float(value), 4) for value in (hit.mean(), low, high)]
    return table


def mean_recall(queries: Array, gallery: Array, labels: Sequence[str]) -> float:
    """The mean of R@1, R@5 and R@10 in both directions: what choices are made by. In [0, 1]."""
    both = (ranks(queries, gallery, labels, labels), ranks(gallery, queries, labels, labels))
    return float(np.mean([(found <= cut).mean() for found in both for cut in CUTS]))


def both_ways(
    first: Array, second: Array, labels: list[str], one: str, other: str, *, only: Any = None, seed: int = 0
) -> dict[str, Any]:
    """Recall in both directions; `only` says which rows are queries, the gallery is all of them."""
    asked = np.flatnonzero(only) if only is not None else np.arange(len(first))
    asking = [labels[row] for row in asked]
    return {
        "queries": len(asked),
        "gallery": len(first),
        f"{one} to {other}": recall_table(ranks(first[asked], second, asking, labels), seed=seed),
        f"{other} to {one}": recall_table(ranks(second[asked], first, asking, labels), seed=seed),
    }


def gains(
    vectors: Array, others: Array, texts: Array, labels: Sequence[str], *, seed: int = 0, draws: int = 2000
) -> dict[str, list[float]]:
    """How much more often a right answer is among the first ten: [difference, low, high] a direction.

    The same queries are drawn for both, so that what makes one easy for both cancels out.
    """
    picks = np.random.default_rng(seed).integers(0, len(labels), size=(draws, len(labels)))
    table = {}
    for title, (first, second) in {
        "image to text R@10": (ranks(vectors, texts, labels, labels), ranks(others, texts, labels, labels)),
        "text to image R@10": (ranks(texts, vectors, labels, labels), ranks(texts, others, labels, labels)),
    }.items():
        apart = (first <= 10).astype(np.float64) - (second <= 10)
        low, high = np.quantile(apart[picks].mean(axis=1), [0.025, 0.975])
        table[title] = [round(float(value), 4) for value in (apart.mean(), low, high)]
    return table
