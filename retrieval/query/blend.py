"""Hits that were found by their words, put into the list of those that were found by what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from indexer.snapshot import Candidates, Snapshot
from indexer.types import Item, Modality
from retrieval.query.context import Context, unwanted_words
from retrieval.query.fuse import middle_ranks, places, reciprocal_rank
from retrieval.query.matches import best_items
from retrieval.query.pool import scored
from retrieval.query.ranked import Ranked, hits_of
from retrieval.types import Hit, Lexical, LexicalScore, Request

if TYPE_CHECKING:
    from retrieval.query.lexical import LexicalHit

DEPTH = 30  # of both lists that are put together: their ranks are what counts
EVERY = 1 << 20  # items that hold a word, as good as all


def with_words(
    snapshot: Snapshot,
    context: Context,
    found: Sequence[Ranked],
    *,
    searched: Sequence[Modality],
    wanted: int,
    prefer: Sequence[str] = (),
) -> list[Ranked]:
    """The first `wanted` by the sum of reciprocal ranks; with `--lexical only` by the words alone.

    The `DEPTH` best of both lists are put together, and what is left of `found` follows: always so many, that
    one page goes on where the one before it ended. An item that only its words brought is shown by its best
    segment among the modalities that were asked for, with the numbers of every stage; without such a segment
    it is left out. Of items that words tell nothing between the first of `prefer`, ids, comes first.
    """
    if context.lexicon is None:
        return list(found)
    only = context.request.lexical is Lexical.ONLY
    limit = max(DEPTH, wanted) if only else DEPTH
    told = context.lexicon.search(
        context.words,
        limit=limit,
        allowed=context.filter,
        modalities=searched,
        prefer=prefer,
    )
    unwanted = _unwanted(context)
    ranks = middle_ranks([hit.item_id for hit in told], [hit.score for hit in told])
    by_words = {hit.item_id: (ranks[hit.item_id], hit) for hit in told if hit.item_id not in unwanted}
    meant = [] if only else [one.hit.item_id for one in found]
    fused = reciprocal_rank([places(meant[:DEPTH]), {item: rank for item, (rank, _) in by_words.items()}])
    told_at = {item: place for place, item in enumerate(by_words)}
    order = sorted(fused, key=lambda item: (-fused[item], told_at.get(item, limit), item))
    order += [item for item in meant[DEPTH:] if item not in fused]
    known = {} if only else {one.hit.item_id: one for one in found}
    kept: list[Ranked] = []
    while order and len(kept) < wanted:
        some, order = order[: wanted - len(kept)], order[wanted - len(kept) :]
        missing = [by_words[item][1] for item in some if item not in known]
        known |= {one.hit.item_id: one for one in _placed(snapshot, context, missing, searched)}
        there = [known[item] for item in some if item in known and likely(known[item].hit, context.request)]
        kept += [_with(one, by_words.get(one.hit.item_id), fused.get(one.hit.item_id)) for one in there]
    return kept


def likely(hit: Hit, request: Request) -> bool:
    """Whether a hit is as probable as the request wants."""
    return not request.min_score or (hit.probability or 0.0) >= request.min_score


def _unwanted(context: Context) -> set[str]:
    """Items that hold words that must not match."""
    words = " ".join(unwanted_words(context.request.expression))
    if not words or context.lexicon is None:
        return set()
    return {hit.item_id for hit in context.lexicon.search(words, limit=EVERY)}


def _placed(
    snapshot: Snapshot, context: Context, told: Sequence[LexicalHit], searched: Sequence[Modality]
) -> Iterator[Ranked]:
    """The items that words brought, each by its best segment, with the numbers that a search gives it."""
    items = snapshot.items_at(sorted(hit.row for hit in told))
    wanted = {item.id for item in items}
    best: dict[str, Ranked] = {}
    for modality in searched:
        candidates = _segments_of(snapshot, items, modality)
        if not len(candidates):
            continue
        pool = scored(
            snapshot, context, modality, candidates, snapshot.scores(candidates, context.vectors), whole=True
        )
        matches = best_items(snapshot, [pool.found], EVERY, whole=True, only=context.filter)[0]
        own = [match for match in matches or () if match.item.id in wanted]
        for one in hits_of(snapshot, context, pool, own):
            other = best.get(one.hit.item_id)
            if other is None or _likelier(one, other):
                best[one.hit.item_id] = one
    yield from best.values()


def _segments_of(snapshot: Snapshot, items: Sequence[Item], modality: Modality) -> Candidates:
    keys = {
        (member.content_hash, modality, member.source)
        for item in items
        for member in item.members
        if member.content_hash is not None and member.modality is modality
    }
    places = sorted({place for some in snapshot.places_of(keys).values() for place in some})
    parts, rows = (np.array([place[which] for place in places], np.int64) for which in (0, 1))
    return Candidates.at(parts, rows)


def _likelier(one: Ranked, other: Ranked) -> bool:
    """By probability where there is one, else as modalities come: cosines of two tell nothing together."""
    if one.hit.probability is None or other.hit.probability is None:
        return False
    return one.hit.probability > other.hit.probability


def _with(one: Ranked, told: tuple[float, LexicalHit] | None, fused: float | None) -> Ranked:
    words = None if told is None else LexicalScore(told[1].score, told[0], told[1].words)
    stages = replace(one.hit.stages, lexical=words, fused=fused)
    return one._replace(hit=replace(one.hit, stages=stages))
