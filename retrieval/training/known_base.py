"""Base vectors computed once: a head on a frozen base learns as fast as one without.

The base model's own head never changes, so its vectors are put beside the features before training, and each
step only adds what is trained. Imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from indexer.types import Modality
from retrieval.config import cache_dir
from retrieval.training.feature_cache import roomy
from retrieval.training.heads import OnBase
from retrieval.training.space import SharedSpace
from retrieval.training.types import Features

CHUNK = 1024  # contents whose base vectors are computed together


class OnKnownBase(nn.Module):
    """An OnBase head whose input has its base's vectors behind the features: (n, width + dim) -> (n, dim)."""

    def __init__(self, whole: OnBase, width: int) -> None:
        super().__init__()
        self.head, self.gain, self.width = whole.head, whole.gain, width  # the very same, not copies

    def forward(self, features: Tensor) -> Tensor:
        return features[:, self.width :] * self.gain + self.head(features[:, : self.width])


@contextmanager
def known_base(space: SharedSpace, features: Features, *, media: frozenset[Modality]) -> Iterator[Features]:
    """Inside, the heads of `space` on a base expect the features that are given; `media` are left alone.

    The given features are float16, with the base's vectors behind them for those heads. Afterwards the heads
    are as they were, trained.
    """
    whole: dict[Modality, OnBase] = {}
    for modality in space.modalities:
        head = space.heads[modality.value]
        if modality not in media and isinstance(head, OnBase):
            whole[modality] = head
    tables = {modality: _joined(head, features[modality]) for modality, head in whole.items()}
    for modality, head in whole.items():
        space.heads[modality.value] = OnKnownBase(head, features[modality].shape[1])
    try:
        yield {**features, **tables}
    finally:
        for modality, head in whole.items():
            space.heads[modality.value] = head


def _joined(head: OnBase, table: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    width = table.shape[1]
    whole = roomy(cache_dir(), len(table), width + head.dim)
    head.base.eval()
    with torch.inference_mode():
        for start in range(0, len(table), CHUNK):
            rows = np.asarray(table[start : start + CHUNK])
            whole[start : start + CHUNK, :width] = rows
            vectors = head.base(torch.from_numpy(rows).float()).numpy()
            whole[start : start + CHUNK, width:] = vectors
    return whole
