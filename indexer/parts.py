"""One part on disk: writing it into a folder, and reading it back checked.

What a part is for, and which segments of it count, the store and the snapshot know; here only its own files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from indexer import facts, schema, vectors
from indexer.checked import CheckedFile, Verified, describe
from indexer.errors import IndexCorrupt, StoreError
from indexer.facts import FACTS
from indexer.fsio import fsync_dir, fsync_file
from indexer.generation import PRECISION, VERIFY_HINT, Part, structure_name, vector_name
from indexer.rowgroups import RowGroups
from indexer.types import FloatArray, Modality, Segment
from indexer.vectors import BoolArray, HalfArray, IndexArray

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SEGMENTS = "segments.parquet"
BLOCK = 16_384  # rows handled at a time when a part is written
KEPT = 32_000_000  # bytes of segments kept in memory while hits are read


@dataclass(frozen=True, slots=True)
class Content:
    """What a part is written from, once: tables in row order, and each modality's vectors in blocks."""

    space_id: str
    dim: int
    counts: Mapping[Modality, int]  # of modalities that occur
    tables: Iterator[pa.Table]
    vectors: Mapping[Modality, Iterator[HalfArray]]
    precisions: Mapping[Modality, tuple[str, ...]]  # what the vectors were computed in, sorted
    facts: Iterator[pa.Table] | None = None  # in the same order of rows; None where there are none at all
    # of a merge: each source's structure (None if flat), vectors, and which of them live
    merged: Callable[[Modality], Iterator[tuple[Any, HalfArray, BoolArray]]] | None = None


def content_of(
    segments: Sequence[Segment],
    rows: FloatArray,
    *,
    space_id: str,
    precisions: Mapping[Modality, str] | None = None,
) -> Content:
    """Segments with their vectors, shape (n, dim), brought into modality order; within one, order is kept.

    `precisions` says what a modality's vectors were computed in; f32 where it says nothing.
    """
    if rows.ndim != 2 or len(rows) != len(segments):
        raise StoreError(f"{len(segments)} segments came with vectors of shape {rows.shape}")
    vectors.check_units(rows, what=f"space {space_id[:12]}")
    places = {modality: place for place, modality in enumerate(Modality)}
    order = np.argsort([places[segment.modality] for segment in segments], kind="stable")
    ordered = [segments[i] for i in order]
    table, known = schema.segment_table(ordered), facts.fact_table(ordered)
    half = rows[order].astype(vectors.HALF)
    counts, blocks, start = {}, {}, 0
    for modality in Modality:
        count = sum(segment.modality is modality for segment in segments)
        if count:
            counts[modality] = count
            blocks[modality] = iter([half[start : start + count]])
            start += count
    made_in = {modality: ((precisions or {}).get(modality, PRECISION),) for modality in counts}
    own = None if known is None else iter([known])
    return Content(space_id, rows.shape[1], counts, iter([table]), blocks, made_in, own)


def write_part(
    folder: Path, part_id: str, content: Content, *, codebook_for: Callable[[Modality, HalfArray], Any]
) -> Part:
    """Write all files of a part into a new folder and fsync them.

    `codebook_for` gives the trained lists of a large modality, from its stored vectors if it must train.
    """
    (folder / content.space_id).mkdir(parents=True)
    _write_segments(folder / SEGMENTS, content.tables)
    if content.facts is not None:
        _write_facts(folder / FACTS, content.facts)
    kinds = {}
    for modality, count in content.counts.items():
        kinds[modality] = vectors.structure_kind(count)
        raw = folder / vector_name(content.space_id, modality)
        written = vectors.write_half(raw, content.vectors[modality])
        if written != count:
            raise StoreError(f"{written} vectors were written where {count} segments have one")
        stored = np.memmap(raw, vectors.HALF, "r", shape=(count, content.dim))
        codebook = codebook_for(modality, stored) if kinds[modality] == "ivf" else None
        if codebook is not None and content.merged:
            structure = vectors.merge_structures(codebook, content.merged(modality))
        else:
            structure = vectors.build_structure(count, content.dim, _blocks(stored), codebook=codebook)
        vectors.write_structure(structure, folder / structure_name(content.space_id, modality))
    names = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in names:
        fsync_file(path)
    fsync_dir(folder / content.space_id)
    fsync_dir(folder)
    files = {path.relative_to(folder).as_posix(): describe(path) for path in names}
    made_in = dict(content.precisions)
    return Part(part_id, content.space_id, dict(content.counts), {}, kinds, files, made_in)


def _blocks(stored: HalfArray) -> Iterator[HalfArray]:
    for start in range(0, len(stored), BLOCK):
        yield stored[start : start + BLOCK]


def _write_segments(path: Path, tables: Iterator[pa.Table]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema.segment_schema(), **schema.parquet_options()) as writer:
        _write_groups(writer, tables, schema.ROW_GROUP)


def _write_facts(path: Path, tables: Iterator[pa.Table]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, facts.fact_schema(), **facts.parquet_options()) as writer:
        _write_groups(writer, tables, facts.ROW_GROUP)


def _write_groups(writer: pq.ParquetWriter, tables: Iterator[pa.Table], rows: int) -> None:
    """Tables one after another in row groups of so many rows, whatever pieces they come in."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(len(piece) for piece in waiting) >= BLOCK:
            waiting = _flush(writer, waiting, rows, whole=False)
    _flush(writer, waiting, rows, whole=True)


def _flush(writer: pq.ParquetWriter, waiting: list[pa.Table], rows: int, *, whole: bool) -> list[pa.Table]:
    """Write full row groups, and the last short one if `whole`; what waits on."""
    import pyarrow as pa

    if not waiting:
        return []
    table = pa.concat_tables(waiting)
    ready = len(table) if whole else len(table) - len(table) % rows
    if ready:
        writer.write_table(table.slice(0, ready), row_group_size=rows)
    return [table.slice(ready)] if ready < len(table) else []


def _require(file: CheckedFile, sound: bool, otherwise: str) -> None:
    if not sound:
        raise IndexCorrupt(f"{file.name} {otherwise}", hint=VERIFY_HINT)


class PartReader:
    """One part, its files held open; each is checked before it is first read."""

    def __init__(self, part: Part, dim: int, files: dict[str, CheckedFile]) -> None:
        self.part = part
        self.dim = dim
        self._files = files
        self._tables: dict[str, pq.ParquetFile] = {}  # by file name
        self._groups: RowGroups | None = None
        self._lock = threading.Lock()
        self._by_half: tuple[schema.ByteRows, npt.NDArray[np.uint64], IndexArray] | None = None
        self._structures: dict[Modality, Any] = {}

    @classmethod
    def open(cls, folder: Path, part: Part, dim: int, *, verified: Verified | None) -> PartReader:
        """Open every file and compare sizes: FileNotFoundError where one is missing, else IndexCorrupt."""
        files: dict[str, CheckedFile] = {}
        try:
            for name, expected in part.files.items():
                label = f"{part.folder}/{name}"
                files[name] = CheckedFile.open(folder, name, expected, label=label, verified=verified)
        except BaseException:
            for file in files.values():
                file.close()
            raise
        return cls(part, dim, files)

    def close(self) -> None:
        self._tables.clear()
        self._groups = None
        self._structures.clear()
        for file in self._files.values():
            file.close()

    def glance(self) -> None:
        """Compare what costs next to nothing: marks of formats, the first and the last vector of each file.

        Finds files that were cut, swapped, zeroed, or written to since a search found them whole, and raises
        IndexCorrupt. What it lets pass need not be whole: `triptych verify` reads everything.
        """
        for file in self._files.values():
            file.glance()
        for name in {SEGMENTS, FACTS} & set(self._files):
            table = self._files[name]
            _require(table, table.peek(0, 4) == table.peek(-4, 4) == b"PAR1", "is no Parquet file any more")
        for modality in self.part.counts:
            structure = self._files[structure_name(self.part.space_id, modality)]
            _require(structure, structure.peek(0, 4) in vectors.HEADERS, "is no FAISS file any more")
            stored = self._files[vector_name(self.part.space_id, modality)]
            row = self.dim * vectors.HALF.itemsize
            _require(stored, stored.expected.size == self.part.counts[modality] * row, "has a wrong size")
            ends = vectors.as_rows(stored.peek(0, row) + stored.peek(-row, row), self.dim)
            _require(
                stored, vectors.are_units(ends.astype(np.float32)), "holds no vectors of length 1 any more"
            )

    def vectors(self, modality: Modality) -> HalfArray:
        """All vectors of a modality, shape (count, dim), mapped; row i is segment offset(modality) + i."""
        file = self._files[vector_name(self.part.space_id, modality)]
        count = self.part.counts[modality]
        if file.expected.size != count * self.dim * vectors.HALF.itemsize:
            raise IndexCorrupt(
                f"{file.name} has {file.expected.size} bytes, not {count} x {self.dim} float16",
                hint=VERIFY_HINT,
            )
        return vectors.as_rows(file.map(), self.dim)

    def structure(self, modality: Modality) -> Any:
        """The FAISS structure of a modality, read once."""
        if modality not in self._structures:
            file = self._files[structure_name(self.part.space_id, modality)]
            try:
                self._structures[modality] = vectors.read_structure(
                    file.read(), count=self.part.counts[modality], dim=self.dim
                )
            except (StoreError, RuntimeError) as error:
                raise IndexCorrupt(f"{file.name}: {error}", hint=VERIFY_HINT) from error
        return self._structures[modality]

    @property
    def parquet(self) -> pq.ParquetFile:
        """The segment table, opened; its row count is compared with the generation's."""
        return self._opened(SEGMENTS)

    def _opened(self, name: str) -> pq.ParquetFile:
        if name not in self._tables:
            import pyarrow as pa
            import pyarrow.parquet as pq

            file = self._files[name]
            try:
                opened = pq.ParquetFile(pa.BufferReader(pa.py_buffer(file.map())))
            except pa.ArrowException as error:
                raise IndexCorrupt(f"{file.name}: {error}", hint=VERIFY_HINT) from error
            if opened.metadata.num_rows != self.part.rows:
                raise IndexCorrupt(
                    f"{file.name} has {opened.metadata.num_rows} rows, {self.part.rows} expected",
                    hint=VERIFY_HINT,
                )
            self._tables[name] = opened
        return self._tables[name]

    @property
    def has_facts(self) -> bool:
        """Whether any of its segments has facts."""
        return FACTS in self._files

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all segments, of those in facts.column_schema; facts that it lacks are nulls."""
        known = [name for name in names if name in facts.NAMES]
        own = [name for name in names if name not in facts.NAMES]
        table = None if known and not own else self.parquet.read(columns=own, use_threads=False)
        if not known:
            return table
        told = self._facts(known)
        if table is None:
            return told
        for field, column in zip(told.schema, told.columns, strict=True):
            table = table.append_column(field, column)
        return table.select(list(names))

    def _facts(self, names: Sequence[str]) -> pa.Table:
        if not self.has_facts:
            return facts.no_facts(self.part.rows, names)
        return self._opened(FACTS).read(columns=list(names), use_threads=False)

    def rows(self, rows: Iterable[int]) -> pa.Table:
        """Some segments as a table, in the order given; at least one."""
        with self._lock:
            if self._groups is None:
                self._groups = RowGroups(self.parquet, KEPT)
        return self._groups.rows(rows)

    def kept(self, modality: Modality, alive: BoolArray) -> Iterator[pa.Table]:
        """The living segments of a modality in row order, a row group at a time; `alive` is over all rows."""
        start = self.part.offset(modality)
        stop = start + self.part.counts.get(modality, 0)
        first = start // schema.ROW_GROUP
        for number in range(first, -(-stop // schema.ROW_GROUP)):
            base = number * schema.ROW_GROUP
            table = self.parquet.read_row_group(number, use_threads=False)
            wanted = alive[base : base + len(table)].copy()
            wanted[: max(0, start - base)] = False
            wanted[max(0, stop - base) :] = False
            if wanted.any():
                yield table.take(np.flatnonzero(wanted))

    def kept_facts(self, modality: Modality, alive: BoolArray) -> Iterator[pa.Table]:
        """The facts of the same segments, in the same order."""
        start = self.part.offset(modality)
        rows = start + np.flatnonzero(alive[start : start + self.part.counts.get(modality, 0)])
        if not self.has_facts:
            yield facts.no_facts(len(rows))
            return
        for number in range(self._opened(FACTS).num_row_groups):
            base = number * facts.ROW_GROUP
            first, stop = np.searchsorted(rows, (base, base + facts.ROW_GROUP))
            if first < stop:
                table = self._opened(FACTS).read_row_group(number, use_threads=False)
                yield table.take(rows[first:stop] - base)

    def kept_vectors(self, modality: Modality, alive: BoolArray) -> Iterator[HalfArray]:
        """The same segments' vectors, in blocks."""
        stored = self.vectors(modality)
        start = self.part.offset(modality)
        for base in range(0, len(stored), BLOCK):
            block = stored[base : base + BLOCK]
            yield block[alive[start + base : start + base + len(block)]]

    def keys(self) -> schema.ByteRows:
        """Keys of all segments, shape (rows, 18), as schema.segment_keys packs them."""
        return schema.segment_keys(self.columns(["content_hash", "modality", "source"]))

    def rows_of(self, keys: Collection[bytes]) -> list[tuple[int, bytes]]:
        """The rows of segments with some packed keys, deleted ones too, ascending, each with its key."""
        if self._by_half is None:
            packed = self.keys()
            halves = np.ascontiguousarray(packed[:, 8:16]).view("<u8")[:, 0]
            order = np.argsort(halves, kind="stable")
            self._by_half = packed, halves[order], order
        packed, halves, order = self._by_half
        wanted = np.array(sorted({int.from_bytes(key[8:16], "little") for key in keys}), np.uint64)
        first, stop = (np.searchsorted(halves, wanted, side) for side in ("left", "right"))
        rows = sorted({row for a, b in zip(first, stop, strict=True) for row in order[a:b].tolist()})
        found = ((row, packed[row].tobytes()) for row in rows)
        return [(row, key) for row, key in found if key in keys]
