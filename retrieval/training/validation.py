"""Validation rows, measured with the space as it is now. What follows from it stands in trainer.py."""

from __future__ import annotations

import numpy as np

from indexer.errors import TrainingError
from indexer.types import FloatArray, Modality
from retrieval.training.steps import Trainer
from retrieval.training.types import Examples


class Validation:
    """Validation rows with their contents numbered from 0."""

    def __init__(self, trainer: Trainer, examples: Examples) -> None:
        self.trainer = trainer
        known = {m: slots for m, slots in examples.contents.items() if m in trainer.space.modalities}
        self.contents = {m: np.unique(slots[slots >= 0]) for m, slots in known.items()}
        slots = {m: np.where(s >= 0, np.searchsorted(self.contents[m], s), -1) for m, s in known.items()}
        self.examples = Examples(slots, examples.labels, examples.groups, examples.weights)
        if not self.examples.pair_counts():
            raise TrainingError(
                f"none of {len(examples)} validation rows has a pair that could be measured",
                hint="give validation rows with two of image, text and audio",
            )

    def recalls(self) -> tuple[float, ...]:
        """Mean R@k and R@1 over the directions, in [0, 1], of the space as it is now."""
        from retrieval.evaluation.metrics import mean_recalls

        vectors: dict[Modality, FloatArray] = {
            m: self.trainer.vectors(m, contents) for m, contents in self.contents.items()
        }
        return mean_recalls(vectors, self.examples, ks=(self.trainer.options.metric_k, 1))
