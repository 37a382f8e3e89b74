"""Bulk search against one query at a time, with candidates from engines that round, fail and tie."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from indexer import gpu, nearest, vectors
from indexer.types import FloatArray

DIM = 32


def _units(rows: np.ndarray) -> FloatArray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _clustered(count: int, seed: int = 0) -> FloatArray:
    noise = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((max(count // 40, 1), DIM))
    return _units(
        centres[noise.integers(len(centres), size=count)] + 0.3 * noise.standard_normal((count, DIM))
    )


def _one_by_one(queries: FloatArray, stored: vectors.HalfArray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """A search's own candidates, in its order."""
    rows, scores = [], []
    for query in queries:
        found, exact = vectors.exact_candidates(stored, query, k)
        best = sorted(range(len(found)), key=lambda i: (-exact[i], found[i]))[:k]
        rows.append(found[best])
        scores.append(exact[best])
    return np.stack(rows), np.stack(scores)


class Rounding:
    """As a GPU's half-precision flat search: queries rounded to float16, ties in any order."""

    def __init__(self, stored: vectors.HalfArray, *, off: float = 0.0) -> None:
        self.stored, self.off, self.depths = stored.astype(np.float32), off, []

    def __call__(self, queries: FloatArray, depth: int) -> tuple[FloatArray, np.ndarray]:
        self.depths.append(depth)
        scores = queries.astype(np.float16).astype(np.float32) @ self.stored.T
        scores += self.off * np.random.default_rng(3).uniform(-1, 1, scores.shape).astype(np.float32)
        rows = np.argsort(scores[:, ::-1], axis=1)[:, ::-1][:, :depth]
        rows = len(self.stored) - 1 - rows
        return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("k", [1, 10, 200])
@pytest.mark.parametrize("off", [0.0, 9e-4])
def test_rounded_candidates_give_the_searchs_own_order(k: int, off: float) -> None:
    stored = _clustered(3000).astype(np.float16)
    stored[1000:1050] = stored[7]  # ties
    queries = np.concatenate([_clustered(40, seed=1), stored[7:8].astype(np.float32)])
    rough = Rounding(stored, off=off)
    rows, scores = nearest.nearest(queries, stored, k, rough=rough, margin=nearest.HALF_MARGIN)
    expected_rows, expected_scores = _one_by_one(queries, stored, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert rough.depths[0] == k + nearest.SPARE


def test_a_margin_that_is_too_small_would_be_seen() -> None:
    """The control: an engine that is off by more than it says gives another result."""
    stored = _clustered(3000).astype(np.float16)
    queries = _clustered(40, seed=1)
    rows, _ = nearest.nearest(queries, stored, 10, rough=Rounding(stored, off=0.3), margin=1e-6)
    assert (rows != _one_by_one(queries, stored, 10)[0]).any()


def test_ties_beyond_every_depth_are_left_to_the_scan() -> None:
    stored = np.repeat(_clustered(2), 3000, axis=0).astype(np.float16)
    rough = Rounding(stored)
    rows, _ = nearest.nearest(stored[:1].astype(np.float32), stored, 5, rough=rough, margin=1e-4)
    np.testing.assert_array_equal(rows, [[0, 1, 2, 3, 4]])
    assert rough.depths == [37, 296, 2048]


def test_small_collections() -> None:
    stored, queries = _clustered(3).astype(np.float16), _clustered(2, seed=1)
    for rough in (None, Rounding(stored)):
        rows, scores = nearest.nearest(queries, stored, 10, rough=rough)
        assert rows.shape == scores.shape == (2, 3)
        np.testing.assert_array_equal(rows, _one_by_one(queries, stored, 3)[0])
    empty = nearest.nearest(queries, stored[:0], 10)
    assert empty[0].shape == (2, 0)
    assert nearest.nearest(queries[:0], stored, 2, rough=Rounding(stored))[0].shape == (0, 2)


def test_without_a_gpu_one_line_and_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    stored, queries = _clustered(500).astype(np.float16), _clustered(5, seed=1)
    lines: list[str] = []
    rows, _ = nearest.on_gpu(queries, stored, 3, use=True, note=lines.append)
    np.testing.assert_array_equal(rows, _one_by_one(queries, stored, 3)[0])
    assert len(lines) == 1
    assert "CUDA_VISIBLE_DEVICES" in lines[0]
    for use in (None, False):
        nearest.on_gpu(queries, stored, 3, use=use, note=lines.append)
    assert len(lines) == 1  # nobody asked for one


def test_a_gpu_that_fails_costs_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Error in alloc: out of memory\nat somewhere")

    monkeypatch.setattr(gpu, "devices", lambda: 1)
    monkeypatch.setattr(gpu, "FlatOnGpu", fail)
    stored, queries = _clustered(500).astype(np.float16), _clustered(5, seed=1)
    lines: list[str] = []
    rows, _ = nearest.on_gpu(queries, stored, 3, use=True, note=lines.append)
    np.testing.assert_array_equal(rows, _one_by_one(queries, stored, 3)[0])
    assert lines == ["the GPU's search failed, the CPU goes on: Error in alloc: out of memory"]


def test_the_gpus_flat_search_is_asked_as_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """faiss's GPU types, faked by its host ones: the rows go in whole, in float16, on the device named."""
    import faiss

    config = types.SimpleNamespace(device=0, useFloat16=False)

    def make(_resources: object, dim: int, given: types.SimpleNamespace) -> object:
        assert given is config
        half = faiss.ScalarQuantizer.QT_fp16
        return faiss.IndexScalarQuantizer(dim, half, faiss.METRIC_INNER_PRODUCT)

    for name, value in (
        ("StandardGpuResources", object),
        ("GpuIndexFlatConfig", lambda: config),
        ("GpuIndexFlatIP", make),
    ):
        monkeypatch.setattr(faiss, name, value, raising=False)
    monkeypatch.setattr(gpu, "ADD_ROWS", 300)
    stored, queries = _clustered(1000).astype(np.float16), _clustered(20, seed=1)
    flat = gpu.FlatOnGpu(stored, device=1)
    assert (config.device, config.useFloat16, flat.index.ntotal) == (1, True, 1000)
    rows, scores = nearest.nearest(queries, stored, 10, rough=flat, margin=nearest.HALF_MARGIN)
    expected = _one_by_one(queries, stored, 10)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@pytest.mark.parametrize("fails", [False, True])
def test_a_codebook_trains_with_what_the_gpu_assigns(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """The structure is a host's whatever assigned its centres, and equal where the assignment is."""
    import faiss

    used: list[int] = []

    def assign(dim: int) -> object:
        used.append(dim)
        if fails:
            raise RuntimeError("CUDA error 2 out of memory")
        return faiss.IndexFlatIP(dim)

    monkeypatch.setattr(vectors, "IVF_FROM", 1000)
    monkeypatch.setattr(gpu, "devices", lambda: 1)
    monkeypatch.setattr(gpu, "clustering_index", assign)
    stored = _clustered(2000).astype(np.float16)
    lines: list[str] = []
    on_gpu = vectors.train_codebook(stored, use_gpu=True, note=lines.append)
    assert used == [DIM]
    on_host = vectors.train_codebook(stored, use_gpu=False, note=lines.append)
    assert used == [DIM]
    assert len(lines) == fails
    for one in (on_gpu, on_host):
        assert gpu.to_host(one) is one
        assert one.clustering_index is None
    centres = [one.quantizer.reconstruct_n(0, one.nlist) for one in (on_gpu, on_host)]
    np.testing.assert_allclose(*centres, atol=1e-5)


def test_faiss_is_not_imported_where_no_gpu_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it would raise
    assert gpu.devices() == 0
    assert not gpu.chosen(None)
    assert not gpu.chosen(True, note=lambda line: None)
