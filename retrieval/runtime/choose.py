"""Which runtime serves a tower: by what it is used for, the device, the precision, and what measured best.

Imports no runtime: what is chosen is opened by `open_runtime`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from indexer.errors import ConfigError, ModelError
from indexer.types import Modality
from retrieval.models.bundle import Bundle, TowerSpec
from retrieval.runtime.protocol import Runtime, available_threads

if TYPE_CHECKING:
    from retrieval.runtime.devices import Device

Note = Callable[[str], None]  # takes one line for the user


class Use(StrEnum):
    """What vectors are made for."""

    QUERY = "query"  # one input now: what counts is how soon the runtime is there
    INDEX = "index"  # as many as there are: what counts is how many a second


class Engine(StrEnum):
    """A runtime."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH = "torch"


class Precision(StrEnum):
    """What vectors of an index are computed in."""

    F32 = "f32"
    BF16 = "bf16"
    FP16 = "fp16"  # on a GPU only
    INT8 = "int8"  # by a graph that `triptych models quantize` wrote


AUTO = "auto"
_UNMEASURED = (
    "what {} costs in recall was measured on the starter's towers only, see docs/models.md: "
    "compare on pairs of yours with triptych eval"
)
CONVOLUTIONS = (
    4  # views at once of the starter's networks: eight leave a core's cache, and cost 5 to 10 % more
)
# Family ("": the starter's networks) and modality of towers whose float32 graphs OpenVINO computes no faster:
# sounds, and captions of a few words, which it pads. See benchmarks/precision.py and families.py.
FASTER_IN_ONNX = {("", Modality.AUDIO), ("", Modality.TEXT)}


@dataclass(frozen=True, slots=True)
class Placement:
    """What a user asked for; see Settings."""

    device: str = AUTO
    runtime: str = AUTO
    precision: str = AUTO  # f32 on a CPU; on a GPU bf16, or fp16 where it has no bf16


@dataclass(frozen=True, slots=True)
class Choice:
    """What serves a tower."""

    engine: Engine
    precision: Precision
    device: Device | None = None  # of torch; None: the CPU
    note: str | None = None  # what differs from what was asked for, to be said once


def choose(tower: TowerSpec, use: Use, placement: Placement) -> Choice:
    """The runtime of a tower.

    A query is computed in float32 by ONNX Runtime, which is there soonest, whatever its index was made in:
    vectors of one space are compared across precisions, and a query is one vector. Without a graph torch
    serves. ConfigError for what cannot be had as asked for.
    """
    engine, precision = _words(placement)
    if use is Use.QUERY and tower.graph is not None:
        return Choice(Engine.ONNX, Precision.F32)
    device = _device(placement.device) if use is Use.INDEX else None
    if tower.graph is None or device is not None or engine is Engine.TORCH:
        return _torch(tower, engine, precision if use is Use.INDEX else Precision.F32, device)
    precision = precision or Precision.F32
    if precision is Precision.INT8 and not tower.quantised:
        note = f"the {tower.modality} tower has no int8 graph: it computes in f32"
        return replace(_on_cpu(tower, engine, Precision.F32), note=note)
    return _on_cpu(tower, engine, precision)


def _words(placement: Placement) -> tuple[Engine | None, Precision | None]:
    """The words as members; None where the choice is ours."""
    try:
        engine = None if placement.runtime == AUTO else Engine(placement.runtime)
    except ValueError:
        raise ConfigError(
            f"the runtime is {placement.runtime!r}", hint=f"name {', '.join([AUTO, *Engine])}"
        ) from None
    try:
        return engine, None if placement.precision == AUTO else Precision(placement.precision)
    except ValueError:
        raise ConfigError(
            f"the precision is {placement.precision!r}", hint=f"name {', '.join([AUTO, *Precision])}"
        ) from None


def _device(word: str) -> Device | None:
    """The device if it is not the CPU."""
    if word == "cpu":
        return None
    from retrieval.runtime.devices import resolve

    found = resolve(word)
    return None if found.is_cpu else found


def _torch(
    tower: TowerSpec, engine: Engine | None, precision: Precision | None, device: Device | None
) -> Choice:
    if precision is None:
        precision = Precision.F32 if device is None else Precision(device.half)
    if precision is Precision.INT8:
        raise ConfigError("the precision is int8, which torch does not compute in here", hint="--device cpu")
    if device is not None and engine in (Engine.ONNX, Engine.OPENVINO):
        raise ConfigError(f"the runtime {engine} does not run on {device}", hint="--device cpu")
    note = None
    if tower.graph is None and engine is not Engine.TORCH and device is None:
        note = f"the {tower.modality} tower has no ONNX graph: torch computes it"
    return Choice(Engine.TORCH, precision, device, note)


def _on_cpu(tower: TowerSpec, engine: Engine | None, precision: Precision) -> Choice:
    if precision is Precision.FP16:
        raise ConfigError("the precision is fp16 and the device is the CPU", hint="use f32 or bf16 there")
    if precision is not Precision.F32 and engine is Engine.ONNX:
        raise ConfigError(
            f"ONNX Runtime computes in f32 here, and the precision is {precision}",
            hint="--runtime openvino, or --precision f32",
        )
    if engine is not None:
        return Choice(engine, precision)
    if precision is Precision.F32 and (tower.family, tower.modality) in FASTER_IN_ONNX:
        return Choice(Engine.ONNX, precision)
    if importlib.util.find_spec("openvino") is not None:
        unmeasured = precision is not Precision.F32 and tower.family
        return Choice(Engine.OPENVINO, precision, note=_UNMEASURED.format(precision) if unmeasured else None)
    if precision is not Precision.F32:
        raise ConfigError(
            f"the precision is {precision}, and OpenVINO is not installed",
            hint="pip install openvino, or --precision f32",
        )
    note = "OpenVINO is not installed: ONNX Runtime computes, which is slower (pip install openvino)"
    return Choice(Engine.ONNX, precision, note=note)


def open_runtime(
    bundle: Bundle, tower: TowerSpec, choice: Choice, *, threads: int = 0, note: Note | None = None
) -> Runtime:
    """Load what was chosen. `threads` are those that will call it; 0: one a core."""
    threads = threads or available_threads()
    if choice.engine is Engine.TORCH:
        from retrieval.runtime.devices import CPU
        from retrieval.runtime.torch import TorchOptions, open_torch

        options = TorchOptions(precision=choice.precision.value)
        return open_torch(bundle, tower, choice.device or CPU, options=options, note=note)
    if tower.graph is None:
        raise ModelError(f"the {tower.modality} tower has no graph", hint="--runtime torch")
    if choice.engine is Engine.ONNX:
        from retrieval.runtime.onnx import OnnxRuntime

        # A text tower's weights as they lie in the file: rearranged they cost five times the start, and in
        # a full batch gain nothing.
        prepack = tower.modality is not Modality.TEXT
        return OnnxRuntime.open(bundle.path(tower.graph), threads=1, prepack=prepack)
    from retrieval.runtime.openvino import OpenVinoRuntime

    name = tower.quantised if choice.precision is Precision.INT8 else tower.graph
    group = tower.group if tower.family else min(tower.group, CONVOLUTIONS)
    return OpenVinoRuntime.open(
        bundle.path(name),
        precision=choice.precision.value,
        threads=threads,
        group=group,
        max_tokens=int(tower.window.get("max_tokens", 0)),
    )
