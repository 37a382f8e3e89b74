"""What a list of hits goes through once it is there: a second look at the best, groups, diversity, counts.

The arithmetic is in rerank.py and diversify.py; here is what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from indexer.errors import QueryError
from indexer.snapshot import Key, Snapshot
from indexer.types import FloatArray, Modality
from retrieval.query.context import Context
from retrieval.query.ranked import Ranked, vectors_of
from retrieval.types import Hit, Rerank

if TYPE_CHECKING:
    from retrieval.query.filters.where import Filter

LOOKED = 50  # hits that diversity chooses from; always as many, so that pages are cut from one order
Scores = Callable[[list[Ranked]], FloatArray]


def looked_again(snapshot: Snapshot, context: Context, found: Sequence[Ranked]) -> list[Ranked]:
    """The list with its best hits in the order of the second stage, if the request has one.

    A hit stays in a place of its own modality, as scores tell nothing between them; one without a text stays
    where it is under a cross-encoder. QueryError where there are no words for that.
    """
    request = context.request
    if request.rerank is None:
        return list(found)
    best = list(found[: request.rerank_top])
    if request.rerank is Rerank.CROSS:
        texts = [place for place, one in enumerate(best) if one.hit.text]
        best = _ordered(best, texts, _cross_scores(context))
    else:
        for modality in Modality:
            own = [place for place, one in enumerate(best) if one.hit.modality is modality]
            best = _ordered(best, own, lambda some: _reciprocal_scores(snapshot, context, some))
    return best + list(found[len(best) :])


def varied(snapshot: Snapshot, context: Context, found: Sequence[Ranked]) -> list[Ranked]:
    """The list without further near-duplicates, hits unlike each other first, as far as asked for."""
    request = context.request
    kept = list(found)
    if request.group_duplicates:
        from retrieval.query.diversify import grouped

        kept = [kept[place] for place in grouped([one.hit for one in kept], context.twins)]
    if request.diverse is not None and len(kept) > 1:
        from retrieval.query.diversify import mmr

        pool, rest = kept[:LOOKED], kept[LOOKED:]
        shown = min(request.offset + request.k, len(pool))  # what follows them is never seen
        order = mmr(_worth(pool), vectors_of(snapshot, pool), shown, request.diverse).tolist()
        order += sorted(set(range(len(pool))) - set(order))
        kept = [pool[place] for place in order] + rest
    return kept


def counted(snapshot: Snapshot, context: Context, hits: Sequence[Hit]) -> list[Hit]:
    """The hits that are shown, with how many other items of the index are near-duplicates of each.

    All that the filter allows count, found or not, so the number depends neither on how many hits were looked
    at nor on the page. An item that several near-duplicates belong to counts once.
    """
    if not context.request.group_duplicates:
        return list(hits)
    from retrieval.query.diversify import contents_of

    groups = [contents_of(hit, context.twins) for hit in hits]
    items = _items_of(snapshot, context.filter, set().union(*groups))
    alike = [set().union(*(items.get(key, ()) for key in group)) for group in groups]
    return [
        replace(hit, duplicates=len(found - {hit.item_id})) for hit, found in zip(hits, alike, strict=True)
    ]


def _items_of(snapshot: Snapshot, only: Filter | None, keys: set[Key]) -> dict[Key, set[str]]:
    """Ids of the items that have each content, of those that a filter allows."""
    if only is None:
        return {key: {item.id for item in items} for key, items in snapshot.items_of(keys).items()}
    return {
        key: set().union(*(only.items_of(part, row) for part, row in places))
        for key, places in snapshot.places_of(keys).items()
    }


def _worth(found: Sequence[Ranked]) -> FloatArray:
    """What hits are worth beside their likeness, shape (n,): log odds where the list is by them, else ranks.

    Not probabilities: below a clear winner they are all next to nothing, and likeness alone would choose.
    """
    stages = [one.hit.stages for one in found]
    told = [one.hit.probability for one in found if one.hit.probability is not None]
    if len(told) < len(found) or any(one.fused is not None or one.reranked is not None for one in stages):
        return -np.arange(len(found), dtype=np.float32)
    likely = np.clip(np.array(told, np.float64), 1e-6, 1 - 1e-6)
    return np.log(likely / (1 - likely)).astype(np.float32)


def _ordered(hits: list[Ranked], places: list[int], scores_of: Scores) -> list[Ranked]:
    """The hits in some places ordered by new scores, the others left."""
    chosen = [hits[place] for place in places]
    if not chosen:
        return hits
    scores = scores_of(chosen)
    order = np.argsort(-scores, kind="stable").tolist()
    result = list(hits)
    for place, source in zip(places, order, strict=True):
        one = chosen[source]
        stages = replace(one.hit.stages, reranked=float(scores[source]))
        result[place] = one._replace(hit=replace(one.hit, stages=stages))
    return result


def _reciprocal_scores(snapshot: Snapshot, context: Context, some: list[Ranked]) -> FloatArray:
    from retrieval.query.compose import probes
    from retrieval.query.rerank import reciprocal

    asked = probes(context.request.expression, context.vectors, context.centres)[-1]
    stored = vectors_of(snapshot, some)
    return reciprocal(asked, stored, stored @ asked)


def _cross_scores(context: Context) -> Scores:
    from retrieval.query.rerank import cross

    words = context.asked_words
    if not words:
        raise QueryError(
            "a cross-encoder reads words, and the query has none", hint="add a text, or --rerank reciprocal"
        )
    model = context.request.reranker
    return lambda some: cross(words, [one.hit.text or "" for one in some], model)
