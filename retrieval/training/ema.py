"""Averaged weights: an exponential moving average over the steps, which is what validation sees.

Imports torch. Averaging weights late in training finds flatter optima than the last step's (Polyak and
Juditsky 1992; Izmailov et al. 2018, arXiv:1803.05407).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """A float32 copy of a module's trainable parameters that follows them.

    After step t (from 1) the copy moves by 1 - min(decay, t / (t + 9)) of the way, so that the first steps
    are not held back by where training began.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        named = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
        self.decay = decay
        self.steps = 0
        self.names = [name for name, _ in named]
        self._live = [value for _, value in named]
        self._mean = [value.detach().float().clone() for value in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Follow one step of the optimizer."""
        self.steps += 1
        move = 1.0 - min(self.decay, self.steps / (self.steps + 9.0))
        live = [value if value.dtype == torch.float32 else value.float() for value in self._live]
        torch._foreach_lerp_(self._mean, live, move)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages into the module inside the `with`, and the weights back after it."""
        kept = [value.detach().clone() for value in self._live]
        self._fill(self._mean)
        try:
            yield
        finally:
            self._fill(kept)

    def state(self) -> dict[str, Tensor]:
        """The averages by parameter name; `steps` is the caller's to keep."""
        return dict(zip(self.names, self._mean, strict=True))

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Go on from a saved state."""
        for name, mean in zip(self.names, self._mean, strict=True):
            mean.copy_(state[name])
        self.steps = steps

    @torch.no_grad()
    def _fill(self, values: list[Tensor]) -> None:
        for live, value in zip(self._live, values, strict=True):
            live.copy_(value)
