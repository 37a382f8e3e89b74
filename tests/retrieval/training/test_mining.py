"""Mined negatives equal a full-matrix oracle, ties and masks included."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import gpu
from indexer.errors import TrainingError
from retrieval.training import mining
from retrieval.training.mining import KnownPairs, Search, mine_negatives
from retrieval.training.types import Ints


def unit_rows(rng: np.random.Generator, count: int, width: int = 8) -> np.ndarray:
    vectors = rng.standard_normal((count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def oracle(
    queries: np.ndarray,
    gallery: np.ndarray,
    known: list[list[int]],
    *,
    k: int,
    relative_margin: float | None = 0.95,
    contents: list[int] | None = None,
) -> list[list[int]]:
    """Entry by entry."""
    found = []
    for i, query in enumerate(queries.astype(np.float64)):
        scores = [float((row * query).sum()) for row in gallery.astype(np.float64)]
        ceiling = float("inf")
        if known[i] and relative_margin is not None:
            best = max(scores[j] for j in known[i])
            ceiling = best - (1.0 - relative_margin) * abs(best)
        taken = set(known[i])
        if contents is not None:
            same = {contents[j] for j in known[i]} - {-1}
            taken |= {j for j, content in enumerate(contents) if content in same}
        rows = [j for j in range(len(gallery)) if j not in taken and scores[j] <= ceiling]
        rows.sort(key=lambda j: (-scores[j], j))
        found.append(rows[:k] + [-1] * (k - len(rows)))
    return found


def csr(known: list[list[int]]) -> KnownPairs:
    ends = np.cumsum([0, *map(len, known)], dtype=np.int64)
    return KnownPairs(ends, np.array([j for line in known for j in line], np.int64))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**31),
    gallery=st.integers(1, 300),
    copies=st.integers(1, 4),
    k=st.integers(1, 12),
    margin=st.sampled_from([None, 0.95, 0.3, 1.0]),
    with_contents=st.booleans(),
)
def test_equals_the_oracle(
    seed: int, gallery: int, copies: int, k: int, margin: float | None, with_contents: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows = np.tile(unit_rows(rng, gallery), (copies, 1))  # copies tie exactly
    queries = unit_rows(rng, 7)
    known = [rng.integers(0, len(rows), size=size).tolist() for size in rng.integers(0, 4, size=7)]
    contents = rng.integers(-1, max(1, gallery), size=len(rows)) if with_contents else None
    found = mine_negatives(queries, rows, csr(known), k=k, relative_margin=margin, contents=contents)
    plain = None if contents is None else contents.tolist()
    wanted = oracle(queries, rows, known, k=k, relative_margin=margin, contents=plain)
    assert found.dtype == np.int64
    assert found.tolist() == wanted


def test_ties_that_reach_past_what_the_index_gives_are_in_order() -> None:
    rng = np.random.default_rng(0)
    one = unit_rows(rng, 1)
    gallery = np.concatenate([np.repeat(one, 400, axis=0), unit_rows(rng, 100)])[rng.permutation(500)]
    found = mine_negatives(one, gallery, csr([[]]), k=5)
    assert found.tolist() == [np.flatnonzero((gallery == one).all(axis=1))[:5].tolist()]


def test_does_not_depend_on_how_queries_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    queries, gallery = unit_rows(rng, 40), unit_rows(rng, 500)
    known = csr([[int(j)] for j in rng.integers(0, 500, size=40)])
    whole = mine_negatives(queries, gallery, known, k=6)
    monkeypatch.setattr(mining, "BLOCK", 4000)
    assert (mine_negatives(queries, gallery, known, k=6) == whole).all()
    assert (whole >= 0).sum() > 100


def test_the_margin_is_relative_to_the_best_positive_also_below_zero() -> None:
    def at(*cosines: float) -> np.ndarray:
        return np.array([[c, (1 - c * c) ** 0.5] for c in cosines], np.float32)

    query = np.array([[1.0, 0.0]], np.float32)
    found = mine_negatives(query, at(0.8, 0.79, 0.75, 0.2, 0.9), csr([[0, 3]]), k=3, relative_margin=0.95)
    assert found.tolist() == [[2, -1, -1]]
    below = mine_negatives(query, at(-0.5, -0.51, -0.53, 0.3), csr([[0]]), k=3, relative_margin=0.95)
    assert below.tolist() == [[2, -1, -1]]
    unmasked = mine_negatives(query, at(0.8, 0.79, 0.9), csr([[0]]), k=3, relative_margin=None)
    assert unmasked.tolist() == [[2, 1, -1]]


def test_the_same_content_is_no_negative() -> None:
    rng = np.random.default_rng(2)
    gallery = unit_rows(rng, 5)
    contents: Ints = np.array([4, 9, 4, -1, -1])
    found = mine_negatives(gallery[:1], gallery, csr([[0]]), k=5, relative_margin=None, contents=contents)
    assert sorted(found[0].tolist()) == [-1, -1, 1, 3, 4]
    missing = mine_negatives(gallery[3:4], gallery, csr([[3]]), k=5, relative_margin=None, contents=contents)
    assert sorted(missing[0].tolist()) == [-1, 0, 1, 2, 4]


def test_inverted_lists_find_most_and_break_no_mask() -> None:
    rng = np.random.default_rng(3)
    gallery, queries = unit_rows(rng, 4000), unit_rows(rng, 50)
    known = [[int(j)] for j in (queries @ gallery.T).argmax(axis=1)]
    found = mine_negatives(queries, gallery, csr(known), k=8, search=Search(exact_up_to=1000))
    again = mine_negatives(queries, gallery, csr(known), k=8, search=Search(exact_up_to=1000))
    assert (found == again).all()
    wanted = oracle(queries, gallery, known, k=8)
    hits = sum(len(set(line) & set(right)) for line, right in zip(found.tolist(), wanted, strict=True))
    assert hits / 400 > Fraction(6, 10)
    for query, line, own in zip(queries, found, known, strict=True):
        scores = (gallery[line[line >= 0]] @ query).astype(np.float64)
        assert not set(own) & set(line.tolist())
        assert (np.diff(scores) <= 1e-6).all()
        assert (scores <= 0.95 * float(gallery[own[0]] @ query) + 1e-6).all()


def test_empty_sides() -> None:
    none = np.zeros((0, 8), np.float32)
    some = unit_rows(np.random.default_rng(4), 3)
    assert mine_negatives(none, some, csr([]), k=2).shape == (0, 2)
    assert mine_negatives(some, none, csr([[], [], []]), k=2).tolist() == [[-1, -1]] * 3


def test_bad_input() -> None:
    some = unit_rows(np.random.default_rng(5), 3)
    lists = csr([[0], [1], [2]])
    with pytest.raises(TrainingError, match="not of one space"):
        mine_negatives(some, some[:, :4], lists, k=1)
    with pytest.raises(TrainingError, match="2 lists of known pairs for 3 queries"):
        mine_negatives(some, some, csr([[0], [1]]), k=1)
    with pytest.raises(TrainingError, match="outside of the 2 gallery vectors"):
        mine_negatives(some, some[:2], lists, k=1)
    with pytest.raises(TrainingError, match="not finite"):
        mine_negatives(some, some * np.float32(np.nan), lists, k=1)
    with pytest.raises(TrainingError, match="0 negatives"):
        mine_negatives(some, some, lists, k=0)


@pytest.mark.parametrize("exact_up_to", [1000, 10])
def test_a_gpu_mines_what_the_cpu_mines(monkeypatch: pytest.MonkeyPatch, exact_up_to: int) -> None:
    import faiss

    asked: list[int] = []

    class Fake:
        """As gpu.FlatOnGpu, on the host."""

        def __init__(self, rows: np.ndarray, *, device: int, half: bool) -> None:
            assert not half  # the bound on rounding is float32's
            assert device == 3
            self.index = faiss.IndexFlatIP(rows.shape[1])
            self.index.add(rows)

        def search(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
            asked.append(depth)
            return self.index.search(queries, depth)

    noise = np.random.default_rng(5)
    gallery = noise.standard_normal((400, 12))
    gallery = (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).astype(np.float32)
    known = csr([[i] for i in range(30)])
    expected = mine_negatives(gallery[:30], gallery, known, k=8)
    assert not asked
    monkeypatch.setattr(gpu, "devices", lambda: 1)
    monkeypatch.setattr(gpu, "FlatOnGpu", Fake)
    search = Search(exact_up_to=exact_up_to, gpu=True, device=3)
    np.testing.assert_array_equal(mine_negatives(gallery[:30], gallery, known, k=8, search=search), expected)
    assert asked


def test_a_gpu_that_fails_leaves_mining_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error 2 out of memory\nmore")

    monkeypatch.setattr(gpu, "devices", lambda: 1)
    monkeypatch.setattr(gpu, "FlatOnGpu", fail)
    lines: list[str] = []
    gallery = np.eye(6, dtype=np.float32)
    search = Search(gpu=True, note=lines.append)
    found = mine_negatives(gallery[:2], gallery, csr([[0], [1]]), k=2, search=search)
    np.testing.assert_array_equal(found, mine_negatives(gallery[:2], gallery, csr([[0], [1]]), k=2))
    assert lines == ["mining on the GPU failed, the CPU does it: CUDA error 2 out of memory"]
