"""Merging lists: by rank, by comparable scores, each name once, the order inside a list kept."""

from __future__ import annotations

from itertools import zip_longest

from hypothesis import given
from hypothesis import strategies as st

from retrieval.query.fuse import by_score, interleave

NAMES = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6), max_size=3)


def by_rank(lists: list[list[str]]) -> list[str]:
    return interleave(lists, key=str)


def test_the_first_of_each_then_the_second() -> None:
    assert by_rank([["a", "b"], ["c", "d", "e"]]) == ["a", "c", "b", "d", "e"]


def test_an_item_in_two_lists_is_shown_where_it_comes_first() -> None:
    assert by_rank([["a", "b"], ["b", "c"]]) == ["a", "b", "c"]


@given(NAMES)
def test_equals_a_plain_double_loop(lists: list[list[str]]) -> None:
    plain = [name for row in zip_longest(*lists) for name in row if name is not None]
    assert by_rank(lists) == list(dict.fromkeys(plain))


def merged(lists: list[list[tuple[str, float]]]) -> list[str]:
    found = by_score(lists, score=lambda one: (one[1], one[0]), key=lambda one: one[0])
    return [name for name, _ in found]


def test_the_best_head_comes_first_and_a_name_once() -> None:
    assert merged([[("a", 0.9), ("b", 0.2)], [("c", 0.5), ("a", 0.4)]]) == ["a", "c", "b"]


def test_a_list_keeps_its_order_where_its_scores_do_not() -> None:
    assert merged([[("a", 0.1), ("b", 0.9)], [("c", 0.5)]]) == ["c", "a", "b"]


def test_equal_scores_go_by_name() -> None:
    assert merged([[("b", 0.5)], [("a", 0.5)]]) == ["a", "b"]


@given(st.lists(st.lists(st.floats(0, 1), max_size=6), max_size=3))
def test_sorted_lists_give_a_sorted_list(lists: list[list[float]]) -> None:
    named = [
        [(f"{place}-{row}", score) for row, score in enumerate(sorted(scores, reverse=True))]
        for place, scores in enumerate(lists)
    ]
    found = by_score(named, score=lambda one: (one[1], one[0]), key=lambda one: one[0])
    expected = sorted((one for scores in named for one in scores), key=lambda one: -one[1])
    assert [score for _, score in found] == [score for _, score in expected]
