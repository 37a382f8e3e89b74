"""SVG -> pixels, without following a reference out of the document.

resvg embeds the file that an `href` names, absolute or relative, and expands entities on its own. So a
document is parsed here first and written anew, with only those references left that point into itself or
carry a small raster picture with them; what resvg sees has no DOCTYPE, no entity and a bounded size.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import zlib
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt

from indexer.errors import MediaError, MediaTooLarge
from indexer.media.svgfacts import LENGTH, PX, SvgNotes
from indexer.types import Facts

MAX_BYTES = 32 << 20  # of XML, packed or not
MAX_DEPTH = 128  # nested elements; resvg overruns an 8 MB stack at about 250
MAX_ELEMENTS = 500_000
MAX_SIDE = 100_000  # declared width or height, pixels
MAX_EMBEDDED_PIXELS = 64_000_000  # of one raster picture inside the document

_CSS_URL = re.compile(r"url\(\s*(?!['\"]?\s*#)[^)]*\)|@import[^;]*;?", re.IGNORECASE)
_EMBEDDED = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "WebP": "webp"}
_CUT_OFF = frozenset({3, 5, 6, 20})  # expat: no element, unclosed token, partial character, unclosed CDATA
_DROPPED = frozenset({"script", "foreignObject"})  # resvg draws neither


def render_svg(data: bytes, *, box: int) -> npt.NDArray[np.uint8]:
    """An SVG or SVGZ drawn on white, uint8 RGB of shape (h, w, 3), its longer side `box` pixels.

    System fonts are loaded only for a document that has text, so that all others look the same on every
    machine (and none pays for scanning fonts). Raises MediaError for what is no SVG, MediaTooLarge beyond
    the caps above. A hostile document can still make resvg abort the process or take very long: files
    are drawn in the decode workers.
    """
    return described_svg(data, box=box)[0]


def described_svg(data: bytes, *, box: int) -> tuple[npt.NDArray[np.uint8], Facts]:
    """As `render_svg`, with what the document says of itself."""
    rewriter = _Rewriter()
    clean = rewriter.run(_unpacked(data))
    return _drawn(clean, box=box), rewriter.notes.facts()


def _drawn(clean: str, *, box: int) -> npt.NDArray[np.uint8]:
    import resvg_py

    # Without a density, resvg takes lengths in pt, mm or in for nothing and gives up on the document.
    options: dict[str, Any] = {"width": box, "height": box, "dpi": 96.0, "background": "white"}
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=clean, skip_system_fonts="<text" not in clean and ":text" not in clean, **options
        )
    except Exception as error:
        raise MediaError(f"broken SVG: {str(error).splitlines()[0][:120]}") from None
    except BaseException as error:  # a panic in resvg is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise MediaError("broken SVG: resvg gave up on it") from None
    from PIL import PngImagePlugin

    with PngImagePlugin.PngImageFile(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def _unpacked(data: bytes) -> bytes:
    """The XML of an SVGZ, inflated no further than the cap."""
    if data.startswith(b"\x1f\x8b"):
        inflater = zlib.decompressobj(wbits=31)
        try:
            data = inflater.decompress(data, MAX_BYTES + 1)
        except zlib.error:
            raise MediaError("broken SVGZ: not gzip data") from None
        if not inflater.eof and len(data) <= MAX_BYTES:
            raise MediaError("truncated SVGZ")
    if len(data) > MAX_BYTES:
        raise MediaTooLarge(f"more than {MAX_BYTES >> 20} MB of SVG")
    return data


class _Rewriter:
    """Parses a document and writes it anew without DOCTYPE, comments, scripts and references to outside."""

    def __init__(self) -> None:
        self.notes = SvgNotes()
        self._out: list[str] = []
        self._size = 0
        self._depth = 0
        self._elements = 0
        self._skipping = 0  # depth below a dropped element, itself included
        self._style = False

    def run(self, data: bytes) -> str:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.buffer_text = True
        # Without a handler expat leaves external entities alone; internal ones it expands, within bounds.
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            if error.code in _CUT_OFF:
                raise MediaError("truncated SVG") from None
            raise MediaError(f"broken SVG: {error}") from None
        return "".join(self._out)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2]
        if not self._elements:
            _check_root(local, attributes)
        self._elements += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise MediaTooLarge(f"SVG elements nested deeper than {MAX_DEPTH}")
        if self._elements > MAX_ELEMENTS:
            raise MediaTooLarge(f"more than {MAX_ELEMENTS} SVG elements")
        self.notes.start(local, attributes)
        if self._skipping or local in _DROPPED:
            self._skipping += 1
            return
        self._style = local == "style"
        safe = ((key, _safe_value(key, value)) for key, value in attributes.items())
        kept = "".join(f" {key}={quoteattr(value)}" for key, value in safe if value is not None)
        self._write(f"<{name}{kept}>")

    def _end(self, name: str) -> None:
        self._depth -= 1
        self.notes.end()
        if self._skipping:
            self._skipping -= 1
            return
        self._style = False
        self._write(f"</{name}>")

    def _text(self, text: str) -> None:
        self.notes.text(text)
        if not self._skipping:
            self._write(escape(_CSS_URL.sub("none", text) if self._style else text))

    def _write(self, piece: str) -> None:
        self._size += len(piece)
        if self._size > 2 * MAX_BYTES:
            raise MediaTooLarge(f"more than {2 * MAX_BYTES >> 20} MB of SVG once its entities are expanded")
        self._out.append(piece)


def _check_root(local: str, attributes: dict[str, str]) -> None:
    if local != "svg":
        raise MediaError(f"not an SVG: its first element is <{local[:40]}>")
    for side in ("width", "height"):
        if (match := LENGTH.match(attributes.get(side, ""))) is None:
            continue
        pixels = float(match[1]) * PX.get(match[2], 1.0)
        if pixels > MAX_SIDE:
            raise MediaTooLarge(f"SVG {side} of {pixels:.7g} px, at most {MAX_SIDE} are drawn")


def _safe_value(key: str, value: str) -> str | None:
    """An attribute's value with nothing in it that leads out of the document; None: leave it out."""
    if key.rpartition(":")[2].lower() == "href":
        target = value.strip()
        if target.startswith("#"):
            return target
        return _safe_embedded(target) if target[:5].lower() == "data:" else None
    return _CSS_URL.sub("none", value) if "(" in value or "@" in value else value


def _safe_embedded(uri: str) -> str | None:
    """A data: URI again, if it holds a raster picture within the cap; a document in a document is dropped."""
    from indexer.media.raster import open_raster

    header, _, payload = uri.partition(",")
    try:
        data = unquote_to_bytes(payload)
        if header.lower().rstrip().endswith(";base64"):
            data = base64.b64decode(data)
        with open_raster(io.BytesIO(data), max_pixels=MAX_EMBEDDED_PIXELS) as picture:
            kind = _EMBEDDED.get(picture.format)
    except (MediaError, binascii.Error, ValueError):
        return None
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if kind else None
