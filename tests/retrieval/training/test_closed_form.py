"""Closed forms against naive oracles and scikit-learn, on values."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.cross_decomposition import CCA
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge, RidgeCV

from indexer.errors import ConfigError, TrainingError
from retrieval.training.closed_form import (
    GRID,
    FourierMap,
    as_head,
    cca,
    fourier_ridge,
    procrustes,
    ridge,
)

Array = npt.NDArray[np.float32]


def pairs(count: int, width: int, dim: int, *, noise: float = 0.3, seed: int = 0) -> tuple[Array, Array]:
    """Inputs with a mean away from zero, and targets linear in the unit inputs, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.4, 1.0, (count, width)) * np.linspace(2.0, 0.2, width)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = unit @ rng.normal(size=(width, dim)) + noise * rng.normal(size=(count, dim)) + 1.0
    return x.astype(np.float32), y.astype(np.float32)


def unit(rows: Array) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


@pytest.mark.parametrize(("count", "width"), [(60, 9), (9, 60)])
def test_ridge_is_scikit_learns(count: int, width: int) -> None:
    x, y = pairs(count, width, 4)
    weights = np.random.default_rng(1).uniform(0.2, 3.0, count)
    for raw in (False, True):
        found = ridge(x, y, penalty=0.7, weights=weights, unit=not raw)
        inputs = x if raw else unit(x)
        expected = Ridge(alpha=0.7).fit(inputs, y, sample_weight=weights)
        np.testing.assert_allclose(found.weight, expected.coef_.T, atol=2e-5)
        np.testing.assert_allclose(found.bias, expected.intercept_, atol=2e-5)
        np.testing.assert_allclose(found(x), expected.predict(inputs), atol=5e-5)


def refitted(x: Array, y: Array, penalty: float, weights: Array, parts: list[npt.NDArray[np.intp]]) -> float:
    """The leave-out error the slow way: a fit for every part."""
    total = 0.0
    for part in parts:
        rest = np.setdiff1d(np.arange(len(x)), part)
        fit = Ridge(alpha=penalty).fit(unit(x)[rest], y[rest].astype(np.float64), sample_weight=weights[rest])
        wrong = fit.predict(unit(x)[part]) - y[part]
        total += float((weights[part] * np.square(wrong).sum(axis=1)).sum())
    return total / float(weights.sum())


@pytest.mark.parametrize(("count", "width"), [(30, 6), (12, 40)])
def test_leave_one_out_takes_what_refitting_takes(count: int, width: int) -> None:
    x, y = pairs(count, width, 3, noise=0.8)
    weights = np.random.default_rng(2).uniform(0.5, 2.0, count).astype(np.float32)
    singly = [np.array([row]) for row in range(count)]
    groups = np.sqrt(np.arange(count)[::-1] * 2).astype(int)  # groups of one row and of several, mixed sizes
    together = [np.flatnonzero(groups == number) for number in range(int(groups.max()) + 1)]
    wide = unit(x) - np.average(unit(x), axis=0, weights=weights)
    power = (weights[:, None] * np.square(wide)).sum() / min(width, count - 1)
    for parts, numbers in ((singly, None), (together, groups)):
        errors = {factor: refitted(x, y, factor * power, weights, parts) for factor in GRID}
        best = min(errors, key=lambda factor: errors[factor])
        assert GRID[0] != best != GRID[-1]  # inside the grid, or nothing would be shown
        found = ridge(x, y, weights=weights, groups=numbers)
        assert found.penalty == pytest.approx(best * power, rel=1e-4)


@pytest.mark.parametrize(("count", "width"), [(80, 10), (20, 50)])
def test_loo_takes_the_grid_value_that_scikit_learn_takes(count: int, width: int) -> None:
    x, y = pairs(count, width, 4, noise=1.0)
    found = ridge(x, y, unit=False)
    wide = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    rank = min(width, count - 1)
    alphas = np.array(GRID) * np.square(wide).sum() / rank
    expected = RidgeCV(alphas=alphas).fit(x.astype(np.float64), y.astype(np.float64))
    assert alphas[0] < found.penalty < alphas[-1]  # inside the grid, or nothing would be shown
    assert found.penalty == pytest.approx(expected.alpha_, rel=1e-6)


def test_repeated_pictures_need_groups() -> None:
    x, y = pairs(15, 40, 3, noise=2.0)
    noise = np.random.default_rng(3).normal(0.0, 0.05, (60, 3)).astype(np.float32)
    rows = np.repeat(np.arange(15), 4)
    fooled = ridge(x[rows], y[rows] + noise)
    careful = ridge(x[rows], y[rows] + noise, groups=rows)
    assert careful.penalty > 100 * fooled.penalty


def test_procrustes_finds_a_rotation_and_its_scale() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    y = (2.5 * x @ turn + 3.0).astype(np.float32)
    found = procrustes(x, y, scale=True, unit=False)
    np.testing.assert_allclose(found.weight, 2.5 * turn, atol=1e-4)
    np.testing.assert_allclose(found(x), y, atol=1e-4)
    plain = procrustes(x, y, unit=False)
    np.testing.assert_allclose(plain.weight, turn, atol=1e-5)
    from scipy.linalg import orthogonal_procrustes

    loose = procrustes(x, y, centre=False, unit=False)
    np.testing.assert_allclose(loose.weight, orthogonal_procrustes(x, y)[0], atol=1e-5)
    np.testing.assert_array_equal(loose.bias, np.zeros(6))


@pytest.mark.parametrize(("first", "second"), [(4, 7), (7, 4)])
def test_procrustes_between_widths_is_the_best_semi_orthogonal_map(first: int, second: int) -> None:
    x, _ = pairs(50, first, second)
    y = np.random.default_rng(5).normal(size=(50, second)).astype(np.float32)
    found = procrustes(x, y)
    weight = found.weight.astype(np.float64)
    small = weight @ weight.T if first < second else weight.T @ weight
    np.testing.assert_allclose(small, np.eye(min(first, second)), atol=1e-6)
    inputs, targets = unit(x) - unit(x).mean(axis=0), y - y.mean(axis=0)
    agreement = np.trace(weight.T @ inputs.T @ targets)
    rng = np.random.default_rng(6)
    for _ in range(200):  # no semi-orthogonal map near it or anywhere agrees more
        near = weight + rng.normal(size=weight.shape) * rng.choice([0.01, 1.0])
        left, _, right = np.linalg.svd(near, full_matrices=False)
        assert np.trace((left @ right).T @ inputs.T @ targets) <= agreement + 1e-9


def shared_signal(count: int = 400, seed: int = 0) -> tuple[Array, Array]:
    """Two views of three signals, each with its own noise."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(count, 3))
    x = signal @ rng.normal(size=(3, 6)) + 0.5 * rng.normal(size=(count, 6)) + 2.0
    y = signal @ rng.normal(size=(3, 5)) + 0.5 * rng.normal(size=(count, 5)) - 1.0
    return x.astype(np.float32), y.astype(np.float32)


def correlations(a: Array, b: Array) -> npt.NDArray[np.float64]:
    return np.array([np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(a.shape[1])])


def test_cca_correlations_are_scikit_learns() -> None:
    x, y = shared_signal()
    found = cca(x, y, dim=3, unit=False)
    reference = CCA(n_components=3, max_iter=5000, tol=1e-10).fit(x, y)
    expected = correlations(*reference.transform(x, y))
    np.testing.assert_allclose(found.correlations, expected, atol=1e-3)
    one, two = found.first(x), found.second(y)
    np.testing.assert_allclose(correlations(one, two), found.correlations, atol=1e-5)
    np.testing.assert_allclose(one.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(one.T @ one / len(x), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(two.T @ two / len(y), np.eye(3), atol=1e-3)
    powered = cca(x, y, dim=3, power=2.0, unit=False)
    np.testing.assert_allclose(powered.first(x), one * found.correlations**2, atol=1e-4)


def test_penalised_cca_solves_its_eigenproblem_and_wide_data_needs_it() -> None:
    x, y = shared_signal(200)
    found = cca(x, y, dim=2, penalty=50.0, unit=False)
    a, b = x.astype(float) - x.mean(axis=0, dtype=float), y.astype(float) - y.mean(axis=0, dtype=float)
    one, two = a.T @ a + 50.0 * np.eye(6), b.T @ b + 50.0 * np.eye(5)
    whole = np.linalg.solve(one, a.T @ b) @ np.linalg.solve(two, b.T @ a)
    expected = np.sqrt(np.sort(np.linalg.eigvals(whole).real)[::-1][:2])
    np.testing.assert_allclose(found.correlations, expected, atol=1e-6)
    rng = np.random.default_rng(1)
    wide, broad = rng.normal(size=(20, 50)), rng.normal(size=(20, 40))  # nothing in common
    assert cca(wide, broad, dim=3, unit=False).correlations.min() > 0.999  # learned by heart
    assert cca(wide, broad, dim=3, penalty=200.0, unit=False).correlations.max() < 0.4
    with pytest.raises(TrainingError, match="into 30 dimensions of data that has 19 and 19"):
        cca(wide, broad, dim=30)


def test_fourier_ridge_tends_to_kernel_ridge() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (120, 3)).astype(np.float32)
    y = np.stack([np.sin(3.0 * x[:, 0]), x[:, 1] * x[:, 2]], axis=1).astype(np.float32)
    middle = y.mean(axis=0)
    exact = KernelRidge(alpha=0.1, kernel="rbf", gamma=0.8).fit(x, y - middle).predict(x) + middle
    errors = []
    for count in (16, 256, 4096):
        found = fourier_ridge(x, y, features=count, gamma=0.8, penalty=0.1, unit=False)
        errors.append(float(np.abs(found(x) - exact).mean()))
    assert all(coarse > 2.0 * fine for coarse, fine in pairwise(errors))
    assert errors[-1] < 0.01
    assert np.abs(ridge(x, y, unit=False)(x) - y).mean() > 5 * np.abs(found(x) - y).mean()


def test_gamma_is_one_over_the_median_squared_distance() -> None:
    x, y = pairs(30, 5, 2)
    rows = unit(x)
    apart = [float(np.square(rows[i] - rows[j]).sum()) for i in range(30) for j in range(i)]
    found = fourier_ridge(x, y, features=8)
    assert found.gamma == pytest.approx(1.0 / float(np.median(apart)), rel=1e-6)
    assert fourier_ridge(np.repeat(x, 2, axis=0), np.repeat(y, 2, axis=0), features=8).gamma == pytest.approx(
        found.gamma, rel=1e-6
    )  # repeats do not count
    again = fourier_ridge(x, y, features=8)
    np.testing.assert_array_equal(again.weight, found.weight)
    assert not np.array_equal(fourier_ridge(x, y, features=8, seed=1).omega, found.omega)


@torch.no_grad()
@pytest.mark.parametrize("scaled", [True, False])
def test_a_map_and_its_head_agree(scaled: bool) -> None:
    x, y = pairs(40, 7, 5)
    both = cca(x, y, dim=4, unit=scaled)
    found = [ridge(x, y, unit=scaled), procrustes(x, y, unit=scaled), both.first]
    for one in (*found, fourier_ridge(x, y, features=64, unit=scaled)):
        head = as_head(one)
        np.testing.assert_allclose(head(torch.from_numpy(x)).numpy(), one(x), atol=2e-4, rtol=1e-4)
        assert head.describe()["options"]["kind"] == ("fourier" if isinstance(one, FourierMap) else "linear")
    blank = np.zeros((1, 7), np.float32)
    np.testing.assert_allclose(found[0](blank)[0], found[0].bias)


def test_bad_input_is_refused() -> None:
    x, y = pairs(10, 4, 3)
    for place in ((0, 0), (slice(None), slice(None))):
        broken = x.copy()
        broken[place] = np.nan
        with pytest.raises(TrainingError, match="NaN"):
            ridge(broken, y)
        assert np.isnan(ridge(x, y)(broken)[0]).all()  # and a map does not hide it either
    with pytest.raises(TrainingError, match=r"\(10, 4\) and \(9, 3\)"):
        procrustes(x, y[:9])
    with pytest.raises(TrainingError, match="1 pairs"):
        ridge(x[:1], y[:1])
    with pytest.raises(TrainingError, match="the same"):
        ridge(np.ones((5, 3), np.float32), y[:5])
    with pytest.raises(TrainingError, match="two groups"):
        ridge(x, y, groups=np.zeros(10, int))
    with pytest.raises(TrainingError, match="none below zero"):
        ridge(x, y, weights=-np.ones(10))
    for penalty in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="above zero"):
            ridge(x, y, penalty=penalty)
