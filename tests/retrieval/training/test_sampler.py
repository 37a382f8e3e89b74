"""Batches: what follows from (seed, epoch), balance, texts, and what a batch compares."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from indexer.errors import TrainingError
from retrieval.training.batches import Matches, Planner
from retrieval.training.sampler import Batch, Sampler
from retrieval.training.types import Examples
from tests.retrieval.training.tiny import AUDIO, IMAGE, TEXT, examples


def rows_of(sampler: Sampler, epoch: int, position: int = 0) -> np.ndarray:
    return np.concatenate([batch.rows for batch in sampler.batches(epoch, position)])


def test_every_row_once_and_the_same_again() -> None:
    sampler = Sampler(examples(np.arange(50)), batch_size=8, seed=3)
    first, second = rows_of(sampler, 0), rows_of(sampler, 1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert (first != second).any()
    assert len(sampler) == 7
    assert (rows_of(sampler, 0) == first).all()
    assert (rows_of(sampler, 1, position=4) == second[32:]).all()


def test_a_row_shows_each_of_its_texts_and_no_padding() -> None:
    texts = np.array([[-1, 7, 8], [9, -1, -1]])
    whole = Examples({IMAGE: np.array([[0], [1]]), TEXT: texts}, np.full(2, -1), np.arange(2))
    sampler = Sampler(whole, batch_size=2, seed=0)
    drawn = [dict(zip(b.rows, b.contents[TEXT], strict=True)) for e in range(40) for b in sampler.batches(e)]
    assert {batch[0] for batch in drawn} == {7, 8}
    assert {batch[1] for batch in drawn} == {9}


def test_rows_without_a_pair_are_never_drawn() -> None:
    whole = Examples({IMAGE: np.array([[0], [1]]), TEXT: np.array([[0], [-1]])}, np.full(2, -1), np.arange(2))
    assert rows_of(Sampler(whole, batch_size=2, seed=0), 0).tolist() == [0]
    with pytest.raises(TrainingError, match="none of 1 training rows"):
        Sampler(Examples({IMAGE: np.array([[1]])}, np.full(1, -1), np.arange(1)), batch_size=2, seed=0)


def test_balance_evens_kinds_and_labels() -> None:
    """90 image-text rows, 10 with sounds; labels within the first 80 to 10."""
    labels = np.array([0] * 80 + [1] * 10 + [0] * 10)
    images = np.where(np.arange(100) < 90, np.arange(100), -1)[:, None]
    sounds = np.where(np.arange(100) >= 90, np.arange(100), -1)[:, None]
    whole = Examples({IMAGE: images, TEXT: np.arange(100)[:, None], AUDIO: sounds}, labels, np.arange(100))
    drawn = rows_of(Sampler(whole, batch_size=10, seed=0, balance=1e6), 0)
    assert len(drawn) == 100
    kinds = np.searchsorted([80, 90], drawn, side="right")
    assert np.abs(np.bincount(kinds) - [25, 25, 50]).max() <= 2
    gentle = rows_of(Sampler(whole, batch_size=10, seed=0, balance=2.0), 0)
    share = 3.0 / 12.0  # sqrt(10) / (sqrt(90) + sqrt(10))
    assert abs((gentle >= 90).mean() - share) <= 0.02
    assert np.bincount(drawn[drawn < 80], minlength=80).max() <= 1


def test_modality_dropout_leaves_two() -> None:
    batches = list(Sampler(examples(np.arange(400)), batch_size=400, seed=0, dropout=0.5).batches(0))
    left = sum((batches[0].contents[m] >= 0).astype(int) for m in (IMAGE, TEXT, AUDIO))
    assert set(left) == {2, 3}
    assert abs((left == 2).mean() - 0.5) < 0.08


def shared_world(rng: np.random.Generator) -> Examples:
    """Rows with several texts, and contents that several rows share."""
    texts = rng.integers(-1, 12, (30, 3))
    texts[:, 0] = np.maximum(texts[:, 0], 0)
    slots = {IMAGE: rng.integers(0, 15, (30, 1)), TEXT: texts}
    return Examples(slots, rng.integers(-1, 3, 30), np.arange(30), rng.random(30).astype(np.float32))


def test_masks_say_what_any_row_knows() -> None:
    whole = shared_world(np.random.default_rng(1))
    known = Matches.of(whole, IMAGE, TEXT)
    a, b = np.unique(whole.contents[IMAGE]), np.array([0, 3, 4, 11])
    pairs = {
        (int(i), int(t))
        for i, row in zip(whole.contents[IMAGE][:, 0], whole.contents[TEXT], strict=True)
        for t in row
    }
    assert known.mask(a, b).tolist() == [[(int(i), int(t)) in pairs for t in b] for i in a]
    indptr, listed = known.lists(a[2:5])
    assert [set(listed[s:e]) for s, e in itertools.pairwise(indptr)] == [
        {t for i, t in pairs if i == one and t >= 0} for one in a[2:5]
    ]


def test_a_plan_names_each_content_once_with_its_weight() -> None:
    whole = shared_world(np.random.default_rng(2))
    batch = next(iter(Sampler(whole, batch_size=20, seed=0).batches(0)))
    plan = Planner(whole, ((IMAGE, TEXT),)).plan(batch)
    (found,) = plan.comparisons
    assert found.a.contents.tolist() == sorted(set(batch.contents[IMAGE]))
    for side in (found.a, found.b):
        wanted = [
            whole.weights[batch.rows[batch.contents[side.modality] == content]].sum()
            for content in side.contents
        ]
        assert side.weights == pytest.approx(wanted)
    assert plan.pairs == 20


def test_mined_negatives_join_at_weight_zero_and_known_ones_stay_positive() -> None:
    whole = examples(np.arange(6))
    batch = Batch(np.array([0, 1]), {m: np.array([0, 1]) for m in (IMAGE, TEXT, AUDIO)})
    mined = {(IMAGE, TEXT): np.array([[4, -1], [1, 5], *[[0, 0]] * 4])}
    plan = Planner(whole, ((IMAGE, TEXT),)).plan(batch, mined)
    (found,) = plan.comparisons
    assert found.b.contents.tolist() == [0, 1, 4, 5]
    assert found.b.weights.tolist() == [1, 1, 0, 0]
    assert found.a.contents.tolist() == [0, 1]
    assert found.positive.tolist() == [[True, False, False, False], [False, True, False, False]]


def test_kinds_with_one_row_are_left_out_and_labels_match() -> None:
    slots = {
        IMAGE: np.array([[0], [1], [2]]),
        TEXT: np.array([[0], [1], [2]]),
        AUDIO: np.array([[0], [-1], [-1]]),
    }
    whole = Examples(slots, np.array([5, 5, -1]), np.arange(3))
    batch = next(iter(Sampler(whole, batch_size=3, seed=0).batches(0)))
    planner = Planner(whole, ((IMAGE, TEXT), (TEXT, AUDIO)), by_label=True)
    (found,) = planner.plan(batch).comparisons
    assert found.kind == (IMAGE, TEXT)
    assert found.positive.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    one = Batch(batch.rows[:1], {m: c[:1] for m, c in batch.contents.items()})
    assert planner.plan(one).comparisons == ()
