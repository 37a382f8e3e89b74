"""Every loss equals its plain-loop oracle, in value and gradient, on named and on random cases."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, settings

from retrieval.training.losses import Distance, Loss, LossKind, LossOptions, Negatives, Pair, make_loss
from tests.retrieval.training.losses import oracle
from tests.retrieval.training.losses.cases import NAMED, Case, assert_same, cases, check_gradients, make_pair

SEED = 5


def seeded(options: LossOptions) -> Loss:
    """A loss that draws the same each time it is called."""

    def loss(pair: Pair) -> torch.Tensor:
        return make_loss(options, generator=torch.Generator().manual_seed(SEED))(pair)

    return loss


def triplets(negatives: Negatives, distance: Distance, margin: float) -> tuple[Loss, Loss]:
    seed = SEED if negatives is Negatives.RANDOM else None
    options = LossOptions(LossKind.TRIPLET, margin=margin, negatives=negatives, distance=distance)
    numbers = {"margin": margin, "negatives": negatives, "distance": distance, "seed": seed}
    return seeded(options), partial(oracle.triplet, **numbers)


def pairs_of_losses() -> dict[str, tuple[Loss, Loss]]:
    found: dict[str, tuple[Loss, Loss]] = {
        "infonce": (make_loss(LossOptions()), oracle.infonce),
        "infonce, smoothed": (make_loss(LossOptions(smoothing=0.2)), partial(oracle.infonce, smoothing=0.2)),
        "sigmoid": (make_loss(LossOptions(LossKind.SIGMOID)), oracle.sigmoid),
        "supcon": (make_loss(LossOptions(LossKind.SUPCON)), oracle.supcon),
        "supcon across": (make_loss(LossOptions(LossKind.SUPCON, within=False)), oracle.infonce),
    }
    for negatives, distance in product(Negatives, Distance):
        found[f"triplet {negatives} {distance}"] = triplets(negatives, distance, 0.5)
    return found


LOSSES = pairs_of_losses()
SYMMETRIC = {name: two for name, two in LOSSES.items() if "random" not in name}  # rows draw first


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_equals_its_oracle(losses: tuple[Loss, Loss], case: Case) -> None:
    assert_same(*losses, case)


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_equals_its_oracle_on_random_cases(losses: tuple[Loss, Loss]) -> None:
    @settings(max_examples=10, deadline=None, derandomize=True, database=None)
    @given(cases)
    def agree(case: Case) -> None:
        assert_same(*losses, case)

    agree()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(
    "case", [Case(taught=True), NAMED["a teacher"], Case(rows=1, columns=3, taught=True)]
)
def test_distillation_equals_its_oracle(case: Case, temperature: float) -> None:
    loss = make_loss(LossOptions(LossKind.DISTILL, distill_temperature=temperature))
    assert_same(loss, partial(oracle.distill, temperature=temperature), case)


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(cases.filter(lambda case: case.taught))
def test_mixing_with_a_teacher_equals_the_weighted_sum(case: Case) -> None:
    options = LossOptions(LossKind.SIGMOID, distill_weight=0.3, distill_temperature=0.2)

    def mixture(pair: Pair) -> torch.Tensor:
        return 0.7 * oracle.sigmoid(pair) + 0.3 * oracle.distill(pair, temperature=0.2)

    assert_same(make_loss(options), mixture, case)


@pytest.mark.parametrize("case", [NAMED["a teacher"], NAMED["more columns"]])
@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_gradients_equal_finite_differences(losses: tuple[Loss, Loss], case: Case) -> None:
    check_gradients(losses[0], case)


def test_distillation_gradients_equal_finite_differences() -> None:
    check_gradients(make_loss(LossOptions(LossKind.DISTILL)), NAMED["a teacher"])


@pytest.mark.parametrize("losses", SYMMETRIC.values(), ids=SYMMETRIC)
def test_the_two_sides_can_be_exchanged(losses: tuple[Loss, Loss]) -> None:
    pair = make_pair(NAMED["weights"])
    assert pair.ignore is not None
    swapped = Pair(
        a=pair.b,
        b=pair.a,
        positive=pair.positive.T,
        ignore=pair.ignore.T,
        weight=pair.weight_b,
        weight_b=pair.weight,
        scale=pair.scale,
        bias=pair.bias,
    )
    torch.testing.assert_close(losses[0](pair), losses[0](swapped), rtol=1e-12, atol=1e-12)


def test_the_oracle_of_infonce_is_clips_cross_entropy() -> None:
    pair = make_pair(NAMED["diagonal"])
    logits, target = pair.scale * pair.a @ pair.b.T, torch.arange(5)
    entropy: Callable[..., torch.Tensor] = torch.nn.functional.cross_entropy
    wanted = (entropy(logits, target) + entropy(logits.T, target)) / 2
    torch.testing.assert_close(oracle.infonce(pair), wanted)


def test_the_oracle_of_triplets_is_torchs_margin_loss_where_negatives_are_given() -> None:
    pair = make_pair(Case(rows=2, columns=2))
    found = oracle.triplet(pair, margin=0.7, negatives=Negatives.HARDEST, distance=Distance.EUCLIDEAN)
    measure = partial(torch.nn.functional.triplet_margin_loss, margin=0.7, eps=0.0)
    wanted = measure(pair.a, pair.b, pair.b.flip(0)) + measure(pair.b, pair.a, pair.a.flip(0))
    torch.testing.assert_close(found, wanted / 2)
