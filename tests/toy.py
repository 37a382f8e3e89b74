"""A deterministic encoder without a model, for tests: words are hashed, pictures are named by colour.

All three modalities share one space of 16 dimensions. A text's vector is the mean of its words' vectors; a
picture's is close to the vector of its colour's name ("red", "green", "blue", "black", "white"); a sound's is
close to that of "silence", "low" or "high". So a text query finds the pictures and sounds one expects.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import DecodeHint, FloatArray, Modality, Range
from retrieval.query.context import Context
from retrieval.types import Query, Request, Term

DIM = 16
SPACE = hashlib.sha256(b"toy").hexdigest()
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
RATE = 8_000  # Hz
LOW_HZ = 500.0  # below it a sound is "low"
DETAIL = 0.1  # weight of what tells two red pictures apart


@dataclass(frozen=True)
class ToyPreparer:
    """Prepares one modality. `calls` cannot be counted here: preparers are copied into workers."""

    modality: Modality
    max_words: int = 32  # words a text segment
    hint: DecodeHint = field(default=DecodeHint(min_side=8, sample_rate=RATE))

    def plan(self, text: str) -> Sequence[Range]:
        """Ranges of at most `max_words` words."""
        words = list(re.finditer(r"\S+", text))
        groups = [words[i : i + self.max_words] for i in range(0, len(words), self.max_words)]
        return [Range(group[0].start(), group[-1].end()) for group in groups]

    def tensor(self, media: Any) -> npt.NDArray[Any]:
        """Text: (bytes,) int64. Picture: (1, 8, 8, 3) uint8, sampled. Sound: (1, samples) float32."""
        if self.modality is Modality.TEXT:
            return np.frombuffer(media.encode("utf-8", "replace"), dtype=np.uint8).astype(np.int64)
        if self.modality is Modality.IMAGE:
            rows, columns = (np.arange(8) * size // 8 for size in media.shape[:2])
            return np.ascontiguousarray(media[np.ix_(rows, columns)])[None]
        return np.nan_to_num(np.asarray(media, dtype=np.float32))[None]


@dataclass
class ToyEncoder:
    """Meets indexer.types.Encoder. `encoded` counts the segments encoded, for tests of what was reused."""

    modality: Modality
    space_id: str = SPACE
    dim: int = DIM
    batch_size: int = 8
    encoded: int = 0
    precision: str = "f32"

    @property
    def preparer(self) -> ToyPreparer:
        return ToyPreparer(self.modality)

    def warm(self) -> None:
        """Nothing to load."""

    def encode(self, tensors: Sequence[npt.NDArray[Any]]) -> FloatArray:
        self.encoded += len(tensors)
        make = {Modality.TEXT: _text, Modality.IMAGE: _image, Modality.AUDIO: _sound}[self.modality]
        rows = [_unit(make(tensor)) for tensor in tensors]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)


def toy_encoders() -> dict[Modality, ToyEncoder]:
    """One a modality, in one space."""
    return {modality: ToyEncoder(modality) for modality in Modality}


def word_vector(word: str) -> FloatArray:
    """A word's unit vector, shape (16,); the same on every machine."""
    numbers = np.frombuffer(hashlib.sha256(word.lower().encode()).digest(), dtype="<i2")
    return _unit(numbers.astype(np.float32))


def _text(ids: npt.NDArray[Any]) -> FloatArray:
    words = re.findall(r"\w+", bytes(ids.astype(np.uint8)).decode("utf-8", "replace"))
    return np.mean([word_vector(word) for word in words or [""]], axis=0, dtype=np.float32)


def _image(pixels: npt.NDArray[Any]) -> FloatArray:
    mean = pixels.reshape(-1, 3).mean(axis=0)
    name = min(COLOURS, key=lambda colour: float(np.abs(mean - COLOURS[colour]).sum()))
    return word_vector(name) + DETAIL * _detail(pixels)


def _sound(samples: npt.NDArray[Any]) -> FloatArray:
    wave = samples[0]
    if not np.any(wave):
        return word_vector("silence") + DETAIL * _detail(samples)
    crossings = int(np.count_nonzero(np.diff(np.signbit(wave))))
    hertz = crossings * RATE / (2 * len(wave))
    return word_vector("low" if hertz < LOW_HZ else "high") + DETAIL * _detail(samples)


def _detail(tensor: npt.NDArray[Any]) -> FloatArray:
    return word_vector(hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest())


def _unit(vector: FloatArray) -> FloatArray:
    length = float(np.linalg.norm(vector))
    return (vector / length if length > 0 else vector).astype(np.float32)


@dataclass(frozen=True)
class ToyModel:
    """As much of a model as an index and a search ask for."""

    path: Path = Path("nowhere")  # of its folder
    name: str = "toy"
    space_id: str = SPACE

    def tower(self, modality: Modality) -> ToyEncoder:
        return ToyEncoder(modality)


def asked(query: Query, vector: FloatArray, **options: Any) -> Context:
    """A search for one query whose unit vector is at hand."""
    return Context(Request(Term(query), **options), vector[None])
