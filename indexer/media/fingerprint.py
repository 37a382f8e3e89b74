"""A sound's fingerprint: 64 bits a window, which survive another encoding, volume and sample rate.

From PCM alone; who compares fingerprints, and how many differing bits make two sounds the same, is not known
here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from indexer.types import FloatArray

CELLS = 9  # of time and of frequency: 8 x 8 differences of differences
FRAME_S = 0.032
FRAMES = 144  # frames that a window is cut into at the least; more where they would leave gaps
LOW_HZ, HIGH_HZ = 200.0, 6_000.0  # bands are of equal width in log frequency
FLOOR = 1e-4  # of the mean energy; what is fainter is as good as silence
SILENCE = 1e-4  # root mean square: -80 dB of full scale


def fingerprint(pcm: FloatArray, rate: int) -> int | None:
    """64 bits, unsigned, of PCM of shape (samples,) at `rate` Hz; None for silence and less than two frames.

    The log energies in 9 bands and 9 stretches of time, and a bit for each place where the difference to
    the next band grows from one stretch to the next; the first is the highest. After Haitsma and Kalker, 'A
    Highly Robust Audio Fingerprinting System', ISMIR 2002, whose stretches are much shorter. Of other sounds
    half the bits differ, of a copy at a moderate bit rate few. A sound that does not change, as a steady
    tone, has nothing to tell it by: there a copy may differ as much as another sound.
    """
    size = 1 << round(np.log2(rate * FRAME_S))
    if len(pcm) < 2 * size or float(np.mean(np.square(pcm), dtype=np.float64)) < SILENCE**2:
        return None
    hop = min(size, max(1, (len(pcm) - size) // FRAMES))
    frames = np.lib.stride_tricks.sliding_window_view(pcm, size)[::hop]
    spectrum = np.fft.rfft(frames * np.hanning(size).astype(np.float32), axis=1)
    power = spectrum.real.astype(np.float64) ** 2 + spectrum.imag.astype(np.float64) ** 2
    energy = _cells(np.add.reduceat(power, _bands(rate, size), axis=1)[:, :CELLS])
    if not energy.any():
        return None
    level = np.log(energy + FLOOR * energy.mean())
    grows = np.diff(np.diff(level, axis=1), axis=0) > 0
    return int.from_bytes(np.packbits(grows).tobytes(), "big")


@lru_cache(maxsize=4)
def _bands(rate: int, size: int) -> npt.NDArray[np.intp]:
    """Where each band begins among the frequencies of a frame, and where the last one ends, shape (10,)."""
    edges = np.geomspace(LOW_HZ, min(HIGH_HZ, 0.45 * rate), CELLS + 1) * size / rate
    return np.round(edges).astype(np.intp)


def _cells(energy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means over stretches of time, shape (9, 9)."""
    starts = np.arange(CELLS) * len(energy) // CELLS
    lengths = np.diff(starts, append=len(energy))
    return np.add.reduceat(energy, starts, axis=0) / lengths[:, None]
