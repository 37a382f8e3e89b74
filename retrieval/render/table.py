"""Hits as a table for a person at a terminal.

Written by hand: a table library costs more start-up time than the whole table is worth. The path comes last
and is never cut or wrapped, so that it can be copied. A manifest's row without a file stands there in
parentheses, as `(row KEY of MANIFEST)`.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from indexer.types import Modality
from retrieval.render.escape import printable, snippet
from retrieval.types import Hit, SearchResult

TEXT_WIDTH = 40  # columns of a hit's text


def hit_lines(result: SearchResult, *, here: Path | None = None) -> list[str]:
    """A heading and a line a hit: rank, score, kind, range of a sound, near-duplicates, words found,
    text, path or row.

    Where every hit has a probability, that stands for the score, in percent.
    """
    base = str(here or Path.cwd())
    likely = all(hit.probability is not None for hit in result.hits)
    rows = [("#", "match" if likely else "score", "kind", "at", "alike", "words", "text", "path")]
    rows += [
        (
            str(hit.rank),
            f"{100 * (hit.probability or 0.0):.0f} %" if likely else f"{hit.score:.3f}",
            hit.modality.value,
            hit.where if hit.modality is Modality.AUDIO else "",
            f"+{hit.duplicates}" if hit.duplicates else "",
            printable(" ".join(hit.stages.lexical.words)) if hit.stages.lexical else "",
            snippet(hit.text or "", TEXT_WIDTH),
            _path(hit, base),
        )
        for hit in result.hits
    ]
    kept = [column for column in zip(*rows, strict=True) if any(column[1:])]
    last = len(kept) - 1
    padded = [column if place == last else _padded(column) for place, column in enumerate(kept)]
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _path(hit: Hit, base: str) -> str:
    if hit.path is None:
        manifest = f" of {printable(Path(hit.manifest).name)}" if hit.manifest else ""
        return f"(row {printable(hit.key or hit.item_id)}{manifest})"
    below = hit.path.startswith(base.rstrip(os.sep) + os.sep)
    return printable(os.path.relpath(hit.path, base) if below else hit.path)


def _padded(column: tuple[str, ...]) -> tuple[str, ...]:
    """Cells of one width: numbers to the right, words to the left."""
    widest = max(map(_width, column))
    right = column[0] in ("#", "score", "match", "alike")
    pads = [" " * (widest - _width(cell)) for cell in column]
    return tuple(pad + cell if right else cell + pad for pad, cell in zip(pads, column, strict=True))


def _width(text: str) -> int:
    """Columns that a text takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)
