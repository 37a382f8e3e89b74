"""The item table of one generation: opened when it is first needed, and read by rows or by content.

Segments and parts are not known here; snapshot.py joins them with items.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from indexer import schema
from indexer.checked import CheckedFile
from indexer.errors import IndexCorrupt
from indexer.generation import VERIFY_HINT
from indexer.rowgroups import RowGroups
from indexer.types import Item, Modality, Source
from indexer.vectors import IndexArray

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Key = tuple[bytes, Modality, Source]

KEPT = 40_000_000  # bytes of items kept in memory while hits are read


class ItemTable:
    """Items in the order they were committed in, from a file that its snapshot holds open."""

    def __init__(self, file: CheckedFile, count: int) -> None:
        self._file = file
        self._count = count
        self._opened: pq.ParquetFile | None = None
        self._lookup: tuple[npt.NDArray[np.uint64], IndexArray] | None = None
        self._groups: RowGroups | None = None
        self._lock = threading.RLock()

    def whole(self) -> pa.Table:
        """All rows, as schema.item_schema has them."""
        return self._parquet().read(use_threads=False)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows."""
        return self._parquet().read(columns=list(names), use_threads=False)

    def at(self, rows: Sequence[int]) -> list[Item]:
        """The items in some rows, in the order given, ascending; reads only their row groups."""
        if not rows:
            return []
        with self._lock:
            if self._groups is None:
                self._groups = RowGroups(self._parquet(), KEPT)
        return schema.items_from(self._groups.rows(rows))

    def of(self, keys: Collection[Key]) -> dict[Key, list[Item]]:
        """The items that have each content, in table order; a key without any is left out.

        Reads the column of content hashes, then only the row groups that hold matches.
        """
        if not keys:
            return {}
        wanted = set(keys)
        found: dict[Key, list[Item]] = {}
        for item in self.at(self._rows({key[0] for key in wanted})):
            for key in dict.fromkeys(member.key for member in item.members):
                if key in wanted:
                    found.setdefault(key, []).append(item)  # type: ignore[arg-type]
        return found

    def _parquet(self) -> pq.ParquetFile:
        with self._lock:
            if self._opened is None:
                import pyarrow as pa
                import pyarrow.parquet as pq

                name = self._file.name
                try:
                    opened = pq.ParquetFile(pa.BufferReader(pa.py_buffer(self._file.map())))
                except pa.ArrowException as error:
                    raise IndexCorrupt(f"{name}: {error}", hint=VERIFY_HINT) from error
                if opened.metadata.num_rows != self._count:
                    raise IndexCorrupt(f"{name} has a wrong number of rows", hint=VERIFY_HINT)
                self._opened = opened
            return self._opened

    def _rows(self, hashes: Collection[bytes]) -> list[int]:
        """Rows of the items that have a member with one of these content hashes, and of a few more."""
        numbers, rows = self.lookup()
        wanted = np.frombuffer(b"".join(sorted(hashes)), "<u8").reshape(-1, 2)[:, 1]
        first, stop = (np.searchsorted(numbers, wanted, side) for side in ("left", "right"))
        return sorted({row for a, b in zip(first, stop, strict=True) for row in rows[a:b].tolist()})

    def lookup(self) -> tuple[npt.NDArray[np.uint64], IndexArray]:
        """Of each member the second half of its hash, as a number, and its item's row; by number."""
        with self._lock:
            if self._lookup is None:
                column = self.columns(["members.list.element.content_hash"])
                lists = column["members"].combine_chunks()
                hashes, _ = schema.hash_rows(schema.elements(lists).field(0))
                lengths = np.diff(lists.offsets.to_numpy())
                numbers = np.ascontiguousarray(hashes).view("<u8").reshape(-1, 2)[:, 1]
                rows = np.repeat(np.arange(len(lengths)), lengths)
                order = np.argsort(numbers, kind="stable")
                self._lookup = numbers[order], rows[order]
            return self._lookup
