"""Which seconds and which bands of a sound its cosine with a query hangs on.

The samples of a segment are silenced in parts, in time and frequency, and then prepared as any other, so that
every tower can be asked. Bands are evenly spaced on the mel scale.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from indexer.errors import MediaError
from indexer.types import Encoder, FloatArray, Range
from retrieval.query.explain import masks
from retrieval.query.explain.passes import encoded, scores
from retrieval.query.explain.types import SoundHeat

BANDS = 6
SLICES = 8  # at the most
SHORTEST_S = 0.1  # of a slice
FRAME_S = 0.046  # of a Fourier frame; 2,048 samples at 44.1 kHz
ROWS, FRAMES = 96, 640  # of what is heard, as it is shown; frames are so many and a few, or fewer
RANGE_DB = 60.0  # below the loudest, from where on it counts as silence
TINY = 1e-10  # power below which there is none


def read_window(
    path: str | os.PathLike[str], encoder: Encoder, span: Range | None
) -> tuple[Range, FloatArray]:
    """The segment of a sound that begins where `span` does, or the first one; seconds, and PCM (samples,).

    MediaError where the sound cannot be read or is too short for it; OSError where it cannot be opened.
    """
    from indexer.media.audio import read_windows

    hint = encoder.preparer.hint
    start = span.start if span else 0.0
    for found, pcm in read_windows(
        path, sample_rate=hint.sample_rate, window_s=hint.window_s, hop_s=hint.hop_s
    ):
        if found.start >= start - 1 / hint.sample_rate:
            return found, pcm
    raise MediaError(f"it ends before {start:g} s, where its segment begins")


def sound_heat(pcm: FloatArray, span: Range, encoder: Encoder, queries: FloatArray) -> list[SoundHeat]:
    """What each band at each time adds to the cosine with each query (t, dim), from one set of passes."""
    rate = encoder.preparer.hint.sample_rate
    slices = int(np.clip(len(pcm) / rate / SHORTEST_S, 1, SLICES))
    shape = BANDS, slices
    plan = masks.plan(shape)
    prepare = encoder.preparer.tensor
    every = (keep for masks_of in plan for keep in masks_of)
    vectors = encoded((prepare(one) for one in silenced(pcm, every, rate)), encoder)
    ends = np.cumsum([len(one) for one in plan])[:-1]
    seconds = np.linspace(span.start, span.end, slices + 1, dtype=np.float32)
    heard = loudness(pcm, rate)
    found = (masks.effects(plan, np.split(line, ends)) for line in scores(vectors, queries))
    return [SoundHeat(effect, seconds, band_edges(rate), len(vectors), heard) for effect in found]


def band_edges(rate: int, bands: int = BANDS) -> FloatArray:
    """Where bands begin and end in Hz, shape (bands + 1,), from 0 to half the rate, even in mels."""
    return np.asarray(hertz_of(np.linspace(0.0, mels(rate / 2), bands + 1)), np.float32)


def mels(hertz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Frequencies in Hz on the mel scale, on which equal steps sound alike."""
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(hertz, np.float64) / 700.0))


def hertz_of(mel: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The frequencies in Hz that `mels` gave these."""
    return np.asarray(700.0 * (10.0 ** (np.asarray(mel, np.float64) / 2595.0) - 1.0))


def loudness(pcm: FloatArray, rate: int) -> FloatArray:
    """How loud each frequency is at each time, shape (ROWS, frames), the lowest first, even in mels; [0, 1].

    0 is RANGE_DB or more below the loudest, and everything where nothing is heard at all.
    """
    size = _frame_size(rate)
    around = np.zeros(max(size, len(pcm)) + size)  # half a frame before the first sample and after the last
    around[size // 2 : size // 2 + len(pcm)] = pcm
    hop = max(size // 4, len(pcm) // FRAMES)
    frames = np.lib.stride_tricks.sliding_window_view(around, size)[: max(1, len(pcm)) : hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    places = hertz_of((np.arange(ROWS) + 0.5) / ROWS * mels(rate / 2)) * size / rate
    decibels = 10 * np.log10(np.maximum(power, TINY))
    told = np.stack([np.interp(places, np.arange(size // 2 + 1), line) for line in decibels], axis=1)
    top = float(told.max())
    if top <= 10 * np.log10(TINY):
        return np.zeros(told.shape, np.float32)
    return np.clip(1 + (told - top) / RANGE_DB, 0.0, 1.0).astype(np.float32)


def _frame_size(rate: int) -> int:
    return 1 << max(4, round(np.log2(FRAME_S * rate)))


def silenced(pcm: FloatArray, keep: Iterable[FloatArray], rate: int) -> Iterator[FloatArray]:
    """The samples under each mask (bands, slices), shape (samples,): 1 keeps a cell, 0 silences it.

    Short Fourier frames, a quarter apart, are weighted and added up again; with nothing silenced that gives
    the samples back.
    """
    size = _frame_size(rate)
    hop = size // 4
    window = np.hanning(size + 1)[:-1]
    count = -(-(len(pcm) + size) // hop) + 1
    around = np.zeros((count - 1) * hop + size)
    around[size : size + len(pcm)] = pcm
    starts = np.arange(count) * hop
    spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(around, size)[starts] * window, axis=1)
    middles = (starts + size / 2 - size) / max(1, len(pcm))  # of frames, as shares of the sound
    hertz = np.arange(size // 2 + 1) * rate / size
    gain = _added(np.broadcast_to(window**2, (count, size)), hop)
    for one in keep:
        bands = np.clip(np.searchsorted(band_edges(rate, len(one)), hertz, "right") - 1, 0, len(one) - 1)
        times = np.clip((middles * one.shape[1]).astype(int), 0, one.shape[1] - 1)
        frames = np.fft.irfft(spectra * one[np.ix_(bands, times)].T, size, axis=1) * window
        whole = _added(frames, hop) / np.maximum(gain, 1e-9)
        yield whole[size : size + len(pcm)].astype(np.float32)


def _added(frames: npt.NDArray[np.float64], hop: int) -> npt.NDArray[np.float64]:
    """Frames (count, size) laid `hop` samples apart and added up; `size` is a multiple of `hop`."""
    count, size = frames.shape
    whole = np.zeros((count - 1) * hop + size)
    for place in range(0, size, hop):
        piece = frames[:, place : place + hop].ravel()
        whole[place : place + len(piece)] += piece
    return whole
