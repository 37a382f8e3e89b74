"""The masks of a pair, against what contents say; options and their limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import ConfigError, TrainingError
from retrieval.training.losses import LossKind, LossOptions, Pair, label_positives, positives

numbers = st.lists(st.integers(-1, 4), min_size=1, max_size=7)
ONE = torch.tensor(1.0)


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_positives_are_the_content_pairs_that_some_row_here_makes(data: st.DataObject) -> None:
    rows_a, rows_b = data.draw(numbers), data.draw(numbers)
    contents_a = data.draw(st.lists(st.integers(-2, 3), min_size=len(rows_a), max_size=len(rows_a)))
    contents_b = data.draw(st.lists(st.integers(-2, 3), min_size=len(rows_b), max_size=len(rows_b)))

    def paired(i: int, j: int) -> bool:
        return rows_a[i] == rows_b[j] >= 0

    def alike(contents: list[int], one: int, other: int) -> bool:
        return one == other or contents[one] == contents[other] >= 0

    wanted = [
        [
            any(
                paired(k, m) and alike(contents_a, i, k) and alike(contents_b, j, m)
                for k in range(len(rows_a))
                for m in range(len(rows_b))
            )
            for j in range(len(rows_b))
        ]
        for i in range(len(rows_a))
    ]
    found = positives(*(ints(*values) for values in (rows_a, rows_b, contents_a, contents_b)))
    assert found.tolist() == wanted


def test_a_picture_of_two_rows_has_the_texts_of_both() -> None:
    found = positives(ints(0, 1, 2), ints(0, 1, 2), ints(7, 7, 8), ints(3, 4, 4))
    # Row 1's picture is row 0's, and row 2's text is row 1's; row 0's text and row 2's picture never met.
    assert found.tolist() == [[True, True, True], [True, True, True], [False, True, True]]


def test_labels_match_and_missing_ones_do_not() -> None:
    found = label_positives(ints(0, -1, 2), ints(2, -1, 0, 0))
    assert found.tolist() == [
        [False, False, True, True],
        [False, False, False, False],
        [True, False, False, False],
    ]


@pytest.mark.parametrize("field", ["positive", "ignore", "weight", "weight_b", "share", "teacher"])
def test_a_mask_of_the_wrong_shape_is_refused(field: str) -> None:
    vectors = torch.eye(3)
    fields = {"positive": torch.eye(3, dtype=torch.bool), field: torch.ones(2, 3)}
    with pytest.raises(TrainingError, match=rf"^{field} has the shape \(2, 3\), expected \(3,"):
        Pair(a=vectors, b=vectors, scale=ONE, bias=ONE, **fields)


def test_ignoring_wins_over_positive() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    pair = Pair(
        a=torch.eye(2), b=torch.eye(2), positive=mask, ignore=mask.roll(1, 0) | mask, scale=ONE, bias=ONE
    )
    assert not pair.targets().any()
    assert not pair.negatives().any()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("margin", -0.1, "loss.margin is -0.1, expected 0 to 4"),
        ("smoothing", 1.0, "loss.smoothing is 1.0, expected 0 or more and less than 1"),
        ("init_scale", 0.0, "loss.init_scale is 0.0, expected more than 0"),
        ("init_bias", float("nan"), "loss.init_bias is nan"),
        ("distill_weight", 1.5, "loss.distill_weight is 1.5"),
        ("distill_temperature", 0.0, "loss.distill_temperature is 0.0"),
    ],
)
def test_options_out_of_range_are_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossOptions(**{field: value})


@pytest.mark.parametrize(
    ("kind", "scale", "bias"),
    [(LossKind.INFONCE, 1 / 0.07, 0.0), (LossKind.SIGMOID, 10.0, -10.0), (LossKind.SUPCON, 10.0, 0.0)],
)
def test_scale_and_bias_start_where_the_paper_has_them(kind: LossKind, scale: float, bias: float) -> None:
    assert (LossOptions(kind).start_scale, LossOptions(kind).start_bias) == (scale, bias)
    given = LossOptions(kind, init_scale=3.0, init_bias=0.5)
    assert (given.start_scale, given.start_bias) == (3.0, 0.5)
