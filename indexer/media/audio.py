"""Sounds: a file -> windows of mono PCM, streamed, so that a day of sound takes the memory of a minute."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np

from indexer.errors import MediaError
from indexer.media.kinds import HEAD_BYTES, open_regular, sniff
from indexer.media.tags import cleaned, joined_words, year_of
from indexer.types import Facts, FloatArray, Range

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; outside of it a header is absurd
MAX_CHANNELS = 64  # seventh-order ambisonics
BLOCK_SAMPLES = 1 << 18  # decoded at a time, over all channels
UNKNOWN_SIZES = frozenset((0, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF - 36))  # what a writer into a pipe leaves
SOUNDS = frozenset({"FLAC", "Ogg", "WAV", "AIFF", "MP3"})  # as `sniff` calls them
LONGEST = 10 * 366 * 86_400  # seconds; more than that is a header's way to say that it does not know
OGG_PAGE_BYTES = 65_307  # the largest page


def read_windows(
    path: str | os.PathLike[str], *, sample_rate: int, window_s: float = 10.0, hop_s: float = 5.0
) -> Iterator[tuple[Range, FloatArray]]:
    """Windows of a sound: its range in seconds, and float32 PCM of shape (samples,) at `sample_rate`.

    Channels are averaged, then resampled (soxr HQ). Window k starts at k * hop_s, and there is one only if
    the one before did not reach the end: a sound of 10 s has one window of 10 s, one of 10.1 s has two. The
    last window holds just the samples that are there, shorter than `window_s`, and its range ends where the
    sound does: a preparer that needs a fixed length pads it with zeros and knows how much of it is real.

    Raises MediaError for what is no sound, has no samples, has NaN or infinite ones, or breaks off before
    the length that its header gives; a file that breaks off has given windows by then.
    """
    for span, pcm, _ in described_windows(path, sample_rate=sample_rate, window_s=window_s, hop_s=hop_s):
        yield span, pcm


def described_windows(
    path: str | os.PathLike[str], *, sample_rate: int, window_s: float = 10.0, hop_s: float = 5.0
) -> Iterator[tuple[Range, FloatArray, Facts]]:
    """As `read_windows`, each window with what the file's header and tags say of the whole sound."""
    if sample_rate <= 0 or window_s <= 0 or not 0 < hop_s <= window_s:
        raise ValueError("sample_rate and window_s must be positive, hop_s in (0, window_s]")
    window, hop = round(window_s * sample_rate), max(1, round(hop_s * sample_rate))
    held = np.zeros(0, dtype=np.float32)
    start = 0
    with open_regular(path) as file, _open_sound(file) as sound:
        facts = _facts(sound)
        for block in _resampled(sound, sample_rate):
            held = np.concatenate((held, block))
            while len(held) > window:  # strictly: what ends here may be the last
                yield *_window(held[:window], start, sample_rate), facts
                held, start = held[hop:], start + hop
    yield *_window(held, start, sample_rate), facts


def _facts(sound: Any) -> Facts:
    """The length as the header tells it, and the tags that libsndfile reads."""
    import soundfile

    tags: dict[str, str | None] = {}
    for name in ("title", "artist", "album", "genre", "date", "comment"):
        try:
            tags[name] = getattr(sound, name)
        except (soundfile.LibsndfileError, UnicodeError, AttributeError):
            tags[name] = None
    known = 0 < sound.frames < LONGEST * sound.samplerate
    return Facts(
        duration=sound.frames / sound.samplerate if known else None,
        sample_rate=sound.samplerate,
        channels=sound.channels,
        title=cleaned(tags["title"]),
        artist=cleaned(tags["artist"]),
        album=cleaned(tags["album"]),
        genre=_genre(tags["genre"]),
        year=year_of(tags["date"]),
        words=joined_words([tags["comment"]]),
    )


def _genre(tag: str | None) -> str | None:
    """`(17)Rock` as `Rock`. A number alone names a row of ID3's list, which nobody looks for."""
    name = re.sub(r"\A(?:\(\d+\)\s*)+|\A\d+\s*\Z", "", tag or "")
    return cleaned(name)


def _window(pcm: FloatArray, start: int, rate: int) -> tuple[Range, FloatArray]:
    return Range(start / rate, (start + len(pcm)) / rate), np.ascontiguousarray(pcm)


def _resampled(sound: Any, rate: int) -> Iterator[FloatArray]:
    """Blocks of mono PCM at `rate`; round(frames * rate / original rate) samples in all."""
    import soxr

    stream = None if sound.samplerate == rate else soxr.ResampleStream(sound.samplerate, rate, 1)
    read = given = 0
    for block in _mono_blocks(sound):
        read += len(block)
        resampled = stream.resample_chunk(block) if stream else block
        given += len(resampled)
        yield resampled
    _refuse_short(read, sound)
    if stream:
        rest = stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        yield _to_length(rest, max(1, round(read * rate / sound.samplerate)) - given)


def _open_sound(file: BinaryIO) -> Any:
    """The opened SoundFile on the file's own descriptor, its header believed only within reason."""
    import soundfile

    handle = file.fileno()
    head = os.pread(handle, HEAD_BYTES, 0)
    _refuse_truncated(handle, head)
    try:
        sound = soundfile.SoundFile(handle, closefd=False)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        kind = sniff(head)
        if kind in SOUNDS or kind is None:
            raise MediaError(f"broken {kind or 'sound'}: {_plain(error)}") from None
        raise MediaError(f"not a sound: looks like {kind}") from None
    if not MIN_RATE <= sound.samplerate <= MAX_RATE:
        raise MediaError(f"sample rate of {sound.samplerate} Hz, expected {MIN_RATE} to {MAX_RATE}")
    if sound.channels > MAX_CHANNELS:
        raise MediaError(f"{sound.channels} channels, expected 1 to {MAX_CHANNELS}")
    return sound


def _mono_blocks(sound: Any) -> Iterator[FloatArray]:
    """The mean of the channels, float32, as long as the decoder gives any, whatever the header says."""
    import soundfile

    frames = max(1, BLOCK_SAMPLES // sound.channels)
    while True:
        try:
            block = sound.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise MediaError(f"broken {sound.format}: {_plain(error)}") from None
        if not len(block):
            return
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise MediaError("NaN or infinite samples")
        yield np.ascontiguousarray(mono)


def _refuse_short(read: int, sound: Any) -> None:
    """No samples, or clearly fewer than the header's count (FLAC, MP3 with a Xing header)."""
    if read == 0:
        raise MediaError("no samples")
    missing = sound.frames - read
    if missing > max(sound.samplerate // 4, sound.frames // 50):
        seconds = f"{read / sound.samplerate:.1f} of {sound.frames / sound.samplerate:.1f} s"
        raise MediaError(f"truncated {sound.format}: {seconds} can be read")


def _to_length(pcm: FloatArray, length: int) -> FloatArray:
    """Cut, or filled with zeros: a resampler may round the length by a sample."""
    if length <= len(pcm):
        return pcm[: max(0, length)]
    return np.concatenate((pcm, np.zeros(length - len(pcm), dtype=np.float32)))


def _refuse_truncated(handle: int, head: bytes) -> None:
    """libsndfile quietly shortens a cut WAV, AIFF or Ogg; their own bytes say that the end is missing."""
    size = os.fstat(handle).st_size
    kind = sniff(head)
    if kind in {"WAV", "AIFF"}:
        lacking = _chunk_bytes_lacking(handle, size, "little" if head[:4] in (b"RIFF", b"RF64") else "big")
        if lacking > 0:
            raise MediaError(f"truncated {kind}: {lacking} bytes of samples are missing")
    elif kind == "Ogg" and not _ogg_ends(handle, size):
        raise MediaError("truncated Ogg: its last page is missing")


def _chunk_bytes_lacking(handle: int, size: int, order: Literal["little", "big"]) -> int:
    """How many bytes the chunk of samples claims beyond the file's end; 0 where its size is unknown."""
    at = 12
    while at + 8 <= size:
        header = os.pread(handle, 8, at)
        length = int.from_bytes(header[4:8], order)
        if header[:4] in (b"data", b"SSND"):
            return 0 if length in UNKNOWN_SIZES else max(0, at + 8 + length - size)
        at += 8 + length + length % 2
    return 0


def _ogg_ends(handle: int, size: int) -> bool:
    """Whether the last page is whole and marked as the end of its stream."""
    at = max(0, size - 2 * OGG_PAGE_BYTES)
    tail = os.pread(handle, size - at, at)
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return False
    segments = tail[page + 27 : page + 27 + tail[page + 26]]
    whole = page + 27 + tail[page + 26] + sum(segments) <= len(tail)
    return whole and bool(tail[page + 5] & 4)


def _plain(error: Exception) -> str:
    """libsndfile's reason without its preamble about file objects."""
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
