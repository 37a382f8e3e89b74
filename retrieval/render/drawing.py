"""Heat maps as pictures: what adds in red, what takes away in blue, with axes and a scale. Pillow only.

How an explanation looks in a terminal stands in heat.py; nothing here measures anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ConfigError
from retrieval.render.escape import printable
from retrieval.types import clock

if TYPE_CHECKING:
    from indexer.types import FloatArray
    from retrieval.query.explain.types import Heat, PictureHeat, SoundHeat

RGB = npt.NDArray[np.uint8]

FOR, AGAINST = (255, 40, 0), (0, 90, 255)  # RGB of what adds and of what takes away
COVER = 0.65  # of what lies below, where the effect is greatest
SIDE = 512  # pixels, the longer side of a picture
WIDE, BAND = 640, 48  # pixels: a sound's width, and the height of one of its bands
FAINTEST, LOUDEST = 255.0, 70.0  # grey of what is not heard, and of what is loudest
MARGIN, LINE, LETTERS = 12, 20, 13  # pixels: around everything, of a line of text, of its letters
LEFT = 64  # pixels beside a sound, for hertz
STRIP, NARROWEST = 10, 300  # pixels: how high the scale is, how wide the whole picture at the least
INK, FAINT = (40, 40, 40), (190, 190, 190)
APART = 22  # pixels between two labels of an axis, at the least
MOST_TICKS = 8
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)  # seconds between two ticks
HERTZ = (0, 250, 500, 1000, 2000, 4000, 8000, 16000)


def png_of(heat: Heat, title: str = "") -> RGB:
    """A picture (height, width, 3) of a heat map below a title. ConfigError for words.

    The title is left out where it is not all ASCII, which is what Pillow's own font surely has.
    """
    from retrieval.query.explain.types import PictureHeat, SoundHeat

    if isinstance(heat, PictureHeat):
        size = _sized(heat.picture.shape[:2], SIDE)
        page = _Page(over_picture(heat, size), title, float(np.abs(heat.effect).max(initial=0.0)))
    elif isinstance(heat, SoundHeat):
        top = float(np.abs(heat.effect).max(initial=0.0))
        page = _Page(_over_sound(heat), title, top, left=LEFT, below=2 * LINE)
        _axes(page, heat)
    else:
        raise ConfigError("--png draws pictures and sounds, and this is a text", hint="leave it out")
    return np.asarray(page.image)


def write_png(heat: Heat, path: Path, title: str = "") -> None:
    """Write `png_of` a heat map. ConfigError where its folder is not there, OSError where it cannot be."""
    check_folder(path)
    from io import BytesIO

    from PIL import Image

    from indexer.fsio import write_atomic

    buffer = BytesIO()
    Image.fromarray(png_of(heat, title)).save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def check_folder(path: Path) -> None:
    """ConfigError where the folder of a file to write is not there."""
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {path.absolute().parent}", hint="make it first")


def blended(picture: RGB, heat: FloatArray, *, cover: float = COVER) -> RGB:
    """A picture (h, w, 3) under heat (h, w) in [-1, 1]: red adds, blue takes away."""
    over = np.where(heat[..., None] > 0, np.array(FOR, np.float32), np.array(AGAINST, np.float32))
    weight = cover * np.abs(heat)[..., None]
    return np.asarray(picture * (1 - weight) + over * weight + 0.5, np.float32).clip(0, 255).astype(np.uint8)


def over_picture(heat: PictureHeat, size: tuple[int, int]) -> RGB:
    """The picture at (height, width) with its heat, smooth between the middles of cells."""
    from PIL import Image

    wide = size[1], size[0]
    picture = np.asarray(
        Image.fromarray(np.ascontiguousarray(heat.picture)).resize(wide, Image.Resampling.BICUBIC)
    )
    grey = picture.mean(axis=2, keepdims=True)
    calm = (0.5 * picture + 0.5 * grey).astype(np.uint8)  # so that its own reds are no heat
    smooth = np.asarray(Image.fromarray(heat.heat).resize(wide, Image.Resampling.BILINEAR))
    return blended(calm, smooth)


def _sized(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    scale = longest / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _over_sound(heat: SoundHeat) -> RGB:
    """The spectrogram in grey with its heat, a cell for each band and slice, the highest band on top."""
    from PIL import Image

    size = WIDE, BAND * len(heat.effect)
    grey = np.full((1, 1), FAINTEST) + (LOUDEST - FAINTEST) * heat.loudness[::-1]
    below = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    cells = Image.fromarray(np.ascontiguousarray(heat.heat[::-1])).resize(size, Image.Resampling.NEAREST)
    return blended(np.repeat(np.asarray(below)[..., None], 3, axis=2), np.asarray(cells))


class _Page:
    """A white page: a title, what is drawn, room for its axes, and the scale of its colours."""

    def __init__(self, drawn: RGB, title: str, most: float, *, left: int = 0, below: int = 0) -> None:
        from PIL import Image, ImageDraw, ImageFont

        title = printable(" ".join(title.split()))  # on its line, whatever words a user asked for
        shown = bool(title) and title.isascii()
        height, width = drawn.shape[:2]
        self.width, self.height = width, height  # of what is drawn
        inner = max(width + left, NARROWEST)
        self.left = MARGIN + left + (inner - width - left) // 2
        self.top = MARGIN + (LINE if shown else 0)
        scale = self.top + height + below + MARGIN
        self.image: Any = Image.new("RGB", (inner + 2 * MARGIN, scale + STRIP + LINE + MARGIN), "white")
        self.image.paste(Image.fromarray(drawn), (self.left, self.top))
        self.pen: Any = ImageDraw.Draw(self.image)
        self.font: Any = ImageFont.load_default(LETTERS)
        if shown:
            self.text((MARGIN, MARGIN), self._fitting(title, inner), "la")
        self._scale((MARGIN + left, scale), inner - left, most)

    def text(self, at: tuple[float, float], words: str, anchor: str) -> None:
        """Words at a place; `anchor` says which of their corners or sides is there, as Pillow has it."""
        self.pen.text(at, words, fill=INK, font=self.font, anchor=anchor)

    def _fitting(self, words: str, width: int) -> str:
        """Words as far as they fit."""
        if self.font.getlength(words) <= width:
            return words
        while words and self.font.getlength(words + "...") > width:
            words = words[:-1]
        return words + "..."

    def _scale(self, at: tuple[int, int], width: int, most: float) -> None:
        """What the colours mean: effects from the lowest to the highest, in cosine."""
        from PIL import Image

        shares = np.repeat(np.linspace(-1, 1, width, dtype=np.float32)[None], STRIP, axis=0)
        strip = blended(np.full((STRIP, width, 3), 255, np.uint8), shares)
        self.image.paste(Image.fromarray(strip), at)
        y = at[1] + STRIP + 3
        self.text((at[0], y), f"takes away, -{most:.2g}", "la")
        self.text((at[0] + width / 2, y), "0", "ma")
        self.text((at[0] + width, y), f"adds to the cosine, +{most:.2g}", "ra")


def _axes(page: _Page, heat: SoundHeat) -> None:
    """Seconds below, hertz on the left; the borders of bands as fine lines."""
    right, bottom = page.left + page.width, page.top + page.height
    for band in range(1, len(heat.effect)):
        y = bottom - band * BAND
        page.pen.line((page.left, y, right, y), fill=FAINT)
    page.pen.rectangle((page.left - 1, page.top - 1, right, bottom), outline=INK)
    for hertz, share in hertz_ticks(heat.hertz, page.height):
        y = bottom - share * page.height
        page.pen.line((page.left - 5, y, page.left - 1, y), fill=INK)
        page.text((page.left - 8, y), f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz", "rm")
    start, end = float(heat.seconds[0]), float(heat.seconds[-1])
    for second in second_ticks(start, end):
        x = page.left + (second - start) / (end - start) * page.width
        page.pen.line((x, bottom, x, bottom + 5), fill=INK)
        page.text((x, bottom + 8), clock(second) if end >= 60 else f"{second:g}", "ma")
    page.text((page.left + page.width / 2, bottom + 8 + LINE), "time" if end >= 60 else "seconds", "ma")


def hertz_ticks(edges: FloatArray, height: int) -> list[tuple[int, float]]:
    """Round frequencies with their places on an axis even in mels, in [0, 1] from below.

    `edges` (bands + 1,) are where its bands begin and end. None is nearer to the next than labels are high.
    """
    from retrieval.query.explain.sound import mels

    low, high = mels(edges[0]), mels(edges[-1])
    found: list[tuple[int, float]] = []
    for hertz in HERTZ:
        share = float((mels(hertz) - low) / (high - low))
        if 0 <= share <= 1 and (not found or (share - found[-1][1]) * height >= APART):
            found.append((hertz, share))
    return found


def second_ticks(start: float, end: float) -> list[float]:
    """Round seconds from `start` to `end`, MOST_TICKS and one at the most."""
    step = next((one for one in STEPS if (end - start) / one <= MOST_TICKS), (end - start) / MOST_TICKS)
    first, last = int(np.ceil(start / step - 1e-6)), int(np.floor(end / step + 1e-6))
    return [round(number * step, 6) for number in range(first, last + 1)]
