"""Splits by group hash, groups that hold together, and leaks across a split."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import LeakageRefused, TrainingError
from indexer.types import Modality
from retrieval.training.duplicates import Linker, group_near
from retrieval.training.splits import (
    assign_splits,
    find_leaks,
    groups_from_rows,
    normal_caption,
)
from retrieval.training.types import Examples, Ints, Row, Split

TRAIN, VALIDATION, TEST = Split.TRAIN, Split.VALIDATION, Split.TEST


def row(number: int, **more: object) -> Row:
    """A row that shares nothing with another."""
    return replace(Row(f"r{number}", f"/m/{number}.png", (f"caption number {number}",)), **more)


def sides(splits: dict[Split, Ints]) -> dict[int, Split]:
    """Each row's split; fails where a row is in two."""
    pairs = [(int(number), split) for split, numbers in splits.items() for number in numbers]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def place(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def test_a_row_goes_where_its_hash_says() -> None:
    rows = [row(i) for i in range(500)]
    expected = [
        TEST if (u := place(f"r{i}")) < 0.2 else VALIDATION if u < 0.35 else TRAIN for i in range(500)
    ]
    found = sides(assign_splits(rows, validation=0.15, test=0.2))
    assert [found[i] for i in range(500)] == expected
    assert 0.15 < expected.count(TEST) / 500 < 0.25


def test_rows_stay_where_they_are_when_others_come() -> None:
    rows = [row(i) for i in range(300)]
    before = sides(assign_splits(rows[::2]))
    after = sides(assign_splits(rows))
    assert [before[i] for i in range(150)] == [after[2 * i] for i in range(150)]
    reseeded = sides(assign_splits(rows, seed=1))
    assert reseeded != after


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),  # picture
            st.integers(0, 40),  # caption
            st.none() | st.integers(0, 8),  # group
        ),
        min_size=40,
        max_size=80,
    )
)
def test_what_belongs_together_is_never_apart(drawn: list[tuple[int, int, int | None]]) -> None:
    rows = [
        Row(
            f"r{i}",
            f"/m/{picture}.png",
            (f"caption {caption}",),
            group=None if group is None else f"g{group}",
        )
        for i, (picture, caption, group) in enumerate(drawn)
    ]
    groups = groups_from_rows(rows).numbers
    try:
        found = sides(assign_splits(rows))
    except TrainingError:
        assert len(set(groups.tolist())) < 3
        return
    assert sorted(found) == list(range(len(rows)))
    assert set(found.values()) == set(Split)
    for a, b in combinations(range(len(rows)), 2):
        if rows[a].image == rows[b].image or (rows[a].group and rows[a].group == rows[b].group):
            assert found[a] is found[b]


def test_captions_tie_by_their_normal_form() -> None:
    assert normal_caption("  A Red\n bird. ") == "a red bird"
    assert normal_caption("“Ａ red bird”") == "a red bird"
    assert normal_caption("?!") == ""
    rows = [row(i) for i in range(40)]
    rows[3] = row(3, texts=("other", "A red bird."))
    rows[30] = row(30, texts=("a red  bird",))
    numbers = groups_from_rows(rows).numbers
    assert numbers[3] == numbers[30]
    assert len(set(numbers.tolist())) == 39


def test_a_caption_that_half_the_rows_carry_ties_nothing() -> None:
    rows = [row(i, texts=("bird",)) if i % 2 else row(i) for i in range(100)]
    rows[0], rows[2] = (row(i, texts=("a rare one",)) for i in (0, 2))
    grouping = groups_from_rows(rows)
    assert len(set(grouping.numbers.tolist())) == 99
    assert "1 captions" in grouping.notes[0]
    assert "'bird'" in grouping.notes[0]


def test_further_groups_tie_and_minus_one_does_not() -> None:
    rows = [row(i) for i in range(60)]
    alike = np.full(60, -1)
    alike[[5, 50, 51]] = 7
    numbers = groups_from_rows(rows, alike=alike).numbers
    assert len(set(numbers[[5, 50, 51]].tolist())) == 1
    assert len(set(numbers.tolist())) == 58
    found = sides(assign_splits(rows, groups=alike))
    assert found[5] is found[50] is found[51]


def test_own_splits_win_and_draw_their_group() -> None:
    rows = [row(i, split=(TRAIN, VALIDATION, TEST)[i % 3]) for i in range(30)]
    rows += [row(30, group="x", split=TEST), row(31, group="x"), row(32, group="x", split=TRAIN)]
    found = sides(assign_splits(rows))
    assert [found[i] for i in range(30)] == [(TRAIN, VALIDATION, TEST)[i % 3] for i in range(30)]
    assert [found[i] for i in (30, 31, 32)] == [TEST, TEST, TRAIN]


def test_validation_is_taken_from_train_by_group_where_a_source_has_none() -> None:
    rows = [row(i, split=TEST if i < 100 else TRAIN, group=f"g{i // 4}") for i in range(400)]
    splits = assign_splits(rows, validation=0.2, test=0.5)
    assert splits[TEST].tolist() == list(range(100)), "test stays as given, whatever the share"
    expected = [i for i in range(100, 400) if place(f"g{i // 4}") < 0.2]
    assert splits[VALIDATION].tolist() == expected
    assert 30 < len(expected) < 90
    assert len(assign_splits(rows, validation=0)[VALIDATION]) == 0


def test_a_source_of_one_split_is_left_alone() -> None:
    splits = assign_splits([row(i, split=TEST) for i in range(5)])
    assert [len(splits[split]) for split in Split] == [0, 0, 5]


@pytest.mark.parametrize("count", range(3, 12))
def test_few_rows_fill_every_split(count: int) -> None:
    for start in range(0, 200, 20):
        splits = assign_splits([row(start + i) for i in range(count)])
        assert all(len(splits[split]) for split in Split)


def test_an_empty_split_is_an_error() -> None:
    one_group = [row(i, group="g") for i in range(50)]
    with pytest.raises(TrainingError, match=r"split is empty: the rows make 1 group,") as caught:
        assign_splits(one_group)
    assert "share of 0" in (caught.value.hint or "")
    assert len(assign_splits(one_group, validation=0, test=0)[TRAIN]) == 50
    with pytest.raises(TrainingError, match="2 groups"):
        assign_splits([row(0), row(1)])
    with pytest.raises(TrainingError, match="0 groups"):
        assign_splits([])


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (float("nan"), 0), (0.1, 1.0), (0.5, 0.5)])
def test_shares_that_make_no_sense(validation: float, test: float) -> None:
    with pytest.raises(TrainingError):
        assign_splits([row(i) for i in range(9)], validation=validation, test=test)


def test_links_with_a_bound_are_all_or_nothing() -> None:
    linker = Linker(6)
    assert linker.link((0, 1, 2), cap=3)
    assert not linker.link((2, 3, 4), cap=4)
    assert linker.link((3, 4), cap=2)
    assert linker.link((0, 2), cap=1), "already one"
    assert linker.numbers().tolist() == [0, 0, 0, 1, 1, 2]


# Leaks


def features_of(vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.float16)


@pytest.fixture
def world() -> tuple[list[Row], Examples, dict[Modality, np.ndarray]]:
    """Twelve rows of a picture each; row 11 has row 0's picture, 10 nearly row 1's, 9 row 2's caption."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((12, 64))
    vectors[10] = vectors[1] + 0.02 * rng.standard_normal(64)
    vectors[8] = 0  # nothing, as is row 3's: two of these are not near
    vectors[3] = 0
    contents = np.arange(12)[:, None].copy()
    contents[11] = 0
    rows = [row(i) for i in range(12)]
    rows[9] = row(9, texts=("Caption number 2!",))
    examples = Examples({Modality.IMAGE: contents}, np.full(12, -1), np.full(12, -1), np.ones(12, np.float32))
    return rows, examples, {Modality.IMAGE: features_of(vectors)}


def test_leaks_are_found_named_and_refused(
    world: tuple[list[Row], Examples, dict[Modality, np.ndarray]],
) -> None:
    rows, examples, features = world
    splits = {TRAIN: np.arange(8), VALIDATION: np.array([8, 9]), TEST: np.array([10, 11])}
    report = find_leaks(rows, examples, features, splits)
    assert [(leak.row, leak.other) for leak in report.same] == [(11, 0)]
    assert [(leak.row, leak.other) for leak in report.near] == [(10, 1)]
    assert [(leak.row, leak.other) for leak in report.captions] == [(9, 2)]
    one, ten = (features[Modality.IMAGE][i].astype(np.float64) for i in (1, 10))
    cosine = one @ ten / np.linalg.norm(one) / np.linalg.norm(ten)
    assert report.near[0].cosine == pytest.approx(cosine, abs=1e-5)
    same, near, captions = report.lines()
    assert "r11 and r0" in same
    assert f"r10 and r1 (image, cosine {cosine:.3f})" in near
    assert "caption" in captions
    with pytest.raises(LeakageRefused) as caught:
        report.refuse()
    assert "--allow-leaks" in (caught.value.hint or "")
    assert "r9" not in caught.value.message
    report.refuse(allowed=True)


def test_a_shared_caption_alone_is_told_but_not_refused(
    world: tuple[list[Row], Examples, dict[Modality, np.ndarray]],
) -> None:
    rows, examples, features = world
    report = find_leaks(rows, examples, features, {TRAIN: np.arange(8), TEST: np.array([9])})
    assert not report.same
    assert not report.near
    assert len(report.captions) == 1
    report.refuse()


def test_rows_in_no_split_leak_nothing(world: tuple[list[Row], Examples, dict[Modality, np.ndarray]]) -> None:
    rows, examples, features = world
    report = find_leaks(rows, examples, features, {TRAIN: np.arange(2, 8), TEST: np.array([10, 11])})
    assert not report.lines()


def test_grouping_by_features_leaves_no_leak(
    world: tuple[list[Row], Examples, dict[Modality, np.ndarray]],
) -> None:
    rows, examples, features = world
    groups = group_near(features, examples.contents).numbers
    assert groups.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 0]
    splits = assign_splits(rows, validation=0.3, test=0.3, groups=groups)
    report = find_leaks(rows, examples, features, splits)
    assert not report.same
    assert not report.near
    assert not report.captions


def test_every_split_is_compared_with_every_other() -> None:
    rows = [row(i) for i in range(6)]
    contents = np.array([0, 1, 2, 0, 1, 1])[:, None]
    examples = Examples(
        {Modality.AUDIO: contents}, np.zeros(6, int), np.zeros(6, int), np.ones(6, np.float32)
    )
    features = {Modality.AUDIO: features_of(np.eye(3, 8))}
    splits = {TRAIN: np.array([0, 2]), VALIDATION: np.array([1, 3]), TEST: np.array([4, 5])}
    report = find_leaks(rows, examples, features, splits)
    assert {(leak.row, leak.other) for leak in report.same} == {(3, 0), (4, 1), (5, 1)}


def test_ids_cannot_be_taken_for_captions() -> None:
    rows = [row(0, id="caption-a"), row(1, id="caption-b")]
    examples = Examples({Modality.IMAGE: np.zeros((2, 1), int)}, np.zeros(2, int), np.zeros(2, int))
    features = {Modality.IMAGE: features_of(np.ones((1, 8)))}
    with pytest.raises(LeakageRefused, match="caption-b and caption-a"):
        find_leaks(rows, examples, features, {TRAIN: np.array([0]), TEST: np.array([1])}).refuse()
