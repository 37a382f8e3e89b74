"""Candidates of one modality and their numbers, stage by stage: cosines, hubness, probabilities, one score.

Arrays only: what items the segments belong to is found in matches.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from indexer.snapshot import Candidates, Snapshot
from indexer.types import FloatArray, Modality
from retrieval.query.context import Context
from retrieval.query.sample import sampled
from retrieval.types import Term

SAMPLE = 512  # segments that tell how a term scores at large, where nothing calibrates it
POOL = 256  # segments that each probe of a composed request brings, at the least


@dataclass(frozen=True, slots=True)
class Pool:
    """Segments of a modality, best first. `t` counts the request's terms, `n` the segments."""

    modality: Modality
    found: Candidates  # its score is what the pool is ordered by
    cosine: FloatArray  # (t, n)
    adjusted: FloatArray  # (t, n): after what hubness takes away
    probability: FloatArray | None  # (t, n), in [0, 1]; None: nothing calibrates these terms
    overall: FloatArray | None  # (n,): of the whole request; None as above
    whole: bool  # whether there are no more segments than these


def reach(context: Context, asked: int, total: int) -> int:
    """How many segments to look at for the `asked` best: more where the cosine is not the order."""
    return min(asked if context.plain else max(asked, POOL), total)


def gathered(snapshot: Snapshot, context: Context, modality: Modality, asked: int) -> Pool:
    """The `asked` best segments of a modality, as far as there are so many.

    For one term they are the best by cosine, exactly. For several each term brings its own best, and so does
    their centred sum; what is in the pool is scored exactly for every term.
    """
    total = snapshot.counts[modality]
    count = reach(context, asked, total)
    if isinstance(context.request.expression, Term):
        found = snapshot.search(modality, context.vectors[0], count, allowed=context.allowed)
        return scored(
            snapshot, context, modality, found, found.score[None], whole=len(found) < count or count == total
        )
    from retrieval.query.compose import probes

    asks = probes(context.request.expression, context.vectors, context.centres)
    lists = snapshot.search_many(modality, asks, count, allowed=context.allowed)
    found, whole = _union(lists), count == total or any(len(one) < count for one in lists)
    return scored(snapshot, context, modality, found, snapshot.scores(found, context.vectors), whole=whole)


def scored(
    snapshot: Snapshot,
    context: Context,
    modality: Modality,
    found: Candidates,
    cosine: FloatArray,
    *,
    whole: bool,
) -> Pool:
    """Segments with the cosines (t, n) of each term, every further number of theirs, and in order."""
    adjusted = context.adjusted(modality, found, cosine)
    probability = context.probabilities(modality, cosine)
    expression = context.request.expression
    if isinstance(expression, Term):
        score = adjusted[0]
        overall = None if probability is None else probability[0]
    else:
        from retrieval.query.compose import combined, likely, standardised

        # Probabilities would not do as values: see docs/query.md, "What was measured".
        values = standardised(adjusted, *_spread(snapshot, context, modality))
        score, overall = combined(expression, values), None
        if probability is not None:
            overall = combined(expression, likely(expression, probability, values))
    order = np.argsort(-score, kind="stable")
    ordered = Candidates(found.part[order], found.row[order], score[order])
    return Pool(
        modality,
        ordered,
        cosine[:, order],
        adjusted[:, order],
        None if probability is None else probability[:, order],
        None if overall is None else overall[order],
        whole,
    )


def cut(pool: Pool, count: int) -> Pool:
    """The first `count` segments of a pool."""
    found = Candidates(pool.found.part[:count], pool.found.row[:count], pool.found.score[:count])
    return replace(
        pool,
        found=found,
        cosine=pool.cosine[:, :count],
        adjusted=pool.adjusted[:, :count],
        probability=None if pool.probability is None else pool.probability[:, :count],
        overall=None if pool.overall is None else pool.overall[:count],
        whole=pool.whole and count >= len(pool.found),
    )


def _union(lists: list[Candidates]) -> Candidates:
    """Each segment once; the scores are of no use any more."""
    places = np.concatenate([np.stack([one.part, one.row]) for one in lists], axis=1)
    part, row = np.unique(places, axis=1)
    return Candidates.at(part, row)


def _spread(snapshot: Snapshot, context: Context, modality: Modality) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation (t,) of each term's cosines with a modality, from a sample of it."""
    some = sampled(snapshot, modality, SAMPLE)
    scores = context.adjusted(modality, some, snapshot.scores(some, context.vectors))
    return scores.mean(axis=1), scores.std(axis=1)
