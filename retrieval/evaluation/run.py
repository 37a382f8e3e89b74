"""A whole evaluation: every direction between modalities, measured with intervals; and two of them compared.

Vectors come from encode.py (a model over rows) or index.py (an index); what is shown of them is made in
report.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from indexer.errors import TrainingError
from indexer.types import FloatArray, Modality
from retrieval.evaluation.encode import EncodedRows, encode_rows
from retrieval.evaluation.intervals import RESAMPLES, Difference, Interval, differences, intervals
from retrieval.evaluation.metrics import KS, PerQuery, checked_vectors, score_direction
from retrieval.evaluation.ranking import CHUNK
from retrieval.evaluation.relevance import Direction, Matching, directions, match
from retrieval.training.types import Examples

__all__ = [
    "Comparison",
    "DirectionResult",
    "EncodedRows",
    "Evaluation",
    "Settings",
    "compare",
    "encode_rows",
    "evaluate",
]


@dataclass(frozen=True, slots=True)
class Settings:
    """How an evaluation is done. Two with other settings or rows cannot be compared."""

    ks: tuple[int, ...] = KS  # of R@k
    seed: int = 0  # of the bootstrap
    resamples: int = RESAMPLES  # of the bootstrap and the permutation test
    by_label: bool = False  # relevant is what has the query's label, not what shares its row

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or self.resamples < 1:
            raise TrainingError(
                f"evaluation at k = {self.ks} with {self.resamples} resamples",
                hint="every k and the number of resamples must be 1 or more",
            )


@dataclass(frozen=True, slots=True, eq=False)
class DirectionResult:
    """One direction measured."""

    direction: Direction
    metrics: Mapping[str, Interval]  # by name, as metrics.summarise has them
    chance: Mapping[str, float]  # R@k of a random order
    scores: PerQuery
    matching: Matching

    @property
    def name(self) -> str:
        return f"{self.direction[0]} to {self.direction[1]}"

    @property
    def queries(self) -> int:
        return len(self.scores)

    @property
    def gallery(self) -> int:
        return self.scores.gallery

    @property
    def relevant(self) -> float:
        """How many relevant contents a query has, on average."""
        return float(self.scores.relevant.mean())


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Every direction that the rows have."""

    directions: tuple[DirectionResult, ...]
    rows: int
    settings: Settings

    @property
    def mean_recall(self) -> float:
        """The mean of R@k over k and directions, in [0, 1]; what training chooses by."""
        names = [f"R@{k}" for k in self.settings.ks]
        return float(np.mean([[way.metrics[name].value for name in names] for way in self.directions]))

    @property
    def cautions(self) -> tuple[str, ...]:
        """Which numbers are perfect however bad a model is, since there are so few candidates."""
        most = max(self.settings.ks)
        found = []
        for few, said in (
            ([way for way in self.directions if way.gallery == 1], "every number is perfect"),
            ([way for way in self.directions if 1 < way.gallery <= most], f"R@{most} is 100 %"),
        ):
            if few:
                counts = sorted({way.gallery for way in few})
                among = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
                ways = ", ".join(way.name for way in few)
                found.append(
                    f"{ways}: among {among} candidate{'s' * (counts[-1] > 1)} {said} whatever the model; "
                    "measure more rows"
                )
        return tuple(found)


class DirectionComparison(NamedTuple):
    """First minus second in one direction, by metric."""

    direction: Direction
    differences: Mapping[str, Difference]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two models on the same queries and galleries: first minus second."""

    directions: tuple[DirectionComparison, ...]
    first: Evaluation
    second: Evaluation
    only_one: tuple[Direction, ...]  # that one model measured and the other could not


def evaluate(
    vectors: Mapping[Modality, FloatArray],
    examples: Examples,
    settings: Settings | None = None,
    *,
    chunk: int = CHUNK,
) -> Evaluation:
    """Measure every direction; `vectors` are unit vectors of the contents, (contents, d) float32 each.

    Raises TrainingError where no row has two modalities, or for vectors that are missing or not finite.
    """
    settings = settings or Settings()
    if settings.by_label and not (examples.labels >= 0).any():
        raise TrainingError(
            "relevance by label was asked for, and no row has a label",
            hint="give the rows a `label` column, or leave out --by-label",
        )
    ways = directions(examples)
    if not ways:
        raise TrainingError(
            "no row has two modalities, so there is nothing to measure",
            hint="give rows with at least two of image, text and audio",
        )
    results = tuple(_measure(vectors, examples, way, settings, chunk) for way in ways)
    return Evaluation(results, len(examples), settings)


def _measure(
    vectors: Mapping[Modality, FloatArray], examples: Examples, way: Direction, settings: Settings, chunk: int
) -> DirectionResult:
    matching = match(examples, way, by_label=settings.by_label)
    queries, gallery = checked_vectors(vectors, matching, way)
    scores = score_direction(queries, gallery, matching.relevance, chunk=chunk)
    measured = intervals(
        scores, matching.groups, ks=settings.ks, seed=settings.seed, resamples=settings.resamples
    )
    curve = scores.chance_curve(max(settings.ks))
    chance = {f"R@{k}": float(curve[k - 1]) for k in settings.ks}
    return DirectionResult(way, measured, chance, scores, matching)


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Paired differences, first minus second, in the directions that both have.

    Raises TrainingError where they did not measure the same queries against the same galleries.
    """
    if first.settings != second.settings:
        raise TrainingError(
            f"evaluations with {first.settings} and with {second.settings} cannot be compared",
            hint="evaluate both with the same settings",
        )
    others = {way.direction: way for way in second.directions}
    shared = [(way, others[way.direction]) for way in first.directions if way.direction in others]
    if not shared:
        raise TrainingError(
            "the two evaluations have no direction in common",
            hint="compare models that have towers for the same modalities",
        )
    own = {way.direction for way in first.directions}
    return Comparison(
        tuple(_compare_direction(a, b, first.settings) for a, b in shared),
        first,
        second,
        tuple(sorted(own ^ set(others), key=_place)),
    )


def _compare_direction(
    first: DirectionResult, second: DirectionResult, settings: Settings
) -> DirectionComparison:
    if _identity(first.matching) != _identity(second.matching):
        raise TrainingError(
            f"{first.name}: the two evaluations did not measure the same rows "
            f"({first.queries} and {second.queries} queries, galleries of {first.gallery} and "
            f"{second.gallery})",
            hint="evaluate both models on the same rows; a file that only one could read must be left out",
        )
    found = differences(
        first.scores,
        second.scores,
        first.matching.groups,
        ks=settings.ks,
        seed=settings.seed,
        resamples=settings.resamples,
    )
    return DirectionComparison(first.direction, found)


def _identity(matching: Matching) -> str:
    """A hash of what was asked of what, equal for equal tasks."""
    digest = hashlib.sha256()
    lists = matching.relevance.lists
    tables = [matching.queries, matching.gallery, matching.relevance.indptr, matching.relevance.indices]
    for table in [*tables, np.arange(len(matching.queries)) if lists is None else lists]:
        digest.update(f"{len(table)};".encode())
        digest.update(np.ascontiguousarray(table, np.int64).tobytes())
    return digest.hexdigest()


def _place(direction: Direction) -> tuple[int, int]:
    order: Sequence[Modality] = tuple(Modality)
    return order.index(direction[0]), order.index(direction[1])
