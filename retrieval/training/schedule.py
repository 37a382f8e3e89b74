"""The learning rate of each step, as a plain function of its number: nothing to save, nothing to drift.

Imports no torch.
"""

from __future__ import annotations

import math

from retrieval.training.options import Schedule


def lr_share(step: int, *, steps: int, warmup: float, schedule: Schedule) -> float:
    """The share, in (0, 1], of the highest learning rate at a step, counted from 0, of `steps` in all.

    The first ceil(warmup * steps) steps rise in equal parts; the first is above zero and the last of them is
    the highest. The rest follow half a cosine (SGDR without restarts, arXiv:1608.03983) or stay.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if schedule is Schedule.CONSTANT:
        return 1.0
    left = max(steps - rising, 1)
    return 0.5 * (1.0 + math.cos(math.pi * min((step - rising) / left, 1.0)))
