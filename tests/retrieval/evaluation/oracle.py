"""Retrieval metrics the slow way: the whole matrix, a sorted list a query, definitions word for word."""

from __future__ import annotations

import math

import numpy as np

from indexer.types import FloatArray
from retrieval.evaluation.relevance import Relevance


def relevance_of(lists: list[list[int]]) -> Relevance:
    sizes = [len(one) for one in lists]
    flat = [number for one in lists for number in sorted(one)]
    return Relevance(np.cumsum([0, *sizes]), np.array(flat, np.int64))


def score(a: FloatArray, b: FloatArray) -> float:
    return float((a.astype(np.float64) * b.astype(np.float64)).sum())


def ranks(queries: FloatArray, gallery: FloatArray, lists: list[list[int]]) -> list[list[int]]:
    """The ranks of each query's relevant rows, ascending."""
    found = []
    for query, wanted in zip(queries, lists, strict=True):
        scores = [score(query, row) for row in gallery]
        order = sorted(range(len(gallery)), key=lambda place: (-scores[place], place))
        found.append(sorted(order.index(place) + 1 for place in wanted))
    return found


def metrics(queries: FloatArray, gallery: FloatArray, lists: list[list[int]]) -> dict[str, float]:
    found = ranks(queries, gallery, lists)
    best = [own[0] for own in found]
    ndcg, ap = [], []
    for own in found:
        ideal = sum(1 / math.log2(place + 1) for place in range(1, min(len(own), 10) + 1))
        ndcg.append(sum(1 / math.log2(rank + 1) for rank in own if rank <= 10) / ideal)
        ap.append(sum(j / rank for j, rank in enumerate(own, 1) if rank <= len(own)) / len(own))
    return {
        **{f"R@{k}": sum(rank <= k for rank in best) / len(best) for k in (1, 5, 10)},
        "MRR": sum(1 / rank for rank in best) / len(best),
        "nDCG@10": sum(ndcg) / len(ndcg),
        "mAP@R": sum(ap) / len(ap),
        "mean rank": sum(best) / len(best),
        "median rank": float(np.median(best)),
    }
