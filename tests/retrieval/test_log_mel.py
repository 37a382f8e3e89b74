"""CLAP's spectrograms: equal to transformers' feature extractor, whatever its settings and the sound."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from indexer.errors import ModelError
from indexer.media.audio import read_windows
from indexer.types import Modality
from retrieval.encoders.described import preparer_of
from retrieval.encoders.log_mel import LogMelPreparer, MelScale, Padding
from tests.retrieval.families.clap_models import RATE, sounds

# Decibels, of a range of 160: the library stores spectra in complex64 and multiplies the bands in float64.
CLOSE = 1e-3
OTHER = LogMelPreparer(
    sample_rate=16_000, fft=500, hop=160, mels=40, fmin=0.0, fmax=8_000.0, max_s=4, window_s=4.0, hop_s=2.0
)


def library(preparer: LogMelPreparer, pcm: np.ndarray) -> np.ndarray:
    """What ClapFeatureExtractor gives with the same settings, shape (channels, frames, mels)."""
    from transformers import ClapFeatureExtractor

    extractor = ClapFeatureExtractor(
        feature_size=preparer.mels,
        sampling_rate=preparer.sample_rate,
        hop_length=preparer.hop,
        max_length_s=preparer.max_s,
        fft_window_size=preparer.fft,
        frequency_min=preparer.fmin,
        frequency_max=preparer.fmax,
        truncation="fusion" if preparer.fusion else "rand_trunc",
        padding=preparer.padding.value,
    )
    return extractor(pcm, sampling_rate=preparer.sample_rate, return_tensors="np")["input_features"][0]


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("fusion", [False, True])
def test_equals_the_library(padding: Padding, fusion: bool) -> None:
    scale = MelScale.HTK if fusion else MelScale.SLANEY
    preparer = LogMelPreparer(padding=padding, scale=scale, fusion=fusion)
    for name, pcm in sounds().items():
        expected = library(preparer, pcm)
        found = preparer.tensor(pcm)
        assert len(expected) == (4 if fusion else 1)
        # A fused model's four channels are one and the same for a sound that fits.
        assert np.abs(found - expected).max() < CLOSE, name
        assert found.dtype == np.float32


def test_equals_the_library_with_other_settings() -> None:
    """An odd number of hops, a window that is no power of two, frequencies from 0 to the top."""
    pcm = np.random.default_rng(3).standard_normal(3 * 16_000 + 17).astype(np.float32)
    for fusion, scale in ((False, MelScale.SLANEY), (True, MelScale.HTK)):
        preparer = dataclasses.replace(OTHER, fusion=fusion, scale=scale)
        assert np.abs(preparer.tensor(pcm) - library(preparer, pcm)).max() < CLOSE
        assert preparer.tensor(pcm).shape == (1, preparer.frames, 40)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": MelScale.HTK},
        {"sample_rate": 44_100},
        {"padding": Padding.PAD},
        {"fmin": 0.0},
        {"hop": 441},
    ],
)
def test_another_setting_shows(wrong: dict) -> None:
    """Negative controls: what differs from the library by one setting is far from its numbers."""
    pcm = sounds()["0.1 s"] + 0.01 * sounds()["noise"][: RATE // 10]
    expected = library(LogMelPreparer(), pcm)
    found = dataclasses.replace(LogMelPreparer(), **wrong).tensor(pcm)
    frames = min(expected.shape[1], found.shape[1])
    assert np.abs(found[:, :frames] - expected[:, :frames]).mean() > 0.1


def test_silence_is_the_floor() -> None:
    for pcm in (np.zeros(100, np.float32), np.zeros(0, np.float32), np.full(RATE, np.nan, np.float32)):
        found = LogMelPreparer().tensor(pcm)
        assert found.shape == (1, 1001, 64)
        assert np.abs(found + 100.0).max() < CLOSE


def test_broken_samples_are_silent() -> None:
    pcm = sounds()["3 s"]
    broken, cleaned = pcm.copy(), pcm.copy()
    broken[[5, 6, 7]], cleaned[[5, 6, 7]] = [np.nan, np.inf, -np.inf], 0.0
    np.testing.assert_array_equal(LogMelPreparer().tensor(broken), LogMelPreparer().tensor(cleaned))


def test_what_goes_beyond_the_input_is_left_out() -> None:
    pcm = np.random.default_rng(1).standard_normal(11 * RATE).astype(np.float32)
    np.testing.assert_array_equal(LogMelPreparer().tensor(pcm), LogMelPreparer().tensor(pcm[: 10 * RATE]))


def test_ten_minutes_become_windows_that_fit(tmp_path: Path) -> None:
    """The reader's windows, read twice: equal, none longer than the input, each as the library has it."""
    preparer = LogMelPreparer()
    beat = np.sin(np.arange(600 * 8_000) / 8_000 * 2 * np.pi * 300) * np.linspace(0.1, 0.9, 600 * 8_000)
    path = tmp_path / "long.wav"
    soundfile.write(path, beat.astype(np.float32), 8_000, subtype="PCM_16")

    def windows() -> list:
        hint = preparer.hint
        return list(
            read_windows(path, sample_rate=hint.sample_rate, window_s=hint.window_s, hop_s=hint.hop_s)
        )

    first = windows()
    assert len(first) == 119
    assert {len(pcm) for _, pcm in first} == {preparer.samples}
    assert [where.start for where, _ in first] == [5.0 * number for number in range(119)]
    for number in (0, 60, 118):
        tensor = preparer.tensor(first[number][1])
        assert np.abs(tensor - library(preparer, first[number][1])).max() < CLOSE
    again = windows()
    np.testing.assert_array_equal(preparer.tensor(again[60][1]), preparer.tensor(first[60][1]))
    assert np.abs(preparer.tensor(first[0][1]) - preparer.tensor(first[118][1])).mean() > 1.0


def test_description_comes_back() -> None:
    preparer = dataclasses.replace(OTHER, scale=MelScale.HTK, fusion=True, padding=Padding.REPEAT)
    said = json.loads(json.dumps(preparer.describe()))
    assert "window_s" not in said
    found = preparer_of(Modality.AUDIO, said, {"window_s": 4.0, "hop_s": 2.0}, tokenizer="")
    assert found == preparer
    assert pickle.loads(pickle.dumps(found)) == preparer
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.hop = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong", [{"scale": "bark"}, {"padding": "mirror"}, {"colour": "red"}, {"kind": "clap-log-mel/9"}]
)
def test_a_description_of_another_version_is_refused(wrong: dict) -> None:
    with pytest.raises(ModelError):
        preparer_of(
            Modality.AUDIO,
            LogMelPreparer().describe() | wrong,
            {"window_s": 10.0, "hop_s": 5.0},
            tokenizer="",
        )


def test_a_window_longer_than_the_input_is_refused() -> None:
    with pytest.raises(ModelError, match=r"12\.0 s long"):
        LogMelPreparer.from_description(LogMelPreparer().describe(), window_s=12.0, hop_s=5.0)
