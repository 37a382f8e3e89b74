"""From options to a loss. No formula stands here."""

from __future__ import annotations

from functools import partial

import torch

from retrieval.training.losses.distill import distill, mixed
from retrieval.training.losses.infonce import infonce
from retrieval.training.losses.options import LossKind, LossOptions
from retrieval.training.losses.pair import Loss
from retrieval.training.losses.sigmoid import sigmoid
from retrieval.training.losses.supcon import supcon
from retrieval.training.losses.triplet import triplet


def make_loss(options: LossOptions, *, generator: torch.Generator | None = None) -> Loss:
    """The loss that options name, a function of a Pair.

    `generator` draws a triplet's random negatives, on its own device; None: torch's global one.
    """
    if options.kind is LossKind.DISTILL:
        return partial(distill, temperature=options.distill_temperature)
    base = _base(options, generator)
    if not options.distill_weight:
        return base
    return mixed(base, weight=options.distill_weight, temperature=options.distill_temperature)


def _base(options: LossOptions, generator: torch.Generator | None) -> Loss:
    if options.kind is LossKind.SIGMOID:
        return sigmoid
    if options.kind is LossKind.TRIPLET:
        return partial(
            triplet,
            margin=options.margin,
            negatives=options.negatives,
            distance=options.distance,
            generator=generator,
        )
    if options.kind is LossKind.SUPCON:
        return partial(supcon, within=options.within)
    return partial(infonce, smoothing=options.smoothing)
