"""How sure a metric is: bootstrap intervals over queries, and paired differences of two models. numpy only.

Queries of one group (the texts of a picture, the rows of a recording) are not independent, so whole groups
are drawn: the cluster bootstrap (Davison and Hinkley, 'Bootstrap Methods and their Application', 1997,
section 3.8), with the percentile interval. It knows nothing of how the model was trained: another seed or
another split moves a metric by more than its interval may say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.evaluation.metrics import KS, MEDIAN_RANK, PerQuery, averaged, summarise
from retrieval.evaluation.ranking import Doubles
from retrieval.training.types import Ints

RESAMPLES = 1000
LEVEL = 0.95
SIGN_FLOATS = 4_000_000  # signs held at a time: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % interval; the ends are NaN where there is one group only."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """First minus second on the same queries."""

    value: float
    low: float
    high: float
    p: float | None  # two-sided, that groups' signs are random; None for a median

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def intervals(
    scores: PerQuery,
    groups: Ints,
    *,
    ks: Sequence[int] = KS,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Every metric of `summarise` with its interval; `groups` (queries,) says which belong together."""
    values = summarise(scores, ks)
    drawn = _resampled(scores, groups, ks=ks, seed=seed, resamples=resamples)
    return {name: Interval(value, *_ends(drawn.get(name))) for name, value in values.items()}


def differences(
    first: PerQuery,
    second: PerQuery,
    groups: Ints,
    *,
    ks: Sequence[int] = KS,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Difference]:
    """First minus second for every metric. Both must have measured the same queries in the same order.

    The same groups are drawn for both, so that what makes a query easy for both cancels out. `p` is of the
    sign-flip permutation test over groups.
    """
    values, others = summarise(first, ks), summarise(second, ks)
    drawn = _resampled(first, groups, ks=ks, seed=seed, resamples=resamples)
    against = _resampled(second, groups, ks=ks, seed=seed, resamples=resamples)
    apart = {name: a - averaged(second, ks)[name] for name, a in averaged(first, ks).items()}
    chances = _sign_flip(apart, groups, seed=seed, resamples=resamples)
    return {
        name: Difference(
            value - others[name],
            *_ends(drawn[name] - against[name] if name in drawn else None),
            chances.get(name),
        )
        for name, value in values.items()
    }


def _ends(drawn: Doubles | None) -> tuple[float, float]:
    if drawn is None:
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _resampled(
    scores: PerQuery, groups: Ints, *, ks: Sequence[int], seed: int, resamples: int
) -> dict[str, Doubles]:
    """Each metric on every draw of groups, (resamples,); nothing where there is one group only."""
    columns = averaged(scores, ks)
    number, sizes, sums = _by_group(columns, groups)
    if len(sizes) < 2:
        return {}
    means, medians = np.empty((resamples, len(columns))), np.empty(resamples)
    order = np.argsort(scores.rank, kind="stable")
    ranks, number = scores.rank[order], number[order]
    for draw, times in enumerate(_draws(len(sizes), seed, resamples)):
        means[draw] = times @ sums / (times @ sizes)
        medians[draw] = _median(ranks, times[number])
    return dict(zip(columns, means.T, strict=True)) | {MEDIAN_RANK: medians}


def _by_group(columns: Mapping[str, Doubles], groups: Ints) -> tuple[Ints, Doubles, Doubles]:
    """Each query's group number, how many queries a group has, and its sums of every column."""
    number: Ints = np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64)
    sizes: Doubles = np.bincount(number).astype(np.float64)
    sums: Doubles = np.stack([np.bincount(number, values) for values in columns.values()], axis=1)
    return number, sizes, sums


def _draws(groups: int, seed: int, resamples: int) -> Iterator[Doubles]:
    """How often each group is drawn, (groups,), draw by draw."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(groups, size=groups), minlength=groups).astype(np.float64)


def _median(ranks: Ints, times: Doubles) -> float:
    """The median of ascending ranks that occur so many times: the mean of the middle two, as np.median."""
    upto = np.cumsum(times)
    count = int(upto[-1])
    middle = np.searchsorted(upto, [(count - 1) // 2, count // 2], side="right")
    return float(ranks[middle].mean())


def _sign_flip(
    columns: Mapping[str, Doubles], groups: Ints, *, seed: int, resamples: int
) -> dict[str, float]:
    """Two-sided p of each column's mean being zero, by random signs a group (Good 2005, section 3.2)."""
    _, sizes, sums = _by_group(columns, groups)
    observed = np.abs(sums.sum(axis=0))
    beyond = np.zeros(len(columns))
    random = np.random.default_rng([seed, 1])
    step = max(1, SIGN_FLOATS // len(sizes))
    for start in range(0, resamples, step):
        shape = (min(step, resamples - start), len(sizes))
        signs = random.integers(2, size=shape, dtype=np.int8) * 2.0 - 1.0
        # A hair of slack: sums of the same terms in another order are still the same sum.
        beyond += (np.abs(signs @ sums) >= observed * (1 - 1e-12)).sum(axis=0)
    return dict(zip(columns, ((1 + beyond) / (1 + resamples)).tolist(), strict=True))
