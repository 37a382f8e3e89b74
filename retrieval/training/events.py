"""What training reports while it runs. Plain values, no torch; who shows them stands in render."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EpochStart:
    """An epoch begins, or goes on after a resume."""

    epoch: int  # from 1
    epochs: int
    steps: int  # of one epoch
    done: int = 0  # steps of this epoch that an earlier run has done


@dataclass(frozen=True, slots=True)
class StepDone:
    """Steps were done; on a GPU several are reported together."""

    epoch: int  # from 1
    step: int  # of the whole run, from 1
    steps: int  # of the whole run, without early stopping
    loss: float  # mean since the last report
    lr: float
    rate: float  # pairs/s since the last report
    eta_s: float  # seconds left at this rate, without early stopping


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch ended and was validated."""

    epoch: int  # from 1; 0: validation before the first step
    loss: float  # mean over its steps; NaN where no batch had a pair
    recall: float | None  # validation's mean R@k in [0, 1]; None without validation rows
    best: bool  # the best so far


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint is complete on disk."""

    path: Path


TrainEvent = EpochStart | StepDone | EpochDone | CheckpointSaved
OnEvent = Callable[[TrainEvent], None]


def ignore(_: TrainEvent) -> None:
    """For callers that want no events."""
