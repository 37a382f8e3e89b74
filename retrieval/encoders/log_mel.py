"""Sounds for a CLAP tower: mono PCM -> the mel spectrogram in decibels that its network was trained on.

Plain NumPy, no torch and no transformers: preparers travel to decode workers. Loading a model's settings from
its files is the family's business (models/families/clap.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ModelError
from indexer.types import DecodeHint, FloatArray, Modality, Range
from retrieval.encoders.description import fields_of

KIND = "clap-log-mel/1"
FLOOR = 1e-10  # power, of a full-scale sample: -100 dB
BLOCK = 128  # frames transformed at a time, so that they stay in the processor's cache


class MelScale(StrEnum):
    """Where the bands' corners lie, and how the bands are weighted."""

    HTK = "htk"  # 2595 log10(1 + f / 700); every band's peak is one
    SLANEY = "slaney"  # linear up to 1 kHz, logarithmic above; every band's area is one


class Padding(StrEnum):
    """How a sound that is shorter than the network's input fills it."""

    REPEATPAD = "repeatpad"  # as often as it fits whole, then zeros
    REPEAT = "repeat"  # over and over, the last time cut
    PAD = "pad"  # once, then zeros


@dataclass(frozen=True, slots=True)
class LogMelPreparer:
    """The log mel spectrogram of ClapFeatureExtractor in transformers, for a sound that fits its input.

    A longer sound is cut at random by the library, and by the windows of `hint` here, of which none is longer
    than `max_s`: so every window's numbers are those that the library computes for the same samples. For a
    `fusion` model it stacks four copies of them, of which the network reads one; here there is just the one.
    """

    sample_rate: int = 48_000  # Hz
    fft: int = 1024  # samples a frame
    hop: int = 480  # samples between the starts of two frames
    mels: int = 64  # bands
    fmin: float = 50.0  # Hz, the lowest band's lower corner
    fmax: float = 14_000.0  # Hz, the highest band's upper corner
    scale: MelScale = MelScale.SLANEY
    padding: Padding = Padding.REPEATPAD
    max_s: int = 10  # seconds that the network sees
    fusion: bool = False  # the network was trained to see long sounds in four channels
    window_s: float = 10.0  # of a segment, at most `max_s`
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

    @property
    def samples(self) -> int:
        """Of the network's input."""
        return self.max_s * self.sample_rate

    @property
    def frames(self) -> int:
        """Of the network's input: frames are centred, so that there is one more than hops."""
        return 1 + (self.samples + self.fft // 2 * 2 - self.fft) // self.hop

    def describe(self) -> dict[str, Any]:
        """What the space depends on, as JSON; a change of the algorithm must change `kind`.

        Not the window: it says which segments are made, not where their vectors lie.
        """
        names = ("sample_rate", "fft", "hop", "mels", "fmin", "fmax", "max_s", "fusion")
        said: dict[str, Any] = {name: getattr(self, name) for name in names}
        return {"kind": KIND, **said, "scale": self.scale.value, "padding": self.padding.value}

    @classmethod
    def from_description(
        cls, description: Mapping[str, Any], *, window_s: float, hop_s: float
    ) -> LogMelPreparer:
        """The preparer that `describe` described. ModelError where it is of another version or impossible."""
        values = fields_of(description, KIND)
        try:
            enums = {"scale": MelScale(values["scale"]), "padding": Padding(values["padding"])}
            found = cls(**values | enums, window_s=window_s, hop_s=hop_s)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the model's audio preprocessing lacks or misstates {error}") from error
        if not 0 < found.window_s <= found.max_s:
            raise ModelError(
                f"the model's windows are {found.window_s} s long, expected more than 0 and at most the "
                f"{found.max_s} s that its network sees",
                hint="pull the model again: triptych models pull",
            )
        return found

    def plan(self, text: str) -> tuple[Range, ...]:
        """No ranges: the audio reader cuts windows by `hint`."""
        del text
        return ()

    def tensor(self, media: FloatArray) -> FloatArray:
        """One view, float32 decibels in about [-100, 60], shape (1, frames, mels), of mono PCM (samples,).

        NaN and infinite samples count as silence; a sound without samples is a silent one. What goes beyond
        `max_s` is left out: windows by `hint` never do.
        """
        pcm = np.asarray(media, dtype=np.float32)[: self.samples]
        pcm = self.filled(np.nan_to_num(pcm, nan=0.0, posinf=0.0, neginf=0.0))
        return self.decibels(pcm)[None]

    def filled(self, pcm: FloatArray) -> FloatArray:
        """Exactly `samples` samples, of at most that many."""
        if len(pcm) == 0:
            return np.zeros(self.samples, dtype=np.float32)
        if self.padding is Padding.REPEAT:
            return np.resize(pcm, self.samples)
        if self.padding is Padding.REPEATPAD:
            pcm = np.tile(pcm, self.samples // len(pcm))
        return np.pad(pcm, (0, self.samples - len(pcm)))

    def decibels(self, pcm: FloatArray) -> FloatArray:
        """The spectrogram, float32, shape (1 + samples // hop, mels); 0 dB is a power of one.

        The transform is computed in float64, as the library does: beside a loud tone float32 would show a
        noise that the library does not, since quiet bands go down to -100 dB.
        """
        low, bank = _bank(self.sample_rate, self.fft, self.mels, self.fmin, self.fmax, self.scale)
        high = low + len(bank)
        around = np.pad(pcm, self.fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(around, self.fft)[:: self.hop]
        bands = np.empty((len(frames), self.mels), dtype=np.float32)
        window = _hann(self.fft)
        for start in range(0, len(frames), BLOCK):
            spectrum = np.fft.rfft(frames[start : start + BLOCK] * window, axis=1)[:, low:high]
            power = np.square(spectrum.real) + np.square(spectrum.imag)
            np.matmul(power.astype(np.float32), bank, out=bands[start : start + BLOCK])
        logs: FloatArray = np.log10(np.maximum(bands, np.float32(FLOOR)))
        return logs * np.float32(10.0)


@lru_cache(maxsize=4)
def _hann(length: int) -> npt.NDArray[np.float64]:
    """The periodic Hann window, shape (length,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


@lru_cache(maxsize=4)
def _bank(
    sample_rate: int, fft: int, mels: int, fmin: float, fmax: float, scale: MelScale
) -> tuple[int, FloatArray]:
    """The first frequency bin that any band hears, and the weights of it and those after, (bins, mels)."""
    ends = _to_mel(np.array([fmin, fmax]), scale)
    corners = _to_hertz(np.linspace(ends[0], ends[1], mels + 2), scale)
    bins = np.linspace(0.0, sample_rate // 2, fft // 2 + 1)[:, None]
    low, peak, high = corners[:-2], corners[1:-1], corners[2:]
    weights = np.maximum(0.0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))
    if scale is MelScale.SLANEY:
        weights *= 2.0 / (high - low)
    heard = np.flatnonzero(weights.any(axis=1))
    first, last = (int(heard[0]), int(heard[-1])) if len(heard) else (0, 0)
    return first, np.ascontiguousarray(weights[first : last + 1], dtype=np.float32)


# Slaney's scale: 200/3 Hz a mel up to 1 kHz (15 mels), then 27 mels for every factor of 6.4.
_LINEAR_HZ, _BEND_HZ = 200.0 / 3.0, 1000.0
_BEND_MEL, _LOG_MELS = 15.0, 27.0 / np.log(6.4)


def _to_mel(hertz: npt.NDArray[np.float64], scale: MelScale) -> npt.NDArray[np.float64]:
    if scale is MelScale.HTK:
        return 2595.0 * np.log10(1.0 + hertz / 700.0)
    bent = _BEND_MEL + _LOG_MELS * np.log(np.maximum(hertz, _BEND_HZ) / _BEND_HZ)
    return np.where(hertz < _BEND_HZ, hertz / _LINEAR_HZ, bent)


def _to_hertz(mel: npt.NDArray[np.float64], scale: MelScale) -> npt.NDArray[np.float64]:
    if scale is MelScale.HTK:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    bent = _BEND_HZ * np.exp((np.maximum(mel, _BEND_MEL) - _BEND_MEL) / _LOG_MELS)
    return np.where(mel < _BEND_MEL, mel * _LINEAR_HZ, bent)
