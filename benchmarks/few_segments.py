"""Whether a collection of few pictures or sounds can have honest probabilities, on the stamps' test half.

    python benchmarks/few_segments.py

A query that is a picture or a sound has none where the collection has fewer than 30 of its kind to tell usual
best scores from (background.FEWEST). Here are collections of 10, 20 and 29, drawn DRAWS times, judged by what
ships in two ways: by the best scores of these few all the same ("few"), and by the best that so many segments
would have by chance, given the query's own cosines with all others ("chance"). Calibration error, Brier skill
and what is right are those of calibration.py; collections of up to 120 stand beside. Nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import stamps
from calibration import ALIKE, SHOWN, error_of
from common import save, say

from indexer.types import FloatArray, Modality
from indexer.vectors import IndexArray
from retrieval.query.scores.calibrate import Line, features, of_model

DRAWS = 20
FEW = (10, 20, 29)
TEXT, IMAGE, AUDIO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO
PAIRS = [(asked, found) for asked in (IMAGE, AUDIO) for found in (IMAGE, TEXT, AUDIO)]
CHANCE = 4000  # draws that tell the best of so many


@dataclass(frozen=True, eq=False)
class Side:
    """Some stamps' segments of one modality."""

    vectors: FloatArray  # (n, dim)
    row: IndexArray  # (n,)

    @classmethod
    def of(cls, modality: Modality, rows: IndexArray) -> Side:
        gallery = stamps.gallery("test", modality)
        kept = np.isin(gallery.row, rows)
        return cls(gallery.vectors[kept], gallery.row[kept])


def measured(asked: Modality, found: Modality, sizes: tuple[int, int], draws: int) -> dict[str, Any]:
    """Error and skill by way, of collections with so many stamps of each modality."""
    calibration = of_model(stamps.model())
    assert calibration is not None, "the starter ships one"
    told: dict[str, list[FloatArray]] = {"few": [], "chance": []}
    right = []
    for draw in range(draws):
        one, other = drawn(asked, found, sizes, np.random.default_rng([*sizes, draw]))
        for relevant, ways in judged(one, other, calibration.lines[asked, found], same=asked is found):
            right.append(relevant)
            for way, probability in ways.items():
                told[way].append(probability)
    relevant = np.concatenate(right)
    base = float(relevant.mean())
    found_by_way = {way: np.concatenate(rows).astype(float) for way, rows in told.items()}
    return {
        "shown": len(relevant),
        "base rate": round(base, 4),
        **{
            way: {
                "calibration error": error_of(rows, relevant),
                "Brier skill": round(1 - float(((rows - relevant) ** 2).mean()) / (base * (1 - base)), 4),
            }
            for way, rows in found_by_way.items()
        },
    }


def drawn(
    asked: Modality, found: Modality, sizes: tuple[int, int], random: np.random.Generator
) -> tuple[Side, Side]:
    """Both sides of a collection; as many stamps as can be have both."""
    have = [stamps.gallery("test", modality).rows for modality in (asked, found)]
    both = np.intersect1d(*have)
    core = random.permutation(both)[: min(*sizes, len(both))]
    rows = [
        np.union1d(core, random.permutation(np.setdiff1d(own, core))[: size - len(core)])
        for own, size in zip(have, sizes, strict=True)
    ]
    one = Side.of(asked, rows[0])
    return one, one if asked is found else Side.of(found, rows[1])


def judged(
    one: Side, other: Side, line: Line, *, same: bool
) -> Iterator[tuple[np.ndarray, dict[str, FloatArray]]]:
    """For each query what is right among its ten best, and their probabilities by way."""
    scores = one.vectors @ other.vectors.T
    foreign = np.where(one.row[:, None] == other.row, -np.inf, scores).max(axis=1)
    best = np.sort(foreign[np.isfinite(foreign)])
    captions, labels = stamps.text_vectors(stamps.texts("test")), np.array(stamps.labels("test"))
    chance = np.random.default_rng(0).standard_normal((CHANCE, len(other.row))).max(axis=1)
    for place in np.unique(one.row, return_index=True)[1].tolist():
        row = one.row[place]
        if row not in other.row:
            continue
        own = (other.row == row) if same else np.zeros(len(other.row), bool)
        usual = float(scores[place].mean()), max(float(scores[place].std()), 1e-3)
        order = np.argsort(np.where(own, np.inf, -scores[place]), kind="stable")
        top = order[: min(SHOWN, int((~own).sum()))]
        relevant = (other.row[top] == row) | (captions[other.row[top]] @ captions[row] >= ALIKE)
        if same:
            relevant |= labels[other.row[top]] == labels[row]
        by_chance = np.array([chance.mean() - chance.std(), chance.mean() + chance.std()])
        rest = scores[place][~own]
        ways = {"few": best, "chance": (rest.mean() + rest.std() * by_chance).astype(np.float32)}
        yield (
            relevant,
            {way: line(features(scores[place][top], known, usual)) for way, known in ways.items()},
        )


def main() -> None:
    rows = []
    for asked, found in PAIRS:
        most = [len(stamps.gallery("test", modality).rows) for modality in (asked, found)]
        every = [(size, size) for size in FEW] + ([] if asked is found else [(size, 120) for size in FEW])
        every += [(min(120, most[0]), min(120, most[1]))]
        for sizes in dict.fromkeys((min(a, most[0]), min(b, most[1])) for a, b in every):
            row = measured(asked, found, sizes, DRAWS if min(sizes) in FEW else 4)
            row = {"pair": f"{asked} to {found}", "of the query's": sizes[0], "of the hits'": sizes[1], **row}
            say(row)
            rows.append(row)
    save("few_segments", {"model": stamps.model().name, "draws": DRAWS, "rows": rows})


if __name__ == "__main__":
    main()
