"""The towers' forward passes behind an explanation: a medium with parts of it hidden, in full batches."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import Encoder, FloatArray


def encoded(tensors: Iterable[npt.NDArray[Any]], encoder: Encoder) -> FloatArray:
    """Unit vectors of prepared media, shape (n, dim). One batch of them is in memory at a time."""
    waiting = iter(tensors)
    found = [np.zeros((0, encoder.dim), np.float32)]
    while batch := list(islice(waiting, encoder.batch_size)):
        found.append(encoder.encode(batch))
    return np.concatenate(found)


def scores(vectors: FloatArray, queries: FloatArray) -> FloatArray:
    """Cosines of unit vectors (n, dim) with each query (t, dim), shape (t, n)."""
    wide = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return np.asarray(wide, np.float32)
