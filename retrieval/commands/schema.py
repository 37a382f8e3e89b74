"""`triptych schema`: the columns that a filter may name, with an example of each from the index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retrieval.commands.place import IndexFlag, chosen_index
from retrieval.commands.talk import JsonFlag, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLE = 40  # characters of an example, at most
SHORTEST = 16  # and on a narrow terminal


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
    print("\n".join(_lines(found)))


def _lines(found: Mapping[str, Any]) -> list[str]:
    """A line a column of filters, or more on a narrow terminal."""
    from retrieval.query.filters.columns import COLUMNS
    from retrieval.render.table import aligned, terminal_width

    width = terminal_width()
    room = EXAMPLE if width is None else min(EXAMPLE, max(SHORTEST, (width - 2 * SHORTEST) // 3))
    rows = [("column", "type", "of", "example", "what it is")]
    for one in COLUMNS:
        kind, of_what, _ = one.type.partition("(")  # MAP says enough
        rows.append(
            (one.name, kind if of_what else one.type, one.of, _example(found[one.name], room), one.about)
        )
    return aligned(rows, width=width)


def _example(value: Any, room: int) -> str:
    """A value on one line, in so many columns; nothing in it acts on a terminal."""
    from retrieval.render.escape import printable

    if value is None:
        return "-"
    if isinstance(value, dict):
        key, first = next(iter(value.items()))
        value = f"['{key}'] = {first}"
    text = printable(str(value))
    return text if len(text) <= room else text[: room - 1] + "…"
