"""Metrics equal a full-matrix oracle and torchmetrics, whatever the chunks, ties included."""

from __future__ import annotations

import importlib.util
import logging
import sys
import tracemalloc
from collections.abc import Iterator
from math import comb
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import TrainingError
from indexer.types import FloatArray, Modality
from retrieval.evaluation import ranking
from retrieval.evaluation.metrics import chance_recall, mean_recall, score_direction, summarise
from retrieval.evaluation.relevance import Relevance, directions, match
from retrieval.training.types import Examples
from tests.retrieval.evaluation import oracle

IMAGE, TEXT, AUDIO = Modality

Task = tuple[FloatArray, FloatArray, list[list[int]]]


def unit(vectors: FloatArray) -> FloatArray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """Small vectors of few values, so that ties are common; any number of relevant rows."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    queries, gallery = draw(st.integers(1, 20)), draw(st.integers(1, 40))
    dim, levels = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    scale = draw(st.sampled_from([1.0, 1 / 3, 1e-4]))
    a = random.integers(-levels, levels + 1, (queries, dim)).astype(np.float32) * np.float32(scale)
    b = random.integers(-levels, levels + 1, (gallery, dim)).astype(np.float32) * np.float32(scale)
    sizes = random.integers(1, draw(st.integers(1, gallery)) + 1, queries)
    return a, b, [random.choice(gallery, size, replace=False).tolist() for size in sizes]


@given(tasks(), st.integers(1, 30), st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_equals_the_full_matrix_in_any_chunks(task: Task, chunk: int, block: int) -> None:
    queries, gallery, lists = task
    relevance = oracle.relevance_of(lists)
    found = score_direction(queries, gallery, relevance, chunk=chunk, block=block)
    assert found.rank.tolist() == [own[0] for own in oracle.ranks(queries, gallery, lists)]
    assert summarise(found) == pytest.approx(oracle.metrics(queries, gallery, lists), abs=1e-12)
    best = ranking.best_targets(queries, gallery, relevance)
    quick = ranking.relevant_ranks(queries, gallery, best, chunk=chunk, block=block)
    assert quick[:, 0].tolist() == found.rank.tolist()


@pytest.mark.parametrize("relevant", [1, 3, ranking.FEW, ranking.FEW + 1, 90])
def test_counting_and_sorting_rank_alike(relevant: int) -> None:
    random = np.random.default_rng(relevant)
    gallery = unit(random.standard_normal((300, 48)))
    gallery[150:] = gallery[random.integers(0, 150, 150)]  # every one has a twin, at any distance
    queries = unit(random.standard_normal((40, 48)))
    lists = [random.choice(300, relevant, replace=False).tolist() for _ in range(40)]
    expected = oracle.metrics(queries, gallery, lists)
    relevance = oracle.relevance_of(lists)
    for chunk, block in ((512, 16_384), (7, 13), (1, 300)):
        found = score_direction(queries, gallery, relevance, chunk=chunk, block=block)
        assert summarise(found) == pytest.approx(expected, abs=1e-12)


def test_equal_vectors_tie_and_the_lower_row_wins() -> None:
    random = np.random.default_rng(0)
    one = unit(random.standard_normal((1, 384)))
    gallery = np.repeat(one, 1003, axis=0)  # a size at which BLAS takes other paths for the last columns
    queries = unit(random.standard_normal((5, 384)))
    wanted = [0, 1, 500, 1001, 1002]
    found = score_direction(queries, gallery, oracle.relevance_of([[place] for place in wanted]), block=97)
    assert found.rank.tolist() == [place + 1 for place in wanted]


def test_vectors_that_float32_cannot_tell_apart() -> None:
    random = np.random.default_rng(1)
    gallery = np.repeat(unit(random.standard_normal((1, 64))), 200, axis=0)
    gallery[:, 0] += np.arange(200, dtype=np.float32) * np.float32(1e-7)  # collapsed, yet ordered
    queries = gallery[:30].copy()
    lists = [[int(random.integers(200))] for _ in range(30)]
    found = score_direction(queries, gallery, oracle.relevance_of(lists))
    assert found.rank.tolist() == [own[0] for own in oracle.ranks(queries, gallery, lists)]


@pytest.fixture
def bare_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torchmetrics without what its packages import for pictures and sounds, which takes half a minute."""
    places = importlib.util.find_spec("torchmetrics")
    assert places is not None
    assert places.submodule_search_locations is not None
    folder = Path(places.submodule_search_locations[0])

    def loaded() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == "torchmetrics"]

    for name in loaded():
        monkeypatch.delitem(sys.modules, name)
    for name in ("torchmetrics", "torchmetrics.functional"):
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        package._logger = logging.getLogger(name)  # type: ignore[attr-defined]
        sys.modules[name] = package
    yield
    for name in loaded():
        del sys.modules[name]


@pytest.mark.usefixtures("bare_torchmetrics")
def test_equals_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.retrieval import (
        retrieval_hit_rate,
        retrieval_normalized_dcg,
        retrieval_recall,
        retrieval_reciprocal_rank,
    )

    random = np.random.default_rng(2)
    queries, gallery = unit(random.standard_normal((60, 16))), unit(random.standard_normal((80, 16)))
    lists = [random.choice(80, random.integers(1, 30), replace=False).tolist() for _ in range(60)]
    found = score_direction(queries, gallery, oracle.relevance_of(lists))
    single = score_direction(queries, gallery, oracle.relevance_of([own[:1] for own in lists]))
    # It takes a score of 0 or less for no answer at all.
    table = torch.from_numpy(queries.astype(float) @ gallery.T.astype(float)) + 2
    for row, own in enumerate(lists):
        target = torch.zeros(80, dtype=torch.bool)
        target[own] = True
        first = torch.zeros(80, dtype=torch.bool)
        first[own[0]] = True
        scores = table[row]
        for k in (1, 5, 10):
            assert found.hit(k)[row] == float(retrieval_hit_rate(scores, target, top_k=k))
            assert single.hit(k)[row] == float(retrieval_recall(scores, first, top_k=k))
        mrr = float(retrieval_reciprocal_rank(scores, target))
        assert found.reciprocal_rank[row] == pytest.approx(mrr, abs=1e-6)
        ndcg = float(retrieval_normalized_dcg(scores, target, top_k=10))
        assert found.ndcg[row] == pytest.approx(ndcg, abs=1e-5)


def test_average_precision_by_hand() -> None:
    gallery = np.array([[5], [4], [3], [2], [1]], np.float32)
    found = score_direction(np.ones((1, 1), np.float32), gallery, oracle.relevance_of([[0, 2, 4]]))
    # R = 3: hits at ranks 1 and 3, the one at rank 5 is beyond R.
    assert found.ap.tolist() == pytest.approx([(1 / 1 + 2 / 3) / 3])


def test_shared_lists_equal_lists_of_their_own() -> None:
    random = np.random.default_rng(3)
    queries, gallery = unit(random.standard_normal((50, 8))), unit(random.standard_normal((90, 8)))
    labels, held = random.integers(0, 3, 50), np.arange(90) % 3
    classes = [np.flatnonzero(held == label).tolist() for label in range(3)]
    shared = oracle.relevance_of(classes)
    shared = Relevance(shared.indptr, shared.indices, labels)
    own = oracle.relevance_of([classes[label] for label in labels])
    first, second = score_direction(queries, gallery, shared), score_direction(queries, gallery, own)
    assert summarise(first) == summarise(second)
    assert shared.counts().tolist() == [30] * 50


def test_memory_is_bounded_by_chunk_and_block() -> None:
    random = np.random.default_rng(4)
    queries, gallery = unit(random.standard_normal((2000, 16))), unit(random.standard_normal((2000, 16)))
    relevance = oracle.relevance_of([[place] for place in range(2000)])
    tracemalloc.start()
    try:
        score_direction(queries, gallery, relevance, chunk=50, block=500)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2000 * 2000 * 4 / 10  # of the whole matrix


def test_chance_is_the_mean_over_random_orders() -> None:
    exact = [np.mean([1 - comb(20 - r, k) / comb(20, k) for r in (1, 4, 4)]) for k in range(1, 21)]
    assert chance_recall([1, 4, 4], 20, 20) == pytest.approx(exact)
    assert chance_recall([2], 3, 5).tolist() == pytest.approx([2 / 3, 1, 1, 1, 1])


def test_recall_curve() -> None:
    gallery = np.array([[3], [2], [1]], np.float32)
    found = score_direction(np.ones((3, 1), np.float32), gallery, oracle.relevance_of([[0], [2], [1]]))
    assert found.recall_curve(4).tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1])


# Relevance from rows


def examples() -> Examples:
    """Four rows: pictures 0, 1, 0 and 2; texts {0, 1}, {2}, {3}, none; a sound in rows 1 and 3."""
    return Examples(
        {
            IMAGE: np.array([[0], [1], [0], [2]]),
            TEXT: np.array([[0, 1], [2, -1], [3, -1], [-1, -1]]),
            AUDIO: np.array([[-1], [0], [-1], [1]]),
        },
        labels=np.array([0, 1, 1, -1]),
        groups=np.array([7, 8, 9, 9]),
        weights=np.ones(4, np.float32),
    )


def lists(relevance: Relevance) -> list[list[int]]:
    return [relevance.of(query).tolist() for query in range(len(relevance))]


def test_contents_of_one_row_are_relevant() -> None:
    found = match(examples(), (IMAGE, TEXT))
    assert found.queries.tolist() == [0, 1]  # picture 2 has no text
    assert found.gallery.tolist() == [0, 1, 2, 3]
    assert lists(found.relevance) == [[0, 1, 3], [2]]  # the picture of rows 0 and 2 joins their texts
    assert found.groups.tolist() == [7, 8]
    back = match(examples(), (TEXT, IMAGE))
    assert lists(back.relevance) == [[0], [0], [1], [0]]
    assert back.groups.tolist() == [7, 7, 8, 9]


def test_contents_of_one_label_are_relevant() -> None:
    found = match(examples(), (IMAGE, TEXT), by_label=True)
    assert lists(found.relevance) == [[0, 1, 2, 3], [2, 3]]
    sounds = match(examples(), (AUDIO, IMAGE), by_label=True)
    assert sounds.gallery.tolist() == [1, 2]
    assert lists(sounds.relevance) == [[0], [1]]  # a row without a label is a class of its own


def test_directions_that_rows_have() -> None:
    pairs = [(IMAGE, TEXT), (IMAGE, AUDIO), (TEXT, AUDIO)]
    assert directions(examples()) == [way for a, b in pairs for way in ((a, b), (b, a))]
    with pytest.raises(TrainingError, match="no row has both"):
        match(examples().take(np.array([0])), (IMAGE, AUDIO))


def test_mean_recall_is_the_mean_of_every_direction() -> None:
    random = np.random.default_rng(5)
    rows = 30
    data = Examples(
        {m: random.permutation(rows)[:, None] for m in (IMAGE, TEXT, AUDIO)},
        np.full(rows, -1),
        np.arange(rows),
    )
    vectors = {m: unit(random.standard_normal((rows, 6))) for m in Modality}
    values = []
    for way in directions(data):
        found = match(data, way)
        queries, gallery = vectors[way[0]][found.queries], vectors[way[1]][found.gallery]
        expected = oracle.metrics(queries, gallery, lists(found.relevance))
        values += [expected["R@1"], expected["R@5"], expected["R@10"]]
    assert len(values) == 18
    assert mean_recall(vectors, data) == pytest.approx(np.mean(values))


# Refusals


def test_what_cannot_be_measured_is_refused() -> None:
    one, relevance = np.ones((1, 2), np.float32), oracle.relevance_of([[0]])
    with pytest.raises(TrainingError, match="nothing to measure"):
        score_direction(np.zeros((0, 2), np.float32), one, oracle.relevance_of([]))
    with pytest.raises(TrainingError, match="1 queries have no relevant"):
        score_direction(np.ones((2, 2), np.float32), one, oracle.relevance_of([[0], []]))
    with pytest.raises(TrainingError, match="cannot be compared"):
        score_direction(one, np.ones((1, 3), np.float32), relevance)
    with pytest.raises(TrainingError, match="beyond the gallery"):
        score_direction(one, one, oracle.relevance_of([[1]]))
    with pytest.raises(TrainingError, match="1 queries came with relevance of 2"):
        score_direction(one, one, oracle.relevance_of([[0], [0]]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(bad: float) -> None:
    good = np.ones((3, 2), np.float32)
    broken = good.copy()
    broken[1, 0] = bad
    relevance = oracle.relevance_of([[0], [1], [2]])
    with pytest.raises(TrainingError, match="1 of 3 queries are not finite, the first is number 1"):
        score_direction(broken, good, relevance)
    with pytest.raises(TrainingError, match="gallery vectors are not finite"):
        score_direction(good, broken, relevance)
    data = Examples({IMAGE: np.arange(3)[:, None], TEXT: np.arange(3)[:, None]}, np.full(3, -1), np.arange(3))
    with pytest.raises(TrainingError, match="text vectors are not finite"):
        mean_recall({IMAGE: good, TEXT: broken}, data)
    with pytest.raises(TrainingError, match="text content 2"):
        mean_recall({IMAGE: good, TEXT: good[:2]}, data)
    with pytest.raises(TrainingError, match="no row has two modalities"):
        mean_recall({IMAGE: good}, Examples({IMAGE: np.arange(3)[:, None]}, np.full(3, -1), np.arange(3)))
