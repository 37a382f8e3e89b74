"""A tower: a preparer and a runtime that together meet indexer.types.Encoder. Imports no runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ModelError
from indexer.types import FloatArray, Modality, Preparer
from retrieval.runtime.protocol import Arrays, Runtime

Tensors = Sequence[npt.NDArray[Any]]
OUTPUT = "vectors"


class Tower:
    """Prepared media in, unit vectors out. The graph is loaded when `encode` or `warm` first needs it.

    However long the batch, one call of the graph sees at most `group` texts of similar length, or `group`
    views of pictures or sounds: memory stays bounded, and small groups stay in the processor's cache.

    Groups run beside each other in `threads` threads, each of them on one core. Threads within a group would
    wait for each other at every layer, and while workers decode on the same cores they wait long.

    A runtime may prefer groups of another size. What it computes in, `precision`, is known before.

    A `nested` tower keeps the first `dim` coordinates of what its graph gives, and makes them unit vectors.
    """

    def __init__(
        self,
        preparer: Preparer,
        open_runtime: Callable[[], Runtime],
        *,
        space_id: str,
        dim: int,
        batch_size: int,
        group: int,
        threads: int = 1,
        nested: bool = False,
        precision: str = "f32",
    ) -> None:
        self.preparer = preparer
        self.space_id = space_id
        self.dim = dim
        self.batch_size = batch_size
        self.group = group
        self.threads = threads
        self.nested = nested
        self.precision = precision
        self._open = open_runtime
        self._runtime: Runtime | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def modality(self) -> Modality:
        return self.preparer.modality

    def warm(self) -> Runtime:
        """Load the graph now."""
        with self._lock:
            if self._runtime is None:
                opened = self._open()
                if opened.precision != self.precision:  # what is recorded with vectors must be true
                    raise ModelError(
                        f"the {self.modality} tower computes in {opened.precision}, expected {self.precision}"
                    )
                self._runtime = opened
            return self._runtime

    def encode(self, tensors: Tensors) -> FloatArray:
        """Unit vectors, float32, shape (len(tensors), dim); independent of the batch and its order."""
        vectors = np.zeros((len(tensors), self.dim), dtype=np.float32)
        if not tensors:
            return vectors
        runtime = self.warm()
        text = self.modality is Modality.TEXT
        grouped, feed = (_by_length, text_inputs) if text else (_by_views, _view_inputs)
        groups = list(grouped(tensors, runtime.preferred_group or self.group))

        def run(group: list[int]) -> None:
            found = runtime.run(feed([tensors[i] for i in group]))[OUTPUT]
            vectors[group] = first_units(found, self.dim) if self.nested else found

        if len(groups) == 1 or self.threads == 1:
            for group in groups:
                run(group)
        else:
            list(self._threads().map(run, groups))
        return vectors

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, "encode")
            return self._pool


def first_units(vectors: FloatArray, dim: int) -> FloatArray:
    """The first `dim` coordinates of each vector at unit length, (n, dim); zeros stay zero."""
    return units(vectors[:, :dim])


def units(vectors: FloatArray) -> FloatArray:
    """Each vector at unit length, (n, dim); zeros stay zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def text_inputs(tensors: Tensors) -> Arrays:
    """Ids padded to the longest, and the mask of what is not padding."""
    width = max(len(tensor) for tensor in tensors)
    ids = np.zeros((len(tensors), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tensor in enumerate(tensors):
        ids[row, : len(tensor)] = tensor
        mask[row, : len(tensor)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _view_inputs(tensors: Tensors) -> Arrays:
    """Every segment's views in one axis, and the matrix that averages them."""
    counts = [len(tensor) for tensor in tensors]
    pool = np.zeros((len(tensors), sum(counts)), dtype=np.float32)
    end = 0
    for row, count in enumerate(counts):
        pool[row, end : end + count] = 1.0 / count
        end += count
    return {"views": np.concatenate(tensors), "pool": pool}


def _by_length(tensors: Tensors, size: int) -> Iterator[list[int]]:
    """Groups of `size` texts of similar length, so that little padding is computed."""
    order = sorted(range(len(tensors)), key=lambda i: len(tensors[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _by_views(tensors: Tensors, size: int) -> Iterator[list[int]]:
    """Consecutive segments with at most `size` views together, or one segment with more."""
    group: list[int] = []
    views = 0
    for i, tensor in enumerate(tensors):
        if group and views + len(tensor) > size:
            yield group
            group, views = [], 0
        group.append(i)
        views += len(tensor)
    yield group
