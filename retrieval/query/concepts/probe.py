"""A linear probe from a few examples: the direction they have in common, and what a score by it is worth.

Arrays only; what the examples are stands in examples.py, what is kept of a probe in concepts.py. scikit-learn
is loaded when something is fitted, never by a search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from indexer.types import FloatArray

CHOICES = (1.0, 10.0, 100.0)  # inverse strengths of regularisation that cross-validation takes one of
ALONE = 1.0  # the one for a single example, which leaves nothing to validate with
FOLDS = 10  # at most; with fewer examples each is left out in turn
STEPS = 100  # of the estimate of how frequent the concept is
# Where good ones stand among a collection's scores, in standard deviations from the mean: so far on the Tux
# Paint stamps' training half, which counts as so many examples do; and never nearer than the last number.
APART, APART_COUNTS, NEAREST = 2.5, 2, 0.5
EVERY = "*"  # all groups together
TINY = 1e-9
LARGE = 500.0  # log odds that exp still takes
CONFIDENCE = 1.96  # standard deviations on either side of a 95 % interval

Scores = npt.NDArray[np.float64]
Groups = npt.NDArray[np.str_]  # what each row is of: the name of a modality


@dataclass(frozen=True, slots=True)
class Measured:
    """What examples that a probe was not fitted on were taken for, at a probability of one half."""

    yes: int  # good examples, each left out once
    yes_found: int  # taken for good
    no: int  # bad examples
    no_found: int  # taken for good all the same
    others: int  # drawn from the collection, and taken to be bad, which some may not be
    others_found: int

    @property
    def recall(self) -> tuple[float, float, float]:
        """The share of good examples that were found, with its 95 % interval; each in [0, 1]."""
        return share(self.yes_found, self.yes)

    @property
    def precision(self) -> tuple[float, float, float]:
        """The share of good ones among all that were found, with its 95 % interval; each in [0, 1].

        It is of this mixture of examples and others, and on the low side where others are good too.
        """
        return share(self.yes_found, self.yes_found + self.no_found + self.others_found)


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """The log odds of x, shape (dim,), are `x @ direction * scale + bias`.

    Good examples of one group may stand out further than those of another, so a group that has some, and
    others to compare them with, has a scale and bias of its own in `lines`.
    """

    direction: FloatArray  # (dim,), of length 1
    scale: float  # positive
    bias: float
    measured: Measured | None  # None: with a single example nothing can be measured
    lines: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # by group: scale and bias
    measured_of: Mapping[str, Measured] = field(default_factory=dict)  # by group, of those with good examples


def share(part: int, whole: int) -> tuple[float, float, float]:
    """part / whole and Wilson's 95 % interval of it; of nothing 0, between 0 and 1."""
    if not whole:
        return 0.0, 0.0, 1.0
    found, spread = part / whole, CONFIDENCE**2 / whole
    middle = (found + spread / 2) / (1 + spread)
    half = math.sqrt(found * (1 - found) * spread + spread**2 / 4) / (1 + spread)
    return found, max(0.0, middle - half), min(1.0, middle + half)


def fit(good: FloatArray, bad: FloatArray, others: FloatArray, *, groups: Groups | None = None) -> Probe:
    """A logistic regression that tells `good` (n, dim) from `bad` (m, dim) and `others` (o, dim).

    n is 1 or more, m + o too. Regularisation is chosen by cross-validation, and the scores of what was left
    out say what the fit's own are worth, see `_line`. `groups` (n + m + o,) are the rows', in this order.
    """
    rows = np.concatenate([good, bad, others]).astype(np.float64)
    kind = np.repeat([0, 1, 2], [len(good), len(bad), len(others)])
    group = np.full(len(rows), "") if groups is None else groups
    strength, left_out = ALONE, None
    if len(good) > 1:
        tried = {choice: _left_out(rows, kind, choice) for choice in CHOICES}
        strength = min(tried, key=lambda choice: _loss(tried[choice], kind))
        left_out = tried[strength]
    weights, bias = _logistic(rows, kind, strength)
    told = _lines(rows @ weights + bias, kind, group, left_out)
    length = float(np.linalg.norm(weights)) or 1.0
    lines = {name: (slope * length, slope * bias + shift) for name, (slope, shift) in told.items()}
    whole, of_group = (None, {}) if left_out is None else _measured(left_out, kind, group)
    scale, moved = lines.pop(EVERY)
    return Probe((weights / length).astype(np.float32), scale, moved, whole, lines, of_group)


def _lines(
    scores: Scores, kind: npt.NDArray[np.int64], group: Groups, left_out: Scores | None
) -> dict[str, tuple[float, float]]:
    """`_line` of all rows, under EVERY, and of each group that has good ones and what to compare with."""
    found = {EVERY: _line(scores, kind, left_out)}
    for name in np.unique(group[kind == 0]).tolist():
        own = group == name
        if name and (kind[own] != 0).any():
            found[name] = _line(scores[own], kind[own], None if left_out is None else left_out[own])
    return found


def _weights(kind: npt.NDArray[np.int64]) -> Scores:
    """A weight a row: good ones have half of all, bad ones half of the rest where there are any."""
    counts = np.bincount(kind, minlength=3)
    both = counts[1] > 0 and counts[2] > 0
    shares = np.array([0.5, 0.25 if both else 0.5, 0.25 if both else 0.5])
    given = max(2 * counts[0], 2)  # so that a strength means the same, however many others there are
    return (given * shares / np.maximum(counts, 1))[kind]


def _logistic(rows: Scores, kind: npt.NDArray[np.int64], strength: float) -> tuple[Scores, float]:
    """Weights (dim,) and bias."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=1000)
    model.fit(rows, kind == 0, sample_weight=_weights(kind))
    return model.coef_[0], float(model.intercept_[0])


def _left_out(rows: Scores, kind: npt.NDArray[np.int64], strength: float) -> Scores:
    """Each row's score by a probe that was fitted without its fold, shape (n,)."""
    folds = min(FOLDS, int((kind == 0).sum()))
    within = np.concatenate([np.arange(int((kind == one).sum())) for one in range(3)])  # place among its kind
    scores = np.zeros(len(rows))
    for fold in range(folds):
        out = within % folds == fold
        if not (kind[~out] != 0).any():  # a single bad example is never left out
            out &= kind == 0
        weights, bias = _logistic(rows[~out], kind[~out], strength)
        scores[out] = rows[out] @ weights + bias
    return scores


def _loss(scores: Scores, kind: npt.NDArray[np.int64]) -> float:
    """The weighted log loss of scores."""
    signed = np.where(kind == 0, scores, -scores)
    return float(np.average(np.logaddexp(0, -signed), weights=_weights(kind)))


def _line(scores: Scores, kind: npt.NDArray[np.int64], left_out: Scores | None) -> tuple[float, float]:
    """Slope (positive) and shift from scores (n,) to log odds.

    Scores of good and of other rows count as two normal distributions of one width. Where the good one stands
    is told by the scores of good rows that were left out, drawn towards what concepts usually have: a handful
    of examples says little, and the scores that a fit gives to its own examples are too high. Good ones among
    the others are not taken out of them: on real collections that took too much for good. So what is frequent
    (a fifth of a collection) gets too low a probability.
    """
    rest = kind == 2 if (kind == 2).any() else kind == 1
    usual, width = _spread(scores[rest])
    apart, counted = APART * APART_COUNTS, APART_COUNTS
    if left_out is not None:
        middle, own_width = _spread(left_out[rest])
        apart += float(((left_out[kind == 0] - middle) / own_width).sum())
        counted += int((kind == 0).sum())
    apart = max(apart / counted, NEAREST)
    told = apart * (scores - usual) / width - apart**2 / 2
    return apart / width, -apart * usual / width - apart**2 / 2 + _prior(told[kind == 2])


def _spread(scores: Scores) -> tuple[float, float]:
    """Mean and standard deviation; of equal scores the width is one."""
    width = float(np.std(scores))
    return float(np.mean(scores)), width if width > TINY else 1.0


def _prior(told: Scores) -> float:
    """The log odds of the concept among the others, whose log odds at equal shares are `told` (o,).

    That share is the mean probability that it gives itself (Saerens, Latinne and Decaestecker 2002).
    """
    if not len(told):
        return 0.0
    lowest, frequent = 0.5 / len(told), 0.1
    for _ in range(STEPS):
        odds = np.clip(told + math.log(frequent / (1 - frequent)), -LARGE, LARGE)
        frequent = min(max(float(np.mean(1 / (1 + np.exp(-odds)))), lowest), 0.5)
    return math.log(frequent / (1 - frequent))


def _measured(
    left_out: Scores, kind: npt.NDArray[np.int64], group: Groups
) -> tuple[Measured, dict[str, Measured]]:
    """What rows that were left out are taken for, each by its group's line; of all, and of each group."""
    lines = _lines(left_out, kind, group, left_out)
    slope, shift = np.array([lines.get(name, lines[EVERY]) for name in group.tolist()]).T
    taken = slope * left_out + shift > 0
    own = {name: group == name for name in np.unique(group[kind == 0]).tolist() if name}
    return _counted(taken, kind), {name: _counted(taken[one], kind[one]) for name, one in own.items()}


def _counted(taken: npt.NDArray[np.bool_], kind: npt.NDArray[np.int64]) -> Measured:
    counts = [(int((kind == one).sum()), int(taken[kind == one].sum())) for one in range(3)]
    return Measured(*counts[0], *counts[1], *counts[2])
