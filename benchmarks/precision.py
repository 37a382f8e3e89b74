"""What a lower precision costs, on real weights: the starter's image tower in f32, bf16 and static int8.

Cosines to ONNX Runtime's f32 vectors and recall among the first ten, in both directions, on the stamps' test
half, with paired 95 % intervals; cosines on photographs; images/s of the forward pass alone. The int8 graph
is calibrated with the stamps' training half. Then the same of the text tower in bf16. One run; needs the
stamps, which `make data` brings, and nncf.

    python benchmarks/precision.py
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from common import median, save, say
from embed_throughput import photographs

from indexer.media.prepare import prepare_file
from indexer.types import FloatArray, Modality
from retrieval.encoders.tower import Tower
from retrieval.models.model import Model
from retrieval.models.quantize import import_nncf, quantized, save_graph, view_inputs
from retrieval.models.registry import load_model
from retrieval.runtime.openvino import OpenVinoRuntime, capabilities

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "data"))
from starter_scores import gains, ranks  # noqa: E402 - the starter's own measure

MANIFEST = ROOT / "data" / "cache" / "tuxpaint-stamps" / "manifest.parquet"
ROUNDS = 5
CROPS = 200  # of photographs
HALF_A_POINT = 0.005


@dataclass(frozen=True)
class Stamps:
    """Pictures ready for the tower, and their captions."""

    views: list[Any]
    texts: list[str]


def stamps(tower: Tower) -> tuple[Stamps, Stamps]:
    """The training and the test half, as data/fit_starter_heads.py divides them."""
    rows = pq.read_table(MANIFEST, columns=["id", "image", "text"]).to_pylist()
    often = Counter(row["text"] for row in rows)
    rows = [row for row in rows if not row["id"].startswith("symbols/") and often[row["text"]] == 1]
    halves: dict[bool, list[Any]] = {True: [], False: []}
    for row in rows:
        halves[hashlib.sha256(row["id"].encode()).digest()[0] % 2 == 0].append(row)

    def prepared(row: Any) -> Any:
        return next(iter(prepare_file(MANIFEST.parent / row["image"], Modality.IMAGE, tower.preparer))).tensor

    training, test = (
        Stamps([prepared(row) for row in some], [row["text"] for row in some])
        for some in (halves[False], halves[True])
    )
    return training, test


def crops(tower: Tower) -> list[Any]:
    """Random crops of the photographs that packages carry."""
    noise, sources, found = np.random.default_rng(0), [np.asarray(one) for one in photographs()], []
    for number in range(CROPS):
        source = sources[number % len(sources)]
        side = int(min(source.shape[:2]) * noise.uniform(0.5, 1.0))
        top, left = (int(noise.integers(0, length - side + 1)) for length in source.shape[:2])
        found.append(tower.preparer.tensor(source[top : top + side, left : left + side]))
    return found


def towers(model: Model, modality: Modality, graphs: dict[str, tuple[Path, str]]) -> dict[str, Tower]:
    """The tower through ONNX Runtime, and through OpenVINO from each graph in its precision."""
    known, spec = model.tower(modality), model.bundle.spec.tower(modality)
    assert spec is not None

    def through(path: Path, precision: str) -> Tower:
        def opened() -> OpenVinoRuntime:
            return OpenVinoRuntime.open(path, precision=precision, threads=known.threads, group=spec.group)

        return Tower(
            known.preparer,
            opened,
            space_id=known.space_id,
            dim=known.dim,
            batch_size=known.batch_size,
            group=known.group,
            threads=known.threads,
            precision=precision,
        )

    found = {name: through(path, precision) for name, (path, precision) in graphs.items()}
    return {"onnx f32": known, **found}


def rates(tried: dict[str, Tower], tensors: list[Any]) -> dict[str, dict[str, float]]:
    """Items/s and core milliseconds an item of each tower, medians over rounds that take turns."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in tried}
    for number in range(ROUNDS + 1):
        for name, tower in tried.items():
            start, cpu = time.perf_counter(), time.process_time()
            tower.encode(tensors)
            if number:
                spent = time.perf_counter() - start, time.process_time() - cpu
                seen[name].append((len(tensors) / spent[0], spent[1] / len(tensors) * 1e3))
    return {
        name: {
            "per_s": median([rate for rate, _ in found]),
            "core_ms": median([core for _, core in found]),
        }
        for name, found in seen.items()
    }


def cosines(vectors: FloatArray, exact: FloatArray) -> dict[str, float]:
    """How close vectors are to the exact ones."""
    found = (vectors * exact).sum(axis=1)
    return {"cosine_median": round(float(np.median(found)), 5), "cosine_worst": round(float(found.min()), 5)}


def recalls(images: FloatArray, texts: FloatArray, labels: list[str]) -> dict[str, float]:
    """Recall at ten in both directions."""
    both = {"image to text R@10": (images, texts), "text to image R@10": (texts, images)}
    return {
        title: round(float((ranks(*sides, labels, labels) <= 10).mean()), 4) for title, sides in both.items()
    }


def pictures(model: Model, work: Path) -> dict[str, Any]:
    """The image tower's table."""
    known, spec = model.tower(Modality.IMAGE), model.bundle.spec.tower(Modality.IMAGE)
    assert spec is not None
    assert spec.graph
    say("preparing pictures")
    (training, test), photos = stamps(known), crops(known)
    say(f"quantising with {len(training.views)} pictures")
    graph, small = model.bundle.path(spec.graph), work / "image.int8.xml"
    inputs = [view_inputs(views) for views in training.views]
    save_graph(quantized(import_nncf(), graph, inputs), small)
    graphs = {"openvino f32": (graph, "f32"), "openvino int8": (small, "int8")}
    if "BF16" in capabilities():
        graphs["openvino bf16"] = (graph, "bf16")
    tried = towers(model, Modality.IMAGE, graphs)
    text_tower = model.tower(Modality.TEXT)
    texts = text_tower.encode([text_tower.preparer.tensor(text) for text in test.texts])
    exact, exact_photos = known.encode(test.views), known.encode(photos)
    say("timing")
    speed = rates(tried, test.views)
    table = {}
    for name, tower in tried.items():
        found = tower.encode(test.views)
        lost = gains(found, exact, texts, test.texts)
        table[name] = {
            **speed[name],
            "stamps": cosines(found, exact),
            "photographs": cosines(tower.encode(photos), exact_photos),
            **recalls(found, texts, test.texts),
            **{f"gain, {title}": apart for title, apart in lost.items()},
            "mean gain": round(float(np.mean([apart[0] for apart in lost.values()])), 4),
        }
        table[name]["loses less than half a point"] = table[name]["mean gain"] > -HALF_A_POINT
    return {"queries": len(test.texts), "calibrated with": len(training.views), **table}


def words(model: Model) -> dict[str, Any]:
    """The text tower's table: captions of an index in bf16, asked for by pictures in f32."""
    spec = model.bundle.spec.tower(Modality.TEXT)
    assert spec is not None
    assert spec.graph
    graph = model.bundle.path(spec.graph)
    graphs = {"openvino f32": (graph, "f32")}
    if "BF16" in capabilities():
        graphs["openvino bf16"] = (graph, "bf16")
    tried = towers(model, Modality.TEXT, graphs)
    _, test = stamps(model.tower(Modality.IMAGE))
    known = model.tower(Modality.TEXT)
    tensors = [known.preparer.tensor(text) for text in test.texts]
    images, exact = model.tower(Modality.IMAGE).encode(test.views), known.encode(tensors)
    speed = rates(tried, tensors)
    table = {}
    for name, tower in tried.items():
        found = tower.encode(tensors)
        both = (ranks(images, found, test.texts, test.texts), ranks(images, exact, test.texts, test.texts))
        lost = float((both[0] <= 10).mean() - (both[1] <= 10).mean())
        table[name] = {
            **speed[name],
            "stamps": cosines(found, exact),
            **recalls(images, found, test.texts),
            "gain, image to text R@10": round(lost, 4),
        }
    return table


def main() -> None:
    model = load_model("starter", threads=len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as name:
        result = {"image": pictures(model, Path(name)), "text": words(model)}
    kept = {name: importlib.metadata.version(name) for name in ("openvino", "nncf")}
    save("precision", {"computes in": ", ".join(capabilities()), "with": kept, **result})


if __name__ == "__main__":
    main()
