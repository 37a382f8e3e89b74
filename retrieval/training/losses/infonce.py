"""Symmetric InfoNCE with several positives: CLIP's loss (Radford et al. 2021, arXiv:2103.00020).

With logits s = scale * cosine and a target distribution q_i over the positives of row i,

    L_i = - sum_j q_ij log( exp(s_ij) / sum_k exp(s_ik) ),    L = (mean_i L_i + mean_j L_j) / 2,

the second mean being the same over columns. q is uniform over a row's positives; smoothing e takes
(1 - e) q + e / (entries that are not ignored). Ignored entries leave the sum below the line, too. With one
positive a row it is CLIP's cross-entropy.

Prefer it by default: it uses every negative of a batch at once and weighs the hard ones by itself. Prefer
sigmoid.py for small batches, or where many pairs are wrong or match several others unbeknown; triplet.py
where only the order near the top matters and the data is clean; supcon.py where labels are what counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval.training.losses.pair import Pair, mean_of, safe_total, shut


def infonce(pair: Pair, *, smoothing: float = 0.0) -> Tensor:
    """The mean over both directions, a scalar; `smoothing` is 0 or more and less than 1."""
    logits = shut(pair.logits(), pair.ignore)
    target = pair.targets().to(logits.dtype)
    rows = mean_of(*_terms(logits, target, pair.ignore, dim=1, smoothing=smoothing), pair.weight)
    columns = mean_of(*_terms(logits, target, pair.ignore, dim=0, smoothing=smoothing), pair.weight_b)
    return 0.5 * (rows + columns)


def _terms(
    logits: Tensor, target: Tensor, ignore: Tensor | None, *, dim: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Each row's (dim 1) or column's (dim 0) cross-entropy, and whether it has a positive."""
    total = target.sum(dim=dim)
    hit = (logits * target).sum(dim=dim) / safe_total(total)
    if smoothing:
        valid = torch.ones_like(target) if ignore is None else (~ignore).to(target.dtype)
        spread = (logits * valid).sum(dim=dim) / safe_total(valid.sum(dim=dim))
        hit = (1.0 - smoothing) * hit + smoothing * spread
    return logits.logsumexp(dim=dim) - hit, total > 0
