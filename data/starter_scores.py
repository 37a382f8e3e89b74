"""Recall at 1, 5 and 10 between two sets of unit vectors, with bootstrap intervals. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence

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
