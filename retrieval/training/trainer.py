"""Training, epoch by epoch: checks before the first step, validation, early stopping, checkpoints, ctrl-C.

Imports torch. One step stands in steps.py, what of a run a checkpoint keeps in progress.py. The same seed,
data and machine give the same numbers, whether or not a run was interrupted and resumed on its way.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from indexer.errors import TrainingError, TrainingStopped
from retrieval.training import checkpoint as files
from retrieval.training.batches import Plan
from retrieval.training.distributed import Ranks, joined
from retrieval.training.events import CheckpointSaved, EpochDone, EpochStart, OnEvent, StepDone, ignore
from retrieval.training.interrupt import StopOnInterrupt
from retrieval.training.logs import Logs, check_wandb
from retrieval.training.options import TrainOptions
from retrieval.training.placement import Placement, memory_explained, placed
from retrieval.training.progress import Progress, checkpoint_of, data_digest, frozen_digest, restored
from retrieval.training.sampler import Batch
from retrieval.training.source import FeatureSource, Inputs, Source
from retrieval.training.space import SharedSpace
from retrieval.training.steps import Teacher, Trainer
from retrieval.training.types import Examples
from retrieval.training.validation import Validation

__all__ = ["FeatureSource", "Inputs", "Source", "Stopped", "TrainResult", "Trainer", "TrainingData", "train"]

FAR = 16  # steps between looks at a GPU's losses, each of which would make it wait


class Stopped(StrEnum):
    """Why training ended."""

    EPOCHS = "epochs"  # all were done
    PATIENCE = "patience"  # validation did not get better any more


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Rows to learn from and rows to stop by, pointing into the same features; never test rows."""

    train: Examples
    validation: Examples
    teacher: Teacher = field(
        default_factory=dict
    )  # a stronger model's unit vectors by content, for distillation


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How training went. The space that was passed holds the best weights, in eval mode, on the CPU."""

    best: float | None  # mean R@k of validation in [0, 1]; None without validation rows
    best_epoch: int  # from 1; 0: the space that training began at
    history: tuple[EpochDone, ...]
    epochs: int  # done
    steps: int  # done
    stopped: Stopped
    start: float | None = None  # validation before the first step


def train(
    space: SharedSpace,
    source: Source,
    data: TrainingData,
    options: TrainOptions,
    out: Path,
    *,
    on_event: OnEvent = ignore,
    resume: bool = False,
) -> TrainResult:
    """Train the space in place and leave its best weights in it.

    `out` gets checkpoints/ and logs/. With `resume` the space must be made as it was made at first; the run
    goes on from the newest checkpoint to the very numbers it would have come to. The first ctrl-C finishes
    the step, saves, and raises TrainingStopped. TrainingError for data, options, a checkpoint or a device
    that training cannot go on with.
    """
    folder = out / "checkpoints"
    if files.has_checkpoint(folder) and not resume:
        raise TrainingError(f"{out} holds a training run", hint="resume it, or name another folder")
    _check(source, data, options)
    with (
        joined(cpu=options.device == "cpu") as (ranks, device),
        memory_explained(options),
        ExitStack() as stack,
    ):
        placement = placed(options, device)
        stack.enter_context(_own_random(placement, options.seed + ranks.rank))
        run = _Run(space, source, data, options, folder, ranks=ranks, placement=placement)
        if resume:
            run.restore(files.latest_checkpoint(folder)[1])
        run.on_event = on_event if ranks.first else ignore
        logs = Logs(out / "logs", options, step=run.trainer.number) if ranks.first else nullcontext()
        run.logs = stack.enter_context(logs)
        run.stop = stack.enter_context(StopOnInterrupt())
        return run.go()


class _Run:
    """The state of one run between its steps."""

    def __init__(
        self,
        space: SharedSpace,
        source: Source,
        data: TrainingData,
        options: TrainOptions,
        folder: Path,
        *,
        ranks: Ranks,
        placement: Placement,
    ) -> None:
        self.space, self.source, self.options, self.folder = space, source, options, folder
        self.ranks, self.placement = ranks, placement
        self.digests = {
            "data": data_digest(source, data.train, data.validation, teacher=data.teacher),
            "frozen": "",
        }
        self.trainer = Trainer(
            space, source, data.train, options, placement=placement, ranks=ranks, teacher=data.teacher
        )
        self.digests["frozen"] = frozen_digest(space)
        self.validation = Validation(self.trainer, data.validation) if len(data.validation) else None
        self.at = Progress()
        self.on_event: OnEvent = ignore
        self.logs: Logs | None = None
        self.stop = StopOnInterrupt()
        self._seen: list[tuple[Tensor, int]] = []  # losses that were not looked at yet, and their pairs
        self._since = 0.0

    def go(self) -> TrainResult:
        """All epochs that are left."""
        trainer, sampler, options = self.trainer, self.trainer.sampler, self.options
        if not trainer.number:
            self._validate_start()
        while (stopped := self._over()) is None:
            if options.hard_negatives and not self.at.position:
                trainer.mine()
            self.on_event(EpochStart(self.at.epoch + 1, options.epochs, len(sampler), self.at.position))
            self._since = time.perf_counter()
            for batch, plan in self._planned():
                loss = trainer.step(batch, plan)
                self.at.position += 1
                self._note(loss, plan)
                if self.ranks.any(self.stop.asked, trainer.device):
                    raise self._interrupted()
                if options.save_steps and trainer.number % options.save_steps == 0:
                    self.save()
            self._end_epoch()
            self.save()
        self._finish()
        done = tuple(self.at.history)
        return TrainResult(
            self.at.best, self.at.best_epoch, done, self.at.epoch, trainer.number, stopped, self.at.start
        )

    def _planned(self) -> Iterator[tuple[Batch, Plan]]:
        """The epoch's batches with what they compare, the next one's media already asked for."""
        expect = getattr(self.source, "expect", None)
        waiting: tuple[Batch, Plan] | None = None
        for batch in self.trainer.sampler.batches(self.at.epoch, self.at.position):
            following = batch, self.trainer.prepare(batch)
            if expect is not None:
                for modality, contents in following[1].contents.items():
                    expect(modality, self.ranks.share(contents))
            if waiting is not None:
                yield waiting
            waiting = following
        if waiting is not None:
            yield waiting

    def _note(self, loss: Tensor | None, plan: Plan) -> None:
        if loss is not None:
            self._seen.append((loss, plan.pairs))
        if len(self._seen) >= (1 if self.trainer.device.type == "cpu" else FAR):
            self._look()

    def _look(self) -> None:
        """Look at the losses since the last time: stop where one is not finite, report the others."""
        if not self._seen:
            return
        trainer = self.trainer
        losses = torch.stack([loss for loss, _ in self._seen]).tolist()
        pairs = sum(count for _, count in self._seen)
        for number, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise self._diverged(loss, trainer.number - len(losses) + number + 1)
        self._seen.clear()
        self.at.loss_sum += sum(losses)
        self.at.loss_steps += len(losses)
        now = time.perf_counter()
        spent, self._since = max(now - self._since, 1e-9), now
        mean, lr = sum(losses) / len(losses), trainer.optimizer.param_groups[0]["lr"]
        left = (trainer.steps - trainer.number) * spent / len(losses)
        self.on_event(
            StepDone(self.at.epoch + 1, trainer.number, trainer.steps, mean, lr, pairs / spent, left)
        )
        if self.logs is not None:
            self.logs.add(trainer.number, train_loss=mean, train_lr=lr, train_pairs_per_s=pairs / spent)

    def _diverged(self, loss: float, step: int) -> TrainingError:
        return TrainingError(
            f"the loss is {loss} at step {step}, in epoch {self.at.epoch + 1}: training diverged",
            hint=f"lower lr={self.options.lr:g} (try {self.options.lr / 10:g}), or use precision=f32",
        )

    def _end_epoch(self) -> None:
        self._look()
        mean = self.at.loss_sum / self.at.loss_steps if self.at.loss_steps else math.nan
        averaged = self.trainer.ema.averaged() if self.trainer.ema else nullcontext()
        with averaged:
            recall, first = self._recall()
            better = self._better(recall, first)
            if better:
                self._keep(recall, first, self.at.epoch + 1)
        event = EpochDone(self.at.epoch + 1, mean, recall, better)
        self.at.history.append(event)
        self.at.epoch, self.at.position = self.at.epoch + 1, 0
        self.at.loss_sum, self.at.loss_steps = 0.0, 0
        self.trainer.mined = {}
        self.on_event(event)
        if self.logs is not None:
            self.logs.add(self.trainer.number, validation_recall=recall, epoch_loss=mean)

    def _validate_start(self) -> None:
        """What training must beat: the weights that it begins at are the best until then."""
        self.at.start, first = self._recall()
        if self.at.start is not None:
            self._keep(self.at.start, first, 0)
            self.on_event(EpochDone(0, math.nan, self.at.start, True))

    def _recall(self) -> tuple[float | None, float]:
        """Validation's mean R@k, and its R@1, which tells spaces apart whose R@k is the same."""
        found = self.validation.recalls() if self.validation and self.ranks.first else None
        recall, first = self.ranks.from_first(found) or (None, 0.0)
        return recall, first

    def _better(self, recall: float | None, first: float) -> bool:
        """Whether these are the best weights so far; of two alike the earlier, but not what it began at."""
        if recall is None or self.at.best is None:
            return True
        found, best = (recall, first), (self.at.best, self.at.best_first)
        return found > best or (found == best and not self.at.best_epoch)

    def _keep(self, recall: float | None, first: float, epoch: int) -> None:
        self.at.best, self.at.best_first, self.at.best_epoch = recall, first, epoch
        state = self.space.state_dict().items()
        self.at.best_weights = {name: value.detach().cpu().clone() for name, value in state}

    def _over(self) -> Stopped | None:
        patience = self.options.patience
        if self.validation is not None and patience and self.at.epoch - self.at.best_epoch >= patience:
            return Stopped.PATIENCE
        return Stopped.EPOCHS if self.at.epoch >= self.options.epochs else None

    def _interrupted(self) -> TrainingStopped:
        self._look()
        path = self.save()
        done = f"in epoch {self.at.epoch + 1} of {self.options.epochs}, after step {self.trainer.number}"
        return TrainingStopped(
            f"stopped {done}; saved {path}", hint="give the same command with --resume to go on from there"
        )

    def _finish(self) -> None:
        self.space.load_state_dict(self.at.best_weights)
        self.space.to("cpu").eval()

    def save(self) -> Path:
        """A checkpoint of now; its path. Every rank must call it, the first writes."""
        self._look()
        found = checkpoint_of(self.trainer, self.at, self.digests)
        path = self.folder / "none"
        if self.ranks.first:
            path = files.save_checkpoint(self.folder, self.trainer.number, found)
            self.on_event(CheckpointSaved(path))
        return self.ranks.from_first(path)

    def restore(self, found: files.Checkpoint) -> None:
        """Go on where a checkpoint was made. TrainingError where it is of another run."""
        self.at = restored(self.trainer, found, self.digests)


def _check(source: Source, data: TrainingData, options: TrainOptions) -> None:
    """What would otherwise come to light after minutes. TrainingError."""
    if not len(data.train):
        raise TrainingError(
            "there are no training rows", hint="check the split: every row is in another part"
        )
    if options.patience and not len(data.validation):
        raise TrainingError(
            f"there are no validation rows, and patience={options.patience} stops by them",
            hint="give validation rows, or set patience=0",
        )
    if options.wandb:
        check_wandb()
    features = getattr(source, "frozen", source)
    if isinstance(features, FeatureSource):
        features.check()


@contextmanager
def _own_random(placement: Placement, seed: int) -> Iterator[None]:
    """Seeded global random numbers inside; the caller's are as they were afterwards."""
    before = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if placement.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
