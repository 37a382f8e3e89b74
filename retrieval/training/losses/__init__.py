"""Losses over two sets of unit vectors, one a file, each with its paper and when to prefer another.

`make_loss` turns options into a loss; a loss takes a Pair and gives a scalar. Nothing here knows of heads,
batches of rows, or optimizers. Imports torch.
"""

from retrieval.training.losses.make import make_loss
from retrieval.training.losses.nested import nested
from retrieval.training.losses.options import Distance, LossKind, LossOptions, Negatives
from retrieval.training.losses.pair import Loss, Pair

__all__ = [
    "Distance",
    "Loss",
    "LossKind",
    "LossOptions",
    "Negatives",
    "Pair",
    "make_loss",
    "nested",
]
