"""From segments to items, and from items to the hits that are shown. Ranks nothing but equal scores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from indexer.snapshot import Candidates, Snapshot
from indexer.types import Item, Segment, Source
from retrieval.types import Hit, Stages

if TYPE_CHECKING:
    from retrieval.query.filters.where import Filter


class Match(NamedTuple):
    """A segment and one of the items that hold it."""

    score: float
    item: Item
    segment: Segment
    place: int  # of the segment among the candidates that it was found with


def best_items(
    snapshot: Snapshot, found: Sequence[Candidates], k: int, *, whole: bool, only: Filter | None = None
) -> list[list[Match] | None]:
    """For each query's best segments the k best items; None where only more segments can tell.

    `whole` says that there are no more segments; `only` leaves out items that a filter does not want.
    """
    results: list[list[Match] | None] = []
    for one, matches in zip(found, _matches(snapshot, found, only), strict=True):
        best: dict[str, Match] = {}
        for match in matches:
            best.setdefault(match.item.id, match)
        kept = list(best.values())
        # What scores as the last segment does could continue among segments that were not asked for.
        settled = whole or (len(kept) >= k and kept[k - 1].score > float(one.score[-1]))
        results.append(kept[:k] if settled else None)
    return results


def best_segments(
    snapshot: Snapshot, found: Sequence[Candidates], k: int, *, only: Filter | None = None
) -> list[list[Match]]:
    """For each query's best segments a match for every item that holds each, the k best."""
    return [matches[:k] for matches in _matches(snapshot, found, only)]


def _matches(snapshot: Snapshot, found: Sequence[Candidates], only: Filter | None) -> Iterator[list[Match]]:
    """Every item of each query's segments, best first: score, then item id, then start. Read together."""
    part, row, score = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("part", "row", "score")
    )
    segments = snapshot.segments(Candidates(part, row, score))
    items = snapshot.items_of({(s.content_hash, s.modality, s.source) for s in segments})
    pairs = zip(score.tolist(), segments, strict=True)
    for one in found:
        wanted = _wanted(one, only)
        matches = [
            Match(value, item, segment, place)
            for place, (value, segment) in enumerate(islice(pairs, len(one)))
            for item in items.get((segment.content_hash, segment.modality, segment.source), ())
            if wanted is None or item.id in wanted[place]
        ]
        yield sorted(matches, key=_order)


def _wanted(found: Candidates, only: Filter | None) -> list[frozenset[str]] | None:
    """For each segment the ids of the items that a filter lets it stand for."""
    if only is None:
        return None
    places = zip(found.part.tolist(), found.row.tolist(), strict=True)
    return [only.items_of(part, row) for part, row in places]


def _order(match: Match) -> tuple[float, str, float]:
    return -match.score, match.item.id, match.segment.range.start if match.segment.range else 0.0


def hit_of(snapshot: Snapshot, match: Match, *, probability: float | None, stages: Stages) -> Hit:
    """What is shown of a match; its rank comes later."""
    score, item, segment, _ = match
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
        probability=probability,
        content_hash=segment.content_hash,
        stages=stages,
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
