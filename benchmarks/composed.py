"""Composed queries: the sum of vectors against combinations of scores, on the stamps.

    python benchmarks/composed.py

Constants are chosen on the training half, by the mean over kinds of query of mAP@10, and reported on the test
half. Intervals draw folders, not queries. The starter's picture head was fitted on the training half: there,
everything looks better than it is, and what is chosen there may not be what is best elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import stamps
from common import save, say
from composed_subjects import Asked, Subjects, vectors_of

from indexer.snapshot import Snapshot
from indexer.types import FloatArray, Modality
from retrieval.evaluation.intervals import differences, intervals
from retrieval.evaluation.metrics import PerQuery
from retrieval.query.compose import MIXING, Mixing, centred, combined, likely, standardised, unit
from retrieval.query.language.expressions import influences
from retrieval.query.scores.background import Background
from retrieval.query.scores.calibrate import Calibration
from retrieval.query.scores.calibration_fit import fitted
from retrieval.query.scores.calibration_pairs import answers_of
from retrieval.types import AnyOf, Expression, Not, terms_of

DEPTH = 10
CUTS = (1, 5, 10)
NAMES = {"mAP@R": "mAP@10"}  # what stands in PerQuery.ap here
Doubles = npt.NDArray[np.float64]
Scorer = Callable[[Expression, FloatArray, "Half"], npt.NDArray]


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """A half's pictures, its queries, and the mean vector of each modality of its segments."""

    pictures: FloatArray  # (n, dim)
    centres: Mapping[Modality, FloatArray]
    asked: list[Asked]
    vectors: list[FloatArray]  # a query's terms, (t, dim)
    background: Background

    @classmethod
    def open(cls, half: stamps.Half) -> Half:
        galleries = {one: stamps.gallery(half, one) for one in (Modality.IMAGE, Modality.TEXT)}
        asked = Subjects(half).all()
        pictures = galleries[Modality.IMAGE]
        assert (pictures.row == np.arange(len(pictures.row))).all(), "a picture a stamp, in order"
        centres = {one: gallery.vectors.mean(axis=0) for one, gallery in galleries.items()}
        background = Background.open(Snapshot.open(stamps.stamps_index(half)))
        assert background is not None, "the index of a half has its background"
        return cls(pictures.vectors, centres, asked, vectors_of(asked), background)

    def only(self, kinds: set[str]) -> Half:
        kept = [number for number, one in enumerate(self.asked) if one.kind in kinds]
        return replace(self, asked=[self.asked[at] for at in kept], vectors=[self.vectors[at] for at in kept])


def plain_sum(expression: Expression, vectors: FloatArray, half: Half) -> Doubles:
    """rclip's way: the terms' vectors as they are, those that must not match subtracted."""
    return half.pictures @ unit(np.array(influences(expression)) @ vectors)


def centred_sum(expression: Expression, vectors: FloatArray, half: Half) -> Doubles:
    """The same after each is centred by the mean of its modality."""
    apart = centred(vectors, [term.query.modality for term in terms_of(expression)], half.centres)
    return half.pictures @ unit(np.array(influences(expression)) @ apart)


def z_sum(expression: Expression, vectors: FloatArray, half: Half) -> Doubles:
    """The sum of z-scores: every term's cosines with the same mean and spread."""
    return np.array(influences(expression)) @ _z(vectors, half)


def first_only(expression: Expression, vectors: FloatArray, half: Half) -> Doubles:
    """The first term alone: what the others bring, or cost."""
    return half.pictures @ vectors[0]


def product_of(expression: Expression, vectors: FloatArray, half: Half) -> Doubles:
    """Independent events: the product of values, 1 - value where it must not match; for "any" of misses."""
    told = _signed(expression, vectors, half)
    if isinstance(expression, AnyOf):
        return 1 - np.prod(1 - told, axis=0)
    return np.prod(told, axis=0)


def log_sum_exp(temperature: float) -> Scorer:
    """A soft minimum of another form: -T log mean exp(-value / T); for "any" the maximum of that form."""

    def scored(expression: Expression, vectors: FloatArray, half: Half) -> Doubles:
        sharp = temperature if isinstance(expression, AnyOf) else -temperature
        return sharp * np.log(np.mean(np.exp(_signed(expression, vectors, half) / sharp), axis=0))

    return scored


def _signed(expression: Expression, vectors: FloatArray, half: Half) -> Doubles:
    """Values (t, n) of terms; 1 - value of one that must not match."""
    values = standardised(vectors @ half.pictures.T).astype(np.float64)
    return np.where(np.array(influences(expression))[:, None] > 0, values, 1 - values)


def mixed(mixing: Mixing) -> Scorer:
    """What a search does without calibration, with these constants."""

    def scored(expression: Expression, vectors: FloatArray, half: Half) -> Doubles:
        cosine = vectors @ half.pictures.T
        return combined(expression, standardised(cosine, mixing=mixing), mixing=mixing)

    return scored


def calibrated(calibration: Calibration, *, only: bool) -> Scorer:
    """By probabilities; unless they are the `only` ones, what must not match by how far it stands out.

    A picture has no probability for pictures: queries with one are as by default.
    """

    def scored(expression: Expression, vectors: FloatArray, half: Half) -> Doubles:
        cosine = vectors @ half.pictures.T
        values = standardised(cosine)
        rows = [
            calibration.probabilities(line, term.query.modality, Modality.IMAGE, half.background, vector)
            for line, term, vector in zip(cosine, terms_of(expression), vectors, strict=True)
        ]
        known = [row for row in rows if row is not None]
        if len(known) == len(rows):
            values = np.stack(known) if only else likely(expression, np.stack(known), values)
        return combined(expression, values)

    return scored


def _z(vectors: FloatArray, half: Half) -> Doubles:
    cosine = (vectors @ half.pictures.T).astype(np.float64)
    return (cosine - cosine.mean(axis=1, keepdims=True)) / cosine.std(axis=1, keepdims=True)


def measured(half: Half, scorer: Scorer) -> tuple[PerQuery, PerQuery]:
    """Each query's rank and average precision; and the share of forbidden ones in the first ten, as `ap`."""
    rank, precision, relevant, violated = [], [], [], []
    for one, vectors in zip(half.asked, half.vectors, strict=True):
        score = np.where(one.asked, -np.inf, scorer(one.expression, vectors, half))
        # Wrong ones that tie come first, so that equal scores never help.
        order = np.lexsort((one.right, -score))
        right = one.right[order]
        hits, at = right[:DEPTH], np.arange(1, DEPTH + 1)
        rank.append(int(np.flatnonzero(right)[0]) + 1)
        precision.append(float((np.cumsum(hits) / at * hits).sum() / min(DEPTH, right.sum())))
        relevant.append(int(right.sum()))
        violated.append(float(one.forbidden[order][:DEPTH].mean()))
    ranks, count = np.array(rank, np.int64), np.array(relevant, np.int64)
    zeros, size = np.zeros(len(rank)), len(half.pictures)
    return (
        PerQuery(ranks, zeros, np.array(precision), count, size),
        PerQuery(ranks, zeros, np.array(violated), count, size),
    )


def by_kind(half: Half) -> dict[str, Half]:
    return {kind: half.only({kind}) for kind in dict.fromkeys(one.kind for one in half.asked)}


def macro(kinds: Iterable[Half], scorer: Scorer) -> float:
    """The mean over kinds of mAP@10: what is chosen by."""
    return float(np.mean([measured(half, scorer)[0].ap.mean() for half in kinds]))


def chosen(halves: dict[str, Half]) -> tuple[Mixing, list[dict[str, Any]]]:
    """The constants that do best here, one group of them after the other; and all that was tried.

    A "not" that takes from every item is tried but not chosen: it must leave alone what it does not mean.
    """
    grids: list[dict[str, tuple[float, ...]]] = [
        {
            "z_half": (2.0, 2.5, 3.0, 4.0),
            "z_slope": (0.25, 0.5, 1.0, 2.0),
            "not_from": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
        },
        {"all_power": (0.0, -0.5, -1.0, -2.0, -8.0)},
        {"any_power": (1.0, 2.0, 4.0, 8.0, 16.0)},
    ]
    best, tried = replace(MIXING, all_power=0.0, any_power=4.0), list[dict[str, Any]]()
    for grid in grids:
        scores = {}
        for values in product(*grid.values()):
            mixing = replace(best, **dict(zip(grid, values, strict=True)))
            score = macro(halves.values(), mixed(mixing))
            tried.append({**asdict(mixing), "mAP@10": round(score, 4), "biting": _biting(mixing)})
            if not _biting(mixing):
                scores[mixing] = score
        best = max(scores, key=lambda one: scores[one])
    return best, tried


def _biting(mixing: Mixing) -> bool:
    """Whether "not" takes something from an average item already: then it is a sum under another name."""
    return bool(mixing.not_from < 1 / (1 + np.exp(mixing.z_slope * mixing.z_half)))


def table(halves: dict[str, Half], scorers: dict[str, Scorer]) -> dict[str, Any]:
    """Every metric with its interval, by kind of query and method."""
    found: dict[str, Any] = {}
    for kind, half in halves.items():
        groups = np.unique([one.group for one in half.asked], return_inverse=True)[1]
        negated = any(isinstance(part, Not) for part in getattr(half.asked[0].expression, "parts", ()))
        own = {name: measured(half, scorer) for name, scorer in scorers.items()}
        rows = {}
        for name, (ranked, broken) in own.items():
            told = intervals(ranked, groups, ks=CUTS)
            rows[name] = {
                NAMES.get(metric, metric): _rounded(told[metric])
                for metric in (*(f"R@{k}" for k in CUTS), "mAP@R")
            }
            if negated:
                rows[name]["forbidden in the first 10"] = _rounded(
                    intervals(broken, groups, ks=CUTS)["mAP@R"]
                )
        gain = differences(own["default"][0], own["plain sum"][0], groups, ks=CUTS)
        found[kind] = {
            "queries": len(half.asked),
            "folders": int(groups.max()) + 1,
            "methods": rows,
            "default minus plain sum": {
                NAMES.get(metric, metric): _rounded(gain[metric]) for metric in ("R@1", "R@10", "mAP@R")
            },
        }
        say(kind, {name: row["mAP@10"] for name, row in rows.items()})
    return found


def _rounded(one: Any) -> list[float]:
    """[value, low, high]."""
    return [round(float(value), 4) for value in (one.value, one.low, one.high)]


def main() -> None:
    train, test = by_kind(Half.open("train")), by_kind(Half.open("test"))
    best, tried = chosen(train)
    say("chosen on the training half", asdict(best), "in the code", asdict(MIXING))
    with Snapshot.open(stamps.stamps_index("train")) as snapshot:
        calibration = fitted(answers_of(snapshot))
    scorers: dict[str, Scorer] = {
        "first term alone": first_only,
        "plain sum": plain_sum,
        "centred sum": centred_sum,
        "sum of z-scores": z_sum,
        "product": product_of,
        "log-sum-exp": log_sum_exp(0.1),
        "geometric mean": mixed(replace(best, all_power=0.0)),
        "harmonic mean": mixed(replace(best, all_power=-1.0)),
        "near minimum": mixed(replace(best, all_power=-8.0)),
        "probabilities": calibrated(calibration, only=True),
        "probabilities, not by z-score": calibrated(calibration, only=False),
        "default": mixed(MIXING),
    }
    save(
        "composed",
        {
            "model": stamps.model().space_id,
            "constants": asdict(MIXING),
            "chosen": asdict(best),
            "train": {name: round(macro(train.values(), one), 4) for name, one in scorers.items()},
            "test": {name: round(macro(test.values(), one), 4) for name, one in scorers.items()},
            "by kind": table(test, scorers),
            "tried": sorted(tried, key=lambda one: -one["mAP@10"])[:20],
        },
    )


if __name__ == "__main__":
    main()
