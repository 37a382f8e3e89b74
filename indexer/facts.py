"""The table of facts beside a part's segments: its columns, and rows from segments.

A row a segment, in the order of the segment table, but in a file of its own: hits are read without it, so
that what only filters and word lists need costs a search nothing. What a fact means stands in types.Facts;
media are not read here. pyarrow is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from indexer import schema
from indexer.types import Segment

if TYPE_CHECKING:
    import pyarrow as pa

FACTS = "facts.parquet"
ROW_GROUP = 16_384  # rows: whole columns are read, never single rows
NAMES = (  # as schema and table have them
    *(
        "width",
        "height",
        "duration",
        "sample_rate",
        "channels",
        "taken_at",
        "camera",
        "latitude",
        "longitude",
    ),
    *("title", "artist", "album", "genre", "year", "words"),
)
WORDS = ("camera", "title", "artist", "album", "genre", "words")  # the same for every window of a sound


def parquet_options() -> dict[str, Any]:
    """How the table is written."""
    return schema.parquet_options() | {"use_dictionary": list(WORDS)}


@cache
def fact_schema() -> pa.Schema:
    """A row a segment; everything may be null. Its names are those of types.Facts."""
    import pyarrow as pa

    types = [
        *(pa.int32(), pa.int32(), pa.float64(), pa.int32(), pa.int16()),
        *(pa.timestamp("ms"), pa.string(), pa.float64(), pa.float64()),
        *(pa.string(), pa.string(), pa.string(), pa.string(), pa.int16(), pa.string()),
    ]
    return pa.schema([pa.field(name, kind) for name, kind in zip(NAMES, types, strict=True)])


@cache
def column_schema() -> pa.Schema:
    """All columns that Snapshot.segment_columns gives: those of segments, then their facts."""
    import pyarrow as pa

    return pa.schema([*schema.segment_schema(), *fact_schema()])


def fact_table(segments: Sequence[Segment]) -> pa.Table | None:
    """The facts of segments, in the order given; None where no segment has any."""
    import pyarrow as pa

    if not any(segment.facts for segment in segments):
        return None
    columns = []
    for field in fact_schema():
        values = [segment.facts and getattr(segment.facts, field.name) for segment in segments]
        columns.append(pa.array([_shown(value) for value in values], field.type))
    return pa.Table.from_arrays(columns, schema=fact_schema())


def _shown(value: Any) -> Any:
    """A text as valid Unicode: tags come from files, and may hold anything."""
    return schema.display(value) if isinstance(value, str) else value


def no_facts(rows: int, names: Sequence[str] = NAMES) -> pa.Table:
    """Rows of nulls, for a part that has no facts or was written before there were any."""
    import pyarrow as pa

    fields = [fact_schema().field(name) for name in names]
    return pa.Table.from_arrays([pa.nulls(rows, field.type) for field in fields], schema=pa.schema(fields))
