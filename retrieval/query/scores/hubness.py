"""Hubness: some segments are near every query. What is taken from their scores, as pure functions.

What a segment's nearness to the background queries is, the index keeps (background.py); here is only how a
score is changed by it. Both ways give a number on the scale of a cosine, and O(1) work a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from indexer.types import FloatArray, Modality

if TYPE_CHECKING:
    from indexer.snapshot import Candidates
    from indexer.vectors import BoolArray
    from retrieval.query.scores.background import Background

NEIGHBOURS = 10  # background queries whose mean is a segment's neighbourhood
TEMPERATURE = 0.1  # of the inverted softmax, in cosines; chosen on the training half, benchmarks/hubness.py


class Way(StrEnum):
    """How hubness is taken off."""

    CSLS = "csls"
    SOFTMAX = "softmax"  # of every query
    DYNAMIC = "dynamic"  # only of one whose best segment is a hub: QB-Norm's rule


# What was best on the training half for queries of one modality and hits of another. Others keep their
# cosines: media of one kind were not measured, and queries of sounds lose by CSLS.
BEST = {
    (Modality.IMAGE, Modality.TEXT): Way.CSLS,
    (Modality.TEXT, Modality.IMAGE): Way.SOFTMAX,
    (Modality.TEXT, Modality.AUDIO): Way.SOFTMAX,
    (Modality.IMAGE, Modality.AUDIO): Way.SOFTMAX,
}


def adjusted(
    cosine: FloatArray,
    background: Background,
    asked: Sequence[Modality],
    modality: Modality,
    found: Candidates,
    *,
    way: Way | None = None,
) -> FloatArray:
    """Cosines (t, n) of candidates of one modality after hubness, shape (t, n), higher is better.

    A term whose query modality the background knows nothing of keeps its cosines. Without a `way` each pair
    of modalities has the one that was measured to be best, if any.
    """
    lines = []
    for line, query in zip(cosine, asked, strict=True):
        kept = background.hubs(query, modality, found)
        chosen = way or BEST.get((query, modality))
        if kept is None or chosen is None or not len(line):
            lines.append(line)
        elif chosen is Way.CSLS:
            lines.append(csls(line, kept.neighbourhood))
        elif chosen is Way.SOFTMAX:
            lines.append(inverted_softmax(line, kept.normaliser, temperature=TEMPERATURE))
        else:
            active = background.active(query, modality, found)
            lines.append(dynamic(line, kept.normaliser, active, temperature=TEMPERATURE))
    return np.stack(lines) if lines else cosine


def csls(cosine: FloatArray, neighbourhood: FloatArray) -> FloatArray:
    """Cosines less half of each segment's nearness to its nearest background queries, shapes (..., n) and
    (n,).

    Half of cross-domain similarity local scaling (Lample et al. 2018, arXiv:1710.04087, equation 3), whose
    term of the query is the same for all segments and is left out.
    """
    return (cosine - neighbourhood / 2).astype(np.float32)


def inverted_softmax(cosine: FloatArray, normaliser: FloatArray, *, temperature: float) -> FloatArray:
    """`temperature` times the log of the inverted softmax, shapes (..., n) and (n,).

    exp(cosine / T) / sum over background queries of exp(cosine' / T) (Smith et al. 2017, arXiv:1702.03859);
    `normaliser` is the log of that sum's mean, so that numbers do not hang on the bank's size.
    """
    return (cosine - temperature * normaliser).astype(np.float32)


def dynamic(
    cosine: FloatArray, normaliser: FloatArray, active: BoolArray, *, temperature: float
) -> FloatArray:
    """The inverted softmax where the best segment is active, else the cosines themselves; all of shape (n,).

    A segment is active where it is the best of some background query (Bogolin et al. 2022, arXiv:2112.12777).
    """
    if not active[int(np.argmax(cosine))]:
        return cosine
    return inverted_softmax(cosine, normaliser, temperature=temperature)


def neighbourhoods(scores: FloatArray, *, neighbours: int = NEIGHBOURS) -> FloatArray:
    """The mean of the `neighbours` largest finite scores of each column of (bank, n), shape (n,); 0 without
    any.

    -inf stands for a background query that does not count, as it is of the segment's own item.
    """
    count = min(neighbours, len(scores))
    if not count:
        return np.zeros(scores.shape[1], np.float32)
    # A line a segment: numpy parts lines that lie together ten times as fast as columns.
    top = np.partition(np.ascontiguousarray(scores.T), len(scores) - count, axis=1)[:, len(scores) - count :]
    known = np.isfinite(top)
    total = np.where(known, top, 0).sum(axis=1, dtype=np.float64)
    return np.asarray(total / np.maximum(known.sum(axis=1), 1), np.float32)


def normalisers(scores: FloatArray, *, temperature: float = TEMPERATURE) -> FloatArray:
    """The log of the mean of exp(score / T) over each column of (bank, n), shape (n,); -inf scores do not
    count.
    """
    known = np.isfinite(scores)
    count = known.sum(axis=0)
    if not len(scores):
        return np.zeros(scores.shape[1], np.float32)
    highest = np.where(count > 0, scores.max(axis=0), 0)
    total = np.exp((scores - highest) / temperature, where=known, out=np.zeros_like(scores)).sum(axis=0)
    mean = total / np.maximum(count, 1)
    return np.asarray(highest / temperature + np.log(np.where(count > 0, mean, 1)), np.float32)


def occurrence_skewness(scores: FloatArray, *, k: int = 10) -> float:
    """The skewness of how often each item is among the k best of a query, for scores (queries, items).

    Near 0 there are no hubs (Radovanovic, Nanopoulos and Ivanovic, JMLR 11, 2010).
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    times = np.bincount(best.ravel(), minlength=scores.shape[1]).astype(np.float64)
    spread = times.std()
    return float(((times - times.mean()) ** 3).mean() / spread**3) if spread > 0 else 0.0
