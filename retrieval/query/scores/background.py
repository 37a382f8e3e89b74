"""What a search knows of scores at large: hub numbers, best scores of background queries, means.

The read side of what bank.py works out. Files open when first asked for; those that are missing, or of
another bank, are as if the part had none. Parts are merged here: hub numbers are a segment's own, the
background queries' best scores are merged by maximum, deleted segments left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from indexer.derived import key_of
from indexer.snapshot import Candidates, Snapshot
from indexer.types import FloatArray, Modality
from indexer.vectors import BoolArray
from retrieval.query.scores.bank import VERSION, BankDerivation
from retrieval.query.scores.packed import Packed, unpacked

if TYPE_CHECKING:
    from indexer.derived import Derivation
    from retrieval.models.model import Model

FEWEST = 30  # background queries with a score from which their best scores tell something


@dataclass(frozen=True, slots=True, eq=False)
class Hubs:
    """How near segments are to background queries of one modality; both of shape (n,)."""

    neighbourhood: FloatArray  # mean cosine of the nearest ones
    normaliser: FloatArray  # log of the mean of exp(cosine / temperature)


class Background:
    """The background of one snapshot. Not to be used after the snapshot is closed."""

    def __init__(self, snapshot: Snapshot, bank: Packed) -> None:
        self._snapshot = snapshot
        self._bank = bank
        self._hubs: dict[tuple[int, Modality], Packed | None] = {}
        self._peaks: dict[tuple[int, Modality], Packed | None] = {}
        self._best: dict[tuple[Modality, Modality], FloatArray | None] = {}
        self._samples: dict[Modality, FloatArray] = {}
        self._usual: tuple[tuple[Modality, bytes], tuple[float, float]] | None = None

    @classmethod
    def open(cls, snapshot: Snapshot) -> Background | None:
        """The background of a snapshot; None where it has no bank of this program's form. IndexCorrupt."""
        key = next((key for key in snapshot.generation.derived if key.startswith("bank/")), None)
        data = snapshot.derived(key) if key else None
        if data is None:
            return None
        bank = unpacked(data)
        return cls(snapshot, bank) if bank.words.get("version") == VERSION else None

    @cached_property
    def centres(self) -> Mapping[Modality, FloatArray]:
        """The mean vector of each modality, shape (dim,), of the segments that its parts were made with."""
        found: dict[Modality, FloatArray] = {}
        for modality in Modality:
            held = [peaks for peaks in self._all_peaks(modality) if peaks is not None]
            count = sum(int(one.array("count", (1,))[0]) for one in held)
            if count:
                total = np.stack([one.array("sum", (None,)) for one in held]).sum(axis=0, dtype=np.float64)
                found[modality] = np.asarray(total / count, np.float32)
        return found

    def usual(self, modality: Modality, vector: FloatArray) -> tuple[float, float] | None:
        """Mean and deviation of a query's cosines with the collection's segments of a modality, by a sample.

        None where there is none.
        """
        sample = self._sample(modality, len(vector))
        if len(sample) < 2:
            return None
        key = modality, vector.tobytes()
        last = self._usual
        if last is None or last[0] != key:  # else it is asked again, for what words bring
            scores = sample @ vector
            self._usual = last = key, (float(scores.mean()), max(float(scores.std()), 1e-3))
        return last[1]

    def _sample(self, modality: Modality, dim: int) -> FloatArray:
        """Vectors of some segments of a modality, shape (n, dim); of none where the bank has none."""
        if modality not in self._samples:
            sample = np.zeros((0, dim), np.float32)
            if f"{modality}.vectors" in self._bank.arrays:
                own = int(self._bank.array(f"{modality}.sampled", (1,))[0])
                sample = self._bank.array(f"{modality}.vectors", (None, dim))[:own].astype(np.float32)
            self._samples[modality] = sample
        return self._samples[modality]

    def best_scores(self, query: Modality, modality: Modality) -> FloatArray | None:
        """The best cosine of each background query of a modality with any segment of another, ascending.

        Shape (b,); None where too little is known. A query's own item never counts.
        """
        pair = query, modality
        if pair not in self._best:
            self._best[pair] = self._merged(query, modality)
        return self._best[pair]

    def hubs(self, query: Modality, modality: Modality, found: Candidates) -> Hubs | None:
        """The hub numbers of candidates; None where a part of theirs has none for such queries."""
        near = np.zeros(len(found), np.float32)
        normaliser = np.zeros(len(found), np.float32)
        for place in np.unique(found.part).tolist():
            held = self._file(self._hubs, "hubs", place, modality)
            if held is None or f"{query}.neighbourhood" not in held.arrays:
                return None
            part = self._snapshot.generation.parts[place]
            shape = (part.counts[modality],)
            chosen = found.part == place
            rows = found.row[chosen] - part.offset(modality)
            near[chosen] = held.array(f"{query}.neighbourhood", shape)[rows]
            normaliser[chosen] = held.array(f"{query}.normaliser", shape)[rows]
        return Hubs(near, normaliser)

    def active(self, query: Modality, modality: Modality, found: Candidates) -> BoolArray:
        """Which candidates are the best of some background query, shape (n,)."""
        score, part, row = self._tops(query, modality)
        if not len(score):
            return np.zeros(len(found), bool)
        best = np.argmax(score, axis=1)
        line = np.arange(len(score))
        known = score[line, best] > -np.inf
        wanted = part[line, best][known].astype(np.int64) << 32 | row[line, best][known]
        return np.isin(found.part.astype(np.int64) << 32 | found.row, wanted)

    def _merged(self, query: Modality, modality: Modality) -> FloatArray | None:
        score, _, _ = self._tops(query, modality)
        if not len(score):
            return None
        best = score.max(axis=1)
        best = np.sort(best[np.isfinite(best)])
        return best.astype(np.float32) if len(best) >= FEWEST else None

    def _tops(self, query: Modality, modality: Modality) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of each background query the best living segments of every part: score, part and row, (b, m)."""
        scores, parts, rows = [], [], []
        for place, held in enumerate(self._all_peaks(modality)):
            if held is None or f"{query}.score" not in held.arrays:
                continue
            row = held.array(f"{query}.row", (None, None))
            score = held.array(f"{query}.score", row.shape)
            living = self._snapshot.living(place)
            alive = (row >= 0) & (row < len(living))
            alive &= living[np.where(alive, row, 0)]
            scores.append(np.where(alive, score, -np.inf))
            parts.append(np.full(row.shape, place))
            rows.append(row)
        if not scores or len({len(one) for one in scores}) != 1:
            nothing = np.zeros((0, 0), np.float32)
            return nothing, nothing, nothing
        whole = (np.concatenate(one, axis=1) for one in (scores, parts, rows))
        return tuple(whole)  # type: ignore[return-value]

    def _all_peaks(self, modality: Modality) -> list[Packed | None]:
        parts = self._snapshot.generation.parts
        return [self._file(self._peaks, "peaks", place, modality) for place in range(len(parts))]

    def _file(
        self, kept: dict[tuple[int, Modality], Packed | None], kind: str, place: int, modality: Modality
    ) -> Packed | None:
        """A part's file of a kind; None where it has none of this bank."""
        key = place, modality
        if key not in kept:
            part = self._snapshot.generation.parts[place]
            data = self._snapshot.derived(key_of(kind, part.id, modality))
            held = None if data is None else unpacked(data)
            mine = held is not None and held.words == self._bank.words
            kept[key] = held if mine else None
        return kept[key]


def derivation(model: Model) -> Derivation:
    """What works the background out as a part of `triptych index`."""
    return BankDerivation(model)
