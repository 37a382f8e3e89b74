"""Where a query is wrong: the query on one line, and below it a caret. Knows no grammar."""

from __future__ import annotations

import unicodedata

_ACTS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # categories that a terminal does not show as they are
SHOWN = 100  # columns of a query that an error shows


def pointed(query: str, column: int) -> tuple[str, str]:
    """A query as one line, cut to what fits, and a line with a caret below its column (from 0)."""
    start = max(0, column - SHOWN // 2) if len(query) > SHOWN else 0
    line = "".join(" " if unicodedata.category(one) in _ACTS else one for one in query)
    left, right = "…" if start else "", "…" if len(query) > start + SHOWN else ""
    before = left + line[start:column]
    return left + line[start : start + SHOWN] + right, " " * sum(map(_width, before)) + "^"


def _width(letter: str) -> int:
    """Columns that a letter takes in a terminal."""
    if unicodedata.category(letter) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
