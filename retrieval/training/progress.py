"""How far a run has come: what of it a checkpoint keeps, and how a run goes on from one.

Imports torch. What a checkpoint file is stands in checkpoint.py, when one is written in trainer.py. The
digests say whether data and frozen tensors are those that a checkpoint was made with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from indexer.types import FloatArray, Modality
from retrieval.training import checkpoint as files
from retrieval.training.events import EpochDone
from retrieval.training.source import FeatureSource, Source
from retrieval.training.space import SharedSpace
from retrieval.training.steps import Trainer
from retrieval.training.types import Examples


@dataclass(slots=True, eq=False)
class Progress:
    """Where a run stands between its steps, beside what its trainer holds."""

    epoch: int = 0  # done
    position: int = 0  # batches done of the one after
    loss_sum: float = 0.0  # of that one's steps so far
    loss_steps: int = 0
    start: float | None = None  # validation before the first step
    best: float | None = None  # mean R@k of validation; None without validation rows
    best_first: float = 0.0  # its R@1
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # on the CPU
    history: list[EpochDone] = field(default_factory=list)


def checkpoint_of(trainer: Trainer, at: Progress, digests: Mapping[str, str]) -> files.Checkpoint:
    """All that a run needs to go on from now. Every rank must call it: each has random numbers of its own."""
    moments, rest = files.flat_optimizer(trainer.optimizer)
    parts: dict[str, dict[str, Tensor]] = {
        "model": dict(trainer.space.state_dict()),
        "best": at.best_weights,
        "optimizer": moments,
        "ema": trainer.ema.state() if trainer.ema else {},
        "mined": {f"{a}.{b}": torch.from_numpy(found) for (a, b), found in trainer.mined.items()},
    }
    tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    facts = {
        **digests,
        "options": trainer.options.to_json(),
        "world": trainer.ranks.world,
        "epoch": at.epoch,
        "position": at.position,
        "loss": [at.loss_sum, at.loss_steps],
        "best": [at.best, at.best_first, at.best_epoch],
        "start": at.start,
        "history": [asdict(event) for event in at.history],
        "number": trainer.number,
        "ema_steps": trainer.ema.steps if trainer.ema else 0,
        "optimizer": rest,
        "scaler": trainer.scaler.state_dict(),
        "random": trainer.ranks.everyone(files.random_state(trainer.device)),
        "generators": trainer.ranks.everyone(files.generator_state(trainer.generator)),
    }
    return files.Checkpoint(tensors, facts)


def restored(trainer: Trainer, found: files.Checkpoint, digests: Mapping[str, str]) -> Progress:
    """Bring trainer, space and random numbers to where a checkpoint was made; how far that run had come.

    TrainingError where it is of another run.
    """
    facts, ranks = found.facts, trainer.ranks
    files.check_same(facts, options=trainer.options.to_json(), world=ranks.world, **digests)
    trainer.space.load_state_dict(found.part("model"))
    files.fill_optimizer(trainer.optimizer, found.part("optimizer"), facts["optimizer"])
    if trainer.ema:
        trainer.ema.load(found.part("ema"), facts["ema_steps"])
    if trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(facts["scaler"])
    ways = {tuple(Modality(m) for m in n.split(".")): v.numpy() for n, v in found.part("mined").items()}
    trainer.mined = {(way[0], way[1]): value for way, value in ways.items()}
    trainer.number = facts["number"]
    files.restore_random(facts["random"][ranks.rank], trainer.device)
    files.restore_generator(trainer.generator, facts["generators"][ranks.rank])
    loss_sum, loss_steps = facts["loss"]
    best, best_first, best_epoch = facts["best"]
    return Progress(
        epoch=facts["epoch"],
        position=facts["position"],
        loss_sum=loss_sum,
        loss_steps=loss_steps,
        start=facts["start"],
        best=best,
        best_first=best_first,
        best_epoch=best_epoch,
        best_weights=found.part("best"),
        history=[EpochDone(**event) for event in facts["history"]],
    )


def data_digest(
    source: Source, train: Examples, validation: Examples, *, teacher: Mapping[Modality, FloatArray]
) -> str:
    """SHA-256 of all that a run learns from: rows, a teacher's vectors, and features where they are known."""
    found = hashlib.sha256()
    for examples in (train, validation):
        arrays: dict[str, Any] = {m.value: examples.contents[m] for m in sorted(examples.contents)}
        arrays |= {"labels": examples.labels, "weights": examples.weights}
        for name, values in (
            *arrays.items(),
            *((f"teacher {m}", teacher[m]) for m in sorted(teacher)),
        ):
            found.update(f"{name} {values.shape} {values.dtype};".encode())
            found.update(np.ascontiguousarray(values).tobytes())
    features = getattr(source, "frozen", source)
    if isinstance(features, FeatureSource):
        found.update(features.digest().encode())
    return found.hexdigest()


def frozen_digest(space: SharedSpace) -> str:
    """SHA-256 of all that training leaves alone."""
    found = hashlib.sha256()
    for name, value in space.named_parameters():
        found.update(f"{name} {tuple(value.shape)} {value.requires_grad};".encode())
        if not value.requires_grad:
            found.update(value.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()
