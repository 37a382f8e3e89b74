"""The closed forms behind the starter's heads: ConSE, weighted ridge, and how the text space is evened out.

Arrays in, a head out; no files. What data goes in and how choices are made stands in fit_starter_heads.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is chosen by cross-validation."""

    top: int = 10  # classes that ConSE mixes
    temperature: float = 2.0  # of the classifier's softmax
    gain: float = 0.5  # of ConSE beside the residual
    centring: float = 1.0  # how much of ConSE's mean over the pictures at home is taken away
    penalty: float = 3.0  # ridge, in units of one pair
    even: float = 0.3  # power of the text covariance that is divided out
    home: float = 1.0  # weight of a pair from the collection itself; pairs from elsewhere weigh 1


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pictures or sounds with their texts: features (n, d), logits (n, c), targets (n, 384), all float32."""

    features: Array
    logits: Array
    targets: Array
    home: npt.NDArray[np.bool_]  # (n,) whether a pair is of the collection that is also tested on

    def take(self, rows: Rows) -> Pairs:
        return Pairs(self.features[rows], self.logits[rows], self.targets[rows], self.home[rows])

    @property
    def rows(self) -> Rows:
        return np.arange(len(self.features))


@dataclass(frozen=True, slots=True)
class Bank:
    """The texts that a head is fitted among: class vectors (c, 384), and the text space's mean and axes."""

    classes: Array
    mean: Array
    axes: Array  # (384, 384), a column an eigenvector of the covariance
    spread: Array  # (384,) eigenvalues

    @staticmethod
    def of(classes: Array, texts: Array) -> Bank:
        """Class names count five times among the texts: they are what photographs are searched by."""
        every = np.concatenate([texts, *[classes] * 5])
        spread, axes = np.linalg.eigh(np.cov((every - every.mean(axis=0)).T))
        return Bank(classes, every.mean(axis=0), axes.astype(np.float32), np.maximum(spread, 0).astype("f4"))

    def evened(self, power: float) -> Array:
        """The symmetric matrix (384, 384) that divides the covariance's `power` out, roughly of scale one."""
        typical = self.spread.mean()
        scale = (self.spread / typical + 0.1) ** -power  # the 0.1 keeps empty directions from growing large
        return np.asarray((self.axes * scale) @ self.axes.T, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head's numbers: see retrieval/models/starter/heads.py for the formula."""

    recipe: Recipe
    classes: Array
    weight: Array  # (d, 384)
    bias: Array  # (384,)
    after: Array  # (384, 384)

    @property
    def tensors(self) -> dict[str, Any]:
        """The numbers by their names in a head's file."""
        return {
            "class_vectors": self.classes,
            "temperature": np.float32(self.recipe.temperature),
            "conse_gain": np.float32(self.recipe.gain),
            "after": self.after,
            "residual.weight": self.weight.T,
            "residual.bias": self.bias,
        }

    def vectors(self, features: Array, logits: Array) -> Array:
        """Unit vectors (n, 384)."""
        mixed = conse(logits, self.classes, top=self.recipe.top, temperature=self.recipe.temperature)
        raw = self.recipe.gain * mixed + unit(features) @ self.weight + self.bias
        return unit(raw @ self.after.T)


def unit(rows: Array) -> Array:
    """Rows at length one; a zero row stays zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


def conse(logits: Array, classes: Array, *, top: int, temperature: float) -> Array:
    """Class vectors mixed by the `top` largest probabilities (Norouzi et al. 2014), unit, (n, 384)."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    scaled = np.take_along_axis(logits, best, axis=1) / temperature
    weight = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    return unit(np.einsum("nk,nkd->nd", weight, classes[best]))


def fit_head(pairs: Pairs, bank: Bank, recipe: Recipe) -> Fitted:
    """Weighted ridge from unit features to centred text vectors, with ConSE beside it."""
    weight = np.where(pairs.home, recipe.home, 1.0).astype(np.float32)[:, None]
    features = unit(pairs.features)
    centre = (features * weight).sum(axis=0) / weight.sum()
    middle = (pairs.targets * weight).sum(axis=0) / weight.sum()
    inputs, targets = features - centre, pairs.targets - middle
    gram = (inputs * weight).T @ inputs + recipe.penalty * np.eye(inputs.shape[1], dtype=np.float32)
    solved = np.linalg.solve(gram, (inputs * weight).T @ targets)
    at_home = pairs.logits[pairs.home] if pairs.home.any() else pairs.logits
    usual = conse(at_home, bank.classes, top=recipe.top, temperature=recipe.temperature).mean(axis=0)
    bias = -centre @ solved - recipe.gain * recipe.centring * usual
    return Fitted(recipe, bank.classes, solved, bias.astype(np.float32), bank.evened(recipe.even))


def folds(groups: Sequence[str], count: int, seed: int) -> npt.NDArray[np.int64]:
    """A fold number for each row, shape (n,); rows of one group share theirs."""
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    number = {name: int(place) % count for name, place in zip(names, order, strict=True)}
    return np.array([number[group] for group in groups])


def out_of_fold(
    home: Pairs, away: Pairs, bank: Bank, recipe: Recipe, fold: npt.NDArray[np.int64], *, views: int = 1
) -> Array:
    """Vectors of `home`'s first view, each row's by a head that was fitted without its fold.

    `home` holds `views` blocks of the same rows; `fold` has one number a row of the first block.
    """
    count = len(fold)
    vectors = np.zeros((count, home.targets.shape[1]), dtype=np.float32)
    for number in range(int(fold.max()) + 1):
        kept = np.tile(fold != number, views)
        fitted = fit_head(joined(home.take(np.flatnonzero(kept)), away), bank, recipe)
        held = np.flatnonzero(fold == number)
        vectors[held] = fitted.vectors(home.features[held], home.logits[held])
    return vectors


def joined(first: Pairs, second: Pairs) -> Pairs:
    """Both sets of pairs."""
    return Pairs(*(np.concatenate([getattr(first, f.name), getattr(second, f.name)]) for f in fields(Pairs)))


def choose(
    start: Recipe, grid: dict[str, Sequence[Any]], measure: Callable[[Recipe], float]
) -> tuple[Recipe, float]:
    """One pass over each option in turn, twice, keeping what measures best; ties keep what stood before."""
    best, score = start, measure(start)
    for option, value in _moves(grid):
        candidate = replace(best, **{option: value})
        if candidate != best and (found := measure(candidate)) > score:
            best, score = candidate, found
    return best, score


def _moves(grid: dict[str, Sequence[Any]]) -> Iterator[tuple[str, Any]]:
    for _ in range(2):
        for option, values in grid.items():
            for value in values:
                yield option, value
