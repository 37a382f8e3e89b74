"""Which layers of a quantised OpenVINO graph go back to float32: the cheapest that bring its vectors close.

Works on any graph that nncf has put FakeQuantize operations into; knows no network's names. Imports nothing
of this project but the runtime that opens OpenVINO.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.runtime.openvino import DEVICE, import_openvino

Inputs = Mapping[str, npt.NDArray[Any]]
FAKE = "FakeQuantize"
CONSTANTS = {"Constant", "Convert"}
MOVED = 16  # multiply-adds that take as long as bringing one number to the core and back


@dataclass(frozen=True, slots=True)
class Found:
    """A graph, and what the search saw on the inputs that it was given."""

    graph: Any  # ov.Model
    kept: int  # places left in float32
    places: int  # places that could be
    cosine_before: float  # mean, with every place in int8
    cosine: float  # mean, of `graph`


def closest(exact: Any, small: Any, probes: Sequence[Inputs], *, bound: float, seconds: float) -> Found:
    """The quantised ov.Model `small`, with places back in float32 until its vectors reach `bound`.

    `bound` is the mean cosine to `exact`'s vectors on the probes. Each place is tried alone; they go back by
    what each brings for what it costs, the fewest that reach the bound, or all that help. After `seconds` of
    trying, places not tried yet stay in int8.
    """
    stop = time.monotonic() + seconds
    truth = vectors(exact, probes)

    def lost(names: Sequence[str]) -> float:
        return 1.0 - float((vectors(without(small, names), probes) * truth).sum(axis=1).mean())

    costs = _costs(small, probes[0])
    before = lost([])
    if before <= 1.0 - bound:
        return Found(small, 0, len(costs), 1.0 - before, 1.0 - before)
    worth = {}
    for name in sorted(costs, key=costs.__getitem__):
        if time.monotonic() > stop:
            break
        worth[name] = (before - lost([name])) / costs[name]
    order = [name for name in sorted(worth, key=worth.__getitem__, reverse=True) if worth[name] > 0]
    low, high, best = 0, len(order), lost(order)
    if best <= 1.0 - bound:
        while high - low > 1:  # `high` places reach the bound, `low` do not
            middle = (low + high) // 2
            if (tried := lost(order[:middle])) <= 1.0 - bound:
                high, best = middle, tried
            else:
                low = middle
    return Found(without(small, order[:high]), high, len(costs), 1.0 - before, 1.0 - best)


def vectors(model: Any, probes: Sequence[Inputs]) -> npt.NDArray[np.float32]:
    """The first output of an ov.Model for each of the inputs, one unit row each."""
    openvino = import_openvino()
    hint = openvino.properties.hint
    options = {
        hint.inference_precision(): openvino.Type.f32,
        hint.dynamic_quantization_group_size(): 0,
    }
    compiled = openvino.Core().compile_model(model, DEVICE, options)
    rows = np.concatenate([np.array(compiled(dict(one))[0]) for one in probes])
    found: npt.NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found


def without(model: Any, names: Sequence[str]) -> Any:
    """A copy of an ov.Model whose layers behind these FakeQuantize operations see float32, weights too."""
    if not names:
        return model
    copy, wanted = model.clone(), set(names)
    for fake in [one for one in copy.get_ordered_ops() if one.get_friendly_name() in wanted]:
        for user in _users(fake):
            for place in range(user.get_input_size()):
                weight = user.input_value(place).get_node()
                if weight.get_type_name() == FAKE and _constant(weight.input_value(0).get_node()):
                    user.input(place).replace_source_output(weight.input_value(0))
        fake.output(0).replace(fake.input_value(0))
    return copy


def _users(node: Any) -> list[Any]:
    return [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]


def _constant(node: Any) -> bool:
    if node.get_type_name() not in CONSTANTS:
        return False
    return node.get_input_size() == 0 or _constant(node.input_value(0).get_node())


def _costs(model: Any, probe: Inputs) -> dict[str, float]:
    """What each FakeQuantize of activations spares, in multiply-adds of the layers behind it."""
    sized = model.clone()
    sized.reshape({name: list(array.shape) for name, array in probe.items()})
    return {
        one.get_friendly_name(): sum(_work(user) for user in _users(one)) or 1.0
        for one in sized.get_ordered_ops()
        if one.get_type_name() == FAKE and not _constant(one.input_value(0).get_node())
    }


def _work(node: Any) -> float:
    """Multiply-adds of a layer, and the numbers that it moves as so many."""
    moved = _size(node.output(0)) + _size(node.input_value(0))
    kind = node.get_type_name()
    if kind in ("Convolution", "GroupConvolution"):
        kernel = node.input_value(1).get_partial_shape()
        channels = node.output(0).get_partial_shape()[1].get_length()
        per = math.prod(one.get_length() for one in kernel) / channels
    elif kind == "MatMul":
        per = node.input_value(0).get_partial_shape()[-1].get_length()
    else:
        per = 0.0
    return float(_size(node.output(0)) * per + MOVED * moved)


def _size(output: Any) -> int:
    shape = output.get_partial_shape()
    return math.prod(one.get_length() for one in shape) if shape.is_static else 1
