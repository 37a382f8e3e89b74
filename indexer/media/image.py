"""Pictures: a file -> upright RGB on white, within stated bounds; and a picture's perceptual hash."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import MediaTooLarge
from indexer.media import raster
from indexer.media.exif import picture_facts
from indexer.media.kinds import HEAD_BYTES, open_regular, sniff
from indexer.media.raster import deep_grey, is_deep_grey, load, open_raster, to_rgb
from indexer.types import Facts

RGB = npt.NDArray[np.uint8]

MAX_PIXELS = 178_000_000  # declared, or of a JPEG after draft decoding
OUT_PIXELS = 24_000_000  # what read_image gives at most: 72 MB
MAX_ASPECT = 64  # longer than this many times its width, a picture gets a white margin
LONG_SIDE = math.isqrt(OUT_PIXELS * MAX_ASPECT)  # with its margins a thin picture then meets OUT_PIXELS too
PHASH_GRID = 32
SVG_SIDE = 512  # the longer side of a drawn SVG, or twice min_side where that is more


def read_image(path: str | os.PathLike[str], *, min_side: int = 0, max_pixels: int = MAX_PIXELS) -> RGB:
    """A picture as uint8 RGB of shape (height, width, 3), upright, on white; the first frame of several.

    `min_side` is the shorter side that a tower resizes to: a JPEG is then decoded at no less than twice that
    (draft mode), an SVG drawn at `max(512, 2 * min_side)` on its longer side. Without it a JPEG is decoded
    in full. Above OUT_PIXELS a picture is shrunk by an integer factor; one longer than 64 times its width
    gets white margins, so that whatever resizes the shorter side to s makes at most 64 * s * s pixels.

    Raises MediaError with a short reason for an empty, truncated or broken file or one that is no picture,
    MediaTooLarge above `max_pixels` declared, OSError where it cannot be opened.
    """
    return described_image(path, min_side=min_side, max_pixels=max_pixels)[0]


def described_image(
    path: str | os.PathLike[str], *, min_side: int = 0, max_pixels: int = MAX_PIXELS
) -> tuple[RGB, Facts]:
    """As `read_image`, with what the file says of the picture; broken metadata are as good as none."""
    with open_regular(path) as file:
        kind = sniff(os.pread(file.fileno(), HEAD_BYTES, 0))
        if kind in {"SVG", "gzip"} or (kind == "text" and _named_svg(path)):
            rgb, facts = _read_svg(file, box=max(SVG_SIDE, 2 * min_side))
            return _bounded_aspect(rgb), facts
        with open_raster(file, max_pixels=max_pixels, min_side=min_side) as picture:
            load(picture)
            orientation = _orientation(picture)
            facts = picture_facts(picture, size=picture.declared, turned=orientation >= 5)
            return _bounded_aspect(_upright(_rgb(picture), orientation)), facts


def _named_svg(path: str | os.PathLike[str]) -> bool:
    """A long comment may push the <svg> tag out of what was sniffed."""
    return os.fsdecode(path).lower().endswith((".svg", ".svgz"))


def _read_svg(file: Any, *, box: int) -> tuple[RGB, Facts]:
    from indexer.media.svg import MAX_BYTES, described_svg

    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise MediaTooLarge(f"more than {MAX_BYTES >> 20} MB of SVG")
    return described_svg(data, box=box)


def _rgb(picture: Any) -> RGB:
    """The picture in RGB, at 1/n of its size: the smallest n that meets OUT_PIXELS, n x n pixels averaged.

    A large one is converted in strips, so that beside the decoded picture little memory is needed.
    """
    from PIL import Image

    if is_deep_grey(picture):  # scaled by the extremes of the whole
        picture = deep_grey(picture)
    width, height = picture.size
    n = max(math.ceil(math.sqrt(width * height / OUT_PIXELS)), math.ceil(max(width, height) / LONG_SIDE))
    if n == 1:
        return np.asarray(to_rgb(picture))
    page = Image.new("RGB", (math.ceil(width / n), math.ceil(height / n)))
    rows = n * max(1, raster.STRIP_PIXELS // (width * n))
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(top + rows, height)))
        page.paste(to_rgb(strip).reduce(n), (0, top // n))
    return np.asarray(page)


def _orientation(picture: Any) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = picture.getexif().get(0x0112, 1)
    except Exception:  # broken metadata must not lose the picture
        return 1
    return value if value in range(1, 9) else 1


def _upright(rgb: RGB, orientation: int) -> RGB:
    """Turned and mirrored as the EXIF orientation asks (CIPA DC-008, tag 274)."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def _bounded_aspect(rgb: RGB) -> RGB:
    """With white margins along its longer sides where it is thinner than 1 to MAX_ASPECT."""
    height, width = rgb.shape[:2]
    least = math.ceil(max(height, width) / MAX_ASPECT)
    if min(height, width) >= least:
        return rgb
    page = np.full((max(height, least), max(width, least), 3), 255, dtype=np.uint8)
    top, left = (page.shape[0] - height) // 2, (page.shape[1] - width) // 2
    page[top : top + height, left : left + width] = rgb
    return page


def phash(rgb: RGB) -> int:
    """64-bit perceptual hash, unsigned: near-duplicates differ in few bits.

    The picture averaged to 32 x 32 grey, its 8 x 8 lowest DCT-II coefficients, a bit for each above their
    median (the constant one left out of the median); the first coefficient is the highest bit. After
    Zauner, 'Implementation and Benchmarking of Perceptual Image Hash Functions', 2010, chapter 3.
    """
    grey = _cells(rgb, PHASH_GRID) @ np.array([0.299, 0.587, 0.114])
    basis = _dct_basis()
    # Rounded, so that a flat picture's rounding errors do not become bits.
    low = np.round(basis @ grey @ basis.T, 6).ravel()
    bits = np.packbits(low > np.median(low[1:]))
    return int.from_bytes(bits.tobytes(), "big")


def _cells(rgb: RGB, n: int) -> npt.NDArray[np.float64]:
    """Means over an n x n grid, shape (n, n, 3); a picture smaller than the grid repeats its pixels.

    Of a large picture every s-th row and column is enough, s such that a cell keeps 8 x 8 pixels.
    """
    total = rgb = rgb[:: max(1, rgb.shape[0] // (8 * n)), :: max(1, rgb.shape[1] // (8 * n))]
    counts = []
    for axis in (0, 1):
        edges = np.arange(n) * rgb.shape[axis] // n
        counts.append(np.maximum(1, np.diff(edges, append=rgb.shape[axis])))
        total = np.add.reduceat(total, edges, axis=axis, dtype=np.int64)
    return total / (counts[0][:, None, None] * counts[1][None, :, None])


@lru_cache(maxsize=1)
def _dct_basis() -> npt.NDArray[np.float64]:
    """The eight lowest DCT-II cosines over the grid, shape (8, PHASH_GRID)."""
    k, x = np.arange(8)[:, None], np.arange(PHASH_GRID)[None, :]
    return np.cos(np.pi * k * (2 * x + 1) / (2 * PHASH_GRID))
