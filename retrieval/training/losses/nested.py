"""Nested dimensions (Matryoshka, Kusupati et al. 2022, arXiv:2205.13147): one loss on several prefixes.

    L = sum_k w_k L( unit(a[:, :d_k]), unit(b[:, :d_k]) )

so that the first d_k numbers of a vector, made unit again, are a vector of a smaller space. Use it where an
index is to be smaller than the space. It costs one loss a dimension and a little of the full dimension's
quality; without smaller indexes leave it off. Wraps any loss of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from indexer.errors import ConfigError, TrainingError
from retrieval.training.losses.pair import Loss, Pair, unit


def nested(loss: Loss, dims: Sequence[int], weights: Sequence[float] | None = None) -> Loss:
    """The sum of `loss` over prefixes of `dims` numbers, each times its weight (1 where none is given).

    The full dimension is taken as it is, being unit already. Each prefix draws its own random negatives.
    ConfigError for dimensions or weights that make no sense, TrainingError for more than vectors have.
    """
    factors = [1.0] * len(dims) if weights is None else list(weights)
    if not dims or min(dims) < 1 or len(set(dims)) != len(dims):
        raise ConfigError(f"the nested dimensions are {list(dims)}, expected numbers above 0, each once")
    if len(factors) != len(dims) or min(factors) < 0 or not sum(factors) > 0:
        raise ConfigError(
            f"the weights {factors} do not fit the nested dimensions {list(dims)}",
            hint="give one weight of 0 or more for each, and one above 0",
        )

    def summed(pair: Pair) -> Tensor:
        width = pair.a.shape[1]
        if max(dims) > width:
            raise TrainingError(f"a nested dimension is {max(dims)}, the vectors have {width}")
        return sum(
            (
                factor * loss(pair if dim == width else _prefix(pair, dim))
                for dim, factor in zip(dims, factors, strict=True)
            ),
            start=pair.a.new_zeros(()),
        )

    return summed


def _prefix(pair: Pair, dim: int) -> Pair:
    return replace(pair, a=unit(pair.a[:, :dim]), b=unit(pair.b[:, :dim]))
