"""Single rows of a Parquet file: the same as the whole table's, whatever is kept."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.rowgroups import RowGroups
from indexer.schema import ROW_GROUP

COUNT = 5 * ROW_GROUP - 7
MOST = 28 * ROW_GROUP  # bytes of three groups of one column of numbers, and half of a fourth
ASKED = [COUNT - 1, 0, ROW_GROUP, ROW_GROUP - 1, 3 * ROW_GROUP + 5, 0, 2 * ROW_GROUP]


class Counted:
    """A Parquet file that says which row groups were read."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self.file = file
        self.read: list[int] = []

    def read_row_group(self, number: int, *, use_threads: bool) -> pa.Table:
        self.read.append(number)
        return self.file.read_row_group(number, use_threads=use_threads)


@pytest.fixture
def file(tmp_path: Path) -> Counted:
    pq.write_table(pa.table({"n": range(COUNT)}), tmp_path / "rows.parquet", row_group_size=ROW_GROUP)
    return Counted(pq.ParquetFile(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("most", [0, MOST, 1 << 30])
def test_rows_come_in_the_order_asked_for(file: Counted, most: int) -> None:
    groups = RowGroups(file, most)  # type: ignore[arg-type]
    for _ in range(3):
        assert groups.rows(ASKED)["n"].to_pylist() == ASKED


def test_groups_are_read_once_while_they_are_kept(file: Counted) -> None:
    groups = RowGroups(file, MOST)  # type: ignore[arg-type]
    groups.rows([0, ROW_GROUP, 1, 2 * ROW_GROUP, 2])
    assert file.read == [0, 1, 2]
    groups.rows([3 * ROW_GROUP, 0, 2 * ROW_GROUP])  # group 1, unused for longest, goes
    assert file.read == [0, 1, 2, 3]
    groups.rows([ROW_GROUP])
    assert file.read == [0, 1, 2, 3, 1]
