"""Runtimes for the tests of replicas: made in the children, so importable there, without torch."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from indexer.errors import ConfigError
from retrieval.runtime.protocol import Arrays


class Toy:
    """Averaged views, or ids, through fixed random weights and a nonlinearity; in numpy."""

    precision = "f32"
    preferred_group = 4

    def run(self, inputs: Arrays) -> Arrays:
        if "views" in inputs:
            flat = inputs["views"].reshape(len(inputs["views"]), -1).astype(np.float32) / 127.5 - 1
        else:
            flat = (inputs["input_ids"] * inputs["attention_mask"]).astype(np.float32) / 25 - 1
        weights = np.random.default_rng(7).standard_normal((flat.shape[1], 8)).astype(np.float32)
        features = np.tanh(flat @ weights)
        vectors = inputs["pool"] @ features if "views" in inputs else features
        return {"vectors": vectors / np.linalg.norm(vectors, axis=1, keepdims=True)}


def views(count: int, seed: int = 0, per_segment: int = 1) -> Arrays:
    """`count` segments of random views, `per_segment` each, and the matrix that averages them."""
    noise = np.random.default_rng(seed)
    pool = np.kron(np.eye(count), np.full((1, per_segment), 1 / per_segment)).astype(np.float32)
    return {"views": noise.integers(0, 256, (count * per_segment, 4, 4, 3), np.uint8), "pool": pool}


def texts(count: int, seed: int = 0) -> Arrays:
    """Texts of 1 to 9 tokens, padded."""
    noise = np.random.default_rng(seed)
    mask = (np.arange(9) < noise.integers(1, 10, (count, 1))).astype(np.int64)
    return {"input_ids": noise.integers(1, 50, (count, 9)) * mask, "attention_mask": mask}


def load(place: str, *, broken: bool = False, note: object = None) -> Toy:
    """What each child loads; a `broken` one raises."""
    if broken:
        raise ConfigError(f"no {place} here", hint="name another")
    return Toy()


class Dying(Toy):
    """Ends its process by SIGKILL at the first run; `marker` remembers that, so that the next run answers."""

    def __init__(self, marker: Path, *, always: bool) -> None:
        self.marker, self.always = marker, always

    def run(self, inputs: Arrays) -> Arrays:
        if self.always or not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(inputs)


def load_dying(place: str, *, folder: Path, always: bool, note: object = None) -> Toy:
    """The second place's runtime dies, the first one's is well."""
    return Dying(folder / "died", always=always) if place == "cpu:1" else load("cpu")
