"""Supervised contrastive loss over labels: L_out of Khosla et al. 2020 (arXiv:2004.11362), across modalities.

Both sides of a pair are the views of one batch. For an anchor i, the others A(i) (all but i itself) and its
positives P(i) among them,

    L_i = -1/|P(i)| sum_{p in P(i)} log( exp(s_ip) / sum_{k in A(i)} exp(s_ik) ),    s = scale * cosine,

and L is the mean over all anchors of both sides that have a positive. A pair says only which a belongs to
which b; two of one side are positives where they share a positive of the other side, and are left out of
each other's sum where one's positive is ignored for the other. With `within` off, only the other side is
contrasted with, and L_out over labels is infonce.py with those labels as positives; each direction is then
averaged for itself.

The positives are outside of the logarithm (L_out), which the paper finds better than inside: a positive far
away keeps its full gradient. Prefer it where labels say more than pairs do, with several rows a label in each
batch (sample with a balance above 1): it pulls a class together and helps mAP at the cost of telling its
members apart. Prefer infonce.py where each item must be found by its own caption, and within=false where
gathering each modality inside itself widens the gap between two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval.training.losses.infonce import infonce
from retrieval.training.losses.pair import Pair, cosines, mean_of, safe_total, shut


def supcon(pair: Pair, *, within: bool = True) -> Tensor:
    """The mean over the anchors of both sides, a scalar; `pair.positive` has what shares a label or a row."""
    if not within:
        return infonce(pair)
    vectors = torch.cat([pair.a, pair.b])
    positive, ignore = _joined_masks(pair)
    logits = shut(cosines(vectors, vectors) * pair.scale, ignore)
    target = positive.to(logits.dtype)
    counts = target.sum(dim=1)
    terms = logits.logsumexp(dim=1) - (logits * target).sum(dim=1) / safe_total(counts)
    return mean_of(terms, counts > 0, _joined_weights(pair))


def _joined_masks(pair: Pair) -> tuple[Tensor, Tensor]:
    """Positives and ignored entries of both sides against both, (n + m, n + m) bool each."""
    across, hidden = pair.targets(), pair.ignore
    positive_a, ignore_a = _inside(across, hidden)
    positive_b, ignore_b = _inside(across.T, None if hidden is None else hidden.T)
    hidden = torch.zeros_like(across) if hidden is None else hidden
    positive = torch.cat([torch.cat([positive_a, across], 1), torch.cat([across.T, positive_b], 1)])
    ignore = torch.cat([torch.cat([ignore_a, hidden], 1), torch.cat([hidden.T, ignore_b], 1)])
    return positive, ignore


def _inside(across: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positives and ignored entries of the rows against each other, bool; none is compared with itself."""
    link = across.float()  # products count shared entries: exact up to 2^24, and never 0 for some
    shared = link @ link.T > 0
    itself = torch.eye(len(link), dtype=torch.bool, device=link.device)
    if hidden is None:
        return shared & ~itself, itself
    shadow = hidden.float() @ link.T > 0
    return shared & ~itself, (~shared & (shadow | shadow.T)) | itself


def _joined_weights(pair: Pair) -> Tensor | None:
    if pair.weight is None and pair.weight_b is None:
        return None
    sides = ((pair.weight, pair.a), (pair.weight_b, pair.b))
    return torch.cat([side.new_ones(len(side)) if weight is None else weight for weight, side in sides])
