"""`triptych models quantize`: an int8 graph of a model's image tower, beside its float32 one.

Static: the ranges of activations are fixed by pictures of the user's, so that a vector does not depend on its
batch. What the graph costs is measured on other pictures of the same folder, in int8_report.py. Needs nncf,
an extra.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ConfigError, MediaError, ModelError
from indexer.media.prepare import prepare_file
from indexer.media.text import read_text
from indexer.scan import scan
from indexer.types import Modality
from retrieval.encoders.tower import Tower
from retrieval.home import expanded
from retrieval.models.bundle import Bundle, ModelSpec, TowerSpec, link_or_copy
from retrieval.models.cache import store
from retrieval.models.int8_report import Picture, Quantised, measured
from retrieval.models.int8_search import closest
from retrieval.models.quiet import errors_only
from retrieval.models.registry import load_model
from retrieval.models.versions import versions
from retrieval.runtime.openvino import capabilities, import_openvino

CALIBRATING = 300  # pictures that fix the ranges, at most
COMPARED = 300  # others that show the cost, at most
FEWEST = 16  # pictures without which ranges would be guesses
ATTENTION = 3  # softmaxes from which a network is taken for a transformer
SUFFIX = ".int8.xml"
CLOSE = 0.995  # mean cosine to float32 that layers go back to float32 for
SEARCHING = 60.0  # seconds that finding them may take
SHARE = 4  # of the pictures that fix the ranges, one in so many is kept back for the search
PROBES = 24  # of these, at most
PACKAGES = ("triptych", "nncf", "openvino")
Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]
Inputs = dict[str, npt.NDArray[Any]]


def quantize_model(
    name: str, folder: Path, *, seconds: float = SEARCHING, progress: Progress | None = None
) -> Quantised:
    """Write an int8 graph of the image tower of a model into its bundle in the cache, and measure it.

    The space stays the same: int8 vectors are compared with the model's others. ModelError where the model
    has no image tower with a graph, or nncf is not installed; ConfigError where the folder has too few
    pictures. `seconds` bound the search for layers that stay in float32.
    """
    say = progress or (lambda _step, _share: None)
    model = load_model(name, progress=say)
    tower = model.bundle.spec.tower(Modality.IMAGE)
    if tower is None or tower.graph is None:
        raise ModelError(
            f"the model {model.name} has no ONNX graph of an image tower", hint="choose another model"
        )
    nncf = import_nncf()
    say("reading pictures", 0.0)
    calibrating, compared = _pictures(folder, model.tower(Modality.IMAGE))
    say("quantising", 0.2)
    inputs = [view_inputs(one.views) for one in calibrating]
    graph = quantized(nncf, model.bundle.path(tower.graph), inputs, seconds=seconds)
    say("writing", 0.7)
    bundle = _write(model.bundle, tower, graph, calibrated=len(calibrating))
    say("comparing", 0.8)
    report = measured(bundle, compared, calibrated=len(calibrating), threads=model.threads)
    say("ready", 1.0)
    return report


def import_nncf() -> Any:
    """The nncf package, without telemetry. ModelError where it is not installed."""
    import_openvino()  # keeps both packages' telemetry out
    try:
        import nncf
    except ImportError as error:
        raise ModelError(f"nncf cannot be loaded: {error}", hint="pip install 'triptych[int8]'") from error
    return nncf


def quantized(nncf: Any, graph: Path, inputs: Sequence[Inputs], *, seconds: float = SEARCHING) -> Any:
    """An ov.Model of a graph with its backbone in int8, its ranges fixed by inputs as `run` takes them.

    A part of the inputs is kept back: layers return to float32 until the vectors of these are as close as
    CLOSE says, or until so many seconds were spent trying. What follows the average over views is left as it
    is: it weighs close scores, and costs next to nothing. Biases are not corrected: on the starter that made
    the worst vectors worse. The weights' whole range is used where the processor's sums cannot overflow.
    """
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    core = import_openvino().Core()
    exact, model = core.read_model(str(graph)), core.read_model(str(graph))
    every = max(SHARE, -(-len(inputs) // PROBES))
    probes = list(inputs[::every])
    ranging = [one for place, one in enumerate(inputs) if place % every] or probes
    softmaxes = sum(node.get_type_name() == "Softmax" for node in model.get_ordered_ops())
    # Its lines and bars go to stdout, where only data belongs.
    with (
        errors_only("nncf"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        small = nncf.quantize(
            model,
            nncf.Dataset(ranging),
            subset_size=len(ranging),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            model_type=nncf.ModelType.TRANSFORMER if softmaxes >= ATTENTION else None,
            ignored_scope=nncf.IgnoredScope(names=after_pooling(model)),
            advanced_parameters=AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.DISABLE if _wide_sums() else OverflowFix.ENABLE,
                disable_bias_correction=True,
                backend_params={"compress_weights": False},  # so that a layer can have its own back
            ),
        )
    return closest(exact, small, probes, bound=CLOSE, seconds=seconds).graph


def after_pooling(model: Any) -> list[str]:
    """The names of an ov.Model's operations that depend on its input `pool`."""
    reached: set[str] = set()
    for node in model.get_ordered_ops():  # in topological order
        name, kind = node.get_friendly_name(), node.get_type_name()
        above = [node.input_value(place).get_node() for place in range(node.get_input_size())]
        given = kind == "Parameter" and "pool" in node.output(0).get_names()
        if given or reached.intersection(one.get_friendly_name() for one in above):
            reached.add(name)
    left_out = ("Parameter", "Result")
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_friendly_name() in reached and node.get_type_name() not in left_out
    ]


def _wide_sums() -> bool:
    """Whether products of int8 are summed in 32 bits at once (VNNI, or ARM), so that none overflows."""
    if platform.machine().lower() in ("arm64", "aarch64") or "BF16" in capabilities():
        return True
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def view_inputs(views: npt.NDArray[Any]) -> Inputs:
    """One picture as the graph takes it."""
    return {"views": views, "pool": np.full((1, len(views)), 1.0 / len(views), dtype=np.float32)}


def _pictures(folder: Path, tower: Tower) -> tuple[list[Picture], list[Picture]]:
    """Prepared pictures of a folder to calibrate with, and others to compare on.

    Which are taken follows from their paths alone. Those that cannot be read are left out.
    """
    found = scan(expanded(folder))
    if found.missing:
        raise ConfigError(f"{folder} is not there", hint="name a folder of pictures")
    entries = [one for one in found.items if one.members[0].modality is Modality.IMAGE]
    entries.sort(key=lambda one: hashlib.sha256(os.fsencode(one.path)).digest())
    read = [one for entry in entries[: CALIBRATING + COMPARED] if (one := _read(found.base, entry, tower))]
    if len(read) < FEWEST:
        raise ConfigError(
            f"{folder} has {len(read)} pictures that can be read, expected {FEWEST} or more",
            hint=f"name a folder of some {CALIBRATING} pictures like those to be indexed",
        )
    half = min(CALIBRATING, -(-len(read) // 2))
    return read[:half], read[half:]


def _read(base: str, entry: Any, tower: Tower) -> Picture | None:
    picture, *others = entry.members
    caption = next((one for one in others if one.modality is Modality.TEXT), None)
    try:
        prepared = next(iter(prepare_file(os.path.join(base, picture.path), Modality.IMAGE, tower.preparer)))  # noqa: PTH118 - names stay bytes-exact
        text = None if caption is None else read_text(os.path.join(base, caption.path)).strip()  # noqa: PTH118
    except (MediaError, OSError):
        return None
    return Picture(prepared.tensor, text)


def save_graph(graph: Any, path: Path) -> None:
    """Write an ov.Model to `path`, a name that ends in .xml, its weights to `path`.data."""
    from openvino.passes import Manager, Serialize

    manager = Manager()
    manager.register_pass(Serialize(str(path), f"{path}.data"))
    manager.run_passes(graph)


def _write(bundle: Bundle, tower: TowerSpec, graph: Any, *, calibrated: int) -> Bundle:
    """The bundle with the int8 graph, in place of the one that the cache has."""
    name = f"{Path(tower.graph or '').stem}{SUFFIX}"
    old = {tower.quantised, f"{tower.quantised}.data"}

    def fill(work: Path) -> ModelSpec:
        for file in bundle.spec.files:
            if file not in old:
                link_or_copy(bundle.path(file), work / file)
        save_graph(graph, work / name)
        towers = tuple(
            replace(one, quantised=name) if one.modality is Modality.IMAGE else one
            for one in bundle.spec.towers
        )
        made = {"calibrated": calibrated, "versions": versions(PACKAGES)}
        return replace(bundle.spec, towers=towers, provenance={**bundle.spec.provenance, "int8": made})

    return store(bundle.spec.space_id, fill)
