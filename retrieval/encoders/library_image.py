"""Pictures for a pretrained tower: RGB pixels -> the view that its own library would have made.

The arithmetic of torchvision's and of transformers' inference transforms, up to the bytes; scaling by 255,
mean and std happen inside the network. Imports neither torch nor Pillow at the top: preparers travel to
decode workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ModelError
from indexer.types import DecodeHint, Modality, Range
from retrieval.encoders.description import fields_of

KIND = "library-rgb/1"
WHOLE = 2.0  # resized pixels for each that is kept, up to which a picture is resized as a whole
REACH = 3  # pixels, before reduction, that the widest of Pillow's filters reads to each side
Pair = tuple[int, int]  # height, width, in pixels
Triple = tuple[float, float, float]  # red, green, blue; pixels are in [0, 1] before mean and std
Pixels = npt.NDArray[np.uint8]


class Resize(StrEnum):
    """How a picture of another shape meets the network's size. Values as open_clip names them."""

    SHORTEST = "shortest"  # it covers the size
    LONGEST = "longest"  # it fits into the size
    SQUASH = "squash"  # its shape is given up


class Interpolation(StrEnum):
    """Pillow's filter, which widens with the reduction."""

    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    HAMMING = "hamming"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class Rounding(StrEnum):
    """Where a crop that cannot be centred to the pixel begins."""

    EVEN = "even"  # half to even: torchvision, timm and open_clip
    DOWN = "down"  # towards the first pixel: transformers


@dataclass(frozen=True, slots=True)
class LibraryImagePreparer:
    """Resize, then crop or pad at the centre.

    The library's bytes exactly, for pictures up to twice as long as wide. Of longer ones only the part that
    survives the crop is resized, so that 3,000 x 20 costs no more than a square picture; then about one byte
    in a thousand differs by one level, since Pillow keeps the corners of a box in single precision.
    """

    size: Pair  # what is resized to; an edge's length, twice, for a square SHORTEST
    crop: Pair  # what the network sees
    mean: Triple  # of pixels in [0, 1]; applied inside the network
    std: Triple
    resize: Resize = Resize.SHORTEST
    interpolation: Interpolation = Interpolation.BICUBIC
    rounding: Rounding = Rounding.EVEN
    fill: int = 0  # grey level beside a picture smaller than the crop, 0 to 255

    @property
    def modality(self) -> Modality:
        return Modality.IMAGE

    @property
    def hint(self) -> DecodeHint:
        """The decoder may reduce a JPEG while both sides stay at least twice as long as here."""
        return DecodeHint(min_side=max(self.size))

    def describe(self) -> dict[str, Any]:
        """What the space depends on, as JSON; a change of the algorithm must change `kind`."""
        return {
            "kind": KIND,
            "size": list(self.size),
            "crop": list(self.crop),
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize.value,
            "interpolation": self.interpolation.value,
            "rounding": self.rounding.value,
            "fill": self.fill,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> LibraryImagePreparer:
        """The preparer that `describe` described. ModelError where it is of another version, or misstated."""
        values = fields_of(description, KIND)
        try:
            return cls(
                size=_pair(values.pop("size")),
                crop=_pair(values.pop("crop")),
                mean=_triple(values.pop("mean")),
                std=_triple(values.pop("std")),
                resize=Resize(values.pop("resize")),
                interpolation=Interpolation(values.pop("interpolation")),
                rounding=Rounding(values.pop("rounding")),
                **values,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model's picture preprocessing lacks or misstates {error}",
                hint="pull the model again: triptych models pull",
            ) from error

    def plan(self, text: str) -> tuple[Range, ...]:
        """No ranges: a picture is one segment."""
        del text
        return ()

    def tensor(self, media: Pixels) -> Pixels:
        """One view, uint8 RGB, shape (1, height, width, 3), of a picture (height, width, 3) or grey (height,
        width).
        """
        from PIL import Image

        height, width = media.shape[:2]
        rows, columns = self._resized(height, width)
        down = _part(height, rows, self.crop[0], self.rounding)
        along = _part(width, columns, self.crop[1], self.rounding)
        kept = _filter(self.interpolation)
        if rows * columns <= WHOLE * down.count * along.count:
            picture = Image.fromarray(np.ascontiguousarray(media)).convert("RGB")
            resized = np.asarray(picture.resize((columns, rows), kept))
            view = resized[down.offset :, along.offset :][: down.count, : along.count]
            return self._padded(view)[None]
        seen = media[down.first : down.last, along.first : along.last]
        picture = Image.fromarray(np.ascontiguousarray(seen)).convert("RGB")
        # Columns first, as Pillow does where a picture keeps its shape: bytes between the passes are rounded.
        box = (along.start, 0.0, along.end, float(picture.height))
        picture = picture.resize((along.count, picture.height), kept, box)
        box = (0.0, down.start, float(along.count), down.end)
        picture = picture.resize((along.count, down.count), kept, box)
        return self._padded(np.asarray(picture))[None]

    def _resized(self, height: int, width: int) -> Pair:
        """The whole picture's size after the library's resize, at least 1 x 1."""
        if self.resize is Resize.SQUASH:
            return self.size
        if self.resize is Resize.SHORTEST and self.size[0] == self.size[1]:
            edge, short = self.size[0], min(height, width)
            sides = [edge if side == short else int(edge * side / short) for side in (height, width)]
            return sides[0], sides[1]
        choose: Callable[..., float] = max if self.resize is Resize.LONGEST else min
        ratio = choose(height / self.size[0], width / self.size[1])
        # A library fails where a side would be 0.
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _padded(self, view: Pixels) -> Pixels:
        height, width = view.shape[:2]
        if (height, width) == self.crop:
            return np.ascontiguousarray(view)
        canvas = np.full((*self.crop, 3), self.fill, dtype=np.uint8)
        top, left = (self.crop[0] - height) // 2, (self.crop[1] - width) // 2
        canvas[top : top + height, left : left + width] = view
        return canvas


def normalised(views: Pixels, *, mean: Triple, std: Triple) -> npt.NDArray[np.float32]:
    """What a network computes from views (n, H, W, 3) first, as libraries lay it out: (n, 3, H, W)."""
    scaled = views.astype(np.float32) / np.float32(255)
    centred = (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(centred.transpose(0, 3, 1, 2))


@dataclass(frozen=True, slots=True)
class _Part:
    """What of one side survives the crop."""

    offset: int  # of the first resized pixel that is kept
    count: int  # of those kept
    first: int  # pixels of the source that its filter reads
    last: int
    start: float  # where its resized pixels begin and end, from `first` on
    end: float


def _part(side: int, resized: int, crop: int, rounding: Rounding) -> _Part:
    """Of a side of `side` pixels that is resized to `resized`, the middle `crop`."""
    scale = side / resized
    offset, count = 0, min(crop, resized)
    if crop < resized:
        middle = (resized - crop) / 2
        offset = round(middle) if rounding is Rounding.EVEN else math.floor(middle)
    start, end = offset * scale, min((offset + count) * scale, side)
    reach = math.ceil(REACH * max(scale, 1.0)) + 1
    first, last = max(0, math.floor(start) - reach), min(side, math.ceil(end) + reach)
    return _Part(offset, count, first, last, start - first, end - first)


def _filter(interpolation: Interpolation) -> Any:
    from PIL import Image

    return Image.Resampling[interpolation.name]


def _pair(values: Any) -> Pair:
    height, width = values
    if min(height, width) < 1:
        raise ValueError(f"a size: {values!r}")
    return int(height), int(width)


def _triple(values: Any) -> Triple:
    red, green, blue = values
    return float(red), float(green), float(blue)
