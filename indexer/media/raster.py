"""Raster pictures through Pillow: the header believed within caps, then every colour mode to RGB on white.

Plugins are opened by what the first bytes say, not through Image.open: no registry to fill, no process-wide
limit to change, and no plugin that starts another program.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.errors import MediaError, MediaTooLarge
from indexer.media.kinds import HEAD_BYTES, sniff

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

JPEG_PIXELS = 500_000_000  # declared, where draft decoding brings it below the cap and it is read in rows

STRIP_PIXELS = 4_000_000  # converted at a time, so that beside the decoded picture little memory is needed


class _Plugin(NamedTuple):
    module: str
    name: str


_PLUGINS = {
    "JPEG": _Plugin("JpegImagePlugin", "JpegImageFile"),
    "PNG": _Plugin("PngImagePlugin", "PngImageFile"),
    "GIF": _Plugin("GifImagePlugin", "GifImageFile"),
    "WebP": _Plugin("WebPImagePlugin", "WebPImageFile"),
    "TIFF": _Plugin("TiffImagePlugin", "TiffImageFile"),
    "BMP": _Plugin("BmpImagePlugin", "BmpImageFile"),
    "AVIF": _Plugin("AvifImagePlugin", "AvifImageFile"),
    "JPEG 2000": _Plugin("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "PNM": _Plugin("PpmImagePlugin", "PpmImageFile"),
}


def open_raster(file: BinaryIO, *, max_pixels: int, min_side: int = 0) -> Any:
    """A Pillow picture of which only the header was read; its `.format` is the word that `sniff` uses, and
    its `.declared` the size in the file.

    A JPEG comes in draft mode, at 1/2, 1/4 or 1/8 of its size, but with its shorter side no less than
    2 * min_side; 0: not at all. Raises MediaError for what is no picture,
    MediaTooLarge where it declares more than `max_pixels`.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    kind = sniff(head)
    if kind not in _PLUGINS:
        raise MediaError(f"not an image: looks like {kind}" if kind else "not an image that can be read here")
    if kind == "WebP":  # its decoder allocates the canvas when it is opened
        _check_pixels(_webp_size(head), max_pixels)
    plugin = _PLUGINS[kind]
    try:
        picture = getattr(importlib.import_module(f"PIL.{plugin.module}"), plugin.name)(file)
        # A progressive JPEG keeps all its coefficients while it is decoded, draft mode or not.
        drafted = kind == "JPEG" and min_side > 0
        in_rows = drafted and "progressive" not in picture.info
        _check_pixels(picture.size, JPEG_PIXELS if in_rows else max_pixels)
        picture.declared = picture.size
        if drafted:
            picture.draft(None, (2 * min_side, 2 * min_side))
            _check_pixels(picture.size, max_pixels)
    except (OSError, SyntaxError, ValueError, OverflowError) as error:
        raise MediaError(_reason(kind, error)) from None
    picture.format = kind
    return picture


def load(picture: Any) -> None:
    """Decode the first frame. Raises MediaError where the file is cut off or broken."""
    import struct
    import zlib

    from PIL.Image import DecompressionBombError

    broken = (OSError, SyntaxError, ValueError, OverflowError, EOFError, IndexError, TypeError, KeyError)
    try:
        picture.load()
    except DecompressionBombError:
        raise MediaTooLarge("a frame with more pixels than its header declares") from None
    except (*broken, struct.error, zlib.error) as error:
        raise MediaError(_reason(picture.format, error)) from None


def _reason(kind: str, error: BaseException) -> str:
    text = str(error)
    cut_off = ("truncated", "unexpected end", "eof", "end of file", "unrecognized data", "incomplete")
    if isinstance(error, EOFError) or any(word in text.lower() for word in cut_off):
        return f"truncated {kind}"
    return f"broken {kind}: {text.splitlines()[0][:120]}" if text.strip() else f"broken {kind}"


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] < 1 or size[1] < 1:
        raise MediaError(f"declares {size[0]} x {size[1]} pixels")
    if size[0] * size[1] > max_pixels:
        raise MediaTooLarge(f"declares {size[0]} x {size[1]} pixels, at most {max_pixels} are read")


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height from the first chunk: extended, lossless or lossy."""
    kind, body = head[12:16], head[20:30]
    if len(body) < 10:
        raise MediaError("truncated WebP")
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def to_rgb(picture: Picture) -> Picture:
    """Any mode to 8-bit RGB: transparency on white, 16 and 32 bit scaled, CMYK as Pillow converts it.

    Embedded colour profiles are not applied, as in every usual preprocessing for vision models.
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if is_deep_grey(picture):
        return deep_grey(picture).convert("RGB")
    if picture.mode == "LAB":
        return _from_lab(picture)
    if picture.has_transparency_data:
        return _on_white(picture if picture.mode == "RGBA" else picture.convert("RGBA"))
    return picture.convert("RGB")


def _on_white(picture: Picture) -> Picture:
    from PIL import Image

    page = Image.new("RGB", picture.size, (255, 255, 255))
    page.paste(picture, mask=picture.getchannel("A"))
    return page


def is_deep_grey(picture: Picture) -> bool:
    """Whether a grey picture has more than 8 bits."""
    return picture.mode == "F" or picture.mode.startswith("I")


def deep_grey(picture: Picture) -> Picture:
    """Grey of more than 8 bits to 8, scaled and never clipped.

    Integers within 0..65535 are 16-bit values: 65535 is white. Floats within 0..1 have 1 as white, floats
    within 0..255 have 255. Everything else runs from its own minimum to its own maximum.
    """
    from PIL import Image

    low, high = _grey_range(picture)
    clear = picture.info.get("transparency")
    grey = np.empty((picture.height, picture.width), dtype=np.uint8)
    for top, raw in _strips(picture):
        values = np.nan_to_num(raw.astype(np.float64), nan=low, posinf=high, neginf=low) - low
        values *= 255 / (high - low) if high > low else 0
        rows = np.rint(values).astype(np.uint8)
        if isinstance(clear, int):
            rows[raw == clear] = 255
        grey[top : top + len(rows)] = rows
    return Image.fromarray(grey)


def _grey_range(picture: Picture) -> tuple[float, float]:
    """What becomes black and what becomes white."""
    if picture.mode.startswith("I;16"):
        return 0.0, 65535.0
    extremes: list[float] = []
    for _, rows in _strips(picture):
        finite = rows[np.isfinite(rows)]
        extremes += [float(finite.min()), float(finite.max())] if finite.size else []
    low, high = min(extremes, default=0.0), max(extremes, default=0.0)
    if picture.mode == "I" and low >= 0 and high <= 65535:
        return 0.0, 65535.0
    if picture.mode == "F" and low >= 0 and high <= 255:
        return 0.0, 1.0 if high <= 1 else 255.0
    return low, high


def _strips(picture: Picture) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """The picture's numbers, some rows at a time, each with the number of its first row."""
    rows = max(1, STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        yield top, np.asarray(picture.crop((0, top, picture.width, min(top + rows, picture.height))))


def _from_lab(picture: Picture) -> Picture:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    rgb = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    if rgb is None:
        raise MediaError("LAB colours that cannot be converted")
    return rgb
