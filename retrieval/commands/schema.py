"""`triptych schema`: the columns that a filter may name, with an example of each from the index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from retrieval.commands.place import IndexFlag, chosen_index
from retrieval.commands.talk import JsonFlag, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXAMPLE = 40  # characters of an example


def schema(index: IndexFlag = None, as_json: JsonFlag = False) -> None:
    """List the columns that --where may name, with an example of each from the index.

    Example: triptych schema --index ~/Pictures
    """
    from indexer.snapshot import Snapshot
    from retrieval.config import load_settings
    from retrieval.query.filters.columns import COLUMNS
    from retrieval.query.filters.where import examples

    with Snapshot.open(chosen_index(index, load_settings())) as snapshot:
        found = examples(snapshot)
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "type": one.type,
                    "of": one.of,
                    "about": one.about,
                    "example": found[one.name],
                }
                for one in COLUMNS
            ]
        )
        return
    rows = [("column", "type", "of", "example", "what it is")]
    rows += [(one.name, one.type, one.of.value, _example(found, one.name), one.about) for one in COLUMNS]
    for line in _lines(rows):
        typer.echo(line)


def _example(found: Mapping[str, Any], name: str) -> str:
    """A value on one line, short; nothing in it acts on a terminal."""
    from retrieval.render.escape import printable

    value = found[name]
    if value is None:
        return "-"
    if isinstance(value, dict):
        key, first = next(iter(value.items()))
        value = f"['{key}'] = {first}"
    text = printable(str(value))
    return text if len(text) <= EXAMPLE else text[: EXAMPLE - 1] + "…"


def _lines(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows in columns of one width, the last as long as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
