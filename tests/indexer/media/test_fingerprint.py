"""A sound's fingerprint: copies differ in few bits, other sounds in half of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import soundfile
import soxr

from indexer.media.fingerprint import fingerprint
from indexer.types import FloatArray

RATE = 16_000
Change = Callable[[FloatArray], FloatArray]


def melody(seed: int, seconds: float = 3.0) -> FloatArray:
    """Notes with overtones and some noise between them: something that changes, as sounds do."""
    draw = np.random.default_rng(seed)
    pieces = [np.zeros(0)]
    while sum(len(piece) for piece in pieces) < seconds * RATE:
        clock = np.arange(round(draw.uniform(0.08, 0.5) * RATE)) / RATE
        pitch = draw.uniform(120, 1500)
        note = sum(np.sin(2 * np.pi * pitch * k * clock) * draw.uniform() / k for k in range(1, 6))
        fade = np.exp(-draw.uniform(1, 9) * clock)
        pieces.append(0.15 * note * fade + 0.004 * draw.standard_normal(len(clock)))
    return np.concatenate(pieces)[: round(seconds * RATE)].astype(np.float32)


def recoded(kind: str, subtype: str) -> Change:
    def change(pcm: FloatArray) -> FloatArray:
        held = io.BytesIO()
        soundfile.write(held, pcm, RATE, format=kind, subtype=subtype)
        held.seek(0)
        return soundfile.read(held, dtype="float32")[0][: len(pcm)]

    return change


def through(rate: int) -> Change:
    def change(pcm: FloatArray) -> FloatArray:
        return soxr.resample(soxr.resample(pcm, RATE, rate), rate, RATE)[: len(pcm)]

    return change


def quieter(pcm: FloatArray) -> FloatArray:
    return pcm * np.float32(0.1)


def apart(one: FloatArray, other: FloatArray) -> int:
    marks = fingerprint(one, RATE), fingerprint(other, RATE)
    assert None not in marks
    return (marks[0] ^ marks[1]).bit_count()  # type: ignore[operator]


@pytest.mark.parametrize(
    "change", [recoded("OGG", "VORBIS"), recoded("MP3", "MPEG_LAYER_III"), through(44_100), quieter]
)
def test_a_copy_differs_in_few_bits(change: Change) -> None:
    distances = [apart(melody(seed), change(melody(seed))) for seed in range(12)]
    assert max(distances) <= 12
    assert np.mean(distances) <= 4


def test_other_sounds_differ_in_half_of_them() -> None:
    marks = [fingerprint(melody(seed), RATE) or 0 for seed in range(24)]
    distances = [(one ^ other).bit_count() for one, other in combinations(marks, 2)]
    assert 29 <= np.mean(distances) <= 35
    assert min(distances) > 12


def test_a_window_beside_it_is_another_sound() -> None:
    pcm = melody(5, 15.0)
    assert apart(pcm[: 10 * RATE], pcm[5 * RATE :]) > 12


def test_silence_and_what_is_too_short_have_none() -> None:
    assert fingerprint(np.zeros(RATE, np.float32), RATE) is None
    assert fingerprint(np.full(RATE, 1e-5, np.float32), RATE) is None
    assert fingerprint(np.zeros(0, np.float32), RATE) is None
    assert fingerprint(melody(1)[:300], RATE) is None


@pytest.mark.parametrize("rate", [8_000, 16_000, 32_000, 48_000])
@pytest.mark.parametrize("samples", [4_096, 5_000, 70_000])
def test_any_length_and_rate_give_64_bits(rate: int, samples: int) -> None:
    pcm = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    mark = fingerprint(pcm, rate)
    assert mark is not None
    assert 0 < mark < 2**64 - 1
    assert fingerprint(pcm, rate) == mark
