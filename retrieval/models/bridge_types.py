"""What is asked of a bridge between two spaces, and what is said of it. Imports no torch.

How a bridge is fitted stands in bridge.py, how a joined model is written in join.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from indexer.errors import ConfigError

KS = (1, 5, 10)  # of recall
WORTH = 3.0  # times the recall of a random order, below which a bridge is as good as none
WAYS = ("b to a", "a to b")  # which space's texts are the queries; the others are the gallery


class Method(StrEnum):
    """How the map between two text spaces is fitted."""

    AUTO = "auto"  # all of them, and validation chooses
    RIDGE = "ridge"  # least squares with a penalty
    PROCRUSTES = "procrustes"  # a rotation
    CONTRASTIVE = "contrastive"  # trained on from the better of both, with noise on its inputs


METHODS = tuple(method for method in Method if method is not Method.AUTO)  # the simpler ones first


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """How a bridge is fitted. ConfigError for a value out of range or an unknown method."""

    method: Method = Method.AUTO
    seed: int = 0  # of the split, of batches and of noise
    validation: float = 0.15  # share of groups of captions that methods are chosen by
    test: float = 0.15  # share of groups that the report is measured on
    margin: float = 0.005  # by which a less simple method must have more validation recall to be chosen
    noise: float = 0.5  # contrastive: length of the noise that is added to unit vectors
    epochs: int = 10  # contrastive: at most; the best on validation is kept
    batch: int = 512  # contrastive: captions a step
    rate: float = 1e-3  # contrastive: the optimizer's first rate
    scale: float = 20.0  # contrastive: what cosines are multiplied by

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "method", Method(self.method))
        except ValueError as error:
            raise ConfigError(
                f"the method is {self.method!r}, expected one of {', '.join(Method)}"
            ) from error
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"bridge.{name} is {value}, expected {low:g} to {high:g}")


_RANGES = {
    "validation": (0.01, 0.45),
    "test": (0.01, 0.45),
    "margin": (0.0, 1.0),
    "noise": (0.0, 10.0),
    "epochs": (1, 10_000),
    "batch": (2, 100_000),
    "rate": (1e-8, 1.0),
    "scale": (0.1, 100.0),
}


@dataclass(frozen=True, slots=True)
class Share:
    """A recall in [0, 1], higher is better, with its 95 % bootstrap interval over groups of captions."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ({100 * self.low:.1f}-{100 * self.high:.1f})"


@dataclass(frozen=True, slots=True)
class MethodScore:
    """What one method's map brings back."""

    validation: float  # mean of R@1, R@5 and R@10 over both ways, on the validation captions
    test: Mapping[str, Mapping[str, Share]]  # way -> "R@1" -> share, on captions that nothing was chosen by

    @property
    def mean(self) -> float:
        """Mean of the test's recalls over both ways."""
        found = [share.value for way in self.test.values() for share in way.values()]
        return sum(found) / len(found)


@dataclass(frozen=True, slots=True)
class BridgeReport:
    """How a bridge was fitted and how well texts find themselves again through it."""

    a: str  # the space that is kept
    b: str  # the space that is brought into it
    captions: Mapping[str, int]  # "fitted", "validation", "test": how many of each
    bank: str  # SHA-256, 64 hex digits, over the captions
    chosen: Method
    why: str  # a sentence
    scores: Mapping[Method, MethodScore]
    chance: float = 0.0  # R@10 of a random order, in [0, 1]
    centred: int = 0  # sounds whose mean was used against the gap between sounds and texts; 0: none were
    towers: tuple[str, ...] = ()  # modalities that came from B
    options: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """As a person reads it: a table of recalls in per cent with their intervals, then the choice."""
        counts = self.captions
        found = [
            f"{self.b} -> {self.a}: {counts['fitted']} captions fitted, {counts['validation']} to choose by, "
            f"{counts['test']} held out",
            f"held-out texts through the bridge, % (95 % interval); chance at 10: {100 * self.chance:.1f}",
            f"{'method':<12}{'way':<8}" + "".join(f"{f'R@{k}':<20}" for k in KS) + "validation",
        ]
        for method, score in self.scores.items():
            for way in WAYS:
                cells = "".join(f"{score.test[way][f'R@{k}']!s:<20}" for k in KS)
                found.append(f"{method.value:<12}{way:<8}{cells}{100 * score.validation:.1f}")
        found.append(f"chosen: {self.chosen.value}, {self.why}")
        best = self.scores[self.chosen].test
        if any(best[way]["R@10"].value < WORTH * self.chance for way in WAYS):
            found.append(
                "WARNING: held-out texts hardly find themselves through it, so sounds will not either"
            )
        if self.towers:
            found.append(f"{', '.join(self.towers)} of {self.b} now lies in the space of {self.a}")
        if self.centred:
            found.append(f"the mean of {self.centred} sounds was moved to where the texts are")
        return found

    def to_json(self) -> dict[str, Any]:
        """As a bundle's provenance keeps it."""
        said = asdict(self)
        said["scores"] = {
            method.value: {"validation": score.validation, "test": _plain(score.test)}
            for method, score in self.scores.items()
        }
        return said | {"chosen": self.chosen.value, "captions": dict(self.captions)}


def _plain(test: Mapping[str, Mapping[str, Share]]) -> dict[str, dict[str, list[float]]]:
    return {
        way: {
            name: [round(v, 4) for v in (share.value, share.low, share.high)] for name, share in row.items()
        }
        for way, row in test.items()
    }
