"""Which loss, and its numbers. Imports no torch; what the numbers do stands in each loss's own file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from indexer.errors import ConfigError


class LossKind(StrEnum):
    """The losses there are, one file each."""

    INFONCE = "infonce"
    SIGMOID = "sigmoid"
    TRIPLET = "triplet"
    SUPCON = "supcon"
    DISTILL = "distill"


class Negatives(StrEnum):
    """Which negative a triplet takes for an anchor and its positive."""

    RANDOM = "random"
    HARDEST = "hardest"
    SEMI_HARD = "semi-hard"


class Distance(StrEnum):
    """What a triplet's margin is measured in, between unit vectors."""

    COSINE = "cosine"  # 1 - cosine, 0 to 2
    EUCLIDEAN = "euclidean"  # 0 to 2; its square is twice the other


@dataclass(frozen=True, slots=True)
class LossOptions:
    """One loss and its numbers; each loss reads its own and leaves the others. ConfigError out of range."""

    kind: LossKind = LossKind.INFONCE
    init_scale: float | None = None  # what similarities are first multiplied by; none: what suits the kind
    init_bias: float | None = None  # what is first added to them (sigmoid only); none: what suits the kind
    learn_scale: bool = True  # whether scale and bias are trained along
    smoothing: float = 0.0  # infonce: share of each target that is spread over all columns
    margin: float = 0.2  # triplet: how much farther than the positive a negative must be
    negatives: Negatives = Negatives.SEMI_HARD  # triplet: which negative
    distance: Distance = Distance.COSINE  # triplet: what the margin is measured in
    within: bool = True  # supcon: contrast inside each modality too, as the paper does with its views
    distill_weight: float = 0.0  # share of the teacher in any other loss; kind=distill is all teacher
    distill_temperature: float = 0.05  # a teacher's similarities are divided by it before the softmax

    def __post_init__(self) -> None:
        for name, (low, high, what) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"loss.{name} is {value}, expected {what}")

    @property
    def uses_teacher(self) -> bool:
        """Whether a stronger model's vectors are needed."""
        return self.kind is LossKind.DISTILL or self.distill_weight > 0

    @property
    def start_scale(self) -> float:
        """The first scale: as given, or 1/0.07 (CLIP), 10 (SigLIP, and SupCon's temperature of 0.1)."""
        if self.init_scale is not None:
            return self.init_scale
        return 10.0 if self.kind in (LossKind.SIGMOID, LossKind.SUPCON) else 1.0 / 0.07

    @property
    def start_bias(self) -> float:
        """The first bias: as given, or -10 for sigmoid (SigLIP), where nearly every pair is a negative."""
        if self.init_bias is not None:
            return self.init_bias
        return -10.0 if self.kind is LossKind.SIGMOID else 0.0

    @property
    def uses_scale(self) -> bool:
        """Whether the scale has a gradient; a pure triplet loss does without."""
        return self.kind is not LossKind.TRIPLET or self.distill_weight > 0

    @property
    def uses_bias(self) -> bool:
        """Whether the bias has a gradient."""
        return self.kind is LossKind.SIGMOID


_RANGES: dict[str, tuple[float, float, str]] = {  # option -> least, most, in words
    "init_scale": (math.ulp(0.0), 100.0, "more than 0 and at most 100"),
    "init_bias": (-100.0, 100.0, "-100 to 100"),
    "smoothing": (0.0, math.nextafter(1.0, 0.0), "0 or more and less than 1"),
    "margin": (0.0, 4.0, "0 to 4: distances between unit vectors are at most 2"),
    "distill_weight": (0.0, 1.0, "0 (no teacher) to 1 (nothing else)"),
    "distill_temperature": (1e-3, 100.0, "0.001 to 100"),
}
