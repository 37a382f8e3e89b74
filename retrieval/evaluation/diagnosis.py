"""What a metric alone does not tell: similarities of pairs, the modality gap, the worst failures. numpy only.

Numbers for the report; drawn in plots.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from indexer.types import FloatArray, Modality
from retrieval.evaluation.ranking import Doubles, pair_scores
from retrieval.evaluation.relevance import Direction, Matching
from retrieval.evaluation.run import DirectionResult
from retrieval.training.types import Examples, Ints

PAIRS = 20_000  # similarities sampled of each kind
POINTS = 1_500  # contents of a modality that are drawn
_TRIES = 8  # rounds in which pairs that turn out relevant are drawn again


@dataclass(frozen=True, slots=True, eq=False)
class Similarities:
    """Cosines of relevant pairs and of others, sampled, in [-1, 1]."""

    direction: Direction
    pairs: Doubles
    others: Doubles  # empty where everything is relevant to everything

    @property
    def apart(self) -> float:
        """How likely a pair scores above a non-pair, in [0, 1]; .5 is chance. NaN without non-pairs."""
        if not len(self.others):
            return float("nan")
        others = np.sort(self.others)
        below = np.searchsorted(others, self.pairs, side="left")
        upto = np.searchsorted(others, self.pairs, side="right")
        return float((below + upto).mean() / (2 * len(others)))


class Gap(NamedTuple):
    """The distance between the centroids of two modalities' unit vectors, in [0, 2]."""

    first: Modality
    second: Modality
    distance: float


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """All modalities in the plane that holds most of their variance."""

    points: Mapping[Modality, Doubles]  # (points, 2)
    centroids: Mapping[Modality, Doubles]  # (2,)
    explained: float  # share of the variance, in [0, 1]


class Miss(NamedTuple):
    """A query whose best relevant content ranks low. Numbers are of contents."""

    direction: Direction
    query: int
    wanted: int  # its best relevant content
    got: int  # what ranks first instead
    rank: int  # of `wanted`
    gallery: int
    wanted_score: float
    got_score: float


def similarities(
    vectors: Mapping[Modality, FloatArray], result: DirectionResult, *, seed: int = 0, limit: int = PAIRS
) -> Similarities:
    """At most `limit` cosines of relevant pairs and as many of pairs that are not, drawn at random."""
    random = np.random.default_rng(seed)
    first, second = result.direction
    matching = result.matching
    rows = random.integers(len(matching.queries), size=limit)
    columns = _relevant(matching, rows, random)
    if int(matching.relevance.counts().sum()) <= limit:  # all of them, once each
        rows = np.repeat(np.arange(len(matching.queries)), matching.relevance.counts())
        columns = np.concatenate([matching.relevance.of(row) for row in range(len(matching.queries))])
    other_rows, other_columns = _not_relevant(matching, random, limit)
    queries, gallery = vectors[first], vectors[second]

    def cosines(asked: Ints, held: Ints) -> Doubles:
        return pair_scores(queries, gallery, matching.queries[asked], matching.gallery[held])

    return Similarities(result.direction, cosines(rows, columns), cosines(other_rows, other_columns))


def _relevant(matching: Matching, rows: Ints, random: np.random.Generator) -> Ints:
    """One relevant gallery row for each query named."""
    relevance = matching.relevance
    lists = rows if relevance.lists is None else relevance.lists[rows]
    starts, ends = relevance.indptr[lists], relevance.indptr[lists + 1]
    return relevance.indices[random.integers(starts, ends)]


def _not_relevant(matching: Matching, random: np.random.Generator, limit: int) -> tuple[Ints, Ints]:
    """Random pairs without those that are relevant; drawn again a few times where most are."""
    size = len(matching.gallery)
    found: list[Ints] = []
    missing = limit
    for _ in range(_TRIES):
        rows = random.integers(len(matching.queries), size=missing)
        columns = random.integers(size, size=missing)
        wrong = np.array(
            [
                not _holds(matching.relevance.of(row), column)
                for row, column in zip(rows, columns, strict=True)
            ],
            bool,
        )
        found.append(np.stack([rows[wrong], columns[wrong]]))
        missing -= int(wrong.sum())
        if not missing:
            break
    rows, columns = np.concatenate(found, axis=1)
    return rows, columns


def _holds(ascending: Ints, value: int) -> bool:
    place = int(np.searchsorted(ascending, value))
    return place < len(ascending) and int(ascending[place]) == value


def modality_gaps(vectors: Mapping[Modality, FloatArray], examples: Examples) -> list[Gap]:
    """For each two modalities the distance of their centroids, over the contents that the rows use.

    Liang et al. 2022, arXiv:2203.02053. Each content counts once.
    """
    centres = {m: table.mean(axis=0, dtype=np.float64) for m, table in _used(vectors, examples).items()}
    return [Gap(a, b, float(np.linalg.norm(centres[a] - centres[b]))) for a, b in combinations(centres, 2)]


def plane(
    vectors: Mapping[Modality, FloatArray], examples: Examples, *, seed: int = 0, limit: int = POINTS
) -> Plane:
    """The first two principal components of all modalities together, at most `limit` points of each."""
    random = np.random.default_rng(seed)
    used = _used(vectors, examples)
    drawn = {
        m: table[np.sort(random.choice(len(table), min(limit, len(table)), replace=False))]
        for m, table in used.items()
    }
    together = np.concatenate(list(drawn.values())).astype(np.float64)
    mean = together.mean(axis=0)
    values, axes = np.linalg.eigh((together - mean).T @ (together - mean))
    main = axes[:, -2:][:, ::-1]
    if main.shape[1] < 2:  # one dimension
        main = np.pad(main, ((0, 0), (0, 2 - main.shape[1])))
    main = main * np.where(main[np.abs(main).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)  # one sign everywhere
    total = float(values.sum())
    return Plane(
        {m: (table - mean) @ main for m, table in drawn.items()},
        {m: (table.mean(axis=0, dtype=np.float64) - mean) @ main for m, table in used.items()},
        float(values[-2:].sum()) / total if total > 0 else 0.0,
    )


def _used(vectors: Mapping[Modality, FloatArray], examples: Examples) -> dict[Modality, FloatArray]:
    """The vectors of the contents that some row has, by modality."""
    numbers = {m: np.unique(slots[slots >= 0]) for m, slots in examples.contents.items()}
    return {m: vectors[m][numbers[m]] for m in Modality if m in numbers and len(numbers[m])}


def worst_misses(
    vectors: Mapping[Modality, FloatArray], result: DirectionResult, *, limit: int
) -> list[Miss]:
    """The queries whose best relevant content ranks lowest, worst first; none that is right at rank 1."""
    ranks = result.scores.rank
    order = np.argsort(-ranks, kind="stable")[:limit]
    return [_miss(vectors, result, int(row)) for row in order if ranks[row] > 1]


def _miss(vectors: Mapping[Modality, FloatArray], result: DirectionResult, row: int) -> Miss:
    matching = result.matching
    first, second = result.direction
    query = int(matching.queries[row])
    held = vectors[second]
    asked = np.broadcast_to(vectors[first][query], (1, held.shape[1]))
    scores = pair_scores(asked, held, np.zeros(len(matching.gallery), np.int64), matching.gallery)
    relevant = matching.relevance.of(row)
    best = int(relevant[scores[relevant].argmax()])
    top = int(scores.argmax())
    return Miss(
        result.direction,
        query,
        int(matching.gallery[best]),
        int(matching.gallery[top]),
        int(result.scores.rank[row]),
        result.gallery,
        float(scores[best]),
        float(scores[top]),
    )
