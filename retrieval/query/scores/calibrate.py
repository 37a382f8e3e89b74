"""From a cosine to the probability that what is shown is relevant, by query modality and modality of the hit.

A cosine alone says little: the best of many unrelated segments looks good, some queries are near everything,
and a picture's cosine with words is not on the scale of a caption's. So a cosine is taken against two things
that the index knows (background.py): the best scores of background queries in this very collection, which
grow with it, and the query's own cosines with a sample of the collection. A logistic map of both gives the
probability. It is fitted by calibration_fit.py; here are its numbers, where they come from, and how they are
used, with numpy alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from indexer.derived import key_of, told
from indexer.errors import ModelError
from indexer.types import FloatArray, Modality

if TYPE_CHECKING:
    from indexer.snapshot import Snapshot
    from retrieval.models.model import Model

FORMAT = "triptych-calibration/1"
FILE = "calibration.json"
SHIPPED = Path(__file__).parents[2] / "models" / "starter" / FILE  # the starter's
KEY = key_of("calibration")
FEATURES = 2  # see `features`
NARROWEST = 0.01  # of a spread of cosines that scores are divided by

Pair = tuple[Modality, Modality]  # of the query, of the hit


class Known(Protocol):
    """What is known of scores in a collection; a Background is one."""

    def best_scores(self, query: Modality, modality: Modality) -> FloatArray | None: ...

    def usual(self, modality: Modality, vector: FloatArray) -> tuple[float, float] | None: ...


@dataclass(frozen=True, slots=True)
class Line:
    """The logistic map of one pair of modalities."""

    weights: tuple[
        float, ...
    ]  # of `features`; none is negative, so that a higher cosine is never less likely
    bias: float
    cut: float  # the probability that the best hit of a list must have

    def __call__(self, told: FloatArray) -> FloatArray:
        """Probabilities (n,), in [0, 1], of features (n, FEATURES)."""
        logits = told.astype(np.float64) @ np.array(self.weights) + self.bias
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), np.float32)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The maps of a model, or of one index."""

    lines: Mapping[Pair, Line]
    said: Mapping[str, Any] = field(default_factory=dict)  # where they come from

    @classmethod
    def of(cls, model: Model, snapshot: Snapshot) -> Calibration | None:
        """The index's own, else the model's; None where there is neither. ModelError for a garbled one.

        A pair that the index's own pairs told nothing of is the model's.
        """
        own = snapshot.derived(KEY)
        shipped = of_model(model)
        if own is None:
            return shipped
        mine = cls.from_json(bytes(told(own)[1]), name="the index's calibration")
        if shipped is None:
            return mine
        return cls({**shipped.lines, **mine.lines}, mine.said)

    def probabilities(
        self,
        cosine: FloatArray,
        query: Modality,
        modality: Modality,
        known: Known,
        vector: FloatArray,
    ) -> FloatArray | None:
        """That each segment is relevant to a query, (n,), in [0, 1], for its cosines (n,) and vector (dim,).

        It never falls where the cosine rises. None for a pair that is not calibrated, or where the index
        lacks what it takes.
        """
        line = self.lines.get((query, modality))
        best = known.best_scores(query, modality) if line else None
        usual = known.usual(modality, vector) if best is not None else None
        if line is None or best is None or usual is None:
            return None
        return line(features(cosine, best, usual))

    def cut(self, query: Modality, modality: Modality) -> float:
        """The probability that the best hit must have for any to be shown; 0 where nothing is known."""
        line = self.lines.get((query, modality))
        return line.cut if line else 0.0

    def to_json(self) -> bytes:
        """As it is stored."""
        pairs = {"/".join(pair): asdict(line) for pair, line in sorted(self.lines.items())}
        return json.dumps({"format": FORMAT, "pairs": pairs, **self.said}, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, *, name: str) -> Calibration:
        """What `to_json` wrote. ModelError for anything else, such as a map that would fall."""
        try:
            document = json.loads(data)
            if document.pop("format") != FORMAT:
                raise ValueError("another format")
            pairs = document.pop("pairs")
            return cls({_pair(key): _line(entry) for key, entry in pairs.items()}, document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{name} is not a calibration: {error}", hint="make it again: triptych calibrate"
            ) from error


def features(cosine: FloatArray, best: FloatArray, usual: tuple[float, float]) -> FloatArray:
    """How far cosines (n,) stand out, shape (n, 2), in deviations.

    From the best scores of background queries (b,), ascending, in this collection; and from the query's own
    usual score, whose mean and deviation `usual` gives. The first knows the collection's size and what it is
    full of, the second whether the query is near everything.
    """
    spread = max(float(best.std()), NARROWEST)
    mean, deviation = usual
    above = (cosine - float(best.mean())) / spread
    beyond = (cosine - mean) / max(deviation, NARROWEST)
    return np.stack([above, beyond], axis=1).astype(np.float32)


def of_model(model: Model) -> Calibration | None:
    """The calibration beside a bundle, or the one that ships where it is of the same space; None without."""
    beside = model.path / FILE
    if beside.is_file():
        return Calibration.from_json(beside.read_bytes(), name=str(beside))
    if not SHIPPED.is_file():
        return None
    shipped = Calibration.from_json(SHIPPED.read_bytes(), name=SHIPPED.name)
    return shipped if shipped.said.get("space_id") == model.space_id else None


def _pair(key: str) -> Pair:
    query, modality = key.split("/")
    return Modality(query), Modality(modality)


def _line(entry: Mapping[str, Any]) -> Line:
    line = Line(tuple(map(float, entry["weights"])), float(entry["bias"]), float(entry["cut"]))
    if len(line.weights) != FEATURES or not all(map(math.isfinite, (*line.weights, line.bias, line.cut))):
        raise ValueError("its numbers")
    if min(line.weights) < 0 or not 0 <= line.cut <= 1:
        raise ValueError("a map that falls, or a cut outside 0 to 1")
    return line
