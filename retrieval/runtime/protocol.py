"""What runs a tower's graph, whichever runtime it is. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


class Runtime(Protocol):
    """A loaded graph."""

    @property
    def precision(self) -> str:
        """What it computes in: "f32"; lower ones only where they were asked for."""
        ...

    @property
    def preferred_group(self) -> int:
        """Texts or views that one `run` handles best; 0: whatever the tower's spec says."""
        ...

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name, for inputs by name. Several threads may call it at once."""
        ...


def available_threads() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
