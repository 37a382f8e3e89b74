"""Sigmoid pairwise loss: SigLIP's (Zhai et al. 2023, arXiv:2303.15343).

Each entry is a question of its own, whether a and b belong together; with z = +1 for positives, -1 for
negatives, and logits s = scale * cosine + bias,

    L = -1/n sum_i sum_j log sigmoid(z_ij s_ij),

a sum over the columns and a mean over the rows, as in the paper; ignored entries count nothing. Taken over
rows and over columns and averaged, which for n = m changes nothing and for further columns of negatives
counts each of those half. The bias must start near -10 with a scale of 10, or the many negatives swamp the
first steps.

Prefer it for batches below a few hundred, where a softmax has few negatives, and where positives are many,
uneven or noisy: an entry is never judged against the others, so a false negative costs only itself. Prefer
infonce.py for large clean batches, and where the scale is not to be tuned.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval.training.losses.pair import Pair, mean_of


def sigmoid(pair: Pair) -> Tensor:
    """The mean over rows (and columns) of the sums of their entries, a scalar."""
    logits = pair.logits() + pair.bias
    target = pair.targets()
    terms = -F.logsigmoid(torch.where(target, logits, -logits))
    if pair.ignore is not None:
        terms = terms.masked_fill(pair.ignore, 0.0)
    rows = mean_of(terms.sum(dim=1), target.any(dim=1), pair.weight)
    columns = mean_of(terms.sum(dim=0), target.any(dim=0), pair.weight_b)
    return 0.5 * (rows + columns)
