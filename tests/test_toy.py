"""The toy encoder meets the contract that it stands in for, and the contract's check can fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from indexer.types import FloatArray, Modality
from tests.conformance import check_encoder
from tests.toy import COLOURS, RATE, ToyEncoder, toy_encoders, word_vector

TEXTS = ["a red cow", "a blue bird", "thunder " * 100, "x"]


def plain(name: str) -> Any:
    return np.full((12, 20, 3), COLOURS[name], dtype=np.uint8)


def tone(hertz: float) -> FloatArray:
    return np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32)


def test_toy_meets_the_contract() -> None:
    towers = toy_encoders()
    check_encoder(towers[Modality.TEXT], TEXTS)
    check_encoder(towers[Modality.IMAGE], [plain(name) for name in COLOURS])
    check_encoder(towers[Modality.AUDIO], [tone(100), tone(200), tone(2000), np.zeros(RATE, np.float32)])


def test_words_find_colours_and_pitches() -> None:
    towers = toy_encoders()
    pictures = towers[Modality.IMAGE]
    vectors = pictures.encode([pictures.preparer.tensor(plain(name)) for name in COLOURS])
    for row, name in enumerate(COLOURS):
        assert int(np.argmax(vectors @ word_vector(name))) == row
    ears = towers[Modality.AUDIO]
    low, high = ears.encode([ears.preparer.tensor(tone(hertz)) for hertz in (100, 2000)])
    assert low @ word_vector("low") > 0.9
    assert high @ word_vector("high") > 0.9


class BatchDependent(ToyEncoder):
    """Subtracts the batch's mean, as an encoder must not."""

    def encode(self, tensors: Sequence[Any]) -> FloatArray:
        vectors = super().encode(tensors)
        if len(tensors) > 1:
            vectors = vectors - vectors.mean(axis=0)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


class Unnormalised(ToyEncoder):
    def encode(self, tensors: Sequence[Any]) -> FloatArray:
        return super().encode(tensors) * np.float32(2)


class Blind(ToyEncoder):
    def encode(self, tensors: Sequence[Any]) -> FloatArray:
        return np.tile(word_vector("same"), (len(tensors), 1))


@pytest.mark.parametrize("broken", [BatchDependent, Unnormalised, Blind])
def test_the_check_catches(broken: type[ToyEncoder]) -> None:
    with pytest.raises(AssertionError):
        check_encoder(broken(Modality.TEXT), TEXTS)
