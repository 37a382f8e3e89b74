"""Intervals cover what they should, groups count as one, and paired differences are paired."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.evaluation.intervals import _median, differences, intervals
from retrieval.evaluation.metrics import PerQuery, summarise

QUERIES = 120


def scores(rank: np.ndarray) -> PerQuery:
    good = 1.0 / rank
    return PerQuery(rank.astype(np.int64), good, good, np.ones(len(rank), np.int64), 1000)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    random, covered = np.random.default_rng(0), 0
    for seed in range(200):
        rank = np.where(random.random(QUERIES) < 0.4, 1, 50)
        found = intervals(scores(rank), np.arange(QUERIES), seed=seed, resamples=300)["R@1"]
        assert found.low <= found.value <= found.high
        covered += found.low <= 0.4 <= found.high
    assert 180 <= covered <= 198  # of 200 at 95 %: 190, with a standard error of 3


def test_width_is_that_of_the_normal_approximation() -> None:
    rank = np.where(np.arange(400) % 2 == 0, 1, 50)
    found = intervals(scores(rank), np.arange(400), resamples=2000)["R@1"]
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)


def test_copies_of_a_query_in_one_group_tell_nothing_new() -> None:
    random = np.random.default_rng(1)
    rank = random.integers(1, 40, 50)
    alone = intervals(scores(rank), np.arange(50))
    copied = intervals(scores(np.repeat(rank, 5)), np.repeat(np.arange(50), 5))
    apart = intervals(scores(np.repeat(rank, 5)), np.arange(250))
    for name in ("R@10", "MRR", "mean rank", "median rank"):
        assert (copied[name].low, copied[name].high) == pytest.approx((alone[name].low, alone[name].high))
    assert apart["MRR"].high - apart["MRR"].low < 0.6 * (alone["MRR"].high - alone["MRR"].low)


def test_the_same_seed_gives_the_same_interval() -> None:
    rank = np.random.default_rng(2).integers(1, 30, 60)
    first, again = (intervals(scores(rank), np.arange(60), seed=3, resamples=100) for _ in range(2))
    other = intervals(scores(rank), np.arange(60), seed=4, resamples=100)
    assert first == again
    assert first["MRR"] != other["MRR"]


def test_one_group_has_no_interval() -> None:
    found = intervals(scores(np.array([1, 2, 3])), np.zeros(3, int))["R@1"]
    assert found.value == pytest.approx(1 / 3)
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("times", [[1, 1, 1, 1], [0, 2, 0, 1], [3, 0, 0, 3], [0, 0, 1, 0], [2, 1, 1, 1]])
def test_weighted_median_equals_that_of_repeated_values(times: list[int]) -> None:
    ranks = np.array([1, 4, 6, 20])
    assert _median(ranks, np.array(times, float)) == np.median(np.repeat(ranks, times))


def test_paired_difference_is_sure_where_single_intervals_overlap() -> None:
    random = np.random.default_rng(5)
    rank = random.integers(2, 60, 150)
    better = np.maximum(rank - random.integers(0, 3, 150), 1)
    first, second, groups = scores(better), scores(rank), np.arange(150)
    found = differences(first, second, groups)
    for name, value in summarise(first).items():
        assert found[name].value == pytest.approx(value - summarise(second)[name])
    alone, other = intervals(first, groups)["mean rank"], intervals(second, groups)["mean rank"]
    assert alone.high > other.low  # by themselves they could be the same
    assert found["mean rank"].clear
    assert found["mean rank"].high < 0
    assert found["mean rank"].p == pytest.approx(1 / 1001)
    assert found["median rank"].p is None


def test_a_model_does_not_differ_from_itself() -> None:
    rank = np.random.default_rng(6).integers(1, 30, 40)
    found = differences(scores(rank), scores(rank), np.arange(40))["MRR"]
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert not found.clear


def test_sign_flip_equals_the_exact_test() -> None:
    first, second = np.array([1, 1, 1, 1, 2, 1]), np.array([2, 3, 2, 4, 1, 9])
    apart = 1 / first - 1 / second
    signs = np.array([[1 - 2 * (n >> bit & 1) for bit in range(6)] for n in range(64)])
    exact = float(np.mean(np.abs(signs @ apart) >= abs(apart.sum()) - 1e-12))
    found = differences(scores(first), scores(second), np.arange(6), resamples=20_000)["MRR"].p
    assert found == pytest.approx(exact, abs=0.01)
