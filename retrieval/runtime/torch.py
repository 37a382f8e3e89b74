"""Torch behind the runtime protocol: a tower's network on a GPU, or on a CPU where it has no ONNX graph.

Imports torch at the top: only what opens a runtime of this kind may import this. Several devices are several
processes, see replicas.py; which runtime serves a tower is chosen in choose.py.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from indexer.errors import ConfigError, ModelError
from indexer.types import Modality
from retrieval.encoders.tower import OUTPUT
from retrieval.models.bundle import Bundle, TowerSpec
from retrieval.models.export import TextGraph, ViewGraph
from retrieval.runtime.devices import Device, half_of
from retrieval.runtime.probe import rows_worth
from retrieval.runtime.protocol import Arrays, Runtime

Graph = TextGraph | ViewGraph
Note = Callable[[str], None]  # takes one line for the user
Tensors = tuple[Tensor, ...]

PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_ROWS = 32  # texts or views at once on a CPU: more leave its caches
GPU_ROWS = 256  # the same on a GPU that was not probed
IN_FLIGHT = 2  # groups that a device has been handed and has not finished
FULL = ("out of memory", "not enough memory", "can't allocate memory")  # where torch has no type for it


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """How a network runs."""

    precision: str = "auto"  # "bf16" on a GPU that has it, else "fp16"; "f32" on a CPU
    compiled: bool = False  # by torch.compile: a minute at the start, for a long run
    rows: int = 0  # texts or views at once; 0: found by a probe on a GPU
    unit: bool = True  # vectors of unit length; off for features


class TorchRuntime:
    """One network on one device. Runs are one at a time; what a run is given may be any number of rows.

    Only the backbone is computed in the lower precision. What averages, projects and normalises its output
    costs next to nothing and stays in float32.
    """

    def __init__(self, graph: Graph, device: str, *, precision: str, rows: int, note: Note) -> None:
        self.precision = precision
        self.device = torch.device(device)
        self.rows = rows
        self._note = note
        self._graph = graph
        self._views = isinstance(graph, ViewGraph)
        self._fixed = False  # compiled for one number of views
        self._probing = False  # a full device is an answer then, not a reason to go on with less
        self._convolves = sum(isinstance(part, nn.Conv2d) for part in graph.modules()) > 1
        self._lock = threading.Lock()
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @classmethod
    def open(
        cls,
        graph: Graph,
        device: str = "cpu",
        *,
        options: TorchOptions | None = None,
        samples: Arrays | None = None,
        note: Note | None = None,
    ) -> TorchRuntime:
        """Move a graph (float32, eval) to a device. `samples`, inputs as of `run`, are what is probed with.

        ConfigError for a precision that the device has not.
        """
        options = options or TorchOptions()
        place = torch.device(device)
        precision = _precision(options.precision, place)
        wrapped = _lowered(graph, place, precision, unit=options.unit)
        rows = options.rows or (CPU_ROWS if place.type == "cpu" else GPU_ROWS)
        runtime = cls(wrapped, device, precision=precision, rows=rows, note=note or _silent)
        if samples is not None:
            if not options.rows and place.type != "cpu":
                runtime.rows = runtime.probe(samples)
            if options.compiled:
                runtime._compile(samples)
        return runtime

    @property
    def preferred_group(self) -> int:
        """Texts or views that one `run` handles best: several groups, so that one is sent during another."""
        return self.rows if self.device.type == "cpu" else IN_FLIGHT * self.rows

    def run(self, inputs: Arrays) -> Arrays:
        """{"vectors": float32 (n, dim)} for {"views", "pool"} or {"input_ids", "attention_mask"}.

        ModelError where not even one row fits into the device's memory.
        """
        with self._lock, torch.inference_mode(), self._settings():
            if not self._views:
                ids, mask = (inputs[name] for name in TextGraph.inputs)
                found = self._stream((ids, mask), lambda sent: (self._graph(*sent),))[0]
            else:
                features = self._stream((inputs["views"],), self._features)
                pool = torch.from_numpy(_plain(inputs["pool"])).to(self.device)
                # Only averages, head and length are left to compute.
                found = self._tail(features[0] if len(features) == 1 else features, pool)
            return {OUTPUT: found.float().cpu().numpy()}

    def probe(self, samples: Arrays) -> int:
        """The rows at once that pay, measured with copies of the first row; none is lost where it is full."""

        def seconds(rows: int) -> float | None:
            inputs = repeated(samples, rows)
            self.rows = rows
            try:
                return min(self._timed(inputs) for _ in range(3))
            except RuntimeError as error:
                if not is_full(error):
                    raise
            self._empty()
            return None

        before, self._probing = self.rows, True
        try:
            return rows_worth(seconds)
        finally:
            self.rows, self._probing = before, False
            self._empty()

    def resident(self, inputs: Arrays) -> Callable[[], None]:
        """The backbone's work alone on one group of inputs that lie on the device: for measurements."""
        names = ("views",) if self._views else TextGraph.inputs
        with self._settings():
            sent = self._send(tuple(inputs[name] for name in names))

        def work() -> None:
            with torch.inference_mode(), self._settings():
                self._graph.backbone(*sent)

        return work

    def _timed(self, inputs: Arrays) -> float:
        start = time.perf_counter()
        self.run(inputs)  # ends with the vectors here, so the device is done
        return time.perf_counter() - start

    def _compile(self, samples: Arrays) -> None:
        """Compile the backbone and run it once; where that fails, stay eager and say so."""
        eager = self._graph.backbone
        try:
            # Views are padded to one number of rows. Texts have any width, too.
            compiled = torch.compile(eager, dynamic=not self._views)
            self._graph.backbone, self._fixed = compiled, self._views  # type: ignore[assignment]
            self.run(repeated(samples, self.rows))
        except Exception as error:  # the compiler's own types are many, and none of them is the user's
            self._graph.backbone, self._fixed = eager, False
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._note(f"torch.compile failed, running without it: {line[:160]}")

    def _features(self, sent: Tensors) -> Tensors:
        views = sent[0]
        missing = self.rows - len(views) if self._fixed else 0
        if missing > 0:
            views = torch.cat([views, views[:1].expand(missing, *views.shape[1:])])
        found = self._graph.backbone(views)
        outputs = found if isinstance(found, tuple) else (found,)
        return tuple(output[: len(sent[0])] for output in outputs)

    def _tail(self, features: Any, pool: Tensor) -> Tensor:
        tail = ViewGraph(_Given(), self._graph.head, unit=getattr(self._graph, "unit", True))
        vectors: Tensor = tail(features, pool)
        return vectors

    def _stream(self, arrays: tuple[Any, ...], work: Callable[[Tensors], Tensors]) -> Tensors:
        """`work` on all rows, group by group; while the device computes one, the next is sent."""
        found: list[Tensors] = []
        under_way: deque[torch.cuda.Event] = deque()
        start, rows = 0, len(arrays[0])
        while start < rows or not found:
            stop = min(start + self.rows, rows)
            sent = self._send(tuple(array[start:stop] for array in arrays))
            found += self._compute(sent, work)
            if self._copies is not None:
                under_way.append(torch.cuda.current_stream(self.device).record_event())
                if len(under_way) >= IN_FLIGHT:
                    under_way.popleft().synchronize()  # or what is sent would fill the device
            start = stop
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    def _send(self, arrays: tuple[Any, ...]) -> Tensors:
        """Rows on the device. A GPU copies them from pinned memory, beside what it computes."""
        host = [torch.from_numpy(_plain(array)) for array in arrays]
        if self._copies is None:
            return tuple(one.to(self.device) for one in host)
        with torch.cuda.stream(self._copies):
            sent = tuple(one.pin_memory().to(self.device, non_blocking=True) for one in host)
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(self._copies)
        for one in sent:
            one.record_stream(stream)
        return sent

    def _compute(self, sent: Tensors, work: Callable[[Tensors], Tensors]) -> list[Tensors]:
        """`work` on a group, or on halves of it where the device has too little memory for the whole."""
        count = len(sent[0])
        try:
            return [work(sent)]
        except (MemoryError, RuntimeError) as error:
            if not is_full(error) or self._probing:
                raise
            if count == 1:
                raise ModelError(
                    f"{self.device} has too little memory for one input of this model",
                    hint="end what else uses it, or use --device cpu",
                ) from error
        self._empty()  # outside of `except`, which holds on to the failed call's tensors
        self.rows = min(self.rows, (count + 1) // 2)
        self._note(f"{self.device} ran out of memory: {self.rows} at once from here on")
        found: list[Tensors] = []
        start = 0
        while start < count:  # pieces that may themselves prove too large, and make the next ones smaller
            piece = tuple(one[start : start + self.rows] for one in sent)
            found += self._compute(piece, work)
            start += len(piece[0])
        return found

    def _empty(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """float32 means float32, and convolutions of one size choose their kernel by trying."""
        if self.device.type != "cuda":
            yield
            return
        exact = self.precision == "f32"
        cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=self._convolves, allow_tf32=not exact)
        with torch.cuda.device(self.device), cudnn:
            yield


class _Lowered(nn.Module):
    """A backbone whose products are computed in a lower precision, and whose outputs are float32."""

    def __init__(self, network: nn.Module, place: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self._kind, self._dtype = place.type, dtype

    def forward(self, *inputs: Tensor) -> Any:
        with self._autocast():
            found = self.network(*inputs)
        if isinstance(found, tuple):
            return tuple(output.float() for output in found)
        return found.float()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self._kind, dtype=self._dtype)


class _Given(nn.Module):
    """In place of a backbone whose output is there already."""

    def forward(self, features: Any) -> Any:
        return features


def _lowered(graph: Graph, place: torch.device, precision: str, *, unit: bool) -> Graph:
    """The graph on its device, its backbone in its precision; the modules are shared with the one given."""
    backbone = _Lowered(graph.backbone, place, PRECISIONS[precision])
    if isinstance(graph, TextGraph):
        wrapped: Graph = TextGraph(backbone, graph.head)
    else:
        wrapped = ViewGraph(backbone, graph.head, unit=unit and graph.unit)
    wrapped = wrapped.eval().requires_grad_(False).to(place)
    if sum(isinstance(part, nn.Conv2d) for part in wrapped.modules()) > 1:
        wrapped = wrapped.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return wrapped


def _precision(wanted: str, place: torch.device) -> str:
    if wanted not in ("auto", *PRECISIONS):
        raise ConfigError(
            f"the precision is {wanted!r}, which torch does not compute in here",
            hint=f"name auto, {', '.join(PRECISIONS)}",
        )
    if wanted == "auto":
        return "f32" if place.type == "cpu" else half_of(str(place))
    if wanted == "fp16" and place.type == "cpu":
        raise ConfigError("the precision is fp16 and the device is the CPU", hint="use f32 or bf16 there")
    return wanted


def is_full(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has too little memory."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(words in str(error).lower() for words in FULL)


def repeated(samples: Arrays, rows: int) -> Arrays:
    """Inputs of so many rows, all of them the first row of `samples`; views are one segment each."""
    if "views" not in samples:
        return {name: np.repeat(array[:1], rows, axis=0) for name, array in samples.items()}
    return {
        "views": np.repeat(samples["views"][:1], rows, axis=0),
        "pool": np.eye(rows, dtype=np.float32),
    }


def _plain(array: Any) -> Any:
    """Memory in order, which torch can share."""
    return np.require(array, requirements=["C", "W"])


def _silent(line: str) -> None:
    """For callers that want no notes."""


def tower_graph(bundle: Bundle, tower: TowerSpec) -> Graph:
    """A tower's network and head as what its ONNX graph computes, float32, on the CPU, in eval mode.

    WeightsMissing where its weights are not at hand, ModelError where the bundle does not hold them.
    """
    from retrieval.models.backbones import backbone_of, base_head

    network = backbone_of(tower, bundle).load()
    head = base_head(bundle, tower.modality)
    kind = TextGraph if tower.modality is Modality.TEXT else ViewGraph
    return kind(network, head).eval().requires_grad_(False)


def open_tower_on(
    device: str, *, folder: Path, modality: Modality, options: TorchOptions, note: Note | None = None
) -> TorchRuntime:
    """The tower of a bundle on one device, as torch names it; probed with inputs of its own preparer."""
    bundle = Bundle.load(folder)
    tower = bundle.spec.tower(modality)
    if tower is None:
        raise ModelError(f"the model {bundle.spec.name} has no {modality} tower")
    samples = None
    if device != "cpu" or options.compiled:
        samples = probe_samples(bundle, tower)
    return TorchRuntime.open(tower_graph(bundle, tower), device, options=options, samples=samples, note=note)


def probe_samples(bundle: Bundle, tower: TowerSpec) -> Arrays:
    """Inputs as long as this tower's get: a text of its most tokens, a picture, a window of sound."""
    from retrieval.encoders.described import preparer_of
    from retrieval.models.export import view_samples

    preparer = preparer_of(
        tower.modality, tower.preprocessing, tower.window, tokenizer=str(bundle.path(tower.tokenizer))
    )
    if tower.modality is not Modality.TEXT:
        return view_samples(preparer)
    ids = preparer.tensor("a red bicycle, leaning on an old wall " * 200).astype(np.int64)[None]
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def open_torch(
    bundle: Bundle,
    tower: TowerSpec,
    device: Device,
    *,
    options: TorchOptions | None = None,
    note: Note | None = None,
) -> Runtime:
    """A tower's torch runtime on a device; where there are several places, a process on each of them."""
    options = options or TorchOptions()
    load = partial(open_tower_on, folder=bundle.folder, modality=tower.modality, options=options)
    if len(device.places) == 1:
        return load(device.first, note=note)
    from retrieval.runtime.replicas import Replicas

    return Replicas.open(load, device.places, note=note)
