"""Build the starter model: verified weights -> torch modules -> ONNX graphs in a folder.

Imports torch inside the functions that need it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import WeightsMissing
from indexer.types import Modality
from retrieval.encoders.text import TextPreparer
from retrieval.models.bundle import ModelSpec, TowerSpec
from retrieval.models.starter.spec import AUDIO, IMAGE, MAX_TOKENS, TOKENIZER, starter_spec
from retrieval.models.starter.weights import AISFX, MINILM_TOKENIZER, locate, verified
from retrieval.models.versions import versions

if TYPE_CHECKING:
    from retrieval.models.export import TextGraph, ViewGraph

Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]

BUILDER = 2  # counts changes of the graphs that leave the space as it is; another number builds again


def fill_starter(folder: Path, progress: Progress) -> ModelSpec:
    """Write every tower that can be built into `folder`, and return the spec.

    A missing `aisfx` leaves out the audio tower and says so in the spec; other missing weights raise
    WeightsMissing, and wrong ones ModelError.
    """
    progress("loading torch", 0.0)
    import_module("retrieval.models.export")
    steps = (("text", _text, 0.15), ("image", _image, 0.4), ("audio", _audio, 0.75))
    built: dict[Modality, TowerSpec] = {}
    spec = starter_spec()
    for label, make, share in steps:
        progress(f"building the {label} tower", share)
        tower = spec.tower(Modality(label))
        assert tower is not None
        try:
            make(folder / _graph_name(tower))
            built[tower.modality] = replace(tower, graph=_graph_name(tower))
        except WeightsMissing as error:
            if tower.modality is not Modality.AUDIO:
                raise
            built[tower.modality] = replace(tower, missing=error.hint)
    progress("writing the bundle", 0.95)
    towers = tuple(built[tower.modality] for tower in spec.towers)
    return replace(spec, towers=towers, provenance=_provenance())


def is_outdated(spec: ModelSpec) -> bool:
    """Whether building again would give more: a later builder, or a tower whose weights are now installed."""
    if spec.provenance.get("builder") != BUILDER:
        return True
    if Modality.AUDIO in spec.modalities:
        return False
    try:
        locate(AISFX)
    except WeightsMissing:
        return False
    return True


def _graph_name(tower: TowerSpec) -> str:
    return f"{tower.modality.value}.onnx"


def _text(path: Path) -> None:
    from retrieval.models.export import TextGraph, text_samples
    from retrieval.models.starter.backbones import load_minilm

    tokenizer = path.with_name(TOKENIZER)
    shutil.copyfile(verified(MINILM_TOKENIZER), tokenizer)
    _export(TextGraph(load_minilm()), path, text_samples(TextPreparer(str(tokenizer), MAX_TOKENS)))


def _image(path: Path) -> None:
    from retrieval.models.export import ViewGraph
    from retrieval.models.starter.backbones import load_lite0
    from retrieval.models.starter.heads import load_image_head

    views = _noise((3, IMAGE.size, IMAGE.size, 3), 256).astype(np.uint8)
    _export(ViewGraph(load_lite0(), load_image_head()), path, {"views": views, "pool": _POOL})


def _audio(path: Path) -> None:
    locate(AISFX)  # before torch loads anything
    from retrieval.models.export import ViewGraph
    from retrieval.models.starter.backbones import load_aisfx
    from retrieval.models.starter.heads import load_audio_head

    views = _noise((3, AUDIO.block, AUDIO.mels), 1000).astype(np.float32) / 1000
    _export(ViewGraph(load_aisfx(), load_audio_head()), path, {"views": views, "pool": _POOL})


_POOL = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)


def _noise(shape: tuple[int, ...], top: int) -> Any:
    return np.random.default_rng(0).integers(0, top, shape)


def _export(graph: TextGraph | ViewGraph, path: Path, samples: dict[str, Any]) -> None:
    from retrieval.models.export import export

    export(graph.eval(), path, samples)


def _provenance() -> dict[str, Any]:
    return {
        "builder": BUILDER,
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(("triptych", "torch", "timm", "onnx", "onnxruntime", "numpy")),
    }
