"""Distillation: the student's similarities follow a stronger model's, row by row and column by column.

With the teacher's cosines T, its temperature t, and the student's logits s = scale * cosine,

    p_i = softmax_j(T_ij / t),    q_i = softmax_j(s_ij),
    L_i = KL(p_i || q_i),         L = (mean_i L_i + mean_j L_j) / 2,

ignored entries, and those where the teacher has no number (NaN), leaving both softmaxes. This is Hinton et
al.'s soft target (arXiv:1503.02531) over a batch's items instead of classes, as CLIP-KD (arXiv:2307.12732)
and TinyCLIP (arXiv:2309.12314) use it. No factor t^2: the student's temperature is its own learnt one. To
have both use the same, fix the scale at 1/t (init_scale, learn_scale=false).

A row without a positive contributes all the same, since the teacher judges every entry. `mixed` takes
(1 - w) of another loss and w of this one.

Prefer it, mixed at w of 0.3 to 0.7, where a stronger model of the same pairs exists and data is small: soft
targets say which negatives are nearly right. Alone it can be no better than its teacher; without a teacher
prefer infonce.py.
"""

from __future__ import annotations

from torch import Tensor

from indexer.errors import TrainingError
from retrieval.training.losses.pair import Loss, Pair, mean_of, shut


def distill(pair: Pair, *, temperature: float = 0.05) -> Tensor:
    """The mean divergence from the teacher over both directions, 0 or more. TrainingError without one."""
    if pair.teacher is None:
        raise TrainingError(
            "there is nothing to distill: this kind of pair has no teacher",
            hint="give a teacher's similarities, or mix with another loss through loss.distill_weight",
        )
    ours = pair.logits()
    theirs = pair.teacher.to(ours.dtype) / temperature
    hidden = ~theirs.isfinite()
    if pair.ignore is not None:
        hidden = hidden | pair.ignore
    ours, theirs = shut(ours, hidden), shut(theirs, hidden)

    def one_way(dim: int, weight: Tensor | None) -> Tensor:
        goal, found = theirs.log_softmax(dim=dim), ours.log_softmax(dim=dim)
        terms = (goal.exp() * (goal - found)).sum(dim=dim)
        return mean_of(terms, (~hidden).any(dim=dim), weight)

    return 0.5 * (one_way(1, pair.weight) + one_way(0, pair.weight_b))


def mixed(base: Loss, *, weight: float, temperature: float = 0.05) -> Loss:
    """(1 - weight) * base + weight * distill; a pair without a teacher has the base loss alone."""

    def loss(pair: Pair) -> Tensor:
        if pair.teacher is None:
            return base(pair)
        return (1.0 - weight) * base(pair) + weight * distill(pair, temperature=temperature)

    return loss
