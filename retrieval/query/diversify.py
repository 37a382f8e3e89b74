"""What keeps a page of hits from showing one thing ten times: groups of near-duplicates, and diversity.

Pure functions: over hits in order, and over numpy arrays. Nothing here reads an index.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from indexer.errors import QueryError
from indexer.types import FloatArray, Source
from indexer.vectors import IndexArray
from retrieval.types import Hit

if TYPE_CHECKING:
    from indexer.snapshot import Key
    from indexer.twins import Twins


def grouped(hits: Sequence[Hit], twins: Twins | None) -> list[int]:
    """Places of the hits that stay, in order: of each group of near-duplicates the first item.

    The same content under several items is one group, also without `twins`, which know what else is near it.
    A caption that matched tells nothing of its picture: such a hit is a group of its own. Further segments of
    the item that stands for a group stay.
    """
    first: dict[Hashable, str] = {}
    return [
        place
        for place, hit in enumerate(hits)
        if first.setdefault(_group(hit, twins), hit.item_id) == hit.item_id
    ]


def _group(hit: Hit, twins: Twins | None) -> Hashable:
    """The group of a hit: its number and modality, or what the hit is alone with."""
    if not _of_file(hit):
        return hit.item_id
    group = twins.group(hit.content_hash, hit.modality) if twins is not None else None
    return (hit.content_hash, hit.modality) if group is None else (group, hit.modality)


def contents_of(hit: Hit, twins: Twins | None) -> set[Key]:
    """The contents of a hit's group, by which its items are found; none where it is a group of its own."""
    if not _of_file(hit):
        return set()
    near = twins.contents_with(hit.content_hash, hit.modality) if twins is not None else ()
    return {(content, hit.modality, hit.source) for content in (hit.content_hash, *near)}


def _of_file(hit: Hit) -> bool:
    return hit.source is Source.FILE and bool(hit.content_hash)


def mmr(scores: FloatArray, vectors: FloatArray, k: int, trade: float) -> IndexArray:
    """The k hits to show, in order: each the best by score less its likeness to those before it.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998). `scores` (n,), higher is better, of any
    scale; `vectors` (n, d) of length 1; `trade` in [0, 1] is what likeness counts, 0 leaves the order by
    score. Scores and cosines are each stretched to [0, 1] over the n hits first: they lie on unlike scales,
    and so do those of different modalities. Of equal ones the earlier comes first. QueryError for a trade
    outside.
    """
    if not 0 <= trade <= 1:
        raise QueryError(
            f"diversity is {trade:g}",
            hint="it takes a number from 0, by score alone, to 1, as unlike as can be",
        )
    relevance = _stretched(scores.astype(np.float64))
    likeness = _stretched(vectors.astype(np.float64) @ vectors.T.astype(np.float64))
    nearest = np.zeros(len(scores))
    left = np.ones(len(scores), bool)
    order: list[int] = []
    for _ in range(min(k, len(scores))):
        gain = (1 - trade) * relevance - trade * nearest
        if not order:
            gain = relevance  # nothing is there yet to be unlike
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        order.append(best)
        left[best] = False
        nearest = np.maximum(nearest, likeness[best])
    return np.array(order, np.int64)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1; all 0 where they are one value. Of a square the diagonal is not looked at."""
    looked = values
    if values.ndim == 2:
        looked = values[~np.eye(len(values), dtype=bool)]
    if not looked.size or looked.max() - looked.min() < 1e-9:
        return np.zeros_like(values)
    return np.clip((values - looked.min()) / (looked.max() - looked.min()), 0.0, 1.0)
