"""Pairs to try losses on: random vectors in float64 with every kind of mask, weight and shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from retrieval.training.losses import Loss, Pair


@dataclass(frozen=True)
class Case:
    """What a pair is drawn with."""

    seed: int = 0
    rows: int = 5
    columns: int = 5
    width: int = 4
    positive: float | None = None  # chance of a positive; None: the diagonal
    ignore: float = 0.0
    weighted: bool = False
    zero_weights: bool = False
    taught: bool = False
    scale: float = 5.0


NAMED = {
    "diagonal": Case(),
    "several positives": Case(seed=1, positive=0.4),
    "ignored entries": Case(seed=2, positive=0.3, ignore=0.3),
    "more columns": Case(seed=3, rows=4, columns=7),
    "more rows": Case(seed=4, rows=7, columns=3, positive=0.3),
    "rows without a positive": Case(seed=5, rows=6, columns=6, positive=0.1),
    "no positive at all": Case(seed=6, positive=0.0),
    "one of each": Case(seed=7, rows=1, columns=1),
    "one row": Case(seed=8, rows=1, columns=4),
    "positives only": Case(seed=9, rows=3, columns=4, positive=1.0),
    "all ignored": Case(seed=10, positive=0.5, ignore=1.0),
    "weights": Case(seed=11, positive=0.3, ignore=0.1, weighted=True),
    "weights of zero": Case(seed=12, weighted=True, zero_weights=True),
    "a teacher": Case(seed=14, positive=0.3, ignore=0.2, weighted=True, taught=True),
}

cases = st.builds(
    Case,
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    width=st.integers(2, 5),
    positive=st.sampled_from([None, 0.1, 0.4, 1.0]),
    ignore=st.sampled_from([0.0, 0.2, 0.6]),
    weighted=st.booleans(),
    taught=st.booleans(),
    scale=st.sampled_from([0.5, 10.0, 40.0]),
)


def make_pair(case: Case) -> Pair:
    """A pair in float64 whose vectors, scale and bias want a gradient."""
    draw = torch.Generator().manual_seed(case.seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    def vectors(count: int) -> Tensor:
        found = torch.randn(count, case.width, generator=draw, dtype=torch.float64)
        return (found / found.norm(dim=1, keepdim=True)).requires_grad_()

    shape = (case.rows, case.columns)
    drawn = rand(*shape)
    positive = torch.eye(*shape, dtype=torch.bool) if case.positive is None else drawn < case.positive
    weight, weight_b = rand(case.rows), rand(case.columns)
    if case.zero_weights:
        weight, weight_b = weight * 0, weight_b * 0
    teacher = 2 * rand(*shape) - 1
    teacher[rand(*shape) < 0.1] = torch.nan
    return Pair(
        a=vectors(case.rows),
        b=vectors(case.columns),
        positive=positive,
        ignore=rand(*shape) < case.ignore if case.ignore else None,
        weight=weight if case.weighted else None,
        weight_b=weight_b if case.weighted else None,
        teacher=teacher if case.taught else None,
        scale=torch.tensor(case.scale, dtype=torch.float64, requires_grad=True),
        bias=torch.tensor(-1.5, dtype=torch.float64, requires_grad=True),
    )


def value_and_gradients(loss: Loss, pair: Pair) -> tuple[Tensor, list[Tensor]]:
    """The loss, and its gradients by a, b, scale and bias; zero where it does not depend on one."""
    wanted = [pair.a, pair.b, pair.scale, pair.bias]
    value = loss(pair)
    found = torch.autograd.grad(value, wanted, allow_unused=True) if value.requires_grad else [None] * 4
    return value.detach(), [
        torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)
    ]


def assert_same(loss: Loss, oracle: Loss, case: Case) -> None:
    """The two agree on a case, in value and in every gradient."""
    pair = make_pair(case)
    value, gradients = value_and_gradients(loss, pair)
    wanted, wanted_gradients = value_and_gradients(oracle, pair)
    assert value.shape == ()
    torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-10)
    for found, expected in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def check_gradients(loss: Loss, case: Case) -> None:
    """The gradients agree with finite differences, too."""
    pair = make_pair(case)

    def run(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return loss(replace(pair, a=a, b=b, scale=scale, bias=bias))

    assert torch.autograd.gradcheck(run, (pair.a, pair.b, pair.scale, pair.bias))
