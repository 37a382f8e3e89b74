"""Sounds: windows against a plain whole-file oracle, formats, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from indexer.errors import MediaError
from indexer.media import audio
from indexer.media.audio import read_windows
from indexer.types import Range

RATE = 8000


def tone(seconds: float, rate: int, *, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise under an envelope, shape (samples, channels): no two windows are alike."""
    n = round(seconds * rate)
    noise = np.random.default_rng(seed).normal(0, 0.1, (n, channels))
    return (noise * np.sin(np.arange(n) / rate)[:, None]).astype(np.float32)


def oracle(path: Path, rate: int, window_s: float, hop_s: float) -> list[tuple[float, float, np.ndarray]]:
    """The whole file at once: mean of channels, one-shot resampling, slices."""
    pcm, original = soundfile.read(path, dtype="float32", always_2d=True)
    mono = pcm.mean(axis=1)
    mono = soxr.resample(mono, original, rate) if original != rate else mono
    window, hop = round(window_s * rate), round(hop_s * rate)
    out = []
    for start in range(0, len(mono), hop):
        out.append((start / rate, min(start + window, len(mono)) / rate, mono[start : start + window]))
        if start + window >= len(mono):
            break
    return out


def check(path: Path, *, rate: int = RATE, window_s: float = 10.0, hop_s: float = 5.0) -> list[Range]:
    got = list(read_windows(path, sample_rate=rate, window_s=window_s, hop_s=hop_s))
    expected = oracle(path, rate, window_s, hop_s)
    assert [(r.start, r.end) for r, _ in got] == [(start, end) for start, end, _ in expected]
    for (_, pcm), (_, _, values) in zip(got, expected, strict=True):
        assert pcm.dtype == np.float32
        np.testing.assert_allclose(pcm, values, atol=1e-6)
    return [r for r, _ in got]


@pytest.mark.parametrize("original", [8000, 44100, 48000, 11025])
@pytest.mark.parametrize("channels", [1, 2])
def test_windows_equal_the_whole_file_cut_up(tmp_path: Path, original: int, channels: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(23.3, original, channels=channels), original, subtype="FLOAT")
    assert check(tmp_path / "a.wav") == [Range(0, 10), Range(5, 15), Range(10, 20), Range(15, 23.3)]


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 777)
    soundfile.write(tmp_path / "a.wav", tone(3.0, 22050, channels=3), 22050, subtype="FLOAT")
    check(tmp_path / "a.wav", rate=16000, window_s=1.0, hop_s=0.3)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.001, [Range(0, 0.001)]),
        (3.0, [Range(0, 3.0)]),
        (10.0, [Range(0, 10)]),
        (10.001, [Range(0, 10), Range(5, 10.001)]),
        (15.0, [Range(0, 10), Range(5, 15)]),
        (15.5, [Range(0, 10), Range(5, 15), Range(10, 15.5)]),
    ],
)
def test_how_many_windows(tmp_path: Path, seconds: float, expected: list[Range]) -> None:
    soundfile.write(tmp_path / "a.wav", tone(seconds, RATE), RATE, subtype="FLOAT")
    assert check(tmp_path / "a.wav") == expected


def test_windows_that_do_not_overlap(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(6.0, RATE), RATE, subtype="FLOAT")
    assert check(tmp_path / "a.wav", window_s=2.0, hop_s=2.0) == [Range(0, 2), Range(2, 4), Range(4, 6)]
    with pytest.raises(ValueError, match="hop_s"):
        next(iter(read_windows(tmp_path / "a.wav", sample_rate=RATE, window_s=2.0, hop_s=3.0)))


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.aiff", "a.au", "a.caf", "a.w64"])
def test_formats(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tone(12.0, 44100, channels=2), 44100)
    ranges = check(tmp_path / name)
    assert len(ranges) == 2
    assert abs(ranges[-1].end - 12.0) < 0.06


def test_opus(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.opus", tone(12.0, 48000), 48000, format="OGG", subtype="OPUS")
    assert len(check(tmp_path / "a.opus")) == 2


def test_silence_is_a_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    ((span, pcm),) = read_windows(tmp_path / "a.wav", sample_rate=RATE)
    assert span == Range(0, 1)
    np.testing.assert_array_equal(pcm, np.zeros(RATE, dtype=np.float32))


def test_opposite_channels_cancel(tmp_path: Path) -> None:
    left = tone(1.0, RATE)
    soundfile.write(tmp_path / "a.wav", np.hstack((left, -left)), RATE, subtype="FLOAT")
    ((_, pcm),) = read_windows(tmp_path / "a.wav", sample_rate=RATE)
    np.testing.assert_allclose(pcm, 0, atol=1e-9)


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """The reader may hold a window, a block and their resampled forms, not the file."""
    import tracemalloc

    with soundfile.SoundFile(tmp_path / "a.flac", "w", 44100, 2) as sound:
        for _ in range(60):
            sound.write(np.zeros((44100 * 10, 2), dtype=np.float32))
    tracemalloc.start()
    count = sum(1 for _ in read_windows(tmp_path / "a.flac", sample_rate=44100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 119
    assert peak < 16e6  # all of it as float32 mono: 106 MB


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_samples(tmp_path: Path, value: float) -> None:
    pcm = tone(1.0, RATE, channels=2)
    pcm[500, 1] = value
    soundfile.write(tmp_path / "a.wav", pcm, RATE, subtype="FLOAT")
    with pytest.raises(MediaError, match="NaN or infinite samples"):
        list(read_windows(tmp_path / "a.wav", sample_rate=RATE))


def wav_header(rate: int, channels: int, data: bytes) -> bytes:
    form = struct.pack("<HHIIHH", 1, channels, rate, (rate * channels * 2) % 2**32, channels * 2 % 2**16, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (wav_header(RATE, 1, b""), "no samples"),
        (wav_header(1, 1, bytes(100)), "sample rate of 1 Hz"),
        (wav_header(1_000_000_000, 1, bytes(100)), "sample rate of 1000000000 Hz"),
        (wav_header(RATE, 1000, bytes(20_000)), "1000 channels"),
        (b"", "empty file"),
        (b"just some words\n" * 20, "not a sound: looks like text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a sound: looks like PNG"),
        (b"fLaC" + bytes(30), "broken FLAC"),
        (bytes(range(256)) * 4, "broken sound"),
    ],
)
def test_what_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(MediaError) as caught:
        list(read_windows(tmp_path / "a.wav", sample_rate=RATE))
    assert caught.value.message.startswith(reason)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.flac", "a.ogg", "a.mp3", "a.caf"])
def test_truncated_sounds(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tone(20.0, 44100), 44100)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"truncated|broken"):
        list(read_windows(tmp_path / name, sample_rate=RATE))


def test_a_wav_written_into_a_pipe_has_no_length(tmp_path: Path) -> None:
    samples = (tone(1.0, RATE)[:, 0] * 32767).astype("<i2")
    data = bytearray(wav_header(RATE, 1, samples.tobytes()))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    ((span, pcm),) = read_windows(tmp_path / "a.wav", sample_rate=RATE)
    assert span == Range(0, 1)
    np.testing.assert_allclose(pcm, samples / 32768, atol=1e-6)
