"""Bulk search against one query at a time, with candidates from engines that round, fail and tie."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from indexer import gpu, nearest, vectors
from indexer.nearest import Found, Rows
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


def _one_by_one(queries: FloatArray, rows: Rows, k: int) -> list[Found]:
    """A search's own candidates in its order, with those that tie with the last."""
    results = []
    for query in queries:
        ((found, exact),) = vectors.exact_candidates(rows.stored, query[None], k, alive=rows.alive)
        order = sorted(range(len(found)), key=lambda i: (-exact[i], found[i]))
        best = [i for i in order if exact[i] >= exact[order[min(k, len(order)) - 1]]]
        results.append((found[best], exact[best]))
    return results


def _assert_same(found: list[Found], expected: list[Found]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


class Rounding:
    """As a GPU's half-precision flat search: queries rounded to float16, ties in any order."""

    deepest = gpu.DEEPEST

    def __init__(
        self, stored: vectors.HalfArray, *, off: float = 0.0, margin: float = gpu.HALF_MARGIN
    ) -> None:
        self.stored, self.off, self.margin = stored.astype(np.float32), off, margin
        self.depths: list[int] = []

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
    rows = Rows(stored)
    _assert_same(nearest.nearest(queries, rows, k, rough=rough), _one_by_one(queries, rows, k))
    assert rough.depths[0] == k + nearest.SPARE


def test_a_margin_that_is_too_small_would_be_seen() -> None:
    """The control: an engine that is off by more than it says gives another result."""
    stored = _clustered(3000).astype(np.float16)
    queries = _clustered(40, seed=1)
    found = nearest.nearest(queries, Rows(stored), 10, rough=Rounding(stored, off=0.3, margin=1e-6))
    expected = _one_by_one(queries, Rows(stored), 10)
    assert any(one[0].tolist() != other[0].tolist() for one, other in zip(found, expected, strict=True))


def test_ties_beyond_every_depth_are_left_to_the_scan() -> None:
    stored = np.repeat(_clustered(2), 3000, axis=0).astype(np.float16)
    rough = Rounding(stored)
    ((rows, _),) = nearest.nearest(stored[:1].astype(np.float32), Rows(stored), 5, rough=rough)
    np.testing.assert_array_equal(rows, np.arange(3000))  # all that tie with the fifth
    assert rough.depths == [37, 296, 2048]


@pytest.mark.parametrize("k", [1, 10, 300, 4000])
@pytest.mark.parametrize("block", [64, 4096])
def test_the_hosts_product_gives_the_searchs_own_order(
    monkeypatch: pytest.MonkeyPatch, k: int, block: int
) -> None:
    monkeypatch.setattr(nearest, "HOST_ROWS", block)
    monkeypatch.setattr(nearest, "HOST_SCORES", 8192)
    monkeypatch.setattr(nearest.OnHost, "deepest", 512)  # 4000 is for the scan
    stored = _clustered(3000).astype(np.float16)
    stored[1000:1050] = stored[7]  # ties
    alive = np.random.default_rng(4).random(3000) < 0.7
    alive[:200], alive[7] = False, True
    queries = np.concatenate([_clustered(40, seed=1), stored[7:8].astype(np.float32)])
    for rows in (Rows(stored), Rows(stored, alive)):
        _assert_same(nearest.nearest(queries, rows, k), _one_by_one(queries, rows, k))
    assert not nearest.nearest(queries[:1], Rows(stored, np.zeros(3000, bool)), k)[0][0].size


def test_small_collections() -> None:
    stored, queries = _clustered(3).astype(np.float16), _clustered(2, seed=1)
    for rough in (None, Rounding(stored)):
        found = nearest.nearest(queries, Rows(stored), 10, rough=rough)
        _assert_same(found, _one_by_one(queries, Rows(stored), 3))
        assert [len(rows) for rows, _ in found] == [3, 3]
    assert [rows.tolist() for rows, _ in nearest.nearest(queries, Rows(stored[:0]), 10)] == [[], []]
    assert nearest.nearest(queries[:0], Rows(stored), 2, rough=Rounding(stored)) == []


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
    alive = np.arange(1000) % 3 > 0
    for rows in (Rows(stored), Rows(stored, alive)):
        flat = gpu.FlatOnGpu(stored, alive=rows.alive, device=1)
        assert (config.device, config.useFloat16, flat.index.ntotal) == (1, True, rows.living)
        _assert_same(nearest.nearest(queries, rows, 10, rough=flat), _one_by_one(queries, rows, 10))


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
        assert type(one) is faiss.IndexIVFPQFastScan  # the host's
        assert one.clustering_index is None
    centres = [one.quantizer.reconstruct_n(0, one.nlist) for one in (on_gpu, on_host)]
    np.testing.assert_allclose(*centres, atol=1e-5)


def test_faiss_is_not_imported_where_no_gpu_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it would raise
    assert gpu.devices() == 0
    assert not gpu.chosen(None)
    assert not gpu.chosen(True, note=lambda line: None)
