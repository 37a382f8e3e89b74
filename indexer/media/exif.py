"""What a picture file says beside its pixels: size, EXIF, GPS, IPTC, XMP and PNG texts, as Facts.

Metadata come from anywhere: every block is bounded before it is parsed, what cannot be parsed is left out,
and nothing here raises. The picture itself is not decoded.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from xml.parsers import expat

from indexer.media.tags import MAX_WORDS, cleaned, joined_words
from indexer.types import Facts

MAX_EXIF_BYTES = 1 << 20
MAX_ENTRIES = 512  # of one directory; each can have a copy of the whole block made
MAX_COPIED = 64 << 20  # bytes that a directory's values can add up to
MAX_XMP_BYTES = 1 << 18
MAX_IPTC_BYTES = 1 << 18
EXIF, GPS = 0x8769, 0x8825  # pointers in the first directory
DATES = (0x9003, 0x9004)  # DateTimeOriginal, DateTimeDigitized; then DateTime of the first directory
USER_COMMENT = 0x9286
TITLE, MAKE, MODEL, DATE, ARTIST = 0x010E, 0x010F, 0x0110, 0x0132, 0x013B
XP_TITLE, XP_COMMENT, XP_AUTHOR, XP_KEYWORDS, XP_SUBJECT = range(0x9C9B, 0x9CA0)  # UTF-16, by Windows
PNG_TITLE = ("Title",)
PNG_ARTIST = ("Author", "Artist")
PNG_WORDS = ("Description", "Comment", "comment", "Keywords", "Subject")
IPTC_TITLE, IPTC_KEYWORDS, IPTC_ARTIST, IPTC_CAPTION = (2, 5), (2, 25), (2, 80), (2, 120)

_DATE = re.compile(r"\s*(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_XMP_TAKEN = ("title", "creator", "subject", "description")  # of Dublin Core
_DC = "http://purl.org/dc/elements/1.1/"


def picture_facts(picture: Any, *, size: tuple[int, int], turned: bool) -> Facts:
    """Facts of an opened Pillow picture of that (width, height) as stored; `turned`: upright swaps them."""
    width, height = reversed(size) if turned else size
    first, exif, gps = _exif(picture)
    xmp, iptc = _xmp(picture.info), _iptc(picture)
    texts = picture.info if getattr(picture, "format", None) == "PNG" else {}
    latitude, longitude = _place(gps)
    titles = (*xmp["title"], *iptc(IPTC_TITLE), _wide(first.get(XP_TITLE)), *_named(texts, PNG_TITLE))
    artists = (*xmp["creator"], *iptc(IPTC_ARTIST), _text(first.get(ARTIST)), _wide(first.get(XP_AUTHOR)))
    return Facts(
        width=width,
        height=height,
        taken_at=_first(_date(value) for value in (*(exif.get(tag) for tag in DATES), first.get(DATE))),
        camera=_camera(cleaned(_text(first.get(MAKE))), cleaned(_text(first.get(MODEL)))),
        latitude=latitude,
        longitude=longitude,
        title=cleaned(_first(titles)),
        artist=cleaned(_first((*artists, *_named(texts, PNG_ARTIST)))),
        words=joined_words(
            [
                *(*xmp["subject"], *iptc(IPTC_KEYWORDS), _wide(first.get(XP_KEYWORDS))),
                *(*xmp["description"], *iptc(IPTC_CAPTION), _text(first.get(TITLE))),
                *(_wide(first.get(XP_SUBJECT)), _wide(first.get(XP_COMMENT)), _comment(exif)),
                *_named(texts, PNG_WORDS),
            ]
        ),
    )


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _exif(picture: Any) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """The first directory, EXIF's own and that of GPS; empty where they are missing or beyond reason."""
    with contextlib.suppress(Exception):
        if not _reasonable(picture.info.get("exif", b"")):
            return {}, {}, {}
        read = picture.getexif()
        return dict(read), _sub(read, EXIF), _sub(read, GPS)
    return {}, {}, {}


def _sub(read: Any, pointer: int) -> dict[int, Any]:
    with contextlib.suppress(Exception):
        return dict(read.get_ifd(pointer))
    return {}


def _reasonable(block: bytes) -> bool:
    """Whether the directories of an EXIF block are few and short enough to be parsed."""
    if len(block) > MAX_EXIF_BYTES:
        return False
    block = block.removeprefix(b"Exif\0\0")
    if len(block) < 8:
        return True
    order = "<" if block[:2] == b"II" else ">"
    places = [struct.unpack_from(f"{order}I", block, 4)[0]]
    for place in places:  # grows while it is walked: by the two pointers of the first directory
        if place + 2 > len(block):
            continue
        count = struct.unpack_from(f"{order}H", block, place)[0]
        if count > MAX_ENTRIES or count * len(block) > MAX_COPIED:
            return False
        for at in range(place + 2, min(place + 2 + 12 * count, len(block) - 11), 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHII", block, at)
            if tag in (EXIF, GPS) and len(places) < 3:
                places.append(value)
    return True


def _date(value: Any) -> datetime | None:
    """EXIF's `2024:05:31 18:02:11`; None for blanks, zeros, and what is no date."""
    match = _DATE.match(value) if isinstance(value, str) else None
    if match is None:
        return None
    try:
        return datetime(*map(int, match.groups()))  # type: ignore[arg-type]
    except ValueError:
        return None


def _camera(make: str | None, model: str | None) -> str | None:
    """`Canon` and `Canon EOS 5D` as `Canon EOS 5D`; `NIKON CORPORATION` and `NIKON D40` as `NIKON D40`."""
    if not make or not model:
        return make or model
    return model if model.lower().startswith(make.lower().split()[0]) else cleaned(f"{make} {model}")


def _place(gps: dict[int, Any]) -> tuple[float | None, float | None]:
    """Degrees north and east; nothing for a camera that wrote zeros because it knew no place."""
    latitude = _degrees(gps.get(2), gps.get(1), negative="S", most=90)
    longitude = _degrees(gps.get(4), gps.get(3), negative="W", most=180)
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None, None
    return latitude, longitude


def _degrees(value: Any, side: Any, *, negative: str, most: float) -> float | None:
    try:
        degrees, minutes, seconds = (float(part) for part in value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    angle = degrees + minutes / 60 + seconds / 3600
    side = side.decode("ascii", "replace") if isinstance(side, bytes) else str(side)
    if not 0 <= angle <= most:  # also what is no number
        return None
    return -angle if side.strip("\0 ").upper() == negative else angle


def _text(value: Any) -> str | None:
    """Pillow reads EXIF's texts as Latin-1; what was meant is nearly always UTF-8."""
    if isinstance(value, str):
        with contextlib.suppress(UnicodeError):
            value = value.encode("latin-1").decode("utf-8")
    elif isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return _long(value)


def _long(text: Any) -> str | None:
    return cleaned(text, most=MAX_WORDS) if isinstance(text, str) else None


def _wide(value: Any) -> str | None:
    if isinstance(value, tuple):
        value = bytes(byte for byte in value if isinstance(byte, int) and 0 <= byte < 256)
    return _long(value.decode("utf-16-le", "replace")) if isinstance(value, bytes) else None


def _comment(exif: dict[int, Any]) -> str | None:
    """The user's comment, after eight bytes that name its encoding."""
    value = exif.get(USER_COMMENT)
    if not isinstance(value, bytes) or len(value) <= 8:
        return None
    if value.startswith(b"UNICODE\0"):
        body = value[8:]
        zeros = sum(byte == 0 for byte in body[::2]), sum(byte == 0 for byte in body[1::2])
        return _long(body.decode("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le", "replace"))
    return _text(value[8:])


def _named(texts: dict[Any, Any], names: tuple[str, ...]) -> list[str | None]:
    return [_long(texts[name]) for name in names if isinstance(texts.get(name), str)]


def _iptc(picture: Any) -> Any:
    """A function from record and number to IPTC texts."""
    found: dict[tuple[int, int], Any] = {}
    with contextlib.suppress(Exception):
        block = picture.info.get("photoshop", {}).get(0x0404, b"")
        if block and len(block) <= MAX_IPTC_BYTES:
            from PIL.IptcImagePlugin import getiptcinfo

            found = getiptcinfo(picture) or {}

    def texts(key: tuple[int, int]) -> list[str | None]:
        values = found.get(key, [])
        return [_text(value) for value in (values if isinstance(values, list) else [values])]

    return texts


def _xmp(info: dict[Any, Any]) -> dict[str, list[str | None]]:
    """Dublin Core's title, creators, subjects and descriptions in an XMP packet."""
    found: dict[str, list[str | None]] = {name: [] for name in _XMP_TAKEN}
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "replace")
    if not isinstance(packet, bytes) or len(packet) > MAX_XMP_BYTES or b"<!" in packet:  # no DTD, no entities
        return found
    inside: list[str] = []
    pieces: list[str] = []

    def start(name: str, _: dict[str, str]) -> None:
        inside.append(name)
        pieces.clear()

    def end(name: str) -> None:
        taken = next((n for n in _XMP_TAKEN if f"{_DC} {n}" in inside), None)
        if taken and name.endswith(" li"):
            found[taken].append(_long("".join(pieces)))
        inside.pop()
        pieces.clear()

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = pieces.append
    with contextlib.suppress(expat.ExpatError, ValueError, LookupError):
        parser.Parse(packet.rstrip(b"\0"), True)
    return found
