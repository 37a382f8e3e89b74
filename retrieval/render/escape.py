"""Names and captions come from strangers: nothing in them may act on a terminal."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

# Other: control, surrogate, format (bidirectional overrides, zero-width joiners) and private use.
_ACTS = {"Cc", "Cs", "Cf", "Co"}
_KEPT = {"\u200d", "\u200c", "\ufe0f"}  # joiners inside emoji and Persian words


def printable(text: str) -> str:
    r"""One line without anything that acts: `\n`, `\x1b`, an undecodable byte as `\xNN`, else `\uNNNN`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    if char in _KEPT or unicodedata.category(char) not in _ACTS | {"Zl", "Zp"}:
        return char
    point = ord(char)
    if 0xDC80 <= point <= 0xDCFF:  # a byte of a name that is not UTF-8, as os.fsdecode leaves it
        return f"\\x{point - 0xDC00:02x}"
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char) or (
        f"\\x{point:02x}" if point < 256 else f"\\u{point:04x}"
    )


def near(path: str, here: str | None = None) -> str:
    """A path for a person: below the folder `here`, the working one if none, as seen from there."""
    base = here or str(Path.cwd())
    below = path.startswith(base.rstrip(os.sep) + os.sep)
    return printable(os.path.relpath(path, base) if below else path)


def snippet(text: str, width: int = 80) -> str:
    """The beginning of a text on one line, cut at a word."""
    line = " ".join(text[: width * 4].split())
    if len(line) > width:
        line = line[: width - 1].rsplit(" ", 1)[0] + "…"
    return printable(line)
