"""OpenVINO on the CPU: a tower's ONNX graph in float32 or bfloat16, or its int8 graph.

The only module that imports openvino, and only inside `import_openvino`. Which runtime serves a tower is
chosen in choose.py.
"""

from __future__ import annotations

import queue
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ConfigError, ModelError
from retrieval.runtime.protocol import Arrays, available_threads

DEVICE = "CPU"
# What is not quantised in an int8 graph is computed in float32.
COMPUTED_IN = {"f32": "f32", "bf16": "bf16", "int8": "f32"}
OTHER = "--runtime onnx computes it in float32"
WIDTH_STEP = 8  # tokens: texts are padded to a multiple, so that few different shapes are prepared for

_importing = threading.Lock()


def import_openvino() -> Any:
    """The openvino package, without its telemetry. ModelError where it is not installed.

    Importing it the usual way imports its converter too, which starts a telemetry client: that writes an
    identifier into the user's home and would send events. Both packages do without where it is missing.
    """
    with _importing:
        if "openvino" in sys.modules:
            return sys.modules["openvino"]
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        converter = "openvino.tools.ovc"
        sys.modules[converter] = None  # type: ignore[assignment]
        try:
            import openvino
        except ImportError as error:
            raise ModelError(
                f"OpenVINO cannot be loaded: {error}", hint="pip install openvino, or --runtime onnx"
            ) from error
        finally:
            del sys.modules[converter]
        return openvino


class OpenVinoRuntime:
    """One graph, compiled for the machine, and as many requests as threads may be at it.

    Each thread that calls `run` gets a stream of its own, which computes on one core: streams do not wait for
    each other at every layer as the threads of one request would.

    A graph of views is cut in two, see `_cut`. What a backbone computes is compiled for `group` views, fixed,
    and the last few are padded: that is some 7 % faster than any number at once, and no number that comes
    late is prepared for anew. What averages, projects and normalises costs next to nothing and stays in
    float32, whatever the precision: a head that weighs close scores loses most by a lower one. Texts are
    padded to multiples of WIDTH_STEP tokens, but to no more than `max_tokens`: CLIP has positions for 77, and
    after a call that fails for its shape OpenVINO may give wrong vectors for later ones.
    """

    def __init__(self, graph: Path, *, precision: str, threads: int, group: int, max_tokens: int = 0) -> None:
        self.precision = precision
        self.preferred_group = group
        self._threads = threads
        self._max_tokens = max_tokens
        halves = _cut(_read(graph), _read(graph)) if group else None
        if halves is None:
            self._backbone, self._rest = None, self._compile(_read(graph), precision)
            return
        backbone, rest = halves
        backbone.reshape([group, *list(backbone.inputs[0].get_partial_shape())[1:]])
        self._backbone = self._compile(backbone, precision)
        self._rest = self._compile(rest, "f32")

    @classmethod
    def open(
        cls, graph: Path, *, precision: str = "f32", threads: int = 0, group: int = 0, max_tokens: int = 0
    ) -> OpenVinoRuntime:
        """Compile a graph; `threads` 0 means every core, `group` 0 the graph whole, for any number at once.

        `max_tokens` are those of the longest text that the graph takes; 0: not known, texts stay as they are.
        ConfigError where the processor has no such arithmetic, ModelError where the graph cannot be loaded.
        """
        _check_precision(precision)
        return cls(
            graph,
            precision=precision,
            threads=threads or available_threads(),
            group=group,
            max_tokens=max_tokens,
        )

    def run(self, inputs: Arrays) -> Arrays:
        if self._backbone is None:
            return self._rest.run(inputs if "views" in inputs else _padded_texts(inputs, self._max_tokens))
        views, group = inputs["views"], self.preferred_group
        found = []
        for start in range(0, len(views), group):
            some = views[start : start + group]
            outputs = self._backbone.run({"views": _filled(some, group)})
            found.append({name: rows[: len(some)] for name, rows in outputs.items()})
        features = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        return self._rest.run({"pool": inputs["pool"], **features})

    def _compile(self, model: Any, precision: str) -> _Requests:
        try:
            compiled = _core().compile_model(model, DEVICE, _options(precision, self._threads))
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot compile the graph: {_reason(error)}", hint=OTHER) from error
        return _Requests(compiled, self._threads)


def _cut(first: Any, second: Any) -> tuple[Any, Any] | None:
    """From two readings of one graph: views -> features, and pool and features -> vectors.

    They part where `pool` averages the backbone's outputs, see models/export.py. None for a graph of texts,
    and for one that is not made so.
    """
    openvino = import_openvino()
    heads, tails = _averages(first), _averages(second)
    if not heads or any(size.is_dynamic for size in list(first.input("views").get_partial_shape())[1:]):
        return None
    given = []
    for place, average in enumerate(tails):
        output = average.input_value(1)
        feature = openvino.op.Parameter(output.get_element_type(), output.get_partial_shape())
        feature.output(0).set_names({f"feature{place}"})
        average.input(1).replace_source_output(feature.output(0))
        given.append(feature)
    results = []
    for place, average in enumerate(heads):
        output = average.input_value(1)
        output.set_names({f"feature{place}"})
        results.append(output)
    views, pool = first.input("views").get_node(), second.input("pool").get_node()
    try:
        rest = openvino.Model(second.get_results(), [pool, *given], "rest")
        return openvino.Model(results, [views], "backbone"), rest
    except RuntimeError:  # what follows the averages needs the views themselves
        return None


def _averages(model: Any) -> list[Any]:
    """The products that `pool` is the left side of; none where the graph has no such input."""
    if not {"views", "pool"} <= {given.get_any_name() for given in model.inputs}:
        return []
    users = [(target.get_node(), target.get_index()) for target in model.input("pool").get_target_inputs()]
    found = [node for node, place in users if node.get_type_name() == "MatMul" and place == 0]
    return sorted(found, key=lambda node: str(node.get_friendly_name()))


class _Requests:
    """Inference requests of one compiled graph, one a thread."""

    def __init__(self, compiled: Any, count: int) -> None:
        self._names = [output.get_any_name() for output in compiled.outputs]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(compiled.create_infer_request())

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        request = self._idle.get()
        try:
            found = request.infer(dict(inputs), share_inputs=True, share_outputs=False)
            return {name: np.array(found[place]) for place, name in enumerate(self._names)}
        finally:
            self._idle.put(request)


def _options(precision: str, threads: int) -> dict[Any, Any]:
    """Everything that would otherwise be guessed from the machine, said."""
    openvino = import_openvino()
    types = {"f32": openvino.Type.f32, "bf16": openvino.Type.bf16}
    properties = openvino.properties
    return {
        properties.hint.inference_precision(): types[COMPUTED_IN[precision]],
        properties.hint.execution_mode(): properties.hint.ExecutionMode.PERFORMANCE,
        # Scales taken from a batch would make a vector depend on the batch's other members.
        properties.hint.dynamic_quantization_group_size(): 0,
        properties.num_streams(): threads,
        properties.inference_num_threads(): threads,
        # Decode workers share the cores: who is pinned to one waits for whatever else runs there.
        properties.hint.enable_cpu_pinning(): False,
    }


def _check_precision(precision: str) -> None:
    if precision not in COMPUTED_IN:
        raise ConfigError(
            f"the precision is {precision!r}, which OpenVINO does not compute in here",
            hint=f"name {', '.join(COMPUTED_IN)}",
        )
    if precision == "bf16" and "BF16" not in capabilities():
        raise ConfigError(
            "the precision is bf16, and this processor does not compute in it", hint="use --precision f32"
        )


def capabilities() -> tuple[str, ...]:
    """What the processor computes in, as OpenVINO names it: FP32, BF16, INT8 and more."""
    return tuple(_core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))


def _core() -> Any:
    global _opened
    with _importing_core:
        if _opened is None:
            _opened = import_openvino().Core()
        return _opened


_importing_core = threading.Lock()
_opened: Any = None


def _read(graph: Path) -> Any:
    try:
        if graph.suffix == ".xml":  # an int8 graph, which has its weights beside it
            return _core().read_model(str(graph), f"{graph}.data")
        return _core().read_model(str(graph))
    except RuntimeError as error:  # the one type that it raises for whatever is wrong with a file
        raise ModelError(
            f"the graph {graph.name} cannot be loaded: {_reason(error)}",
            hint="build the model again: triptych models build",
        ) from error


def _reason(error: RuntimeError) -> str:
    """The last line of what OpenVINO says; the ones before name places in its own code."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return said[-1] if said else "no reason given"


def _filled(views: npt.NDArray[Any], group: int) -> npt.NDArray[Any]:
    """`group` views: the missing ones are copies of the first."""
    missing = group - len(views)
    if missing:
        views = np.concatenate([views, np.repeat(views[:1], missing, axis=0)])
    return np.ascontiguousarray(views)


def _padded_texts(inputs: Arrays, most: int) -> dict[str, npt.NDArray[Any]]:
    """Texts with their tokens padded to a multiple of WIDTH_STEP, or to `most`; masks say which are none."""
    width = next(iter(inputs.values())).shape[1]
    missing = max(0, min(-(-width // WIDTH_STEP) * WIDTH_STEP, most) - width)
    return {name: np.pad(array, ((0, 0), (0, missing))) for name, array in inputs.items()}
