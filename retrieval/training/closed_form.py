"""Heads that are solved, not trained: ridge, Procrustes, CCA and kernel ridge on random Fourier features.

Arrays in, a map out: float64 inside, float32 outside; torch only in `as_head`. They are baselines that a
trained head has to beat, and good places to start one from: `as_head` gives a head of the kinds that
heads.py makes. All of them scale their inputs to unit length first unless told not to, as such heads do;
targets are taken as they are. Penalties are in units of one pair: lambda in |XW - Y|^2 + lambda |W|^2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from indexer.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from retrieval.training.heads import Head

Rows = npt.NDArray[np.floating[Any]]
Wide = npt.NDArray[np.float64]
Array = npt.NDArray[np.float32]
Penalty = float | Literal["loo"]

GRID = tuple(float(value) for value in np.logspace(-4, 4, 17))  # of the inputs' mean squared singular value


@dataclass(frozen=True, slots=True, eq=False)
class LinearMap:
    """x @ weight + bias, of unit x where `unit_input`."""

    weight: Array  # (width, dim)
    bias: Array  # (dim,)
    unit_input: bool = True
    penalty: float = 0.0  # what it was solved with

    def __call__(self, x: Rows) -> Array:
        """Outputs (n, dim) float32 of inputs (n, width); not normalised."""
        return (_inputs(x, self.unit_input) @ self.weight + self.bias).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class FourierMap:
    """sqrt(2/F) cos(x omega + phase) @ weight + bias, of unit x where `unit_input`."""

    omega: Array  # (width, F)
    phase: Array  # (F,)
    weight: Array  # (F, dim)
    bias: Array  # (dim,)
    gamma: float  # the kernel that the features stand for is exp(-gamma |a - b|^2)
    unit_input: bool = True
    penalty: float = 0.0

    def features(self, x: Rows) -> Wide:
        """Fourier features (n, F) float64 of inputs (n, width)."""
        waves = np.cos(_inputs(x, self.unit_input) @ self.omega.astype(np.float64) + self.phase)
        return np.asarray(waves * np.sqrt(2.0 / len(self.phase)))

    def __call__(self, x: Rows) -> Array:
        """Outputs (n, dim) float32 of inputs (n, width); not normalised."""
        return (self.features(x) @ self.weight + self.bias).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Cca:
    """One map a side into a space where matching rows agree, and by how much, dimension by dimension."""

    first: LinearMap
    second: LinearMap
    correlations: Array  # (dim,), descending, in [0, 1]; with a penalty, of the penalised problem


def ridge(
    x: Rows,
    y: Rows,
    *,
    penalty: Penalty = "loo",
    weights: Rows | None = None,
    groups: npt.NDArray[np.integer[Any]] | None = None,
    unit: bool = True,
) -> LinearMap:
    """The linear map with a free bias that brings x (n, width) nearest to y (n, dim), weighted squares.

    Penalty "loo" takes the value of a grid with the least leave-one-out error, which the hat matrix gives
    without fitting again. `groups` (n,) leaves out a group at a time: rows that share a picture would vouch
    for each other. ConfigError for a penalty that is no number above zero, TrainingError for unusable rows.
    """
    inputs, targets = _checked(x, y, unit)
    weight = _weights(weights, len(inputs))
    share = weight / weight.sum()
    centre, middle = share @ inputs, share @ targets
    root = np.sqrt(weight)[:, None]
    left, square, right = _decomposed((inputs - centre) * root)
    seen = (targets - middle) * root
    if penalty == "loo":
        penalty = _least(left, square, seen, weight, groups)
    value = _positive(penalty)
    solved = right @ ((np.sqrt(square) / (square + value))[:, None] * (left.T @ seen))
    bias = middle - centre @ solved
    return LinearMap(solved.astype(np.float32), bias.astype(np.float32), unit, value)


def procrustes(x: Rows, y: Rows, *, centre: bool = True, scale: bool = False, unit: bool = True) -> LinearMap:
    """The orthogonal map that brings x (n, a) nearest to y (n, b) (Schoenemann 1966).

    Where the widths differ it is semi-orthogonal: for a < b an isometry, nearest in squares; for a > b a
    projection followed by a rotation, which maximises the inner products of mapped and target rows. `centre`
    takes both means away before and puts y's back; `scale` adds the best single factor.
    """
    inputs, targets = _checked(x, y, unit)
    first = inputs.mean(axis=0) if centre else np.zeros(inputs.shape[1])
    second = targets.mean(axis=0) if centre else np.zeros(targets.shape[1])
    inputs, targets = inputs - first, targets - second
    left, strength, right = np.linalg.svd(inputs.T @ targets, full_matrices=False)
    turn = left @ right
    if scale:
        turn = turn * (strength.sum() / max(float(np.square(inputs @ turn).sum()), 1e-300))
    return LinearMap(turn.astype(np.float32), (second - first @ turn).astype(np.float32), unit)


def cca(x: Rows, y: Rows, *, dim: int, penalty: float = 0.0, power: float = 0.0, unit: bool = True) -> Cca:
    """Regularised canonical correlation (Hotelling 1936; Vinod 1976): x (n, a), y (n, b) -> maps into dim.

    Each side is whitened with the penalty added to its scatter matrix, and the singular vectors of what is
    left are the directions. Outputs have about unit variance, times correlation ** `power`: with 1 or more,
    directions in which the sides hardly agree count less (Gong et al. 2014, arXiv:1212.4522, use 4).
    TrainingError where the data has fewer than `dim` directions.
    """
    first, second = _checked(x, y, unit, unit_targets=unit)
    means = first.mean(axis=0), second.mean(axis=0)
    sides = [_decomposed(rows - mean) for rows, mean in zip((first, second), means, strict=True)]
    (left_a, square_a, right_a), (left_b, square_b, right_b) = sides
    if not 1 <= dim <= min(len(square_a), len(square_b)):
        raise TrainingError(
            f"CCA into {dim} dimensions of data that has {len(square_a)} and {len(square_b)}",
            hint="ask for fewer dimensions, or give more pairs",
        )
    value = _positive(penalty, zero=True)
    shrunk = np.sqrt(square_a / (square_a + value)), np.sqrt(square_b / (square_b + value))
    turn_a, strength, turn_b = np.linalg.svd(shrunk[0][:, None] * (left_a.T @ left_b) * shrunk[1])
    factor = np.sqrt(len(first)) * strength[:dim] ** power

    def side(right: Wide, square: Wide, turn: Wide, mean: Wide) -> LinearMap:
        weight = (right / np.sqrt(square + value)) @ turn * factor
        return LinearMap(weight.astype(np.float32), (-mean @ weight).astype(np.float32), unit, value)

    return Cca(
        side(right_a, square_a, turn_a[:, :dim], means[0]),
        side(right_b, square_b, turn_b[:dim].T, means[1]),
        np.minimum(strength[:dim], 1.0).astype(np.float32),
    )


def fourier_ridge(
    x: Rows,
    y: Rows,
    *,
    features: int = 2048,
    gamma: float | None = None,
    penalty: Penalty = "loo",
    seed: int = 0,
    unit: bool = True,
) -> FourierMap:
    """Ridge on random Fourier features (Rahimi and Recht 2007): kernel ridge with exp(-gamma |a - b|^2).

    Without a gamma, one over the median squared distance between different inputs.
    """
    inputs, _ = _checked(x, y, unit)
    rng = np.random.default_rng(seed)
    width = _positive(median_gamma(inputs, rng) if gamma is None else gamma, what="gamma")
    omega = rng.normal(0.0, np.sqrt(2.0 * width), (inputs.shape[1], features)).astype(np.float32)
    phase = rng.uniform(0.0, 2.0 * np.pi, features).astype(np.float32)
    empty = np.zeros((features, 1), np.float32), np.zeros(1, np.float32)
    raised = FourierMap(omega, phase, *empty, gamma=width, unit_input=False).features(inputs)
    found = ridge(raised, y, penalty=penalty, unit=False)
    return FourierMap(omega, phase, found.weight, found.bias, width, unit, found.penalty)


def median_gamma(inputs: Wide, rng: np.random.Generator, *, sample: int = 1000) -> float:
    """One over the median squared distance between different rows, of at most `sample` of them."""
    rows = inputs if len(inputs) <= sample else inputs[rng.choice(len(inputs), sample, replace=False)]
    square = np.square(rows).sum(axis=1)
    apart = square[:, None] + square - 2.0 * rows @ rows.T
    apart = apart[np.triu_indices(len(rows), 1)]
    apart = apart[apart > 1e-12 * max(float(square.max()), 1e-300)]
    if not len(apart):
        raise TrainingError("all inputs are the same, so there is nothing to fit")
    return 1.0 / float(np.median(apart))


def as_head(found: LinearMap | FourierMap) -> Head:
    """The map as a head of the kind that `make_head` gives: linear or fourier, input norm unit or none."""
    import torch

    from retrieval.training.heads import Affine, Fourier, HeadKind, HeadOptions, InputNorm, make_head

    norm = InputNorm.UNIT if found.unit_input else InputNorm.NONE
    if isinstance(found, FourierMap):
        options = HeadOptions(
            HeadKind.FOURIER, hidden=len(found.phase), input_norm=norm, gamma=float(found.gamma)
        )
        width = len(found.omega)
    else:
        options, width = HeadOptions(HeadKind.LINEAR, input_norm=norm), len(found.weight)
    head = make_head(options, width, len(found.bias), seed=0)
    body = head.body
    assert isinstance(body, (Affine, Fourier))
    with torch.no_grad():
        body.last.weight.copy_(torch.from_numpy(found.weight.T.copy()))
        body.last.bias.copy_(torch.from_numpy(found.bias))
        if isinstance(found, FourierMap) and isinstance(body, Fourier):
            body.omega.copy_(torch.from_numpy(found.omega))
            body.phase.copy_(torch.from_numpy(found.phase))
    return head.eval()


def _decomposed(rows: Wide) -> tuple[Wide, Wide, Wide]:
    """U (n, r), squared singular values (r,) descending and V (width, r) of rows (n, width).

    By the smaller of the two Gram matrices; directions below rounding are left out.
    """
    tall = len(rows) > rows.shape[1]
    square, axes = np.linalg.eigh(rows.T @ rows if tall else rows @ rows.T)
    square, axes = square[::-1], axes[:, ::-1]
    kept = square > max(float(square[0]), 0.0) * np.finfo(np.float64).eps * max(rows.shape)
    if not kept.any():
        raise TrainingError("all inputs are the same, so there is nothing to fit")
    square, axes = square[kept], axes[:, kept]
    other = (rows @ axes if tall else rows.T @ axes) / np.sqrt(square)
    return (other, square, axes) if tall else (axes, square, other)


def _least(
    left: Wide, square: Wide, seen: Wide, weight: Wide, groups: npt.NDArray[np.integer[Any]] | None
) -> float:
    """The penalty of the grid with the least leave-one-out error; the larger of equal ones."""
    values = np.array(GRID[::-1]) * square.mean()
    errors = [_left_out(left, square / (square + value), seen, weight, groups) for value in values]
    return float(values[int(np.argmin(errors))])


def _left_out(
    left: Wide, kept: Wide, seen: Wide, weight: Wide, groups: npt.NDArray[np.integer[Any]] | None
) -> float:
    """Weighted mean squared length of the errors at rows that were left out, a row or a group at a time.

    In coordinates scaled by the root of the weights the hat matrix is root root^T / sum + U kept U^T, the
    first term from the free bias; left-out errors are (I - H_gg)^-1 times the errors of the whole fit.
    """
    errors = seen - left @ (kept[:, None] * (left.T @ seen))
    root = np.sqrt(weight / weight.sum())
    numbers = np.arange(len(seen)) if groups is None else np.unique(groups, return_inverse=True)[1]
    counts = np.bincount(numbers)
    if len(counts) < 2:
        raise TrainingError("leaving one group out needs two groups or more", hint="give a penalty instead")
    alone = counts[numbers] == 1
    lever = np.square(root[alone]) + np.square(left[alone]) @ kept
    total = float((np.square(errors[alone]).sum(axis=1) / np.square(np.maximum(1.0 - lever, 1e-9))).sum())
    for rows in _by_size(numbers, counts):
        blocks = (left[rows] * kept) @ left[rows].swapaxes(1, 2) + root[rows][:, :, None] * root[rows][
            :, None
        ]
        apart = np.linalg.solve(np.eye(rows.shape[1]) * (1.0 + 1e-9) - blocks, errors[rows])
        total += float(np.square(apart).sum())
    return total / float(weight.sum())


def _by_size(numbers: npt.NDArray[np.intp], counts: npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.intp]]:
    """Rows of the groups that have several, (groups of one size, size), some thousand rows at a time."""
    order = np.argsort(numbers, kind="stable")
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts[counts > 1]):
        several = order[starts[counts == size][:, None] + np.arange(size)]
        step = max(1, 4096 // int(size))
        for first in range(0, len(several), step):
            yield several[first : first + step]


def _inputs(x: Rows, unit: bool) -> Wide:
    rows = np.asarray(x, dtype=np.float64)
    if not unit:
        return rows
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=~(length <= 1e-12))  # NaN stays


def _checked(x: Rows, y: Rows, unit: bool, *, unit_targets: bool = False) -> tuple[Wide, Wide]:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise TrainingError(f"pairs of shapes {x.shape} and {y.shape}, expected two tables of equal length")
    if len(x) < 2:
        raise TrainingError(f"{len(x)} pairs, expected two or more")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise TrainingError("features hold NaN or infinity", hint="compute them again, or drop those rows")
    return _inputs(x, unit), _inputs(y, unit_targets)


def _weights(weights: Rows | None, count: int) -> Wide:
    if weights is None:
        return np.ones(count)
    found = np.asarray(weights, dtype=np.float64)
    if found.shape != (count,) or not (np.isfinite(found).all() and (found >= 0).all() and found.any()):
        raise TrainingError(f"weights of shape {found.shape}: expected {count} numbers, none below zero")
    return found


def _positive(value: float, *, what: str = "penalty", zero: bool = False) -> float:
    if not (isinstance(value, (int, float)) and np.isfinite(value) and (value > 0 or (zero and value == 0))):
        raise ConfigError(f"the {what} is {value!r}, expected a number above zero")
    return float(value)
