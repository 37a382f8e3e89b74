"""Sounds for a tower: mono PCM -> blocks of a mel spectrogram, as aisfx computes them with librosa.

Plain NumPy, no torch and no librosa: preparers travel to decode workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import DecodeHint, FloatArray, Modality, Range
from retrieval.encoders.description import fields_of

KIND = "aisfx-mel/1"


@dataclass(frozen=True, slots=True)
class AudioPreparer:
    """Peak-normalised power mel spectrogram on HTK's scale, log compressed, cut into blocks of frames.

    The preprocessing that aisfx publishes for librosa (Ma and Lerch, ISMIR 2022). Its librosa variant
    forgets to transpose; time runs along the first axis here, as its network expects.
    """

    sample_rate: int = 44_100  # Hz
    fft: int = 2048  # samples a frame
    hop: int = 1024  # samples between the starts of two frames
    mels: int = 96  # bands from 0 Hz to half the sample rate
    block: int = 100  # frames a block, about 2.3 s
    block_hop: int = 50  # frames between the starts of two blocks
    log_scale: float = 10_000.0  # log10(1 + log_scale * power)
    divisor: float = 9.457798957824707  # the largest value in the network's training data
    window_s: float = 10.0
    hop_s: float = 5.0
    max_windows: int = 0  # from a sound's beginning; 0: all

    @property
    def modality(self) -> Modality:
        return Modality.AUDIO

    @property
    def hint(self) -> DecodeHint:
        return DecodeHint(
            sample_rate=self.sample_rate,
            window_s=self.window_s,
            hop_s=self.hop_s,
            max_segments=self.max_windows,
        )

    def describe(self) -> dict[str, Any]:
        """What the space depends on, as JSON; a change of the algorithm must change `kind`.

        Not the window: it says which segments are made, not where their vectors lie.
        """
        names = ("sample_rate", "fft", "hop", "mels", "block", "block_hop", "log_scale", "divisor")
        return {"kind": KIND, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_description(
        cls, description: Mapping[str, Any], *, window_s: float, hop_s: float
    ) -> AudioPreparer:
        """The preparer that `describe` described. ModelError where it is of another version."""
        return cls(**fields_of(description, KIND), window_s=window_s, hop_s=hop_s)

    def plan(self, text: str) -> tuple[Range, ...]:
        """No ranges: the audio reader cuts windows by `hint`."""
        del text
        return ()

    def tensor(self, media: FloatArray) -> FloatArray:
        """Blocks, float32, shape (blocks, block, mels), of mono PCM (samples,) at `sample_rate`.

        Zeros at the end are padding and make no block, so that they do not dilute a short sound. At least
        one block; a silent sound's is all zero.
        """
        spectrum = self.spectrum(_without_padding(np.asarray(media, dtype=np.float32)))
        count = max(1, (len(spectrum) - self.block) // self.block_hop + 1)
        blocks = np.zeros((count, self.block, self.mels), dtype=np.float32)
        for number in range(count):
            frames = spectrum[number * self.block_hop :][: self.block]
            blocks[number, : len(frames)] = frames
        return blocks

    def spectrum(self, samples: FloatArray) -> FloatArray:
        """The whole compressed spectrogram, float32, shape (frames, mels)."""
        samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        peak = float(np.max(np.abs(samples), initial=0.0))
        if peak > 0:
            samples = samples / np.float32(peak)
        # Frames are centred: half a frame of zeros before and after.
        padded = np.pad(samples, self.fft // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.fft)[:: self.hop]
        spectrum = np.fft.rfft(frames * _hann(self.fft), axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        bands = power.astype(np.float32) @ _mel_bank(self.sample_rate, self.fft, self.mels).T
        scaled = np.log10(bands * self.log_scale + 1.0) / self.divisor
        return scaled.astype(np.float32)


def _without_padding(samples: FloatArray) -> FloatArray:
    """The samples up to the last that is not zero."""
    sounding = np.flatnonzero(samples)
    return samples[: sounding[-1] + 1] if len(sounding) else samples[:0]


@lru_cache(maxsize=4)
def _hann(length: int) -> FloatArray:
    """The periodic Hann window, shape (length,)."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


@lru_cache(maxsize=4)
def _mel_bank(sample_rate: int, fft: int, mels: int) -> npt.NDArray[np.float32]:
    """Triangular filters, shape (mels, fft / 2 + 1), whose weights add up to one.

    Corners are evenly spaced on HTK's mel scale, 2595 log10(1 + f / 700), from 0 Hz to half the rate.
    """
    top = 2595.0 * np.log10(1.0 + sample_rate / 2 / 700.0)
    corners = 700.0 * (10.0 ** (np.linspace(0.0, top, mels + 2) / 2595.0) - 1.0)
    bins = np.arange(fft // 2 + 1) * (sample_rate / fft)
    low, peak, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    weights = np.maximum(0.0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))
    total = weights.sum(axis=1, keepdims=True)
    return (weights / np.where(total > 0, total, 1.0)).astype(np.float32)
