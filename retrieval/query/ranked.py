"""The best hits of one modality: from its pool of segments to items, each with every stage's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from indexer.snapshot import Candidates, Snapshot
from indexer.types import FloatArray, Modality
from retrieval.query.context import Context
from retrieval.query.matches import Match, best_items, best_segments, hit_of
from retrieval.query.pool import Pool, cut, gathered
from retrieval.types import Hit, Stages, TermScore

OVERFETCH = 4  # segments asked for, an item wanted: an item may have many segments
SPARE = 4  # segments read at first beyond those wanted and a quarter more


class Ranked(NamedTuple):
    """A hit, and where its segment stands."""

    hit: Hit
    part: int
    row: int


def ranked(snapshot: Snapshot, context: Context, modality: Modality, depth: int) -> list[Ranked]:
    """The `depth` best items of one modality, each by its best segment, or the best segments themselves."""
    segments = context.request.segments
    asked = depth if segments else depth * OVERFETCH
    while True:
        pool = cut(gathered(snapshot, context, modality, asked), asked)
        if segments:
            best_some = best_segments(snapshot, [pool.found], depth, only=context.filter)[0]
            return hits_of(snapshot, context, pool, best_some)
        for some in (cut(pool, depth + depth // 4 + SPARE), pool):  # reading costs more than scoring
            best = best_items(snapshot, [some.found], depth, whole=some.whole, only=context.filter)[0]
            if best is not None:
                return hits_of(snapshot, context, some, best)
        asked *= 4


def hits_of(snapshot: Snapshot, context: Context, pool: Pool, matches: Sequence[Match]) -> list[Ranked]:
    """Matches with every stage's numbers."""
    labels = [term.query.label for term in context.request.terms]
    parts, rows = pool.found.part.tolist(), pool.found.row.tolist()
    cosine, adjusted = pool.cosine.tolist(), pool.adjusted.tolist()
    probability = None if pool.probability is None else pool.probability.tolist()
    overall = None if pool.overall is None else pool.overall.tolist()
    found = []
    for match in matches:
        place = match.place
        terms = tuple(
            TermScore(label, cosine[t][place], adjusted[t][place], probability and probability[t][place])
            for t, label in enumerate(labels)
        )
        hit = hit_of(snapshot, match, probability=overall and overall[place], stages=Stages(terms=terms))
        found.append(Ranked(hit, parts[place], rows[place]))
    return found


def vectors_of(snapshot: Snapshot, some: Sequence[Ranked]) -> FloatArray:
    """The vectors of hits' segments, shape (n, dim)."""
    parts, rows = (np.array([one[place] for one in some], np.int64) for place in (1, 2))
    return snapshot.vectors_of(Candidates.at(parts, rows))
