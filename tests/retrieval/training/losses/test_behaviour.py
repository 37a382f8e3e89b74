"""What no random case shows: extreme numbers, half types, empty sides, known values, nested prefixes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from indexer.errors import ConfigError, TrainingError
from retrieval.training.losses import (
    Distance,
    LossKind,
    LossOptions,
    Negatives,
    Pair,
    make_loss,
    nested,
)
from retrieval.training.losses.pair import unit
from retrieval.training.losses.triplet import euclidean
from tests.retrieval.training.losses import oracle
from tests.retrieval.training.losses.cases import NAMED, Case, assert_same, make_pair

EVERY = {
    "infonce": LossOptions(smoothing=0.1),
    "sigmoid": LossOptions(LossKind.SIGMOID),
    "supcon": LossOptions(LossKind.SUPCON),
    "distill": LossOptions(LossKind.DISTILL),
    "mixed": LossOptions(distill_weight=0.5),
} | {
    f"triplet {negatives} {distance}": LossOptions(LossKind.TRIPLET, negatives=negatives, distance=distance)
    for negatives in Negatives
    for distance in Distance
}


def plain(a: torch.Tensor, b: torch.Tensor, scale: float, **more: torch.Tensor) -> Pair:
    """Vectors, in float32 or less, on the diagonal's positives."""
    fields = {"positive": torch.eye(len(a), len(b), dtype=torch.bool)} | more
    return Pair(
        a=a.requires_grad_(),
        b=b.requires_grad_(),
        scale=torch.tensor(scale, requires_grad=True),
        bias=torch.tensor(-10.0, requires_grad=True),
        **fields,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("spread", ["one vector throughout", "opposite to each other", "positives opposite"])
def test_finite_at_a_scale_of_100(options: LossOptions, dtype: torch.dtype, spread: str) -> None:
    base = unit(torch.randn(1, 8, generator=torch.Generator().manual_seed(0))).expand(6, 8).clone()
    other = -base if spread == "opposite to each other" else base.clone()
    if spread == "positives opposite":
        base[3:] *= -1.0
        other = -base
    pair = plain(base.to(dtype), other.to(dtype), 100.0, teacher=base @ base.T)
    value = make_loss(options)(pair)
    value.backward()
    assert value.dtype is torch.float32
    assert value.isfinite()
    for vectors in (pair.a, pair.b):
        assert vectors.grad is not None
        assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("case", ["no positive at all", "all ignored", "weights of zero"])
def test_nothing_to_learn_from_is_zero_with_a_gradient_of_zero(options: LossOptions, case: str) -> None:
    pair = replace(make_pair(NAMED[case]), teacher=None)
    if options.kind is LossKind.DISTILL:
        pair = replace(pair, teacher=torch.full(pair.positive.shape, torch.nan, dtype=torch.float64))
    value = make_loss(options)(pair)
    value.backward()
    assert value == 0.0
    assert pair.a.grad is not None
    assert not pair.a.grad.any()


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
def test_an_empty_side_is_zero(options: LossOptions) -> None:
    value = make_loss(options)(plain(torch.zeros(0, 4), torch.eye(4), 10.0, teacher=torch.zeros(0, 4)))
    value.backward()
    assert value == 0.0


def test_halves_are_summed_in_float32() -> None:
    full = make_pair(Case(rows=40, columns=40, width=16))
    wanted = make_loss(LossOptions())(full).item()
    half = replace(full, a=full.a.bfloat16(), b=full.b.bfloat16(), scale=full.scale.float())
    found = make_loss(LossOptions())(half)
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(wanted, rel=5e-3)


def test_known_values_of_two_orthogonal_pairs() -> None:
    pair = plain(torch.eye(2), torch.eye(2), 10.0)
    gentle = replace(pair, scale=torch.tensor(5.0))
    assert make_loss(LossOptions())(gentle).item() == pytest.approx(math.log1p(math.exp(-5.0)), rel=1e-3)
    # scale 10, bias -10: a positive has the logit 0, a negative -10
    wanted = math.log(2.0) + math.log1p(math.exp(-10.0))
    assert make_loss(LossOptions(LossKind.SIGMOID))(pair).item() == pytest.approx(wanted, rel=1e-6)
    for distance, gap in ((Distance.COSINE, 1.0), (Distance.EUCLIDEAN, math.sqrt(2.0))):
        options = LossOptions(LossKind.TRIPLET, margin=1.75, distance=distance)
        assert make_loss(options)(pair).item() == pytest.approx(1.75 - gap, rel=1e-6)


def test_perfect_students_have_no_divergence() -> None:
    pair = make_pair(Case(seed=3, columns=8))
    goal = (pair.a @ pair.b.T).detach()
    pair = replace(pair, teacher=goal, scale=torch.tensor(4.0, dtype=torch.float64))
    loss = make_loss(LossOptions(LossKind.DISTILL, distill_temperature=0.25))(pair)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert pair.a.grad is not None
    assert pair.a.grad.abs().max() < 1e-12


def test_distillation_without_a_teacher() -> None:
    pair = make_pair(Case())
    with pytest.raises(TrainingError, match="no teacher"):
        make_loss(LossOptions(LossKind.DISTILL))(pair)
    mixed, alone = make_loss(LossOptions(distill_weight=0.5))(pair), make_loss(LossOptions())(pair)
    assert mixed == alone


def semi_hard(b: list[float], margin: float) -> float:
    """One anchor at angle 0, its positive first; the row's and the columns' hinges, averaged."""
    angles = torch.tensor(b, dtype=torch.float64)
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    pair = Pair(
        a=torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        b=vectors,
        positive=torch.tensor([[True] + [False] * (len(b) - 1)]),
        scale=torch.tensor(1.0),
        bias=torch.tensor(0.0),
    )
    return make_loss(LossOptions(LossKind.TRIPLET, margin=margin))(pair).item() * 2.0


def test_semi_hard_takes_the_nearest_beyond_the_positive() -> None:
    def far(angle: float) -> float:
        return 1.0 - math.cos(angle)

    assert semi_hard([0.8, 0.1, 0.9, 1.0], 0.5) == pytest.approx(0.5 + far(0.8) - far(0.9))
    # beyond the margin there is nothing to do, though another negative is nearer than the positive
    assert semi_hard([0.8, 0.1, 3.0], 0.5) == 0.0
    # none beyond: the farthest of the nearer ones
    assert semi_hard([0.8, 0.1, 0.3], 0.5) == pytest.approx(0.5 + far(0.8) - far(0.3))
    # as far as the positive is not beyond
    assert semi_hard([0.8, 0.8, 0.9], 0.5) == pytest.approx(0.5 + far(0.8) - far(0.9))


def test_semi_hard_in_small_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(Case(seed=4, rows=9, columns=8, positive=0.4))
    loss = make_loss(LossOptions(LossKind.TRIPLET))
    whole = loss(pair)
    monkeypatch.setattr("retrieval.training.losses.triplet.BLOCK", 20)
    assert loss(pair) == whole


def test_random_negatives_follow_their_generator_and_are_uniform() -> None:
    options = LossOptions(LossKind.TRIPLET, negatives=Negatives.RANDOM, margin=1.0)
    pair = make_pair(Case(seed=2, rows=8, columns=8))

    def drawn(seed: int) -> list[float]:
        loss = make_loss(options, generator=torch.Generator().manual_seed(seed))
        return [loss(pair).item() for _ in range(3)]

    assert drawn(1) == drawn(1) != drawn(2)
    # One anchor with its positive and three negatives at distances 0, 1 and 2: the mean hinge is 1 + 0 - 1.
    b = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    one = plain(b[:1].repeat(3000, 1), b, 1.0, positive=torch.tensor([[True, False, False, False]] * 3000))
    options = replace(options, margin=2.0)
    loss = make_loss(options, generator=torch.Generator().manual_seed(0))(one).item() * 2.0
    assert loss == pytest.approx(1.0, abs=0.05)


def test_euclidean_gradient_is_zero_at_no_distance() -> None:
    a = torch.eye(3, dtype=torch.float64).requires_grad_()
    found = euclidean(a, torch.eye(3, dtype=torch.float64))
    assert found.diagonal().tolist() == [0.0] * 3
    found.diagonal().sum().backward()
    assert a.grad is not None
    assert not a.grad.any()


def test_unit_keeps_a_zero_and_its_gradient() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    found = unit(vectors)
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]
    found.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad[1].tolist() == [0.0, 0.0]
    assert vectors.grad[0].abs().max() > 0


def test_nested_is_the_weighted_sum_over_unit_prefixes() -> None:
    def summed(pair: Pair) -> torch.Tensor:
        total = 0.25 * oracle.infonce(pair)
        for dim, weight in ((3, 1.0), (2, 0.5)):
            a, b = pair.a[:, :dim], pair.b[:, :dim]
            a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
            total = total + weight * oracle.infonce(replace(pair, a=a, b=b))
        return total

    case = replace(NAMED["weights"], width=5)
    assert_same(nested(make_loss(LossOptions()), (5, 3, 2), (0.25, 1.0, 0.5)), summed, case)
    one = make_loss(LossOptions())
    pair = make_pair(case)
    assert nested(one, (5,))(pair) == one(pair)


@pytest.mark.parametrize(
    ("dims", "weights"), [((), None), ((4, 4), None), ((4, 0), None), ((4, 2), (1.0,)), ((4, 2), (0.0, 0.0))]
)
def test_nested_refuses_what_makes_no_sense(dims: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
    with pytest.raises(ConfigError):
        nested(make_loss(LossOptions()), dims, weights)


def test_nested_refuses_more_than_the_vectors_have() -> None:
    with pytest.raises(TrainingError, match="a nested dimension is 9, the vectors have 4"):
        nested(make_loss(LossOptions()), (9, 4))(make_pair(Case()))
