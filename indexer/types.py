"""The indexer's words: modalities, items, segments, and the two protocols a model must meet.

Imports nothing local. What a word means stands in docs/architecture.md, 'Vocabulary'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class Modality(StrEnum):
    """What a vector was made from. The order is the order of blocks inside a part."""

    IMAGE = "image"
    TEXT = "text"
    AUDIO = "audio"


class Source(StrEnum):
    """Where in an item a segment comes from."""

    FILE = "file"
    CAPTION = "caption"


@dataclass(frozen=True, slots=True)
class Range:
    """The part of a medium that a segment covers: seconds of a sound, characters of a text. Half open."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Member:
    """One medium of an item: a file below the item's root, or a text that a manifest gives inline.

    A picture with a caption file beside it is an item of two members; so is a manifest row with a picture
    and a text. The first member names the item.
    """

    modality: Modality
    source: Source
    path: str | None  # relative to the root, '/'-separated, undecodable bytes as os.fsdecode leaves them
    size: int  # bytes
    mtime_ns: int  # 0 for inline text
    content_hash: bytes | None = None  # 16 bytes, see fsio.hash_bytes; None until read
    text: str | None = None  # inline text only
    error: str | None = None  # why it has no segments; it is tried again when the file changes

    @property
    def key(self) -> tuple[bytes | None, Modality, Source]:
        """What its segments are found by in any part."""
        return self.content_hash, self.modality, self.source


@dataclass(frozen=True, slots=True)
class Item:
    """One media file, or one row of a manifest."""

    id: str  # 32 hex digits: hash of root id and relative path, or of root id and the manifest row's key
    root_id: str
    path: str  # of the first file member, or the manifest row's key
    members: tuple[Member, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def modality(self) -> Modality:
        return self.members[0].modality

    @property
    def failed(self) -> bool:
        """Whether nothing of it can be found, since every member failed."""
        return all(member.error is not None for member in self.members)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a medium's file says of itself, beside its content. None: the file does not say it."""

    width: int | None = None  # pixels, of the upright picture
    height: int | None = None
    duration: float | None = None  # seconds, of the whole sound
    sample_rate: int | None = None  # Hz, as the file has it
    channels: int | None = None
    taken_at: datetime | None = None  # by the camera's clock, without a time zone
    camera: str | None = None  # maker and model
    latitude: float | None = None  # degrees, north is positive
    longitude: float | None = None  # degrees, east is positive
    title: str | None = None
    artist: str | None = None
    album: str | None = None
    genre: str | None = None
    year: int | None = None  # that a tag gives
    words: str | None = None  # keywords, descriptions, comments: one a line


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of an item that has a vector. Identified by content, source and range, not by path."""

    content_hash: bytes
    modality: Modality
    source: Source
    range: Range | None = None  # None: the whole medium
    text: str | None = None  # the characters themselves, for text
    phash: int | None = None  # 64-bit perceptual hash of a picture, or fingerprint of a window of sound
    facts: Facts | None = None  # of its medium; stored apart, so a segment that was read comes without


@dataclass(frozen=True, slots=True)
class DecodeHint:
    """What a tower tells the decoder, so that no more is decoded than it will see."""

    min_side: int = 0  # pixels of the shorter side a picture will be resized to; 0: no hint
    sample_rate: int = 0  # Hz a sound is resampled to
    window_s: float = 10.0  # length of an audio segment, seconds
    hop_s: float = 5.0  # distance between the starts of two
    max_segments: int = 0  # of a sound, from its beginning; 0: all


@dataclass(frozen=True, slots=True)
class Prepared:
    """One segment, ready for its tower: where it lies, and the model's input for it."""

    tensor: npt.NDArray[Any]
    range: Range | None = None
    text: str | None = None
    phash: int | None = None
    facts: Facts | None = None  # of the whole medium, the same for each of its segments


class Preparer(Protocol):
    """What a tower needs done to media before it. Picklable, imports no torch, runs in decode workers."""

    @property
    def modality(self) -> Modality: ...

    @property
    def hint(self) -> DecodeHint: ...

    def plan(self, text: str) -> Sequence[Range]:
        """Character ranges of a text, each within the model's limit; text towers only."""
        ...

    def tensor(self, media: Any) -> npt.NDArray[Any]:
        """The model's input for one segment.

        `media` is uint8 RGB of shape (height, width, 3) for a picture, mono float32 PCM of shape (samples,)
        at `hint.sample_rate` for a sound, a str for a text. The first axis of a picture's or a sound's
        tensor counts views (crops, blocks), which the tower pools into one vector; a text's is token ids.
        """
        ...


class Encoder(Protocol):
    """One tower: prepared media in, unit vectors out."""

    @property
    def modality(self) -> Modality: ...

    @property
    def space_id(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def batch_size(self) -> int:
        """Segments that one call of `encode` handles best."""
        ...

    @property
    def precision(self) -> str:
        """What its vectors are computed in, a word that is kept with them: "f32", "bf16", "int8" ..."""
        ...

    @property
    def preparer(self) -> Preparer: ...

    def warm(self) -> object:
        """Load what `encode` needs. May come from another thread, beside the start of the decoders."""
        ...

    def encode(self, tensors: Sequence[npt.NDArray[Any]]) -> FloatArray:
        """Unit vectors, shape (len(tensors), dim); independent of the batch's other members and order."""
        ...
