"""Fitting a calibration: from collections with known answers to the logistic maps of calibrate.py.

Needs scikit-learn; nothing that searches imports this. What is fitted on is what is shown: the best hits of
each query in collections of several sizes, of which some lack what the query is about, with whether they are
relevant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from indexer.types import FloatArray
from indexer.vectors import BoolArray, IndexArray
from retrieval.query.scores.calibrate import FEATURES, Calibration, Line, Pair, features

SHOWN = 10  # hits of a query that count
FEWEST = 20  # relevant hits among those shown from which a pair is fitted
SIZES = (1.0, 0.5, 0.25)  # shares of the items that the collections fitted on have
ABSENT = 0.25  # of the queries, those whose relevant items are taken out of the collection
KEPT = 0.9  # of the lists with something relevant, those that a default search shows
PENALTY = 1.0  # inverse strength of the ridge on weights, scikit-learn's C


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Queries of one modality against segments of another, with what is right."""

    queries: FloatArray  # (q, dim), unit
    segments: FloatArray  # (n, dim), unit
    item: npt.NDArray[np.intp]  # (n,) the item of each segment
    relevant: BoolArray  # (q, n)
    own: BoolArray  # (q, n): of the query's own item, and not to be shown; none for words
    bank: FloatArray  # (b, dim) background queries of the queries' modality
    foreign: BoolArray  # (b, n): which segments each may be compared with


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What queries are shown in one collection: features (s, FEATURES), relevance (s,), the query's number
    (s,).
    """

    told: FloatArray
    relevant: BoolArray
    query: npt.NDArray[np.intp]
    lacking: BoolArray  # (q,) queries of which everything relevant was taken out
    possible: int  # queries with something relevant in the collection


def fitted(answers: dict[Pair, Answers], *, seed: int = 0) -> Calibration:
    """The maps of the pairs that have enough answers, with how many each was fitted on, or were too few."""
    lines, counts, few = {}, {}, {}
    for pair, one in answers.items():
        shown = list(collections_of(one, seed=seed))
        told = np.concatenate([each.told for each in shown])
        right = np.concatenate([each.relevant for each in shown])
        count = {"shown": len(right), "relevant": int(right.sum())}
        if min(count["relevant"], len(right) - count["relevant"]) < FEWEST:
            few["/".join(pair)] = count
            continue
        weights, bias = logistic(told, right)
        line = Line(weights, bias, 0.0)
        lines[pair] = Line(weights, bias, _cut_of(line, shown))
        counts["/".join(pair)] = count
    return Calibration(lines, {"fitted on": counts, **({"too few": few} if few else {})})


def collections_of(answers: Answers, *, seed: int) -> Iterator[Shown]:
    """What is shown in collections of each size; in each, some queries lack what is relevant.

    Every pair of modalities is asked by queries that the whole collection has something for: the same chance
    of being there is behind the probabilities of all of them, and a list mixed of them is fair. Media of one
    kind are asked in the whole collection only, as what is of their folder grows with it.
    """
    random = np.random.default_rng(seed)
    asked = (answers.relevant & ~answers.own).any(axis=1)
    chosen = replace(
        answers, queries=answers.queries[asked], relevant=answers.relevant[asked], own=answers.own[asked]
    )
    items = np.unique(answers.item)
    for share in SIZES[:1] if answers.own.any() else SIZES:
        kept = random.permutation(items)[: max(1, round(share * len(items)))]
        inside = np.isin(answers.item, kept)
        if inside.sum() > SHOWN:
            lacking = random.random(len(chosen.queries)) < ABSENT
            yield shown_in(chosen, inside, lacking)


def shown_in(answers: Answers, inside: BoolArray, lacking: BoolArray) -> Shown:
    """What each query is shown of the segments `inside` (n,); of those `lacking` (q,) without what is
    relevant.
    """
    best = best_of(answers, inside)
    scores = np.where(inside & ~answers.own, answers.queries @ answers.segments.T, -np.inf)
    scores = np.where(lacking[:, None] & answers.relevant, -np.inf, scores)
    right = answers.relevant & inside & ~answers.own & ~lacking[:, None]
    told, relevant, query = [], [], []
    for number, line in enumerate(scores):
        known = line[np.isfinite(line)]
        top = np.argsort(-line, kind="stable")[: min(SHOWN, len(known))]
        told.append(features(line[top], best, (float(known.mean()), float(known.std()))))
        relevant.append(right[number, top])
        query.append(np.full(len(top), number))
    return Shown(
        np.concatenate(told),
        np.concatenate(relevant),
        np.concatenate(query),
        lacking,
        int(right.any(1).sum()),
    )


def best_of(answers: Answers, inside: BoolArray) -> FloatArray:
    """The best score of each background query with a segment `inside`, ascending."""
    scores = np.where(answers.foreign & inside, answers.bank @ answers.segments.T, -np.inf).max(axis=1)
    return np.sort(scores[np.isfinite(scores)]).astype(np.float32)


def logistic(told: FloatArray, relevant: BoolArray) -> tuple[tuple[float, ...], float]:
    """Weights and bias of a logistic regression none of whose weights is negative.

    A feature that comes out negative is left out and the others are fitted again.
    """
    from sklearn.linear_model import LogisticRegression

    kept = list(range(FEATURES))
    while kept:
        model = LogisticRegression(C=PENALTY).fit(told[:, kept], relevant)
        found = dict(zip(kept, model.coef_[0].tolist(), strict=True))
        if min(found.values()) >= 0:
            return tuple(found.get(number, 0.0) for number in range(FEATURES)), float(model.intercept_[0])
        kept.remove(min(found, key=found.__getitem__))
    share = float(relevant.mean())
    return (0.0,) * FEATURES, float(np.log(share / (1 - share)))


def best_cut(probability: FloatArray, relevant: BoolArray, query: IndexArray, queries: int) -> float:
    """The probability that the best hit of a list must have for the list to be shown.

    It is the highest that keeps `KEPT` of the lists that have a relevant hit, rounded down to 0.01: a list of
    nothing good costs a look at it, one that is kept back costs what it holds. `query` (s,) numbers the
    queries of the hits (s,), from 0.
    """
    best, good = np.zeros(queries), np.zeros(queries, bool)
    np.maximum.at(best, query, probability)
    good[query[relevant]] = True
    return float(np.floor(100 * np.quantile(best[good], 1 - KEPT)) / 100)


def _cut_of(line: Line, shown: Sequence[Shown]) -> float:
    """The cut of a map, over all collections."""
    starts = np.cumsum([0, *(len(each.lacking) for each in shown)])
    return best_cut(
        line(np.concatenate([each.told for each in shown])),
        np.concatenate([each.relevant for each in shown]),
        np.concatenate([each.query + start for each, start in zip(shown, starts, strict=False)]),
        int(starts[-1]),
    )
