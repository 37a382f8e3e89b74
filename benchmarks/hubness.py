"""Whether taking hubness off helps: recall with and without, on the stamps, in every direction.

    python benchmarks/hubness.py

Ways: the cosine; CSLS; the inverted softmax for every query, and where QB-Norm's rule activates it. The way,
its temperature and the bank's size are chosen on the training half, by vectors of heads that have not seen
the row, and reported on the test half with what hubs there are. Words are backed by shipped phrases and
captions of the training half, never by a row's own; pictures and sounds by others of the collection.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import stamps
from common import save, say

from indexer.types import FloatArray, Modality
from retrieval.query.scores import hubness
from retrieval.query.scores.bank import shipped_phrases

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "data"))
from starter_scores import CUTS
from unseen_stamps import unseen

PHRASES = (128, 512, 2048)  # bank sizes of words
SHARES = (0.25, 0.5, 1.0)  # and of the collection's own pictures and sounds
TEMPERATURES = (0.02, 0.05, 0.1, 0.2)
TEXT = Modality.TEXT
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Side:
    """Vectors of one modality with their rows."""

    vectors: FloatArray
    row: Rows


@dataclass(frozen=True)
class Direction:
    """Queries, what is searched, and background queries with the rows that they are of; -1: of none."""

    queries: Side
    gallery: Side
    bank: Side

    @property
    def scores(self) -> FloatArray:
        return self.queries.vectors @ self.gallery.vectors.T

    def background(self, share: float, phrases: int) -> FloatArray:
        """Scores (bank, gallery) of a bank of some size; -inf where both are of one row."""
        own = np.flatnonzero(self.bank.row >= 0)
        own = own[np.unique(np.linspace(0, len(own) - 1, max(1, round(share * len(own)))).astype(int))]
        free = np.flatnonzero(self.bank.row < 0)
        free = free[np.unique(np.linspace(0, len(free) - 1, phrases).astype(int))] if len(free) else free
        taken = np.concatenate([own, free])
        scores = self.bank.vectors[taken] @ self.gallery.vectors.T
        same = self.bank.row[taken][:, None] == self.gallery.row[None, :]
        return np.where(same, -np.inf, scores).astype(np.float32)


def main() -> None:
    train, test = _training(), _testing()
    found: dict[str, Any] = {}
    for name, direction in directions(train, captions=train[TEXT]).items():
        chosen = choose(direction)
        found[name] = {"chosen on the training half": chosen}
    wins = []
    for name, direction in directions(test, captions=_elsewhere(train[TEXT])).items():
        report = measured(direction, found[name]["chosen on the training half"])
        found[name] |= report
        gain = report["gain of the chosen way"]
        wins += [name] if gain["R@10"][1] > 0 or gain["R@1"][1] > 0 else []
        say(name, found[name]["chosen on the training half"], report["cosine"], report["csls"], gain)
    save(
        "hubness",
        {
            "model": stamps.model().name,
            "space": stamps.model().space_id[:16],
            "directions": found,
            "clear gains on the test half": wins,
            "on by default": False,
        },
    )


def directions(sides: dict[Modality, Side], *, captions: Side) -> dict[str, Direction]:
    """Every pair of unlike modalities."""
    phrases = stamps.text_vectors(shipped_phrases(max(PHRASES)))
    words = Side(
        np.concatenate([captions.vectors, phrases]),
        np.concatenate([captions.row, np.full(len(phrases), -1)]),
    )
    banks = {**sides, TEXT: words}
    return {
        f"{one} to {other}": Direction(_asking(sides[one], sides[other]), sides[other], banks[one])
        for one in Modality
        for other in Modality
        if one is not other
    }


def choose(direction: Direction) -> dict[str, Any]:
    """The way that has the best mean recall on the training half; the cosine where none beats it."""
    best: tuple[float, dict[str, Any]] = (_mean_recall(direction, direction.scores), {"way": "cosine"})
    for share, phrases in zip(SHARES, PHRASES, strict=True):
        bank = direction.background(share, phrases)
        for way in _ways():
            value = _mean_recall(direction, applied(direction, bank, way))
            if value > best[0] + 1e-9:
                best = value, {**way, "phrases": phrases, "share": share}
    base = _mean_recall(direction, direction.scores)
    return best[1] | {"mean recall": round(best[0], 4), "of the cosine": round(base, 4)}


def measured(direction: Direction, chosen: dict[str, Any]) -> dict[str, Any]:
    """The test half: each way with each size of bank, and the chosen one against the cosine."""
    plain = direction.scores
    base = ranks(direction, plain)
    report: dict[str, Any] = {
        "queries": len(direction.queries.row),
        "gallery": len(direction.gallery.row),
        "cosine": _row(direction, plain),
    }
    for share, phrases in zip(SHARES, PHRASES, strict=True):
        bank = direction.background(share, phrases)
        size = f"bank of {len(bank)}"
        for way in _ways():
            entry = _row(direction, applied(direction, bank, way))
            report.setdefault(_name(way), {})[size] = entry
    adjusted = plain
    if chosen["way"] != "cosine":
        bank = direction.background(chosen["share"], chosen["phrases"])
        adjusted = applied(direction, bank, chosen)
    report["gain of the chosen way"] = _gain(ranks(direction, adjusted), base)
    report["gain of CSLS"] = _gain(
        ranks(direction, applied(direction, direction.background(1.0, 1024), {"way": "csls"})), base
    )
    return report


def applied(direction: Direction, bank: FloatArray, way: dict[str, Any]) -> FloatArray:
    """Scores (queries, gallery) by a way."""
    plain = direction.scores
    if way["way"] == "csls":
        return hubness.csls(plain, hubness.neighbourhoods(bank))
    normaliser = hubness.normalisers(bank, temperature=way["temperature"])
    if way["way"] == "softmax":
        return hubness.inverted_softmax(plain, normaliser, temperature=way["temperature"])
    active = np.zeros(bank.shape[1], bool)
    active[np.argmax(bank, axis=1)] = True
    lines = [hubness.dynamic(line, normaliser, active, temperature=way["temperature"]) for line in plain]
    return np.stack(lines)


def ranks(direction: Direction, scores: FloatArray) -> npt.NDArray[np.float64]:
    """The rank, from 1, of each query's own row; ties count against it."""
    same = direction.queries.row[:, None] == direction.gallery.row[None, :]
    best = np.where(same, scores, -np.inf).max(axis=1)
    return 1.0 + ((scores >= best[:, None]) & ~same).sum(axis=1)


def _ways() -> Iterator[dict[str, Any]]:
    yield {"way": "csls"}
    for way in ("softmax", "dynamic"):
        for temperature in TEMPERATURES:
            yield {"way": way, "temperature": temperature}


def _name(way: dict[str, Any]) -> str:
    return way["way"] + (f" at {way['temperature']}" if "temperature" in way else "")


def _row(direction: Direction, scores: FloatArray) -> dict[str, Any]:
    found = ranks(direction, scores)
    return {f"R@{cut}": round(float((found <= cut).mean()), 4) for cut in CUTS} | {
        "skewness": round(hubness.occurrence_skewness(scores), 3)
    }


def _mean_recall(direction: Direction, scores: FloatArray) -> float:
    found = ranks(direction, scores)
    return float(np.mean([(found <= cut).mean() for cut in CUTS]))


def _gain(found: npt.NDArray, base: npt.NDArray, *, draws: int = 2000) -> dict[str, list[float]]:
    """Differences of recall with their paired 95 % intervals."""
    picks = np.random.default_rng(0).integers(0, len(base), size=(draws, len(base)))
    table = {}
    for cut in CUTS:
        apart = (found <= cut).astype(float) - (base <= cut)
        low, high = np.quantile(apart[picks].mean(axis=1), [0.025, 0.975])
        table[f"R@{cut}"] = [round(float(value), 4) for value in (apart.mean(), low, high)]
    return table


def _asking(side: Side, other: Side) -> Side:
    """The queries whose row is in the gallery too."""
    kept = np.isin(side.row, other.row)
    return Side(side.vectors[kept], side.row[kept])


def _elsewhere(side: Side) -> Side:
    """Captions of rows that are not in the gallery."""
    return Side(side.vectors, side.row + 1_000_000)


def _training() -> dict[Modality, Side]:
    seen = unseen()
    every = np.arange(len(seen.image))
    return {
        Modality.IMAGE: Side(seen.image, every),
        TEXT: Side(seen.text, every),
        Modality.AUDIO: Side(seen.audio, seen.audio_row),
    }


def _testing() -> dict[Modality, Side]:
    found = {modality: stamps.queries("test", modality) for modality in Modality}
    return {modality: Side(one.vectors, one.row) for modality, one in found.items()}


if __name__ == "__main__":
    main()
