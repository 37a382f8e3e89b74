"""Where and in which precision a step runs, and what to say when the device has too little memory.

Imports torch. Knows options, nothing of data or losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from indexer.errors import TrainingError
from retrieval.runtime.devices import half_of
from retrieval.runtime.torch import is_full
from retrieval.training.options import Device, Precision, TrainOptions


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and the precision of matrix products on it."""

    device: torch.device
    precision: Precision  # never AUTO

    def autocast(self) -> AbstractContextManager[None]:
        """Products inside the `with` are made in the precision; nothing for f32."""
        kinds = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
        if self.precision not in kinds:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=kinds[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss for fp16; passes it through otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision is Precision.FP16)


def placed(options: TrainOptions, device: torch.device | None = None) -> Placement:
    """The device and precision that options ask for; `device` where a launcher has chosen it.

    TrainingError for a device that is not there, or a precision that it has not.
    """
    chosen = device or torch.device(_available(options.device))
    precision = options.precision
    if precision is Precision.AUTO:
        precision = Precision.F32
        if chosen.type == "cuda":
            precision = Precision(half_of(str(chosen)))
    if precision is Precision.FP16 and chosen.type == "cpu":
        raise TrainingError(
            "precision is fp16 and training would run on the CPU", hint="use precision=bf16 or f32"
        )
    return Placement(chosen, precision)


def _available(device: Device) -> str:
    found = {
        Device.CPU: True,
        Device.CUDA: torch.cuda.is_available(),
        Device.MPS: torch.backends.mps.is_available(),
    }
    if device is Device.AUTO:
        return next(one for one in (Device.CUDA, Device.MPS, Device.CPU) if found[one]).value
    if not found[device]:
        have = ", ".join(one.value for one in found if found[one])
        raise TrainingError(
            f"device is {device}, and torch {torch.__version__} finds no such device; there is {have}",
            hint="leave device=auto, or install a torch build for this GPU and its driver",
        )
    return device.value


@contextmanager
def memory_explained(options: TrainOptions) -> Iterator[None]:
    """Turn a device's lack of memory into a TrainingError that names the option to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_full(error):
            raise
        if options.chunk:
            hint = f"lower chunk={options.chunk} first, then batch_size={options.batch_size}"
        else:
            size = max(options.batch_size // 8, 1)
            hint = f"set chunk={size} (same result, less memory) or lower batch_size={options.batch_size}"
        if options.hard_negatives:
            hint += f", or lower hard_negatives={options.hard_negatives}"
        raise TrainingError(
            f"the device ran out of memory: {str(error).splitlines()[0][:200]}", hint=hint
        ) from error
