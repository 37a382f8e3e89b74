"""What every loss takes: two sets of unit vectors, and which belong together.

Here stand the Pair, the masks that say which entries are positives, and the few lines that losses share.
No loss stands here. Row i's side is called a, column j's side b; every matrix is (n, m), rows by columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from indexer.errors import TrainingError

HALVES = (torch.float16, torch.bfloat16)  # types too coarse to sum or to take exponentials in


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pair:
    """Two sets of unit vectors of one kind of pair, n and m of them, and what is known about each entry.

    An entry is a positive, a negative, or neither (`ignore`, which wins over `positive`). A row or column
    without a positive contributes nothing of its own; it still is a negative of the others. That is how
    mined negatives come in: as further columns.
    """

    a: Tensor  # (n, d) unit vectors
    b: Tensor  # (m, d) unit vectors
    positive: Tensor  # (n, m) bool
    scale: Tensor  # scalar: what cosines are multiplied by, already exponentiated
    bias: Tensor  # scalar: what is added to them; sigmoid only
    ignore: Tensor | None = None  # (n, m) bool: neither positive nor negative
    weight: Tensor | None = None  # (n,) 0 or more: how much each row counts; None: alike
    weight_b: Tensor | None = None  # (m,) the same of columns
    teacher: Tensor | None = None  # (n, m) a stronger model's cosines, NaN where it has none; distill only

    def __post_init__(self) -> None:
        rows, columns = len(self.a), len(self.b)
        wanted: dict[str, tuple[int, ...]] = {
            "positive": (rows, columns),
            "ignore": (rows, columns),
        }
        wanted |= {"teacher": (rows, columns), "weight": (rows,), "weight_b": (columns,)}
        for name, shape in wanted.items():
            found = getattr(self, name)
            if found is not None and tuple(found.shape) != shape:
                raise TrainingError(f"{name} has the shape {tuple(found.shape)}, expected {shape}")

    def similarities(self) -> Tensor:
        """Cosines (n, m), multiplied in the vectors' own type; float32 where that is a half one."""
        return cosines(self.a, self.b)

    def logits(self) -> Tensor:
        """Cosines times scale, (n, m); no bias, which a softmax would cancel."""
        return self.similarities() * self.scale

    def targets(self) -> Tensor:
        """The positives that are not ignored, (n, m) bool."""
        return self.positive if self.ignore is None else self.positive & ~self.ignore

    def negatives(self) -> Tensor:
        """The entries that are neither positive nor ignored, (n, m) bool."""
        return ~self.positive if self.ignore is None else ~(self.positive | self.ignore)


Loss = Callable[[Pair], Tensor]  # a scalar; lower is better


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """The products of unit vectors, (n, m), at least float32; formed in the type that they come in."""
    found = a @ b.T
    return found.float() if found.dtype in HALVES else found


def shut(values: Tensor, mask: Tensor | None) -> Tensor:
    """`values` with the masked entries so low that no softmax sees them, and finite all the same.

    With minus infinity a row that is masked throughout would have a NaN for its gradient.
    """
    return values if mask is None else values.masked_fill(mask, torch.finfo(values.dtype).min / 4)


def mean_of(terms: Tensor, counted: Tensor, weight: Tensor | None) -> Tensor:
    """The weighted mean of the terms that count, a scalar; 0, with a gradient of 0, where none does."""
    weights = counted.to(terms.dtype) if weight is None else counted * weight.to(terms.dtype)
    return (terms.where(counted, torch.zeros_like(terms)) * weights).sum() / safe_total(weights.sum())


def safe_total(total: Tensor) -> Tensor:
    """A sum of weights to divide by: 1 where it is 0."""
    return torch.where(total > 0, total, torch.ones_like(total))


def unit(vectors: Tensor) -> Tensor:
    """Rows of length 1, in the type they came in; a row of zeros stays one and has no gradient."""
    whole = vectors.float() if vectors.dtype in HALVES else vectors
    squares = whole.square().sum(dim=-1, keepdim=True)
    there = squares > torch.finfo(whole.dtype).tiny
    lengths = torch.where(there, squares, torch.ones_like(squares)).sqrt()
    return (whole / lengths).where(there, torch.zeros_like(whole)).to(vectors.dtype)
