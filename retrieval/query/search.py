"""The search itself: a query's vector against one generation, segments to items, lists to one list."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from indexer.errors import QueryError
from indexer.snapshot import Candidates, Snapshot
from indexer.types import FloatArray, Item, Modality, Segment, Source
from retrieval.query.fuse import interleave
from retrieval.types import Hit, Query, SearchResult

NOTHING: Mapping[str, float] = MappingProxyType({})
OVERFETCH = 4  # segments asked for, a hit wanted: an item may have many segments


class Stopwatch:
    """Milliseconds a stage."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + (time.perf_counter() - start) * 1e3


def search(
    snapshot: Snapshot,
    query: Query,
    vector: FloatArray,
    *,
    k: int,
    modalities: Sequence[Modality] = (),
    segments: bool = False,
    watch: Stopwatch | None = None,
) -> SearchResult:
    """The k best items for a query's unit vector, or with `segments` the k best segments.

    `modalities` limits what is searched; without it, all that the index has. QueryError where the index has
    none of those asked for.
    """
    watch = watch or Stopwatch()
    wanted = searchable(snapshot, modalities)
    with watch.stage("search"):
        find = segment_hits if segments else item_hits
        lists = [find(snapshot, vector, modality, k) for modality in wanted]
    with watch.stage("fuse"):
        hits = fuse(lists, k, segments=segments)
    return result_of(snapshot, query, hits, searched=wanted, milliseconds=watch.milliseconds)


def fuse(lists: Sequence[Sequence[Hit]], k: int, *, segments: bool) -> list[Hit]:
    """The lists of all modalities as one, of items or of segments."""
    return interleave(lists, k, key=_segment_key if segments else _item_key)


def result_of(
    snapshot: Snapshot,
    query: Query,
    hits: Sequence[Hit],
    *,
    searched: Sequence[Modality],
    milliseconds: Mapping[str, float] = NOTHING,
) -> SearchResult:
    """The hits with what they were found in."""
    return SearchResult(
        query=query,
        hits=tuple(hits),
        index=snapshot.path,
        generation=snapshot.generation.number,
        model=snapshot.model,
        space_id=snapshot.space_id,
        searched=tuple(searched),
        milliseconds=milliseconds,
    )


def searchable(snapshot: Snapshot, modalities: Sequence[Modality]) -> list[Modality]:
    """The modalities to search, in order; QueryError where the index has none of those asked for."""
    present = [modality for modality in Modality if snapshot.counts.get(modality, 0) > 0]
    wanted = [modality for modality in present if not modalities or modality in modalities]
    if modalities and not wanted and present:
        asked = ", ".join(modalities)
        raise QueryError(f"the index has no {asked}", hint=f"it has {', '.join(present)}: choose with --in")
    return wanted


def item_hits(snapshot: Snapshot, vector: FloatArray, modality: Modality, k: int) -> list[Hit]:
    """The k best items of one modality, each by its best segment: score first, then item id."""
    total, asked = snapshot.counts[modality], k * OVERFETCH
    while True:
        candidates = snapshot.search(modality, vector, min(asked, total))
        hits = best_items(snapshot, [candidates], k, whole=asked >= total)[0]
        if hits is not None:
            return hits
        asked *= 4


def segment_hits(snapshot: Snapshot, vector: FloatArray, modality: Modality, k: int) -> list[Hit]:
    """The k best segments of one modality, one hit for every item that holds each."""
    candidates = snapshot.search(modality, vector, min(k, snapshot.counts[modality]))
    return best_segments(snapshot, [candidates], k)[0]


def best_items(
    snapshot: Snapshot, found: Sequence[Candidates], k: int, *, whole: bool
) -> list[list[Hit] | None]:
    """For each query's best segments the k best items; None where only more segments can tell.

    `whole` says that there are no more segments.
    """
    results: list[list[Hit] | None] = []
    for matches in _matches(snapshot, found):
        best: dict[str, Match] = {}
        for match in matches:
            best.setdefault(match.item.id, match)
        kept = list(best.values())
        # Not `> k`: a tie at the cut could continue among segments that were not asked for.
        settled = whole or (len(kept) > k and kept[k].score < kept[k - 1].score)
        results.append([_hit(snapshot, match) for match in kept[:k]] if settled else None)
    return results


def best_segments(snapshot: Snapshot, found: Sequence[Candidates], k: int) -> list[list[Hit]]:
    """For each query's best segments a hit for every item that holds each, the k best."""
    return [[_hit(snapshot, match) for match in matches[:k]] for matches in _matches(snapshot, found)]


class Match(NamedTuple):
    """A segment and one of the items that hold it."""

    score: float
    item: Item
    segment: Segment


def _matches(snapshot: Snapshot, found: Sequence[Candidates]) -> Iterator[list[Match]]:
    """Every item of each query's segments, best first: score, then item id, then start. Read together."""
    part, row, score = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("part", "row", "score")
    )
    segments = snapshot.segments(Candidates(part, row, score))
    items = snapshot.items_of({(s.content_hash, s.modality, s.source) for s in segments})
    pairs = zip(score.tolist(), segments, strict=True)
    for one in found:
        matches = [
            Match(value, item, segment)
            for value, segment in islice(pairs, len(one))
            for item in items.get((segment.content_hash, segment.modality, segment.source), ())
        ]
        yield sorted(matches, key=_order)


def _item_key(hit: Hit) -> str:
    return hit.item_id


def _segment_key(hit: Hit) -> tuple[object, ...]:
    return hit.item_id, hit.modality, hit.source, hit.range


def _order(match: Match) -> tuple[float, str, float]:
    return -match.score, match.item.id, match.segment.range.start if match.segment.range else 0.0


def _hit(snapshot: Snapshot, match: Match) -> Hit:
    score, item, segment = match
    root = snapshot.roots.get(item.root_id)
    is_row = root is not None and root.kind == "manifest"
    path = _shown_path(segment, item)
    if path is None and not is_row:
        path = item.path
    base = root.base if root else ""
    return Hit(
        rank=0,
        item_id=item.id,
        path=None if path is None else os.path.join(base, path),  # noqa: PTH118 - bytes stay as they are
        modality=segment.modality,
        source=segment.source,
        score=score,
        range=segment.range,
        text=segment.text if segment.text is not None else _caption(item),
        metadata=item.metadata,
        manifest=root.path if root is not None and is_row else None,
        key=item.path if is_row else None,
    )


def _shown_path(segment: Segment, item: Item) -> str | None:
    """The file to open for a hit: the one that matched; for a caption, the medium that it describes.

    None for a text that only a manifest's row holds: no file of the row was ever there to be read.
    """
    key = segment.content_hash, segment.modality, segment.source
    files = [member for member in item.members if member.path is not None and member.content_hash is not None]
    if segment.source is not Source.CAPTION:
        files.sort(key=lambda member: member.key != key)
    return files[0].path if files else None


def _caption(item: Item) -> str | None:
    """What a manifest says of a picture or sound that was found."""
    return next((member.text for member in item.members if member.text), None)
