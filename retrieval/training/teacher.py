"""A stronger model's vectors of the media that a run trains on, for distillation. Trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from indexer.types import FloatArray, Modality
from retrieval.training.types import Row

if TYPE_CHECKING:
    from retrieval.models.model import Model
    from retrieval.training.features import Collected


def teacher_vectors(
    model: Model, rows: Sequence[Row], collected: Collected, *, workers: int = 0
) -> dict[Modality, FloatArray]:
    """The model's unit vectors of each content, (contents, dim), NaN where it has none.

    `rows` are those that `collected` kept, in its order. TrainingError where the model encodes no two
    modalities of any row.
    """
    from retrieval.evaluation.encode import encode_rows
    from retrieval.training.media import media_of

    encoded = encode_rows(model, rows, workers=workers)
    known = {modality: table for modality, table in encoded.vectors.items() if modality in collected.hashes}
    vectors: dict[Modality, FloatArray] = {}
    for modality, names in media_of(rows, collected, known).items():
        number = {name: place for place, name in enumerate(encoded.names[modality])}
        found = np.full((len(names), model.dim), np.nan, np.float32)
        for place, name in enumerate(names):
            if name in number:
                found[place] = known[modality][number[name]]
        vectors[modality] = found
    return vectors
