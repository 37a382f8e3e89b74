"""A sample of a collection: segments that stand for all of a modality."""

from __future__ import annotations

import numpy as np

from indexer.snapshot import Candidates, Snapshot
from indexer.types import Modality


def sampled(snapshot: Snapshot, modality: Modality, count: int) -> Candidates:
    """Living segments of a modality spread evenly over the parts, `count` of them as far as there are."""
    parts, rows = [], []
    for place, part in enumerate(snapshot.generation.parts):
        if part.space_id == snapshot.space_id and part.counts.get(modality):
            first = part.offset(modality)
            own = np.flatnonzero(snapshot.living(place)[first : first + part.counts[modality]]) + first
            parts.append(np.full(len(own), place))
            rows.append(own)
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Candidates.at(nothing, nothing)
    every, row = np.concatenate(parts), np.concatenate(rows)
    taken = np.unique(np.linspace(0, len(row) - 1, min(count, len(row))).astype(np.int64))
    return Candidates.at(every[taken], row[taken])
