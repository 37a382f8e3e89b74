"""Concepts from examples of two modalities, and concepts beside words in one query, on the stamps.

    python benchmarks/concept_terms.py

First, for every folder with enough of both: a concept from three pictures, from three sounds or captions, and
from all six, DRAWS times; how it ranks what is left of each modality, and what a probability of one half
keeps. Then queries of a concept (three pictures of a folder) and a word of captions, joined and negated,
against the concept alone, the word alone and the folder's name beside the word. What is right is as in
composed.py. The training half, where a scale for the concept's values would have been chosen, stands beside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from common import save, say
from composed_subjects import FOLDERS, STYLE, Bools, Subjects
from concepts import average_precision, interval
from stamps import Half, gallery, labels, model, text_vectors

from indexer.types import FloatArray, Modality
from retrieval.query.compose import combined, standardised
from retrieval.query.concepts.learning import frame_of
from retrieval.query.concepts.probe import Probe, fit
from retrieval.types import AllOf, Not, Query, Term

EXAMPLES = 3
DRAWS = 8
PICTURES = (10, 80)  # of a folder, the fewest and the most
LEFT = {Modality.AUDIO: 2, Modality.TEXT: 4}  # to find, beside the examples
FOUND = 10
IMAGE, TEXT = Modality.IMAGE, Modality.TEXT

Rows = npt.NDArray[np.intp]
Numbers = dict[str, list[float]]


# Two modalities


def of_two(half: Half, other: Modality) -> dict[str, Any]:
    """By what the examples are: average precision and what one half keeps, of each modality."""
    galleries = {one: gallery(half, one) for one in (IMAGE, other)}
    frames = {one: frame_of(held.vectors) for one, held in galleries.items()}
    framed = {one: frames[one].framed(held.vectors) for one, held in galleries.items()}
    own = labels(half)
    found: dict[str, dict[str, dict[str, Numbers]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    kinds = sorted({"/".join(label.split("/")[:deep]) for label in own for deep in (1, 2, 3)})
    taken = 0
    for number, kind in enumerate(kinds):
        good = {
            one: np.array([f"{own[row]}/".startswith(f"{kind}/") for row in held.row])
            for one, held in galleries.items()
        }
        fits = PICTURES[0] <= good[IMAGE].sum() <= PICTURES[1]
        if not fits or good[other].sum() < EXAMPLES + LEFT[other]:
            continue
        taken += 1
        for draw in range(DRAWS):
            random = np.random.default_rng([number, draw])
            yes = {
                one: random.choice(np.flatnonzero(good[one]), EXAMPLES, replace=False) for one in galleries
            }
            for name, kept in (("pictures", (IMAGE,)), (other.value, (other,)), ("both", (IMAGE, other))):
                probe = learned(framed, {one: yes[one] for one in kept})
                for one in galleries:
                    numbers = judged(framed[one], good[one], yes[one], probe, one)
                    for what, value in numbers.items():
                        found[name][one.value].setdefault(what, []).append(value)
    return {
        "folders": taken,
        **{name: {one: _kept(n) for one, n in each.items()} for name, each in found.items()},
    }


def learned(framed: dict[Modality, FloatArray], yes: dict[Modality, Rows]) -> Probe:
    """A concept from some rows of each modality, against all others, as `learning.learn` has it."""
    rest = {one: np.setdiff1d(np.arange(len(framed[one])), rows) for one, rows in yes.items()}
    groups = [one.value for side in (yes, rest) for one, rows in side.items() for _ in rows]
    good, others = (np.concatenate([framed[one][rows] for one, rows in side.items()]) for side in (yes, rest))
    return fit(good, good[:0], others, groups=np.array(groups))


def judged(rows: FloatArray, good: Bools, yes: Rows, probe: Probe, modality: Modality) -> dict[str, float]:
    """A ranking of what is left of a modality, and what its probabilities keep."""
    rest = np.setdiff1d(np.arange(len(rows)), yes)
    scale, bias = probe.lines.get(modality.value, (probe.scale, probe.bias))
    odds, right = rows[rest] @ probe.direction * scale + bias, good[rest]
    return {
        "average precision": average_precision(odds, right),
        "kept": float((odds > 0).sum()),
        "right": float(right[odds > 0].sum()),
        "of": float(right.sum()),
    }


def _kept(numbers: Numbers) -> dict[str, Any]:
    precision = sum(numbers["right"]) / max(1.0, sum(numbers["kept"]))
    return {
        "average precision": round(float(np.mean(numbers["average precision"])), 4),
        "kept at one half": int(sum(numbers["kept"])),
        "precision": round(precision, 4),
        "recall": round(sum(numbers["right"]) / sum(numbers["of"]), 4),
    }


# Beside words


def beside_words(half: Half) -> dict[str, Any]:
    """mAP@10 of joined and negated words, with intervals over folders; what is forbidden in the first ten."""
    found: dict[str, dict[str, dict[str, Numbers]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for operator, folder, way, precision, forbidden in asked(half):
        found[operator][way].setdefault(folder, []).append(precision)
        if operator == "not":
            found[operator][f"{way}: forbidden"].setdefault(folder, []).append(forbidden)
    told: dict[str, Any] = {}
    for operator, ways in found.items():
        means = {way: np.array([np.mean(one) for one in by.values()]) for way, by in ways.items()}
        told[operator] = {"folders": len(means["concept and word"])}
        told[operator] |= {way: interval(mean) for way, mean in means.items()}
        told[operator]["concept and word less concept"] = interval(
            means["concept and word"] - means["concept"]
        )
    return told


def asked(half: Half) -> Iterator[tuple[str, str, str, float, float]]:
    """Operator, folder, way, average precision among ten, share of forbidden ones among ten."""
    subjects = Subjects(half)
    pictures = gallery(half, IMAGE).vectors
    names = [*(name for name in subjects.members if name.startswith("word ")), STYLE]
    texts = dict(
        zip(subjects.members, text_vectors([_words(name) for name in subjects.members]), strict=True)
    )
    for number, folder in enumerate(FOLDERS):
        inside = subjects.members[folder]
        if folder == STYLE or not 8 <= inside.sum() <= 60:
            continue
        for draw in range(DRAWS // 2):
            random = np.random.default_rng([number, draw])
            yes = random.choice(np.flatnonzero(inside), EXAMPLES, replace=False)
            ways = _Ways(pictures, yes, texts[folder])
            for name in names:
                both = inside & subjects.members[name]
                for operator, right in (("and", both), ("not", inside & ~both)):
                    right = right & ~np.isin(np.arange(len(right)), yes)
                    apart = 0 < both.sum() < min(inside.sum(), subjects.members[name].sum())
                    if right.any() and (apart if operator == "and" else both.sum() >= 2):
                        for way, score in ways.scores(texts[name], negated=operator == "not").items():
                            yield operator, folder, way, *_among_ten(score, right, both, yes)


class _Ways:
    """A concept's cosines with all pictures, and the scores of queries with it by way."""

    def __init__(self, pictures: FloatArray, yes: Rows, name: FloatArray) -> None:
        self.pictures, self.name = pictures, pictures @ name
        frame = frame_of(pictures)
        probe = learned({IMAGE: frame.framed(pictures)}, {IMAGE: yes})
        self.concept = pictures @ probe.direction
        odds = frame.framed(pictures) @ probe.direction * probe.scale + probe.bias
        self.probability = (1 / (1 + np.exp(-np.clip(odds, -500, 500)))).astype(np.float32)

    def scores(self, word: FloatArray, *, negated: bool) -> dict[str, FloatArray]:
        one, other = (Term(Query(TEXT, text=name)) for name in "ab")
        expression = AllOf((one, Not(other) if negated else other))
        beside = self.pictures @ word
        value = standardised(np.stack([self.concept, beside]))
        # The concept on the scale of the folder's name: its order, with the name's values.
        renamed = np.empty_like(self.concept)
        renamed[np.argsort(self.concept, kind="stable")] = np.sort(self.name)
        return {
            "concept": self.concept,
            "word": -beside if negated else beside,
            "folder's name and word": combined(expression, standardised(np.stack([self.name, beside]))),
            "concept and word": combined(expression, value),
            "by the concept's probability": combined(expression, np.stack([self.probability, value[1]])),
            "on the name's scale": combined(expression, standardised(np.stack([renamed, beside]))),
        }


def _words(name: str) -> str:
    return FOLDERS.get(name) or name.removeprefix("word ")


def _among_ten(score: FloatArray, right: Bools, forbidden: Bools, yes: Rows) -> tuple[float, float]:
    ranked = np.asarray(score, np.float64).copy()
    ranked[yes] = -np.inf
    order = np.lexsort((right, -ranked))[:FOUND]
    hits = right[order]
    precision = float((np.cumsum(hits) / np.arange(1, FOUND + 1) * hits).sum() / min(FOUND, right.sum()))
    return precision, float(forbidden[order].mean())


def main() -> None:
    result: dict[str, Any] = {"model": model().name, "space_id": model().space_id, "draws": DRAWS}
    for half in ("train", "test"):
        two = {other.value: of_two(half, other) for other in LEFT}
        result[half] = {"examples of two modalities": two, "beside words": beside_words(half)}
        say(half, result[half])
    save("concept_terms", result)


if __name__ == "__main__":
    main()
