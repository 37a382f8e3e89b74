"""Where a step's inputs come from: cached features, and the protocol that decoded media meet as well.

Imports torch. How features are computed stands in features.py.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from indexer.errors import TrainingError
from indexer.types import Modality
from retrieval.training.types import Features, Ints

WHOLE = 1 << 28  # bytes of features that a digest reads completely
ROWS = 1 << 14  # features looked at together

Inputs = Tensor | tuple[Tensor, ...]


class Source(Protocol):
    """Inputs of the space's `encode` for any contents; the first axis of every tensor counts them."""

    def inputs(self, modality: Modality, contents: Ints) -> Inputs: ...


class FeatureSource:
    """Cached features, gathered as float32 from their float16 table, which may be memory-mapped."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def inputs(self, modality: Modality, contents: Ints) -> Tensor:
        """Features (n, width) float32 of contents (n,), on the CPU. TrainingError for a modality without."""
        table = self.features.get(modality)
        if table is None:
            known = ", ".join(self.features)
            raise TrainingError(f"there are no {modality} features, only {known}")
        return torch.from_numpy(np.take(table, contents, axis=0)).float()

    def check(self) -> None:
        """TrainingError for features that are not finite, with the first one's number."""
        for modality, table in self.features.items():
            for start in range(0, len(table), ROWS):
                # The largest exponent is what NaN and infinity have; on bits this is quicker than isfinite.
                part = np.asarray(table[start : start + ROWS], dtype=np.float16).view(np.uint16)
                bad = ((part & 0x7C00) == 0x7C00).any(axis=1)
                if bad.any():
                    raise TrainingError(
                        f"the {modality} features of content {start + int(bad.argmax())} are not finite",
                        hint="compute the features again, or leave that file out",
                    )

    def digest(self) -> str:
        """SHA-256, 64 hex digits: of all features, or of evenly spaced rows where they are many."""
        found = hashlib.sha256()
        for modality in sorted(self.features):
            table = self.features[modality]
            found.update(f"{modality} {table.shape} {table.dtype};".encode())
            stride = max(1, -(-table.nbytes // WHOLE))
            for start in range(0, len(table), ROWS * stride):
                found.update(np.ascontiguousarray(table[start : start + ROWS * stride : stride]).tobytes())
        return found.hexdigest()
