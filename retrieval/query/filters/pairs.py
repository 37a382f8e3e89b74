"""The rows that a filter looks at: pairs of a living segment and an item that has it, with the columns named.

Whole columns are read and moved at once, no row by itself; only what a filter names is read. Where it names
nothing of segments, it looks at the items alone, which are fewer. What a filter may say is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from indexer import schema
from indexer.types import Source
from indexer.vectors import BoolArray, IndexArray
from retrieval.query.filters.columns import BY_NAME, Of

if TYPE_CHECKING:
    import pyarrow as pa

    from indexer.snapshot import Snapshot

KEY_COLUMNS = ("content_hash", "modality", "source")
QUARTER, DAY = 900, 86_400  # seconds; an offset from UTC changes at the start of a quarter of an hour
PATHS = frozenset({"path", "name", "folder", "ext"})
# How a column comes from those that `table` gives; others stand for themselves.
SQL = {
    "path": "path",
    "name": "regexp_extract(path, '[^/]*$')",
    "folder": "coalesce(nullif(regexp_replace(path, '/[^/]*$', ''), ''), '/')",
    "ext": "nullif(lower(regexp_extract(path, '[^/]\\.([^./]+)$', 1)), '')",
    "label": "metadata['label']",
    "split": "metadata['split']",
}
NEEDS = {"label": "metadata", "split": "metadata", **dict.fromkeys(PATHS, "path")}


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Which segment belongs to which items. All arrays have shape (n,), ordered by segment, then item."""

    segment: IndexArray  # rows of all parts, one part after another
    item: IndexArray  # rows of the item table
    member: IndexArray  # rows of all items' members, one item after another
    starts: IndexArray  # where each part's rows begin, shape (parts + 1,)


def pairs_of(snapshot: Snapshot) -> Pairs:
    """The pairs of the default space, deleted segments left out."""
    keys, rows, starts = _segment_keys(snapshot)
    members, items, places = _member_keys(snapshot)
    halves = _halves(members)
    order = np.argsort(halves, kind="stable")
    first, stop = (np.searchsorted(halves[order], _halves(keys), side) for side in ("left", "right"))
    counts = stop - first
    left = np.repeat(np.arange(len(keys)), counts)
    right = order[
        np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    ]
    same = (keys[left] == members[right]).all(axis=1)
    left, right = left[same], right[same]
    item, segment = items[right], rows[left]
    # One item may hold the same content twice: its first member stands for it.
    order = np.lexsort((places[right], item, segment))
    segment, item, place = segment[order], item[order], places[right][order]
    new = np.ones(len(order), bool)
    new[1:] = (segment[1:] != segment[:-1]) | (item[1:] != item[:-1])
    return Pairs(segment[new], item[new], place[new], starts)


def _segment_keys(snapshot: Snapshot) -> tuple[schema.ByteRows, IndexArray, IndexArray]:
    """Keys (n, 18) of the default space's living segments, their rows (n,), and where parts begin."""
    parts = snapshot.generation.parts
    starts = np.concatenate([[0], np.cumsum([part.rows for part in parts])]).astype(np.int64)
    keys, rows = [np.zeros((0, schema.KEY_BYTES), np.uint8)], [np.zeros(0, np.int64)]
    for place in _own(snapshot):
        living = np.flatnonzero(snapshot.living(place))
        keys.append(schema.segment_keys(snapshot.segment_columns(place, KEY_COLUMNS))[living])
        rows.append(living + starts[place])
    return np.concatenate(keys), np.concatenate(rows), starts


def _own(snapshot: Snapshot) -> list[int]:
    """The parts of the default space."""
    parts = enumerate(snapshot.generation.parts)
    return [place for place, part in parts if part.space_id == snapshot.space_id]


def _member_keys(snapshot: Snapshot) -> tuple[schema.ByteRows, IndexArray, IndexArray]:
    """Keys (n, 18) of the members that were read, rows of their items, and their own rows."""
    table = snapshot.item_columns([f"members.list.element.{name}" for name in KEY_COLUMNS])
    lists = table["members"].combine_chunks()
    elements = schema.elements(lists)
    names = [field.name for field in elements.type]
    _, valid = schema.hash_rows(elements.field(names.index("content_hash")))
    items = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    places = np.flatnonzero(valid)
    return schema.member_keys(table), items[places], places


def _halves(keys: schema.ByteRows) -> npt.NDArray[np.uint64]:
    """The second half of each hash as a number."""
    return np.ascontiguousarray(keys[:, 8:16]).view("<u8")[:, 0]


class Rows:
    """The table that a filter runs over, for the columns it names."""

    def __init__(self, snapshot: Snapshot, pairs: Pairs, names: Sequence[str]) -> None:
        self.snapshot = snapshot
        self.pairs = pairs
        self.names = tuple(names)
        self.by_item = all(BY_NAME[name].of is Of.ITEM for name in self.names)  # a row an item, not a pair

    @property
    def view(self) -> str:
        """SQL that makes the columns, typed as columns.py says, from those of `table`."""
        made = [f"CAST({SQL.get(name, name)} AS {BY_NAME[name].type}) AS {name}" for name in self.names]
        return f"SELECT {', '.join(['place', *made])} FROM given"

    def table(self) -> pa.Table:
        """What is read, a row an item or a pair."""
        import pyarrow as pa

        wanted = {NEEDS.get(name, name) for name in self.names}
        columns = self._item_columns({name for name in wanted if BY_NAME[name].of is Of.ITEM})
        count = self.snapshot.generation.item_count
        if not self.by_item:
            count = len(self.pairs.item)
            columns = {name: column.take(pa.array(self.pairs.item)) for name, column in columns.items()}
            columns |= self._segment_columns(wanted - columns.keys())
        return pa.table({"place": pa.array(np.arange(count)), **columns})

    def _item_columns(self, wanted: Set[str]) -> dict[str, Any]:
        """Columns of a row an item."""
        columns: dict[str, Any] = {}
        if "metadata" in wanted:
            columns["metadata"] = self.snapshot.item_columns(["metadata"])["metadata"].combine_chunks()
        if wanted & {"root", "path"}:
            columns |= self._places(wanted)
        if wanted & {"size", "modified", "kind"}:
            columns |= self._first_members(wanted)
        facts = [name for name in wanted if BY_NAME[name].fact]
        if facts:
            columns |= self._facts(sorted(facts))
        if "caption" in wanted:
            columns["caption"] = self._caption()
        return columns

    def _places(self, wanted: Set[str]) -> dict[str, Any]:
        """Each item's root, and the path that results show: of its first file that was read, absolute."""
        import pyarrow as pa

        codes = self.snapshot.item_columns(["root_id"])["root_id"].combine_chunks().dictionary_encode()
        roots = [self.snapshot.roots.get(name) for name in codes.dictionary.to_pylist()]
        columns = {}
        if "root" in wanted:
            names = pa.array(
                [None if root is None else schema.display(root.path) for root in roots], pa.string()
            )
            columns["root"] = names.take(codes.indices)
        if "path" in wanted:
            bases = [schema.display(root.base).rstrip("/") if root else "" for root in roots]
            relative = self._paths(
                [root is not None and root.kind == "manifest" for root in roots], codes.indices
            )
            columns["path"] = _joined(pa.array(bases, pa.string()).take(codes.indices), relative)
        return columns

    def _paths(self, manifests: Sequence[bool], codes: Any) -> Any:
        """Each item's path as its root has it; null of a manifest's row without a file."""
        import pyarrow as pa

        lists, members = self._members(["path", "content_hash"])
        items = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
        named = _valid(members["path"])
        read = named & schema.hash_rows(members["content_hash"])[1]
        first = _first(items, named & ~read, len(lists))  # of what was not read, where nothing was
        of_rows = np.asarray(manifests, bool)[codes.to_numpy()] if len(codes) else np.zeros(0, bool)
        first[of_rows] = -1
        best = _first(items, read, len(lists))
        return _taken(members["path"], np.where(best >= 0, best, first)).cast(pa.string())

    def _first_members(self, wanted: Set[str]) -> dict[str, Any]:
        """Size, time and modality of each item's first member."""
        import pyarrow as pa

        lists, members = self._members(["size", "mtime_ns", "modality"])
        first = (
            lists.offsets.to_numpy()[:-1] - lists.offsets[0].as_py() if len(lists) else np.zeros(0, np.int64)
        )
        stamps = members["mtime_ns"].to_numpy()[first]
        columns: dict[str, Any] = {}
        if "size" in wanted:
            columns["size"] = members["size"].take(pa.array(first))
        if "kind" in wanted:
            columns["kind"] = members["modality"].take(pa.array(first))
        if "modified" in wanted:
            known = np.abs(stamps) > 1  # negated of a file that was just written; -1 in older indexes
            columns["modified"] = pa.array(local_times(np.abs(stamps)), mask=~known)
        return columns

    def _members(self, names: Sequence[str]) -> tuple[Any, dict[str, Any]]:
        """The lists of members, and some columns of all of them, one item after another."""
        table = self.snapshot.item_columns([f"members.list.element.{name}" for name in names])
        lists = table["members"].combine_chunks()
        elements = schema.elements(lists)
        return lists, {field.name: elements.field(place) for place, field in enumerate(elements.type)}

    def _facts(self, names: Sequence[str]) -> dict[str, Any]:
        """Facts of each item, of its first member that has them: so a caption's hit knows its picture's."""
        told = self._segments(names)
        return {name: self._by_item(column, _valid(column)) for name, column in told.items()}

    def _caption(self) -> Any:
        """The first segment of each item's caption."""
        told = self._segments(["source", "text"])
        source = told["source"].cast("string").to_numpy(zero_copy_only=False)
        return self._by_item(told["text"], _valid(told["text"]) & (source == Source.CAPTION.value))

    def _by_item(self, column: Any, counts: BoolArray) -> Any:
        """A column of segments as one of items: of an item's first segment that counts, by member and row."""
        order = np.lexsort((self.pairs.segment, self.pairs.member))
        segment = self.pairs.segment[order]
        chosen = _first(self.pairs.item[order], counts[segment], self.snapshot.generation.item_count)
        return _taken(column, np.where(chosen >= 0, segment[chosen], -1) if len(segment) else chosen)

    def _segment_columns(self, wanted: Set[str]) -> dict[str, Any]:
        """Columns of a row a pair."""
        import pyarrow as pa

        stored = {"end_at": "end"}
        told = self._segments([stored.get(name, name) for name in sorted(wanted)])
        rows = pa.array(self.pairs.segment)
        return {name: told[stored.get(name, name)].take(rows) for name in sorted(wanted)}

    def _segments(self, names: Sequence[str]) -> dict[str, Any]:
        """Columns of all parts' segments, one part after another; those of other spaces are nulls."""
        import pyarrow as pa

        from indexer.facts import column_schema

        own, columns = set(_own(self.snapshot)), {}
        types = {name: _plain(column_schema().field(name).type) for name in names}
        tables = [
            self.snapshot.segment_columns(place, names) if place in own else None
            for place in range(len(self.snapshot.generation.parts))
        ]
        for name, kind in types.items():
            pieces = [
                pa.nulls(part.rows, kind) if table is None else table[name].combine_chunks().cast(kind)
                for table, part in zip(tables, self.snapshot.generation.parts, strict=True)
            ]
            columns[name] = pa.concat_arrays(pieces) if pieces else pa.nulls(0, kind)
        return columns


def _plain(kind: Any) -> Any:
    """A type without a dictionary."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _valid(column: Any) -> BoolArray:
    """Which values are not null, shape (rows,)."""
    valid: BoolArray = column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _first(owners: IndexArray, counts: BoolArray, total: int) -> IndexArray:
    """For each of `total` owners the place of its first value that counts, -1 where none does."""
    first = np.full(total, -1, np.int64)
    places = np.flatnonzero(counts)[::-1]  # of several that are written to one place, the last one stays
    first[owners[places]] = places
    return first


def _taken(column: Any, places: IndexArray) -> Any:
    """Values at some places; null where the place is -1."""
    import pyarrow as pa

    return column.take(pa.array(places, mask=places < 0))


def _joined(bases: Any, paths: Any) -> Any:
    """Paths below their bases; one that is absolute stays."""
    import pyarrow.compute as pc

    below = pc.binary_join_element_wise(bases, paths, "/")
    return pc.if_else(pc.starts_with(paths, "/"), paths, below)


def local_times(stamps: npt.NDArray[np.int64]) -> npt.NDArray[np.datetime64]:
    """Nanoseconds since 1970 as this machine's local time, shape (n,).

    The distance from UTC is asked for once a day that occurs, and once a quarter of an hour of the few days
    that change it.
    """
    seconds = stamps // 1_000_000_000
    days, of_day = np.unique(seconds // DAY, return_inverse=True)
    begin = np.array([_offset(day * DAY) for day in days.tolist()], np.int64)
    end = np.array([_offset((day + 1) * DAY) for day in days.tolist()], np.int64)
    offsets = begin[of_day]
    changing = np.flatnonzero((begin != end)[of_day])
    quarters, place = np.unique(seconds[changing] // QUARTER, return_inverse=True)
    offsets[changing] = np.array([_offset(one * QUARTER) for one in quarters.tolist()], np.int64)[place]
    return (stamps // 1000 + offsets * 1_000_000).astype("datetime64[us]")


def _offset(second: int) -> int:
    """Seconds that local time is ahead of UTC at a moment; 0 where the machine cannot tell."""
    try:
        return time.localtime(second).tm_gmtoff
    except (OverflowError, OSError, ValueError):
        return 0
