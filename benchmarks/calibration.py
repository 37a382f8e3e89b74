"""Whether a hit's probability can be believed, on the stamps' test half, by real indexes and what ships.

    python benchmarks/calibration.py

For each pair of modalities the ten hits shown: calibration error in bins of equal mass, Brier skill against
the base rate, and the reliability table. Then whether lists mixed of pictures and sounds are fair, and
whether questions about what the collection lacks get an empty list while true hits stay, at three sizes of
collection.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import stamps
from absent import ABSENT, check
from common import save, say

from indexer.snapshot import Snapshot
from indexer.types import FloatArray, Modality
from retrieval.query.scores.background import Background
from retrieval.query.scores.calibrate import Calibration

BINS = 10
SHOWN = 10
ALIKE = 0.8  # cosine from which two captions say nearly the same, as the starter's recipes have it
TEXT, IMAGE, AUDIO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO


@dataclass(frozen=True, eq=False)
class Collection:
    """An index of some stamps, opened, with its vectors by modality."""

    rows: list[stamps.Row]
    captions: FloatArray  # as queries, one a row
    galleries: dict[Modality, stamps.Gallery]
    background: Background
    calibration: Calibration

    def shown(self, query: Modality, vector: FloatArray, modality: Modality, own: int | None = None) -> Any:
        """The ten best segments of a modality: their rows, probabilities; the row `own` is left out."""
        gallery = self.galleries[modality]
        scores = gallery.vectors @ vector
        if own is not None:
            scores = np.where(gallery.row == own, -2.0, scores)
        top = np.argsort(-scores, kind="stable")[:SHOWN]
        told = self.calibration.probabilities(scores[top], query, modality, self.background, vector)
        if told is None:
            raise SystemExit(f"{query} to {modality} is not calibrated")
        return gallery.row[top], told, scores[top]


@contextmanager
def collection(name: Any, rows: list[stamps.Row]) -> Iterator[Collection]:
    """An index of these stamps, opened."""
    index = stamps.stamps_index(name) if name in ("test", "all") else stamps.part_of_all(rows, name)
    with Snapshot.open(index) as snapshot:
        background, calibration = Background.open(snapshot), Calibration.of(stamps.model(), snapshot)
        if background is None or calibration is None:
            raise SystemExit("the index has no background, or the model no calibration")
        galleries = {modality: stamps.gallery_of(index, rows, modality) for modality in Modality}
        captions = stamps.text_vectors([row["text"] for row in rows])
        yield Collection(rows, captions, galleries, background, calibration)


def main() -> None:
    wrong = check(stamps.texts("all") + stamps.labels("all"))
    if wrong:
        raise SystemExit("not absent: " + "; ".join(wrong))
    with collection("test", stamps.rows_of("test")) as test:
        pairs = {f"{q} to {m}": reliability(test, q, m) for q in Modality for m in Modality}
        fair = fairness(test)
    for name, entry in pairs.items():
        say(name, {key: value for key, value in entry.items() if key != "reliability"})
    say(fair)
    sizes = {}
    for name, rows in sized().items():
        with collection(name, rows) as opened:
            sizes[str(len(rows))] = decisions(opened)
            say(len(rows), sizes[str(len(rows))])
    model = stamps.model()
    save(
        "calibration",
        {
            "model": model.name,
            "space": model.space_id[:16],
            "shown": SHOWN,
            "pairs": pairs,
            "mixed lists": fair,
            "questions about what is absent": len(ABSENT),
            "by size of the collection": sizes,
        },
    )


def sized() -> dict[str, list[stamps.Row]]:
    """Three collections: some stamps of the test half, all whose id hashes as its do, all there are."""
    rows, test = stamps.rows_of("all"), stamps.rows_of("test")
    some = [test[place] for place in np.unique(np.linspace(0, len(test) - 1, 120).astype(int))]
    even = [row for row in rows if hashlib.sha256(row["id"].encode()).digest()[0] % 2 == 0]
    return {"some": some, "even": even, "all": rows}


def reliability(opened: Collection, query: Modality, modality: Modality) -> dict[str, Any]:
    """What ten hits of each query promise and keep, where its stamp has such a segment."""
    asked = _queries(opened, query)
    having = set(opened.galleries[modality].row.tolist())
    asked = [(row, vector) for row, vector in asked if row in having]
    told, right = [], []
    for row, vector in asked:
        same = query is modality
        rows, probability, _ = opened.shown(query, vector, modality, row if same else None)
        told.append(probability)
        right.append(_relevant(opened, row, rows, same_kind=same))
    probability, relevant = np.concatenate(told).astype(float), np.concatenate(right)
    base = float(relevant.mean())
    brier = float(((probability - relevant) ** 2).mean())
    against = base * (1 - base)
    return {
        "queries": len(asked),
        "shown": len(relevant),
        "base rate": round(base, 4),
        "calibration error": error_of(probability, relevant),
        "Brier": round(brier, 4),
        "Brier skill": round(1 - brier / against, 4) if against else None,
        "cut": opened.calibration.cut(query, modality),
        "reliability": [[n, round(p, 4), round(y, 4)] for n, p, y in _bins(probability, relevant)],
    }


def fairness(opened: Collection) -> dict[str, Any]:
    """Captions of stamps with a sound: whether picture and sound both are among ten of a mixed list."""
    asked = [row for row in range(len(opened.rows)) if row in set(opened.galleries[AUDIO].row.tolist())]
    ways: dict[str, list[bool]] = {"probability": [], "cosine": [], "interleaved": []}
    apart, shares = [], []
    for row in asked:
        lists = {}
        for modality in (IMAGE, AUDIO):
            rows, probability, scores = opened.shown(TEXT, opened.captions[row], modality)
            lists[modality] = list(zip(rows.tolist(), probability.tolist(), scores.tolist(), strict=True))
        apart.append(all(row in [one[0] for one in lists[modality]] for modality in lists))
        for way, key in (("probability", 1), ("cosine", 2)):
            both = [(one[key], modality, one[0]) for modality, found in lists.items() for one in found]
            top = sorted(both, key=lambda one: (-one[0], one[1], one[2]))[:SHOWN]
            if way == "probability":
                shares.append(np.mean([modality is AUDIO for _, modality, _ in top]))
            ways[way].append({m for _, m, r in top if r == row} == {IMAGE, AUDIO})
        half = [one[0] for modality in lists for one in lists[modality][: SHOWN // 2] if one[0] == row]
        ways["interleaved"].append(len(half) == 2)
    can = np.array(apart)
    return {
        "queries": len(asked),
        "both among ten of their own lists": int(can.sum()),
        "both among ten of the mixed list, of those": {
            way: round(float(np.array(found)[can].mean()), 4) for way, found in ways.items()
        },
        "sounds' share of the mixed list": round(float(np.mean(shares)), 4),
    }


def decisions(opened: Collection) -> dict[str, Any]:
    """Empty lists for what is absent, and true hits kept, by what is searched."""
    test = {row["id"] for row in stamps.rows_of("test")}
    present = [place for place, row in enumerate(opened.rows) if row["id"] in test]
    lacking = stamps.text_vectors(list(ABSENT))
    found: dict[str, Any] = {}
    for name, wanted in {
        "image": (IMAGE,),
        "audio": (AUDIO,),
        "text": (TEXT,),
        "all": tuple(Modality),
    }.items():
        for limit in ("default", 0.5):
            having = [place for place in present if place in set(opened.galleries[wanted[0]].row.tolist())]
            found.setdefault(name, {})[str(limit)] = _decided(opened, wanted, limit, having, lacking)
    return found


def _decided(
    opened: Collection, wanted: tuple[Modality, ...], limit: Any, present: list[int], lacking: FloatArray
) -> dict[str, Any]:
    empty = [not any(len(_kept(opened, vector, m, limit)[0]) for m in wanted) for vector in lacking]
    answered, among, kept = 0, 0, 0
    for row in present:
        lists = [_kept(opened, opened.captions[row], modality, limit) for modality in wanted]
        answered += any(len(shown) for shown, _ in lists)
        among += any(row in whole for _, whole in lists)
        kept += any(row in shown for shown, _ in lists)
    wrong = len(empty) - sum(empty)
    return {
        "absent: empty": round(float(np.mean(empty)), 4),
        "present: answered (recall)": round(answered / max(1, len(present)), 4),
        "answered: present (precision)": round(answered / max(1, answered + wrong), 4),
        "true hits among ten": among,
        "of those kept": round(kept / max(1, among), 4),
    }


def _kept(opened: Collection, vector: FloatArray, modality: Modality, limit: Any) -> tuple[Any, Any]:
    """Rows that count as good from the limit on, and all; by default the best hit speaks for the list."""
    rows, probability, _ = opened.shown(TEXT, vector, modality)
    if limit == "default":
        good = probability.max(initial=0.0) >= opened.calibration.cut(TEXT, modality)
        return rows if good else rows[:0], rows
    return rows[probability >= limit], rows


def _queries(opened: Collection, query: Modality) -> list[tuple[int, FloatArray]]:
    if query is TEXT:
        return list(enumerate(opened.captions))
    gallery = opened.galleries[query]
    _, first = np.unique(gallery.row, return_index=True)
    return [(int(gallery.row[place]), gallery.vectors[place]) for place in first]


def _relevant(opened: Collection, row: int, rows: npt.NDArray, *, same_kind: bool) -> npt.NDArray[np.bool_]:
    """The query's own stamp and captions nearly alike; between media of one kind the folder too."""
    alike = (rows == row) | (opened.captions[rows] @ opened.captions[row] >= ALIKE)
    if same_kind:
        alike |= np.array([opened.rows[one]["label"] == opened.rows[row]["label"] for one in rows])
    return np.asarray(alike, bool)


def error_of(probability: npt.NDArray, relevant: npt.NDArray[np.bool_]) -> float:
    """The calibration error: how far bins of equal mass are from their share of relevant ones, on average."""
    return round(sum(n * abs(p - y) for n, p, y in _bins(probability, relevant)) / len(relevant), 4)


def _bins(probability: npt.NDArray, relevant: npt.NDArray) -> list[tuple[int, float, float]]:
    """Bins of equal mass: how many, their mean probability, their share of relevant ones."""
    order = np.argsort(probability, kind="stable")
    return [
        (len(one), float(probability[one].mean()), float(relevant[one].mean()))
        for one in np.array_split(order, BINS)
        if len(one)
    ]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
