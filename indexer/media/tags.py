"""Texts from a file's tags, made fit to be kept: one line each, of bounded length, or nothing.

No tag is read here; exif.py and audio.py do that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_TEXT = 512  # characters of a title, a name
MAX_WORDS = 4096  # bytes of all words together

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SAID_BY_PROGRAMS = frozenset({"", "ascii", "charset=ascii", "created with gimp", "olympus digital camera"})


def cleaned(text: str | None, *, most: int = MAX_TEXT) -> str | None:
    """Without control characters and doubled blanks, cut to `most` characters; None where nothing is left."""
    if text is None:
        return None
    plain = " ".join(_CONTROL.sub(" ", text[: 4 * most]).split())[:most].rstrip()
    return plain if any(letter.isalnum() for letter in plain) else None


def joined_words(texts: Iterable[str | None]) -> str | None:
    """Texts one a line, each once, up to MAX_WORDS bytes; what programs write by themselves is left out."""
    lines: list[str] = []
    size = 0
    for text in texts:
        line = None if text is None else cleaned(text, most=MAX_WORDS)
        if line is None or line.lower() in _SAID_BY_PROGRAMS or line in lines:
            continue
        room = MAX_WORDS - size - bool(lines)
        line = line.encode("utf-8", "replace")[: max(0, room)].decode("utf-8", "ignore")
        if line:
            lines.append(line)
            size += len(line.encode()) + (len(lines) > 1)
    return "\n".join(lines) or None


def year_of(text: str | None) -> int | None:
    """The year that a tag's date begins with: `2009`, `2009-05-01`, `5/1/2009`."""
    match = re.search(r"(?<!\d)(1[5-9]\d\d|20\d\d)(?!\d)", text or "")
    return int(match[1]) if match else None
