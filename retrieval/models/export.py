"""From torch modules to one ONNX graph a tower, compared with torch before it is kept.

Imports torch: only building a bundle may import this.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from indexer.errors import ModelError
from indexer.types import Modality, Preparer
from retrieval.encoders.tower import OUTPUT, text_inputs
from retrieval.models.quiet import errors_only
from retrieval.runtime.onnx import OnnxRuntime

TOLERANCE = 1e-4  # largest difference of a coordinate between torch and the graph, for unit vectors


class TextGraph(nn.Module):
    """Ids and mask (n, tokens) -> unit vectors (n, dim).

    The backbone gives one vector a token, whose unit mean is taken here, or one a text already. Without a
    head that is the output.
    """

    inputs = ("input_ids", "attention_mask")

    def __init__(self, backbone: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features = self.backbone(input_ids, attention_mask)
        if features.ndim == 3:
            features = unit_mean(features, attention_mask)
        return F.normalize(features if self.head is None else self.head(features), dim=1)


class ViewGraph(nn.Module):
    """Views and the matrix that averages them -> vectors (segments, dim), unit ones unless `unit` is off.

    `pool`, shape (segments, views), has rows that add up to one. What is averaged is the backbone's output,
    each of its outputs where it has several; the head, where there is one, sees averages only. A vector that
    comes out as zero stays zero.
    """

    inputs = ("views", "pool")

    def __init__(self, backbone: nn.Module, head: nn.Module | None = None, *, unit: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.unit = unit

    def forward(self, views: Tensor, pool: Tensor) -> Tensor:
        found = self.backbone(views)
        outputs = found if isinstance(found, tuple) else (found,)
        pooled = [pool @ output for output in outputs]
        vectors: Tensor = pooled[0] if self.head is None else self.head(*pooled)
        return F.normalize(vectors, dim=1) if self.unit else vectors


def unit_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over the mask (n, tokens) of vectors (n, tokens, width), at unit length, (n, width)."""
    counted = mask[:, :, None].to(hidden.dtype)
    return F.normalize((hidden * counted).sum(1) / counted.sum(1).clamp_min(1.0), dim=1)


def text_samples(preparer: Preparer) -> dict[str, Any]:
    """Two texts of unlike length, as a tower pads them, to trace and compare a TextGraph with."""
    texts = ("a red hat", "a lighthouse on a rock in the evening, waves")
    return dict(text_inputs([preparer.tensor(text) for text in texts]))


def view_samples(preparer: Preparer) -> dict[str, Any]:
    """Three views made of noise, as two segments, to trace and compare a ViewGraph with."""
    noise = np.random.default_rng(0)
    if preparer.modality is Modality.IMAGE:
        pixels = noise.integers(0, 256, (300, 300, 3), np.uint8)
        views = np.concatenate([preparer.tensor(np.roll(pixels, shift)) for shift in (0, 7, 31)])
    else:
        sound = noise.standard_normal((3, preparer.hint.sample_rate)).astype(np.float32)
        views = np.concatenate([preparer.tensor(one) for one in sound])
    pool = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
    return {"views": views[:3], "pool": pool}


def export_tower(
    network: nn.Module, path: Path, preparer: Preparer, *, head: nn.Module | None = None, unit: bool = True
) -> None:
    """A tower's one graph, by `export`: its network, the average of views, the head, unit length."""
    if preparer.modality is Modality.TEXT:
        fixed = bool(getattr(preparer, "pad_to", 0))  # else as many tokens as the longest text has
        export(TextGraph(network, head).eval(), path, text_samples(preparer), fixed_length=fixed)
    else:
        export(ViewGraph(network, head, unit=unit).eval(), path, view_samples(preparer))


@torch.inference_mode()
def width_of(network: nn.Module, preparer: Preparer) -> int:
    """How many numbers a tower's network gives for each input."""
    text = preparer.modality is Modality.TEXT
    samples = text_samples(preparer) if text else view_samples(preparer)
    names = TextGraph.inputs if text else ViewGraph.inputs[:1]
    found = network(*(torch.from_numpy(samples[name]) for name in names))
    return int(found.shape[-1])


def export(
    graph: TextGraph | ViewGraph,
    path: Path,
    samples: Mapping[str, Any],
    *,
    tolerance: float = TOLERANCE,
    fixed_length: bool = False,
) -> None:
    """Write `graph` to `path`, its weights to `path`.data, which a runtime can map into memory.

    `samples` are inputs as a runtime takes them. The first two axes of texts and matrices, and the first of
    views, become free; with `fixed_length` only the first of texts. ModelError where the graph's output is
    not torch's: `tolerance` is a share of the largest value expected, or of 1 where that is smaller.
    """
    inputs = tuple(torch.from_numpy(samples[name]) for name in graph.inputs)
    free = torch.export.Dim.DYNAMIC
    rows_only = fixed_length and isinstance(graph, TextGraph)
    shapes = tuple({0: free} if t.ndim > 2 or rows_only else {0: free, 1: free} for t in inputs)
    talkers = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    with errors_only(*talkers), warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            graph,
            inputs,
            str(path),
            input_names=list(graph.inputs),
            output_names=[OUTPUT],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=True,
            optimize=True,
            verbose=False,
        )
    with torch.inference_mode():
        expected = graph(*inputs).numpy()
    found = OnnxRuntime.open(path).run(samples)[OUTPUT]
    worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not worst <= tolerance * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            f"the exported graph {path.name} differs from torch by {worst:.2g}, expected at most {tolerance}",
            hint="install the versions that requirements.lock names",
        )
