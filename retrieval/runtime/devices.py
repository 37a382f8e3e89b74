"""Which device a word means: auto, cpu, cuda, cuda:N or mps. Nothing here runs anything on one.

torch is imported only where a device other than the CPU may be there, since indexing on a CPU needs no torch.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from indexer.errors import ConfigError
from indexer.gpu import may_have_cuda

NAMES = re.compile(r"auto|cpu|mps|cuda(?::(?P<index>\d+))?")
EXPECTED = "auto, cpu, cuda, cuda:N (N counts from 0) or mps"


class Kind(StrEnum):
    """What sort of processor computes."""

    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


BF16_FROM = (8, 0)  # compute capability of the first NVIDIA chips with bf16; ROCm's tell 9 and more


@dataclass(frozen=True, slots=True)
class Device:
    """The processors that a run uses, all of one kind."""

    kind: Kind
    places: tuple[
        str, ...
    ]  # as torch names them: "cpu", "cuda:0" and "cuda:1", "mps"; the first is the main one
    name: str = ""  # of the main one, as its driver tells it
    half: str = "fp16"  # the lower precision that suits it: bf16 where it computes in that itself

    @property
    def first(self) -> str:
        return self.places[0]

    @property
    def is_cpu(self) -> bool:
        return self.kind is Kind.CPU

    def __str__(self) -> str:
        return ", ".join(self.places)


CPU = Device(Kind.CPU, ("cpu",))


def resolve(device: str) -> Device:
    """The device that is meant: "auto" is every CUDA device that torch sees, else mps, else the CPU.

    "cuda" is every one of them too, "cuda:N" one. ConfigError for another word, and for a device that is
    named and not there, with what torch reports and what to install.
    """
    word = device.strip().lower()
    match = NAMES.fullmatch(word)
    if match is None:
        raise ConfigError(f"the device is {device!r}, expected {EXPECTED}", hint="leave --device auto")
    if word == "cpu" or (word == "auto" and not may_have_device()):
        return CPU
    if importlib.util.find_spec("torch") is None:
        if word == "auto":
            return CPU
        raise ConfigError(
            f"the device is {device!r}, and torch is not installed", hint="pip install torch, or --device cpu"
        )
    if word != "mps" and (found := _cuda(match["index"])) is not None:
        return found
    if word in ("auto", "mps") and _mps():
        return Device(Kind.MPS, ("mps",))
    if word == "auto":
        return CPU
    raise _not_there(device)


def may_have_device() -> bool:
    """Whether a device other than the CPU may be there, told without torch; False is certain."""
    return sys.platform == "darwin" or may_have_cuda()


def _cuda(index: str | None) -> Device | None:
    """Every CUDA device, or the one of a number; None where torch does not see it."""
    torch = _torch()
    count = _count()
    numbers = range(count) if index is None else [n for n in range(count) if n == int(index)]
    if not numbers:
        return None
    places = tuple(f"cuda:{number}" for number in numbers)
    return Device(Kind.CUDA, places, torch.cuda.get_device_name(places[0]), half_of(places[0]))


def half_of(place: str) -> str:
    """The lower precision that suits a device, as torch names it: "bf16" where it computes in that itself."""
    if not place.startswith(Kind.CUDA):
        return "fp16"
    return "bf16" if _torch().cuda.get_device_capability(place) >= BF16_FROM else "fp16"


def _count() -> int:
    """CUDA devices that torch can use; a driver that does not answer warns, which the caller's error says."""
    torch = _torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def _mps() -> bool:
    return bool(_torch().backends.mps.is_available())


def _not_there(device: str) -> ConfigError:
    torch = _torch()
    count = _count()
    have = [*(f"cuda:{number}" for number in range(count)), *(["mps"] if _mps() else []), "cpu"]
    built = torch.version.cuda or torch.version.hip
    if "mps" in device:
        hint = "mps needs an Apple processor and macOS 14 or later; leave --device auto"
    elif not built:
        hint = "this torch is built for the CPU alone: install the CUDA build of torch, or --device cpu"
    elif not count:
        hint = f"install an NVIDIA driver that serves CUDA {built} (nvidia-smi shows it), or --device cpu"
    else:
        hint = f"name one of {', '.join(have)}"
    return ConfigError(
        f"the device is {device!r}, and torch {torch.__version__} sees only {', '.join(have)}", hint=hint
    )


def _torch() -> Any:
    import torch

    return torch
