"""Interleaving: ranks only, one place an item."""

from __future__ import annotations

from itertools import zip_longest

from hypothesis import given
from hypothesis import strategies as st

from indexer.types import Modality, Source
from retrieval.query.fuse import interleave
from retrieval.types import Hit


def hit(name: str, score: float = 0.5) -> Hit:
    return Hit(0, name, name, Modality.IMAGE, Source.FILE, score)


def test_the_first_of_each_then_the_second() -> None:
    merged = interleave([[hit("a", 0.1), hit("b", 0.05)], [hit("c", 0.9), hit("d", 0.8), hit("e", 0.7)]], 4)
    assert [(one.rank, one.item_id) for one in merged] == [(1, "a"), (2, "c"), (3, "b"), (4, "d")]


def test_an_item_in_two_lists_is_shown_where_it_comes_first() -> None:
    merged = interleave([[hit("a"), hit("b")], [hit("b"), hit("c")]], 10)
    assert [one.item_id for one in merged] == ["a", "b", "c"]


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6), max_size=3), st.integers(1, 9)
)
def test_equals_a_plain_double_loop(lists: list[list[str]], k: int) -> None:
    plain = [name for row in zip_longest(*lists) for name in row if name is not None]
    expected = list(dict.fromkeys(plain))[:k]
    merged = interleave([[hit(name) for name in names] for names in lists], k)
    assert [one.item_id for one in merged] == expected
    assert [one.rank for one in merged] == list(range(1, len(expected) + 1))
