"""torch's matrix product and top-k give the order of a search, to the bit, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from indexer import gpu
from indexer.nearest import Found, Rows, nearest
from retrieval.runtime import bulk
from retrieval.runtime.bulk import Bulk, TorchFlat, search_device
from retrieval.runtime.devices import CPU, Device, Kind

SOME = Device(Kind.MPS, ("cpu",))  # a device that is not the CPU's own path, computed on the CPU
CUDA = Device(Kind.CUDA, ("cpu:0",))


def _data(count: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0)
    stored = noise.standard_normal((count, 24))
    stored[count // 2 : count // 2 + 20] = stored[3]  # ties
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    asked = noise.standard_normal((queries, 24)).astype(np.float32)
    asked[0] = stored[3]
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    return asked, stored.astype(np.float16)


def _assert_same(found: list[Found], expected: list[Found]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("block", [37, 500, 1 << 18])
def test_torch_finds_what_the_scan_finds(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    queries, stored = _data(1200, 50)
    monkeypatch.setattr(bulk, "BLOCK_ROWS", block)
    monkeypatch.setattr(bulk, "BLOCK_SCORES", 2000)
    alive = np.arange(1200) % 5 > 0
    for rows in (Rows(stored), Rows(stored, alive)):
        found = Bulk(SOME, engine="torch")(queries, rows, 12)
        _assert_same(found, nearest(queries, rows, 12))
    whole = Bulk(SOME)(queries, Rows(stored), 12)
    assert whole[0][0].tolist() == [3, *range(600, 620)]  # equal scores: all that tie, the lower row first


def test_candidates_come_from_torch_and_not_from_the_scan() -> None:
    queries, stored = _data(1200, 50)
    rough = TorchFlat(Rows(stored), "cpu")
    scores, rows = rough(queries, 44)
    assert rows.shape == (50, 44)
    np.testing.assert_allclose(
        scores, np.take_along_axis(queries @ stored.astype(np.float32).T, rows, 1), atol=1e-6
    )
    assert (np.diff(scores, axis=1) <= 0).all()
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_quicker_engine_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, stored = _data(300, 8)
    monkeypatch.setattr(bulk, "WORTH_TRYING", 8)
    monkeypatch.setattr(gpu, "devices", lambda: 1)
    asked: list[str] = []

    class Fake:
        margin, deepest = 1e-3, 2048

        def __init__(self, rows: np.ndarray, *, alive: np.ndarray | None, device: int) -> None:
            self.inner = TorchFlat(Rows(rows, alive), "cpu")

        def __call__(self, some: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
            asked.append("faiss")
            return self.inner(some, depth)

    monkeypatch.setattr(gpu, "FlatOnGpu", Fake)
    for slow in (Fake, TorchFlat):
        monkeypatch.setattr(bulk, "seconds", lambda rough, *_, slow=slow: float(isinstance(rough, slow)))
        asked.clear()
        search, rows = Bulk(CUDA), Rows(stored, name="a")
        found = search(queries, rows, 5)
        assert bool(asked) == (slow is TorchFlat)
        _assert_same(found, nearest(queries, rows, 5))


def test_what_is_on_the_device_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, stored = _data(300, 8)
    made: list[str] = []

    class Counted(TorchFlat):
        def __init__(self, rows: Rows, device: str) -> None:
            made.append(rows.name)
            super().__init__(rows, device)

    monkeypatch.setattr(bulk, "TorchFlat", Counted)
    search = Bulk(SOME)
    for _ in range(3):
        for name in ("a", "b"):
            search(queries, Rows(stored, name=name), 5)
    assert made == ["a", "b"]


def test_a_device_that_is_full_drops_other_rows_first(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, stored = _data(300, 8)
    room = [2]

    class Small(TorchFlat):
        def __init__(self, rows: Rows, device: str) -> None:
            room[0] -= 1
            if not room[0]:
                raise torch.OutOfMemoryError("out of memory")
            super().__init__(rows, device)

    monkeypatch.setattr(bulk, "TorchFlat", Small)
    lines: list[str] = []
    search = Bulk(SOME, note=lines.append)
    for name in ("a", "b"):
        _assert_same(search(queries, Rows(stored, name=name), 5), nearest(queries, Rows(stored), 5))
    assert (lines, search.device, room[0]) == ([], SOME, -1)


def test_a_device_that_fails_costs_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, stored = _data(300, 8)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory\nmore")

    monkeypatch.setattr(bulk, "TorchFlat", fail)
    lines: list[str] = []
    search = Bulk(SOME, note=lines.append)
    for _ in range(2):
        _assert_same(search(queries, Rows(stored), 5), nearest(queries, Rows(stored), 5))
    assert lines == ["the search on cpu failed, the CPU goes on: out of memory"]


def test_the_device_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(bulk, "may_have_device", lambda: False)
    lines: list[str] = []
    for use in (False, None):
        assert search_device(use, note=lines.append) == CPU
    assert not lines
    assert search_device(True, note=lines.append) == CPU
    assert len(lines) == 1
    assert "CUDA_VISIBLE_DEVICES" in lines[0]
    asked: list[str] = []
    monkeypatch.setattr(bulk, "may_have_device", lambda: True)
    monkeypatch.setattr(bulk, "resolve", lambda word: asked.append(word) or CUDA)
    assert search_device(None, setting="cpu") == CPU
    assert search_device(True, setting="cpu") == CUDA  # what is asked for goes before the setting
    assert search_device(None, setting="cuda:1") == CUDA
    assert asked == ["auto", "cuda:1"]
