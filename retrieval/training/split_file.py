"""Which rows a model was trained on: a table of row ids and their split, kept in the model's folder.

`triptych eval --split test` reads it, so that the rows that training held out are the ones measured.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from indexer.errors import ModelError
from retrieval.training.types import Ints, Row, Split

SPLIT_FILE = "split.parquet"


def split_bytes(rows: Sequence[Row], splits: Mapping[Split, Ints]) -> bytes:
    """The table as Parquet: a row for each of `rows` that has a split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = [(int(number), split.value) for split, found in splits.items() for number in found]
    numbers.sort()
    table = pa.table(
        {"id": [rows[number].id for number, _ in numbers], "split": [split for _, split in numbers]},
        schema=pa.schema([("id", pa.string()), ("split", pa.string())]),
    )
    written = io.BytesIO()
    pq.write_table(table, written, compression="zstd")
    return written.getvalue()


def read_split(path: Path, rows: Sequence[Row]) -> dict[Split, Ints]:
    """Row numbers by split, of the rows that the table names. ModelError where it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["id", "split"])
        names = dict(zip(table["id"].to_pylist(), map(Split, table["split"].to_pylist()), strict=True))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ModelError(f"{path.name} beside the model cannot be read: {error}") from error
    found = [names.get(row.id) for row in rows]
    return {
        split: np.array([number for number, one in enumerate(found) if one is split], np.int64)
        for split in Split
    }
