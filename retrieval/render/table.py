"""Hits as a table for a person at a terminal."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from retrieval.render.escape import printable, snippet
from retrieval.types import Hit, SearchResult


def print_hits(result: SearchResult, console: Console, *, here: Path | None = None) -> None:
    """A row a hit: rank, score, modality, path with its range, and its text or caption."""
    base = str(here or Path.cwd())
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("#", justify="right", style="dim")
    table.add_column("score", justify="right")
    table.add_column("kind")
    table.add_column("path", overflow="fold")
    table.add_column("text", overflow="ellipsis", style="dim", no_wrap=True)
    for hit in result.hits:
        table.add_row(
            str(hit.rank), f"{hit.score:.3f}", hit.modality.value, Text(_path(hit, base)), Text(_text(hit))
        )
    console.print(table)


def _path(hit: Hit, base: str) -> str:
    shown = os.path.relpath(hit.path, base) if hit.path.startswith(base + os.sep) else hit.path
    return printable(shown) + (f"  [{hit.where}]" if hit.where and hit.modality.value == "audio" else "")


def _text(hit: Hit) -> str:
    return snippet(hit.text or hit.metadata.get("caption", ""))
