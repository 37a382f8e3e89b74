"""When parts are rewritten, and how: a tiered policy, so that many small updates leave few parts.

Which parts belong together is decided here from their sizes alone; the rows are copied by `merged`, which
leaves out deleted ones. Nothing here writes a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from indexer.errors import StoreError
from indexer.generation import Part
from indexer.parts import Content, PartReader
from indexer.types import Modality
from indexer.vectors import BoolArray, HalfArray

TIER_BASE = 256  # segments: parts below this are the lowest tier
TIER_FACTOR = 8  # each tier holds parts up to this many times larger than the one below
TIER_PARTS = 8  # as many parts of one tier are merged
MAX_PARTS = 12  # a space: where tiers alone leave more, the smallest are merged
MERGE_ROWS = 2_000_000  # a merge never makes a part larger than this
DEAD_SHARE = 0.5  # a part with more deleted segments than this share is rewritten


def tier(rows: int) -> int:
    """0 for the smallest parts; one more for each factor of TIER_FACTOR."""
    level, bound = 0, TIER_BASE
    while rows >= bound:
        level, bound = level + 1, bound * TIER_FACTOR
    return level


def plan(parts: Sequence[Part], living: Sequence[int], *, purge: bool = False) -> list[list[int]]:
    """Which parts to rewrite into one, as lists of places in `parts`; `living` counts their segments alive.

    A part on its own is rewritten for its dead segments: more than DEAD_SHARE of them, or any with `purge`.
    """
    groups = []
    for space_id in dict.fromkeys(part.space_id for part in parts):
        own = [place for place, part in enumerate(parts) if part.space_id == space_id]
        groups += _plan_space(own, parts, living, purge=purge)
    return groups


def _plan_space(
    own: Sequence[int], parts: Sequence[Part], living: Sequence[int], *, purge: bool
) -> list[list[int]]:
    """Groups among the parts of one space; a group that merges takes its dead segments along."""
    sizes = {place: living[place] for place in own}
    members = {place: [place] for place in own}  # a group is known by its first place
    while chosen := _choose(sizes):
        first = chosen[0]
        sizes[first] = sum(sizes.pop(place) for place in chosen)
        members[first] = [place for group in chosen for place in members.pop(group)]
    groups = [group for group in members.values() if len(group) > 1]
    for place in (group[0] for group in members.values() if len(group) == 1):
        dead = parts[place].rows - living[place]
        if dead and (purge or dead > DEAD_SHARE * parts[place].rows):
            groups.append([place])
    return groups


def _choose(sizes: dict[int, int]) -> list[int]:
    """The next places to merge: a full tier, or the smallest of too many; empty when all is well."""
    small = sorted((place for place in sizes), key=lambda place: (sizes[place], place))
    tiers: dict[int, list[int]] = {}
    for place in small:
        tiers.setdefault(tier(sizes[place]), []).append(place)
    full = [group for group in tiers.values() if len(group) >= TIER_PARTS]
    chosen = full[0] if full else small[: TIER_PARTS if len(small) > MAX_PARTS else 0]
    while chosen and sum(sizes[place] for place in chosen) > MERGE_ROWS:
        chosen = chosen[:-1]
    return sorted(chosen) if len(chosen) > 1 else []


def merged(readers: Sequence[PartReader], dead: Sequence[BoolArray]) -> Content:
    """The living rows of some parts of one space as the content of a new one, read as they are written."""
    spaces = {(reader.part.space_id, reader.dim) for reader in readers}
    if len(spaces) != 1:
        raise StoreError(f"parts of {len(spaces)} spaces cannot be merged into one")
    space_id, dim = spaces.pop()
    pairs = [(reader, ~mask) for reader, mask in zip(readers, dead, strict=True)]
    counts = {modality: sum(_living(*pair, modality) for pair in pairs) for modality in Modality}
    present = {modality: count for modality, count in counts.items() if count}
    tables = (
        table for modality in present for reader, alive in pairs for table in reader.kept(modality, alive)
    )
    blocks = {modality: _vectors(pairs, modality) for modality in present}

    def sources(modality: Modality) -> Iterator[tuple[Any, HalfArray, BoolArray]]:
        for reader, alive in pairs:
            if reader.part.counts.get(modality):
                lists = reader.structure(modality) if reader.part.kinds[modality] == "ivf" else None
                start = reader.part.offset(modality)
                own = alive[start : start + reader.part.counts[modality]]
                yield lists, reader.vectors(modality), own

    made_in = {modality: _precisions(pairs, modality) for modality in present}
    known = (
        table
        for modality in present
        for reader, alive in pairs
        for table in reader.kept_facts(modality, alive)
    )
    own = known if any(reader.has_facts for reader in readers) else None
    return Content(space_id, dim, present, tables, blocks, made_in, own, sources)


def _precisions(pairs: Sequence[tuple[PartReader, BoolArray]], modality: Modality) -> tuple[str, ...]:
    """What the living vectors of a modality were computed in."""
    parts = (reader.part for reader, alive in pairs if _living(reader, alive, modality))
    return tuple(sorted({word for part in parts for word in part.precisions_of(modality)}))


def _living(reader: PartReader, alive: BoolArray, modality: Modality) -> int:
    start = reader.part.offset(modality)
    return int(np.count_nonzero(alive[start : start + reader.part.counts.get(modality, 0)]))


def _vectors(pairs: Sequence[tuple[PartReader, BoolArray]], modality: Modality) -> Iterator[HalfArray]:
    return chain.from_iterable(
        reader.kept_vectors(modality, alive) for reader, alive in pairs if reader.part.counts.get(modality)
    )
