"""Single rows of a Parquet file: their row groups are read whole, and those read last are kept in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from indexer import schema

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


class RowGroups:
    """The row groups of a file of schema.ROW_GROUP rows each; up to `most` bytes of them are kept."""

    def __init__(self, file: pq.ParquetFile, most: int) -> None:
        self._file = file
        self._most = most
        self._kept: dict[int, pa.Table] = {}  # the one read last comes last
        self._bytes = 0
        self._lock = threading.Lock()

    def rows(self, rows: Iterable[int]) -> pa.Table:
        """Some rows as one table, in the order given; at least one."""
        import pyarrow as pa

        with self._lock:
            picked = []
            for row in rows:
                number, place = divmod(row, schema.ROW_GROUP)
                picked.append(self._group(number).slice(place, 1))
        return pa.concat_tables(picked)

    def _group(self, number: int) -> pa.Table:
        """One row group, read if it is not kept; whoever asks holds the lock."""
        table = self._kept.pop(number, None)
        if table is None:
            table = self._file.read_row_group(number, use_threads=False)
            self._bytes += table.nbytes
            while self._kept and self._bytes > self._most:
                self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes
        self._kept[number] = table
        return table
