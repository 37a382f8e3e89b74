"""The search, top to bottom: candidates of each modality, words, a second look, one list, one page of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from indexer.errors import QueryError
from indexer.snapshot import Snapshot
from indexer.types import Modality
from retrieval.query.blend import DEPTH, likely, with_words
from retrieval.query.context import Context
from retrieval.query.fuse import by_score, interleave
from retrieval.query.ranked import Ranked, ranked
from retrieval.query.second import LOOKED, counted, looked_again, varied
from retrieval.types import Hit, Lexical, Request, SearchResult

FEW = 50  # segments of a modality; calibrations are fitted on more
SPARE = 2  # hits looked at first, a hit wanted, where near-duplicates are dropped afterwards


class Stopwatch:
    """Milliseconds a stage."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + (time.perf_counter() - start) * 1e3


def search(snapshot: Snapshot, context: Context, *, watch: Stopwatch | None = None) -> SearchResult:
    """The page of hits that a request asks for. QueryError where the index has none of its modalities."""
    watch = watch or Stopwatch()
    wanted = searchable(snapshot, context.request.modalities)
    depth = depth_of(context)
    while True:
        with watch.stage("search"):
            lists = [ranked(snapshot, context, modality, depth) for modality in wanted]
        result = page(snapshot, context, lists, searched=wanted, watch=watch, depth=depth)
        if not starved(snapshot, context, result, lists, depth):
            return result
        depth *= 4


def starved(
    snapshot: Snapshot,
    context: Context,
    result: SearchResult,
    lists: Sequence[Sequence[Ranked]],
    depth: int,
) -> bool:
    """Whether near-duplicates took so many places that a page is not full, though more would be shown."""
    request = context.request
    if not request.group_duplicates or len(result.hits) >= request.k:
        return False
    return any(
        len(hits) >= depth and likely(hits[-1].hit, request) and _believed(snapshot, context, hits)
        for hits in lists
    )


def page(
    snapshot: Snapshot,
    context: Context,
    lists: Sequence[Sequence[Ranked]],
    *,
    searched: Sequence[Modality],
    watch: Stopwatch,
    depth: int = 0,
) -> SearchResult:
    """What is shown of the lists of all modalities, which are `depth` long where there is so much."""
    request = context.request
    with watch.stage("merge"):
        believed = [hits for hits in lists if _believed(snapshot, context, hits)]
        meant = merged(believed, request)
        found = [one for one in meant if likely(one.hit, request)]
    with watch.stage("words"):
        wanted = max(page_depth(request), depth if request.group_duplicates else 0)
        told = context.lexicon is None or len(believed) == len(lists)
        prefer = [one.hit.item_id for one in (meant if told else merged(lists, request))[:DEPTH]]
        found = with_words(snapshot, context, found, searched=searched, wanted=wanted, prefer=prefer)
    with watch.stage("rerank"):
        found = looked_again(snapshot, context, found)
    with watch.stage("vary"):
        kept = varied(snapshot, context, found)
        shown = [one.hit for one in kept[request.offset : request.offset + request.k]]
        hits = counted(snapshot, context, shown)
    return result_of(
        snapshot,
        request,
        [replace(hit, rank=rank) for rank, hit in enumerate(hits, start=request.offset + 1)],
        searched=searched,
        milliseconds=watch.milliseconds,
        nothing=None if hits else _why(context, [one for some in lists for one in some], kept),
    )


def merged(lists: Sequence[Sequence[Ranked]], request: Request) -> list[Ranked]:
    """One list from those of all modalities, each item once; by probability where all have one, else by rank.

    The order inside a list is kept.
    """
    key = _segment_key if request.segments else _item_key
    if all(one.hit.probability is not None for hits in lists for one in hits):
        return by_score(lists, score=lambda one: (one.hit.probability or 0.0, one.hit.item_id), key=key)
    return interleave(lists, key=key)


def searchable(snapshot: Snapshot, modalities: Sequence[Modality]) -> list[Modality]:
    """The modalities to search, in order; QueryError where the index has none of those asked for."""
    present = [modality for modality in Modality if snapshot.counts.get(modality, 0) > 0]
    wanted = [modality for modality in present if not modalities or modality in modalities]
    if modalities and not wanted and present:
        asked = ", ".join(modalities)
        raise QueryError(f"the index has no {asked}", hint=f"it has {', '.join(present)}: choose with --in")
    return wanted


def result_of(
    snapshot: Snapshot,
    request: Request,
    hits: Sequence[Hit],
    *,
    searched: Sequence[Modality],
    milliseconds: Mapping[str, float],
    nothing: str | None = None,
) -> SearchResult:
    """The hits with what they were found in."""
    return SearchResult(
        request=request,
        hits=tuple(hits),
        index=snapshot.path,
        generation=snapshot.generation.number,
        model=snapshot.model,
        space_id=snapshot.space_id,
        searched=tuple(searched),
        milliseconds=milliseconds,
        nothing=nothing,
    )


def _believed(snapshot: Snapshot, context: Context, hits: Sequence[Ranked]) -> bool:
    """Whether the best hits of a modality are shown, where the request does not say from when on.

    The best one decides: it tells whether there is such a thing at all. A few segments a person sees through.
    """
    if context.request.min_score is not None or not hits:
        return True
    modality = hits[0].hit.modality
    if snapshot.counts[modality] < FEW:
        return True
    best = max((one.hit.probability for one in hits if one.hit.probability is not None), default=None)
    return best is None or best >= context.cut(modality)


def _why(context: Context, found: Sequence[Ranked], kept: Sequence[Ranked]) -> str:
    """Why a page is empty."""
    request = context.request
    if context.filter is not None and not context.filter.count:
        return f"nothing in the index matches the filter {' '.join((request.where or '').split())}"
    if context.lexicon is not None and request.lexical is Lexical.ONLY and not kept:
        return f"no item that was asked for holds the words {context.words!r}"
    if kept:
        return f"there are {len(kept)} hits, and {request.offset} were to be left out"
    if found and all(one.hit.probability is None for one in found):
        return "nothing tells how likely these hits are; leave out --min-score to see them"
    if found:
        best = max(one.hit.probability or 0.0 for one in found)
        return (
            f"nothing is likely enough: the best hit has a probability of {best:.2f}; --min-score 0 shows it"
        )
    return "nothing found"


def depth_of(context: Context) -> int:
    """Hits of a modality that are looked at before the page is cut out of them."""
    return max(page_depth(context.request), DEPTH if context.words else 0)


def page_depth(request: Request) -> int:
    """Hits of the one list that the page is cut out of."""
    page = request.offset + request.k
    depths = [
        page * SPARE if request.group_duplicates else page,
        LOOKED * (SPARE if request.group_duplicates else 1) if request.diverse is not None else 0,
        request.rerank_top if request.rerank else 0,
    ]
    return max(depths)


def _item_key(one: Ranked) -> str:
    return one.hit.item_id


def _segment_key(one: Ranked) -> tuple[object, ...]:
    return one.hit.item_id, one.hit.modality, one.hit.source, one.hit.range
