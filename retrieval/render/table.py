"""Tables for a person at a terminal: any cells in columns, and hits.

Written by hand: a table library costs more start-up time than the whole table is worth. A hit's path comes
last and is never cut or wrapped, so that it can be copied. A manifest's row without a file stands there in
parentheses, as `(row KEY of MANIFEST)`.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from indexer.types import Modality
from retrieval.render.escape import near, printable, snippet
from retrieval.types import Hit, SearchResult

TEXT_WIDTH = 40  # columns of a hit's text
NARROW = 20  # columns that a wrapped cell has at least, on however narrow a terminal
RIGHT = frozenset(("#", "score", "match", "alike"))  # headings of a hit's numbers


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
    return aligned(list(zip(*kept, strict=True)), right=RIGHT)


def aligned(
    rows: Sequence[Sequence[str]], *, right: Collection[str] = (), width: int | None = None
) -> list[str]:
    """Rows, the first of them headings, as lines with columns of one width; two spaces between them.

    Columns with a heading in `right` stand to the right. The last column is as long as it is; with `width`,
    columns of the terminal, its words are wrapped to what is left of them, NARROW at the least.
    """
    *columns, last = zip(*rows, strict=True)
    padded = [_padded(column, right=column[0] in right) for column in columns]
    indent = sum(_width(column[0]) + 2 for column in padded)
    cells = [[cell] if width is None else _wrapped(cell, max(NARROW, width - indent)) for cell in last]
    lines = []
    for place, (first, *more) in enumerate(cells):
        lines.append("  ".join([*(column[place] for column in padded), first]).rstrip())
        lines += [" " * indent + rest for rest in more]
    return lines


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None where it is none, and nothing needs to fit."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _path(hit: Hit, base: str) -> str:
    if hit.path is None:
        manifest = f" of {printable(Path(hit.manifest).name)}" if hit.manifest else ""
        return f"(row {printable(hit.key or hit.item_id)}{manifest})"
    return near(hit.path, base)


def _padded(column: Sequence[str], *, right: bool) -> list[str]:
    """Cells of one width."""
    widest = max(map(_width, column))
    pads = [" " * (widest - _width(cell)) for cell in column]
    return [pad + cell if right else cell + pad for pad, cell in zip(pads, column, strict=True)]


def _width(text: str) -> int:
    """Columns that a text takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)
