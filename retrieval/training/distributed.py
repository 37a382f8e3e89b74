"""Several processes that train one space: who encodes what, vectors gathered with gradient, gradients added.

Imports torch. Every rank knows the whole batch, encodes its share of it, gathers the others' vectors and
computes the same loss over all of them; so ranks see the negatives of the joined batch, and the gradients
equal those of one process. Started by `accelerate launch`; nothing here is about losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from retrieval.training.launch import processes
from retrieval.training.types import Ints

Thing = TypeVar("Thing")


class Ranks:
    """One process among `world`; with one, every method is free."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, contents: Ints) -> Ints:
        """The part of a batch's contents that this rank encodes; sizes differ by one at most."""
        return contents if self.world == 1 else np.array_split(contents, self.world)[self.rank]

    def gather(self, vectors: Tensor, total: int) -> Tensor:
        """All ranks' vectors in the order of ranks, (total, d); gradients flow to the rank they came from.

        Every rank calls it with its share of the same `total` contents, (n of the share, d).
        """
        if self.world == 1:
            return vectors
        sizes = [len(part) for part in np.array_split(np.empty(total), self.world)]
        found: Tensor = _Gather.apply(vectors, sizes, self.rank)
        return found

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by the sum over ranks; one that no rank has stays None.

        The loss of each rank is divided by `world` before `backward`, see `_Gather`.
        """
        if self.world == 1 or not parameters:
            return
        flags = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        widest = torch.float64 if any(grad.dtype == torch.float64 for grad in grads) else torch.float32
        joined = torch.cat([flags.to(widest), *(grad.to(widest).ravel() for grad in grads)])
        dist.all_reduce(joined)
        have, rest = joined[: len(flags)].tolist(), joined[len(flags) :]
        pieces = rest.split([grad.numel() for grad in grads])
        for parameter, grad, piece, count in zip(parameters, grads, pieces, have, strict=True):
            parameter.grad = piece.view_as(grad).to(grad.dtype) if count else None

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is up on any rank."""
        if self.world == 1:
            return flag
        found = torch.tensor(float(flag), device=device)
        dist.all_reduce(found)
        return bool(found.item())

    def from_first(self, thing: Thing) -> Thing:
        """The first rank's thing, on every rank."""
        if self.world == 1:
            return thing
        box: list[Any] = [thing]
        dist.broadcast_object_list(box, src=0)
        found: Thing = box[0]
        return found

    def everyone(self, thing: Thing) -> list[Thing]:
        """Every rank's thing, in the order of ranks."""
        if self.world == 1:
            return [thing]
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, thing)
        return box


class _Gather(torch.autograd.Function):
    """All-gather whose backward adds up what every rank's loss says of this rank's vectors.

    Each rank's loss is over the same joined batch. Divided by the number of ranks, the losses add up to the
    one loss, and so do their gradients, of vectors here and of scale and bias in `add_gradients`.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        padded = vectors.new_zeros((max(sizes), *vectors.shape[1:]))
        padded[: len(vectors)] = vectors
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        whole = grad.contiguous().clone()
        dist.all_reduce(whole)
        return whole.split(ctx.sizes)[ctx.rank], None, None


@contextmanager
def joined(*, cpu: bool) -> Iterator[tuple[Ranks, torch.device | None]]:
    """This process's rank, and its device where a launcher started several processes.

    Uses the process group that is there, or makes the one that the launcher's variables describe and takes
    it down again. The device is None for a single process, which chooses itself.
    """
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size()), torch.device("cpu") if cpu else None
        return
    if processes() == 1:
        yield Ranks(), None
        return
    from accelerate import PartialState

    state = PartialState(cpu=cpu)
    try:
        # Every process has the CPU, whatever number it is given there.
        device = state.device if state.device.type != "cpu" else torch.device("cpu")
        yield Ranks(state.process_index, state.num_processes), device
    finally:
        state.destroy_process_group()
