"""The masks of a pair; options and their limits."""

from __future__ import annotations

import pytest
import torch

from indexer.errors import ConfigError, TrainingError
from retrieval.training.losses import LossKind, LossOptions, Pair

ONE = torch.tensor(1.0)


@pytest.mark.parametrize("field", ["positive", "ignore", "weight", "weight_b", "teacher"])
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
