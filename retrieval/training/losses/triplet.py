"""Triplet margin loss with chosen negatives, in both directions.

For an anchor i, each of its positives p and one negative n(i, p), with a distance d,

    L_i = mean_p max(0, margin + d(i, p) - d(i, n(i, p))),    L = (mean_i L_i + mean_j L_j) / 2.

The distance is 1 - cosine (half of FaceNet's squared one) or Euclidean. Negatives are

  random     one of the row's, each as likely
  hardest    the nearest (VSE++, Faghri et al. 2018, arXiv:1707.05612)
  semi-hard  the nearest of those farther than the positive (FaceNet, Schroff et al. 2015, arXiv:1503.03832).
             Where that one lies beyond the margin, the term is 0. Where every negative is nearer than the
             positive, none is semi-hard, which the paper leaves open; the farthest one stands in, so that
             the worst positives are not left without a gradient.

Rows without a positive or without a negative count nothing. The scale is not used.

Prefer semi-hard for small clean data whose top ranks matter, and to train on from a good start: what is
already right by the margin moves no more, and so forgets less. Prefer hardest only late, or with large and
clean batches: a caption that fits two pictures makes a false negative, which is just what it picks, and from
a random start it tends to collapse all vectors into one. Random learns slowest and breaks least. With noisy
pairs or from nothing prefer infonce.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval.training.losses.options import Distance, Negatives
from retrieval.training.losses.pair import HALVES, Pair, safe_total

BLOCK = 1 << 22  # entries compared at once while semi-hard negatives are chosen


def triplet(
    pair: Pair,
    *,
    margin: float = 0.2,
    negatives: Negatives = Negatives.SEMI_HARD,
    distance: Distance = Distance.COSINE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The mean hinge over both directions, a scalar. `generator` draws random negatives, rows first."""
    distances = 1.0 - pair.similarities() if distance is Distance.COSINE else euclidean(pair.a, pair.b)
    positive, negative = pair.targets(), pair.negatives()

    def one_way(distances: Tensor, positive: Tensor, negative: Tensor, weight: Tensor | None) -> Tensor:
        share = _shares(positive, negative, weight, distances.dtype)
        anchor, near = (positive & negative.any(dim=1, keepdim=True)).nonzero(as_tuple=True)
        own = distances[anchor, near]
        if not len(anchor):
            return distances.sum() * 0.0
        with torch.no_grad():
            if negatives is Negatives.RANDOM:
                far = _random(negative, anchor, generator)
            elif negatives is Negatives.HARDEST:
                far = distances.masked_fill(~negative, torch.inf).argmin(dim=1)[anchor]
            else:
                far = _semi_hard(distances, negative, anchor, own)
        hinge = torch.relu(margin + own - distances[anchor, far])
        return (hinge * share[anchor]).sum()

    rows = one_way(distances, positive, negative, pair.weight)
    columns = one_way(distances.T, positive.T, negative.T, pair.weight_b)
    return 0.5 * (rows + columns)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Distances (n, m), float32 at least; where they vanish in rounding they are 0 and have no gradient."""
    with torch.autocast(a.device.type, enabled=False):
        if a.dtype in HALVES:
            a, b = a.float(), b.float()
        squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)[None] - 2.0 * (a @ b.T)
        apart = squares > 4.0 * torch.finfo(squares.dtype).eps
        roots = torch.where(apart, squares, torch.ones_like(squares)).sqrt()
        return roots.where(apart, torch.zeros_like(roots))


def _shares(positive: Tensor, negative: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What each positive of a row counts in the mean over rows, (n,)."""
    counts = positive.sum(dim=1)
    counted = ((counts > 0) & negative.any(dim=1)).to(dtype)
    weights = counted if weight is None else counted * weight.to(dtype)
    return weights / counts.clamp(min=1) / safe_total(weights.sum())


def _random(negative: Tensor, anchor: Tensor, generator: torch.Generator | None) -> Tensor:
    """One negative column for each anchor: the floor(u * count)-th of its row, u drawn in [0, 1)."""
    place = generator.device if generator is not None else negative.device
    drawn = torch.rand(len(anchor), generator=generator, device=place, dtype=torch.float64)
    counts = negative.sum(dim=1)[anchor]
    nth = (drawn.to(counts.device) * counts).long().clamp(max=counts - 1)
    seen = negative.cumsum(dim=1)  # how many negatives lie up to and with each column
    return torch.searchsorted(seen[anchor], (nth + 1)[:, None]).squeeze(1)


def _semi_hard(distances: Tensor, negative: Tensor, anchor: Tensor, own: Tensor) -> Tensor:
    """For each anchor the column of the nearest negative that is farther than `own`, or of the farthest."""
    far = distances.masked_fill(~negative, torch.inf)
    last = distances.masked_fill(~negative, -torch.inf).argmax(dim=1)
    step = max(1, BLOCK // max(1, distances.shape[1]))
    found = [torch.empty(0, dtype=torch.long, device=anchor.device)]
    for start in range(0, len(anchor), step):
        part = anchor[start : start + step]
        rows = far[part]
        rows = rows.masked_fill(rows <= own[start : start + step, None], torch.inf)
        best, column = rows.min(dim=1)
        found.append(torch.where(best.isinf(), last[part], column))
    return torch.cat(found)
