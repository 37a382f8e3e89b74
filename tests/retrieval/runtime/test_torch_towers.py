"""The starter's towers through torch: the vectors of their ONNX graphs, from the bundle alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from indexer.types import Modality
from retrieval.encoders.tower import OUTPUT, text_inputs
from retrieval.models.model import Model
from retrieval.runtime.devices import CPU
from retrieval.runtime.onnx import OnnxRuntime
from retrieval.runtime.protocol import Arrays
from retrieval.runtime.torch import TorchOptions, open_torch, probe_samples

TEXTS = ("a red hat", "a lighthouse on a rock in the evening", "", "Übergrößenträger", "two dogs")


def inputs_of(model: Model, modality: Modality) -> Arrays:
    """Five segments; the first of pictures and sounds has two views."""
    preparer = model.tower(modality).preparer
    noise = np.random.default_rng(0)
    if modality is Modality.TEXT:
        return text_inputs([preparer.tensor(text) for text in TEXTS])
    media: list[Any]
    if modality is Modality.IMAGE:
        media = [
            np.kron(noise.integers(0, 256, (n, n, 3)), np.ones((40, 40, 1))).astype(np.uint8)
            for n in range(3, 9)
        ]
    else:
        rate = preparer.hint.sample_rate
        waves = (np.sin(np.arange(2 * rate) * 0.02 * 1.7**n) for n in range(6))
        media = [(wave * np.linspace(0.1, 1, len(wave))).astype(np.float32) for wave in waves]
    views = np.concatenate([preparer.tensor(one)[:1] for one in media])
    pool = np.zeros((5, 6), np.float32)
    pool[0, :2], pool[range(1, 5), range(2, 6)] = 0.5, 1
    return {"views": views, "pool": pool}


@pytest.mark.starter
@pytest.mark.parametrize("modality", list(Modality))
def test_torch_gives_the_graphs_vectors(starter: Model, modality: Modality) -> None:
    tower = starter.bundle.spec.tower(modality)
    if tower is None or tower.graph is None:
        pytest.skip(f"the {modality} tower was not built: its weights are not installed")
    inputs = inputs_of(starter, modality)
    expected = OnnxRuntime.open(starter.bundle.path(tower.graph)).run(inputs)[OUTPUT]
    typical = np.median([np.linalg.norm(a - b) for a, b in itertools.combinations(expected, 2)])
    assert typical > 0.1
    found = open_torch(starter.bundle, tower, CPU, options=TorchOptions(rows=4)).run(inputs)[OUTPUT]
    assert np.linalg.norm(found - expected, axis=1).max() < 1e-3 * typical
    swapped = dict(inputs)
    name = "views" if "views" in inputs else "input_ids"
    swapped[name] = inputs[name][::-1].copy()  # the control
    other = open_torch(starter.bundle, tower, CPU).run(swapped)[OUTPUT]
    assert np.linalg.norm(other - expected, axis=1).max() > 0.1 * typical


@pytest.mark.starter
def test_a_probe_has_texts_of_the_most_tokens(starter: Model) -> None:
    tower = starter.bundle.spec.tower(Modality.TEXT)
    assert tower is not None
    samples = probe_samples(starter.bundle, tower)
    assert samples["input_ids"].shape == (1, tower.window["max_tokens"])
    assert samples["attention_mask"].all()
