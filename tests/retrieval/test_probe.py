"""A probe on points whose distribution is known, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from indexer.types import FloatArray
from retrieval.query.concepts import probe
from retrieval.query.concepts.probe import Measured, fit, share

DIM = 12


def cloud(seed: int, count: int, shift: float = 0.0) -> FloatArray:
    """Points around the origin, or around `shift` on the first axis."""
    points = np.random.default_rng(seed).standard_normal((count, DIM)) / np.sqrt(DIM)
    points[:, 0] += shift
    return points.astype(np.float32)


NOTHING = cloud(0, 0)


def told(found: probe.Probe, rows: FloatArray) -> FloatArray:
    odds = rows @ found.direction * found.scale + found.bias
    return 1 / (1 + np.exp(-odds))


def test_it_finds_the_direction_that_the_good_ones_have_in_common() -> None:
    found = fit(cloud(1, 8, 1.5), NOTHING, cloud(2, 120))
    assert np.linalg.norm(found.direction) == pytest.approx(1, abs=1e-6)
    assert found.direction[0] > 0.9
    assert found.scale > 0


def test_bad_examples_turn_it_away_from_them() -> None:
    good = cloud(1, 6, 1.5)
    bad = good.copy()
    bad[:, 1] += 1.0  # like the good ones, but far out on the second axis
    plain, told_apart = fit(good, NOTHING, cloud(2, 120)), fit(good, bad, cloud(2, 120))
    assert told_apart.direction[1] < plain.direction[1] - 0.2
    assert told(told_apart, bad).mean() < told(plain, bad).mean() - 0.2


@pytest.mark.parametrize("frequent", [0.02, 0.05])
def test_probabilities_mean_what_they_say_of_what_is_rare(frequent: float) -> None:
    count = int(frequent * 500)
    others = np.concatenate([cloud(3, count, 1.2), cloud(4, 500 - count)])
    found = fit(cloud(5, 10, 1.2), NOTHING, others)
    new = np.concatenate([cloud(6, 20 * count, 1.2), cloud(7, 20 * (500 - count))])
    good = np.arange(len(new)) < 20 * count
    probability = told(found, new)
    assert probability.mean() == pytest.approx(frequent, rel=0.6)
    likely = probability > 0.5
    assert good[likely].mean() > 0.6
    skill = 1 - ((probability - good) ** 2).mean() / (frequent * (1 - frequent))
    assert skill > 0.3


def test_one_example_does_and_nothing_is_measured() -> None:
    found = fit(cloud(1, 1, 2.0), NOTHING, cloud(2, 120))
    assert found.measured is None
    assert told(found, cloud(8, 50, 2.0)).mean() > 10 * told(found, cloud(9, 50)).mean()


def test_given_bad_ones_alone_will_do() -> None:
    found = fit(cloud(1, 4, 2.0), cloud(2, 4), NOTHING)
    assert found.measured is not None
    assert found.measured.others == 0
    assert (told(found, cloud(8, 50, 2.0)) > 0.5).mean() > 0.8
    assert (told(found, cloud(9, 50)) > 0.5).mean() < 0.2


def test_what_cannot_be_learned_measures_as_nothing() -> None:
    measured = fit(cloud(1, 8), NOTHING, cloud(2, 400)).measured
    assert measured is not None
    assert measured.yes_found <= 1
    assert measured.recall[0] < 0.2


def two_groups() -> tuple[FloatArray, FloatArray, np.ndarray]:
    """Good rows of one group far out, of the other like its rest, which is spread wide; as many others."""
    good = np.concatenate([cloud(1, 5, 2.5), 2.5 * cloud(10, 5, 0.2)])
    others = np.concatenate([cloud(2, 120), 2.5 * cloud(11, 120)])
    return good, others, np.repeat(["near", "lost", "near", "lost"], [5, 5, 120, 120])


def test_a_group_that_does_not_stand_out_leaves_the_others_their_probabilities() -> None:
    good, others, groups = two_groups()
    apart, together = fit(good, NOTHING, others, groups=groups), fit(good, NOTHING, others)
    assert np.array_equal(apart.direction, together.direction)
    assert together.lines == {}
    new = cloud(8, 200, 1.4) @ apart.direction
    kept = {name: float((new * scale + bias > 0).mean()) for name, (scale, bias) in apart.lines.items()}
    assert kept["near"] > float((new * together.scale + together.bias > 0).mean()) + 0.1


def test_each_group_is_measured_by_its_own_line() -> None:
    good, others, groups = two_groups()
    found = fit(good, NOTHING, others, groups=groups)
    near, lost = found.measured_of["near"], found.measured_of["lost"]
    assert (near.yes, near.others, lost.yes, lost.others) == (5, 120, 5, 120)
    assert near.yes_found >= 3 > lost.yes_found
    assert found.measured is not None
    assert found.measured.yes_found == near.yes_found + lost.yes_found
    assert found.measured.others_found == near.others_found + lost.others_found


def test_one_group_is_as_none() -> None:
    good, others = cloud(1, 5, 1.5), cloud(2, 100)
    plain, named = fit(good, NOTHING, others), fit(good, NOTHING, others, groups=np.full(105, "image"))
    assert named.lines == {"image": (plain.scale, plain.bias)} == {"image": (named.scale, named.bias)}
    assert named.measured_of == {"image": plain.measured}


def test_a_group_of_good_ones_alone_has_no_line_of_its_own() -> None:
    good, others = cloud(1, 4, 1.5), cloud(2, 60)
    groups = np.array(["image", "image", "audio", "audio", *["image"] * 60])
    assert set(fit(good, NOTHING, others, groups=groups).lines) == {"image"}


def test_the_same_examples_give_the_same_probe() -> None:
    first, second = (fit(cloud(1, 5, 1.5), cloud(3, 2), cloud(2, 100)) for _ in range(2))
    assert np.array_equal(first.direction, second.direction)
    assert (first.scale, first.bias, first.measured) == (second.scale, second.bias, second.measured)


def test_left_out_scores_are_those_of_a_loop() -> None:
    good, others = cloud(1, 4, 1.5), cloud(2, 22)
    rows = np.concatenate([good, others]).astype(np.float64)
    kind = np.repeat([0, 2], [4, 22])
    scores = probe._left_out(rows, kind, 10.0)
    for fold in range(4):
        mine = [row for row in range(26) if (row if row < 4 else row - 4) % 4 == fold]
        rest = [row for row in range(26) if row not in mine]
        counts = {0: sum(kind[row] == 0 for row in rest), 2: sum(kind[row] == 2 for row in rest)}
        weights = [2 * counts[0] * 0.5 / counts[kind[row]] for row in rest]
        model = LogisticRegression(C=10.0, max_iter=1000).fit(rows[rest], kind[rest] == 0, weights)
        assert np.allclose(scores[mine], model.decision_function(rows[mine]), atol=1e-6)


def test_a_single_bad_example_is_never_left_out() -> None:
    rows = np.concatenate([cloud(1, 3, 2.0), cloud(2, 1)]).astype(np.float64)
    assert np.isfinite(probe._left_out(rows, np.array([0, 0, 0, 1]), 1.0)).all()


def test_equal_vectors_on_both_sides_stay_finite() -> None:
    one = cloud(1, 1)
    found = fit(np.repeat(one, 3, axis=0), one, one)
    assert np.isfinite([found.scale, found.bias]).all()
    assert np.isfinite(found.direction).all()


def test_shares_with_their_intervals() -> None:
    found, low, high = share(8, 10)  # values that tables of Wilson's interval give
    assert (found, round(low, 3), round(high, 3)) == (0.8, 0.49, 0.943)
    assert share(0, 0) == (0.0, 0.0, 1.0)
    _, low, high = share(3, 3)
    assert round(low, 3) == 0.438
    assert high == pytest.approx(1.0)
    measured = Measured(4, 3, 2, 1, 100, 2)
    assert (measured.recall[0], measured.precision[0]) == (0.75, 0.5)
