"""What an SVG says of itself: its size, title, description and keywords, noted while the document is parsed.

The parser is svg.py's, which bounds depth, elements and bytes; here only short texts are kept.
"""

from __future__ import annotations

import math
import re

from indexer.media.tags import MAX_WORDS, cleaned, joined_words
from indexer.types import Facts

LENGTH = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(px|pt|pc|mm|cm|in|em|ex|)\s*$")
PX = {"pt": 4 / 3, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0, "em": 16.0, "ex": 8.0}
_TAKEN = {  # the last elements of a path that hold a text, local names -> what it is
    ("svg", "title"): "title",
    ("svg", "desc"): "description",
    ("Work", "title"): "title",
    ("Work", "description"): "description",
    ("subject", "Bag", "li"): "subject",
    ("creator", "Agent", "title"): "creator",
}


class SvgNotes:
    """Takes a document's elements in order, and gives its facts at the end."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._pieces: list[str] | None = None
        self._kept = 0  # characters
        self._texts: dict[str, list[str | None]] = {kind: [] for kind in _TAKEN.values()}
        self._width: float | None = None
        self._height: float | None = None

    def start(self, local: str, attributes: dict[str, str]) -> None:
        if not self._path:
            self._width, self._height = _size(attributes)
        self._path.append(local)
        self._pieces = [] if self._kind() else None

    def text(self, text: str) -> None:
        if self._pieces is not None and self._kept < 4 * MAX_WORDS:
            self._pieces.append(text[:MAX_WORDS])
            self._kept += len(self._pieces[-1])

    def end(self) -> None:
        kind = self._kind()
        if kind and self._pieces is not None:
            self._texts[kind].append(cleaned("".join(self._pieces), most=MAX_WORDS))
        self._path.pop()
        self._pieces = None

    def facts(self) -> Facts:
        titles = [cleaned(text) for text in self._texts["title"] if text]
        creators = [cleaned(text) for text in self._texts["creator"] if text]
        return Facts(
            width=None if self._width is None else max(1, round(self._width)),
            height=None if self._height is None else max(1, round(self._height)),
            title=titles[0] if titles else None,
            artist=creators[0] if creators else None,
            words=joined_words([*self._texts["subject"], *self._texts["description"]]),
        )

    def _kind(self) -> str | None:
        if len(self._path) == 2:
            return _TAKEN.get(tuple(self._path))
        return _TAKEN.get(tuple(self._path[-3:])) or (
            _TAKEN.get(tuple(self._path[-2:])) if "metadata" in self._path else None
        )


def _size(attributes: dict[str, str]) -> tuple[float | None, float | None]:
    """Width and height in px; a side that is not given follows from the view box."""
    box = [float(number) for number in re.findall(_NUMBER, attributes.get("viewBox", "")[:200])]
    wide, high = box[2:] if len(box) == 4 and min(box[2:]) > 0 else (None, None)
    width, height = (_length(attributes.get(side, "")) for side in ("width", "height"))
    if wide and high:
        if width and not height:
            height = width * high / wide
        elif height and not width:
            width = height * wide / high
        elif not width:
            width, height = wide, high
    if not width or not height or not all(math.isfinite(side) and side < 2**31 for side in (width, height)):
        return None, None
    return width, height


_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?"


def _length(text: str) -> float | None:
    match = LENGTH.match(text)
    return float(match[1]) * PX.get(match[2], 1.0) if match else None
