"""From torch modules to one ONNX graph a tower, compared with torch before it is kept.

Imports torch: only building a bundle may import this.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from indexer.errors import ModelError
from retrieval.encoders.tower import OUTPUT
from retrieval.runtime.onnx import OnnxRuntime

TOLERANCE = 1e-4  # largest difference of a unit vector's coordinate between torch and the graph


class TextGraph(nn.Module):
    """Ids and mask (n, tokens) -> unit vectors (n, dim): the mean over the mask, normalised."""

    inputs = ("input_ids", "attention_mask")

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.backbone(input_ids, attention_mask)
        mask = attention_mask[:, :, None].to(hidden.dtype)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1).clamp_min(1.0), dim=1)


class ViewGraph(nn.Module):
    """Views and the matrix that averages them -> unit vectors (segments, dim).

    `pool`, shape (segments, views), has rows that add up to one. What is averaged is the backbone's output,
    each of its outputs where it has several; the head sees averages only. A vector that comes out as zero
    stays zero.
    """

    inputs = ("views", "pool")

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, views: Tensor, pool: Tensor) -> Tensor:
        found = self.backbone(views)
        outputs = found if isinstance(found, tuple) else (found,)
        return F.normalize(self.head(*[pool @ output for output in outputs]), dim=1)


def export(
    graph: TextGraph | ViewGraph, path: Path, samples: Mapping[str, Any], *, tolerance: float = TOLERANCE
) -> None:
    """Write `graph` to `path`, its weights to `path`.data, which a runtime can map into memory.

    `samples` are inputs as a runtime takes them; the first two axes of texts and matrices, and the first of
    views, become free. ModelError where the graph's output is not torch's.
    """
    inputs = tuple(torch.from_numpy(samples[name]) for name in graph.inputs)
    free = torch.export.Dim.DYNAMIC
    shapes = tuple({0: free} if t.ndim > 2 else {0: free, 1: free} for t in inputs)
    with _quiet():
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
    worst = float(np.abs(found - expected).max())
    if found.shape != expected.shape or not worst <= tolerance:
        raise ModelError(
            f"the exported graph {path.name} differs from torch by {worst:.2g}, expected at most {tolerance}",
            hint="install the versions that requirements.lock names",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings and log lines, which tell a user nothing."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
