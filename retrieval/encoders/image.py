"""Pictures for a tower: RGB pixels -> the square views that its network sees.

Imports neither torch nor Pillow at the top: preparers travel to decode workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import DecodeHint, Modality, Range
from retrieval.encoders.description import fields_of

KIND = "pillow-bicubic/1"
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the source


class Fit(StrEnum):
    """How a picture that is not square meets a square network."""

    CROP = "crop"  # the centre
    VIEWS = "views"  # several crops along the long side, whose features the tower averages
    LETTERBOX = "letterbox"  # the whole picture, with bars


@dataclass(frozen=True, slots=True)
class ImagePreparer:
    """Resize and crop as timm's evaluation transform does; scaling of values happens inside the graph."""

    size: int = 224  # pixels, each side of a view
    resize: int = 256  # pixels the shorter side is resized to before the crop; 224 / 0.875
    fit: Fit = Fit.CROP
    views_from: float = 2.0  # long side / short side from which `views` takes more than one crop
    max_views: int = 4
    pad: int = 255  # grey level of a letterbox's bars; transparency is shown on white too

    @property
    def modality(self) -> Modality:
        return Modality.IMAGE

    @property
    def hint(self) -> DecodeHint:
        # A letterboxed picture's shorter side becomes `size` at most.
        return DecodeHint(min_side=self.size if self.fit is Fit.LETTERBOX else self.resize)

    def describe(self) -> dict[str, Any]:
        """What the space depends on, as JSON; a change of the algorithm must change `kind`."""
        shape: dict[str, Any] = {"kind": KIND, "size": self.size, "fit": self.fit.value}
        if self.fit is Fit.LETTERBOX:
            return shape | {"pad": self.pad}
        if self.fit is Fit.VIEWS:
            shape |= {"views_from": self.views_from, "max_views": self.max_views}
        return shape | {"resize": self.resize}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ImagePreparer:
        """The preparer that `describe` described. ModelError where it is of another version."""
        values = fields_of(description, KIND)
        return cls(**values | {"fit": Fit(values["fit"])})

    def plan(self, text: str) -> tuple[Range, ...]:
        """No ranges: a picture is one segment."""
        del text
        return ()

    def tensor(self, media: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Views, uint8 RGB, shape (views, size, size, 3), of a picture (height, width, 3)."""
        from PIL import Image

        picture = Image.fromarray(np.ascontiguousarray(media), "RGB" if media.ndim == 3 else None)
        if self.fit is Fit.LETTERBOX:
            return self._letterboxed(picture)[None]
        edge = (self.size, self.size)
        views = [
            picture.resize(edge, Image.Resampling.BICUBIC, box=box) for box in self._boxes(*picture.size)
        ]
        return np.stack([np.asarray(view) for view in views])

    def _boxes(self, width: int, height: int) -> list[Box]:
        """Where each view lies in the source.

        Resizing only this box gives the pixels of resizing the whole picture and cropping, since Pillow's
        filter still reads past the box's edges; and its cost is bounded, however long the picture is.
        """
        short = min(width, height)
        columns, rows = (
            self.resize if side == short else int(self.resize * side / short) for side in (width, height)
        )
        # Rounding half to even, as torchvision's centre crop does.
        left, top = round((columns - self.size) / 2), round((rows - self.size) / 2)
        places = [(left, top)]
        if self.fit is Fit.VIEWS and max(width, height) / short >= self.views_from:
            long = max(columns, rows)
            count = min(self.max_views, -(-long // self.size))
            offsets = np.linspace(0, long - self.size, count).round().astype(int).tolist()
            places = [(x, top) if columns >= rows else (left, x) for x in offsets]
        across, down = width / columns, height / rows
        return [
            (x * across, y * down, min((x + self.size) * across, width), min((y + self.size) * down, height))
            for x, y in places
        ]

    def _letterboxed(self, picture: Any) -> npt.NDArray[np.uint8]:
        from PIL import Image

        scale = self.size / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        canvas = np.full((self.size, self.size, 3), self.pad, dtype=np.uint8)
        left, top = (self.size - width) // 2, (self.size - height) // 2
        small = picture.resize((width, height), Image.Resampling.BICUBIC)
        canvas[top : top + height, left : left + width] = np.asarray(small)
        return canvas
