"""What an index's Parquet files hold: Arrow schemas, the version, migrations, and rows <-> our own types.

No file is opened here, and nothing here knows where a table is kept. pyarrow is imported inside the
functions, so that reading a generation's manifest does not load it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from indexer.errors import IndexCorrupt, IndexTooNew
from indexer.types import Item, Member, Modality, Range, Segment, Source

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 3
HASH_BYTES = 16
KEY_BYTES = HASH_BYTES + 2  # content hash, modality, source
ROW_GROUP = 512  # rows: a search reads whole groups for a handful of hits, so they are small
WORDS = (  # columns of few different values, the only ones stored by dictionary
    "root_id",
    "error",
    "modality",
    "source",
    "members.list.element.modality",
    "members.list.element.source",
)

Document = dict[str, Any]
ByteRows = npt.NDArray[np.uint8]

_MODALITIES = tuple(Modality)
_SOURCES = tuple(Source)


def parquet_options() -> dict[str, Any]:
    """How both tables are written. Small groups in lz4 are read five times as quickly as in zstd."""
    return {"compression": "lz4", "use_dictionary": list(WORDS), "write_statistics": False}


def migrate(document: Document) -> Document:
    """A generation's JSON as the present version has it; raises IndexTooNew for a later one."""
    version = document.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise IndexCorrupt(f"schema version {version!r} is not a version")
    if version > SCHEMA_VERSION:
        raise IndexTooNew(
            f"the index has format {version}, this program reads up to {SCHEMA_VERSION}",
            hint="update triptych, or build the index again with this version",
        )
    while version < SCHEMA_VERSION:
        document = MIGRATIONS[version](document)
        version += 1
        document["schema_version"] = version
    return document


def _with_precisions(document: Document) -> Document:
    """Version 1 did not say what vectors were computed in: it was float32."""
    parts = [part | {"precisions": {name: ["f32"] for name in part["counts"]}} for part in document["parts"]]
    return document | {"parts": parts}


def _with_derived(document: Document) -> Document:
    """Version 2 had nothing derived, and a list of banks that was always empty."""
    return {name: value for name, value in document.items() if name != "banks"} | {"derived": {}}


MIGRATIONS: dict[int, Callable[[Document], Document]] = {  # version n -> the document as version n + 1
    1: _with_precisions,
    2: _with_derived,
}


@cache
def member_type() -> pa.StructType:
    """One medium of an item."""
    import pyarrow as pa

    return pa.struct(
        [
            pa.field("modality", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("path", pa.string()),
            pa.field("path_bytes", pa.binary()),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("mtime_ns", pa.int64(), nullable=False),
            pa.field("content_hash", pa.binary(HASH_BYTES)),
            pa.field("text", pa.string()),
            pa.field("error", pa.string()),
        ]
    )


@cache
def item_schema() -> pa.Schema:
    """A row an item. `path` is for people (undecodable bytes as \\xNN), `path_bytes` is exact."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("root_id", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("path_bytes", pa.binary(), nullable=False),
            pa.field("members", pa.list_(pa.field("element", member_type(), nullable=False)), nullable=False),
            pa.field("metadata", pa.map_(pa.string(), pa.string()), nullable=False),
        ]
    )


@cache
def segment_schema() -> pa.Schema:
    """A row a segment, ordered by modality as `Modality` lists them."""
    import pyarrow as pa

    word = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            pa.field("content_hash", pa.binary(HASH_BYTES), nullable=False),
            pa.field("modality", word, nullable=False),
            pa.field("source", word, nullable=False),
            pa.field("start", pa.float64()),
            pa.field("end", pa.float64()),
            pa.field("text", pa.string()),
            pa.field("phash", pa.uint64()),
        ]
    )


def display(text: str) -> str:
    """`text` as valid Unicode: bytes that could not be decoded are shown as \\xNN."""
    return text if text.isascii() else _exact(text).decode("utf-8", "backslashreplace")


def _exact(text: str) -> bytes:
    """The bytes that a path stands for; a lone surrogate that stands for none is written as \\uNNNN."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _path(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _optional(text: str | None) -> str | None:
    return None if text is None else display(text)


def item_table(items: Sequence[Item]) -> pa.Table:
    """Items as rows of `item_schema`, in the order given."""
    import pyarrow as pa

    schema = item_schema()
    pairs = [pair for item in items for pair in item.metadata.items()]
    metadata = pa.MapArray.from_arrays(
        _offsets(len(item.metadata) for item in items),
        pa.array([display(key) for key, _ in pairs], pa.string()),
        pa.array([display(value) for _, value in pairs], pa.string()),
    )
    members = pa.ListArray.from_arrays(
        _offsets(len(item.members) for item in items),
        _member_array([member for item in items for member in item.members]),
        type=schema.field("members").type,
    )
    columns = [
        pa.array([item.id for item in items], pa.string()),
        pa.array([item.root_id for item in items], pa.string()),
        pa.array([display(item.path) for item in items], pa.string()),
        pa.array([_exact(item.path) for item in items], pa.binary()),
        members,
        metadata,
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _offsets(lengths: Iterable[int]) -> pa.Array:
    import pyarrow as pa

    counts = np.fromiter(lengths, np.int32)
    return pa.array(np.concatenate([np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)]))


def _member_array(members: Sequence[Member]) -> pa.StructArray:
    import pyarrow as pa

    kinds = member_type()
    paths = [member.path for member in members]
    columns = [
        [member.modality.value for member in members],
        [member.source.value for member in members],
        [_optional(path) for path in paths],
        [None if path is None else _exact(path) for path in paths],
        [member.size for member in members],
        [member.mtime_ns for member in members],
        [member.content_hash for member in members],
        [_optional(member.text) for member in members],
        [_optional(member.error) for member in members],
    ]
    arrays = [pa.array(column, kinds.field(i).type) for i, column in enumerate(columns)]
    return pa.StructArray.from_arrays(arrays, fields=[kinds.field(i) for i in range(kinds.num_fields)])


def items_from(table: pa.Table) -> list[Item]:
    """The rows of an item table as items; whole columns are converted at a time."""
    members, bounds = _members_from(_flat(table["members"]))
    maps = _flat(table["metadata"])
    spans = maps.offsets.to_numpy().tolist()
    first = spans[0] if spans else 0
    stop = spans[-1] if spans else 0
    keys = objects(maps.keys.slice(first, stop - first))
    values = objects(maps.items.slice(first, stop - first))
    columns = [objects(table[name]) for name in ("id", "root_id", "path_bytes")]
    items = []
    for row, (item_id, root_id, path) in enumerate(zip(*columns, strict=True)):
        start, end = spans[row] - first, spans[row + 1] - first
        metadata = dict(zip(keys[start:end], values[start:end], strict=True)) if start < end else {}
        own = tuple(members[bounds[row] : bounds[row + 1]])
        items.append(Item(item_id, root_id, _path(path), own, metadata))
    return items


def _members_from(lists: pa.ListArray) -> tuple[list[Member], list[int]]:
    """All members in row order, and where each row's begin."""
    bounds = lists.offsets.to_numpy()
    rows = elements(lists)
    columns = [objects(rows.field(i)) for i in range(rows.type.num_fields)]
    modalities, sources = {m.value: m for m in Modality}, {s.value: s for s in Source}
    members = [
        Member(
            modalities[modality],
            sources[source],
            None if path is None else _path(path),
            size,
            mtime_ns,
            content_hash,
            text,
            error,
        )
        for modality, source, _, path, size, mtime_ns, content_hash, text, error in zip(*columns, strict=True)
    ]
    return members, (bounds - bounds[0]).tolist() if len(bounds) else [0]


def elements(lists: pa.ListArray) -> Any:
    """The elements of all lists, one after another. `flatten` would do, but it loads pyarrow.compute."""
    if not len(lists):
        return lists.values.slice(0, 0)
    bounds = lists.offsets
    return lists.values.slice(bounds[0].as_py(), bounds[-1].as_py() - bounds[0].as_py())


def _flat(column: pa.ChunkedArray) -> Any:
    """One array of all chunks."""
    return column.combine_chunks()


def objects(column: Any) -> list[Any]:
    """Values as Python objects; much quicker than `to_pylist` for numbers and strings."""
    if (
        column.null_count
        and column.type.num_fields == 0
        and str(column.type).startswith(("int", "uint", "double"))
    ):
        return column.to_pylist()
    return column.to_numpy(zero_copy_only=False).tolist() if len(column) else []


def segment_table(segments: Sequence[Segment]) -> pa.Table:
    """Segments as rows of `segment_schema`, in the order given."""
    import pyarrow as pa

    schema = segment_schema()
    columns = [
        [segment.content_hash for segment in segments],
        [segment.modality.value for segment in segments],
        [segment.source.value for segment in segments],
        [None if segment.range is None else segment.range.start for segment in segments],
        [None if segment.range is None else segment.range.end for segment in segments],
        [_optional(segment.text) for segment in segments],
        [segment.phash for segment in segments],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def segments_from(table: pa.Table) -> list[Segment]:
    """The rows of a segment table as segments."""
    names = segment_schema().names
    columns = [objects(table[name]) for name in names]
    return [
        Segment(
            content_hash,
            Modality(modality),
            Source(source),
            None if start is None or end is None else Range(start, end),
            text,
            phash,
        )
        for content_hash, modality, source, start, end, text, phash in zip(*columns, strict=True)
    ]


def hash_rows(column: pa.ChunkedArray | pa.Array) -> tuple[ByteRows, npt.NDArray[np.bool_]]:
    """Content hashes, shape (rows, 16), and which rows have one; nulls are zeros."""
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    count, offset = len(array), array.offset
    validity, data = array.buffers()
    if data is None:
        return np.zeros((count, HASH_BYTES), np.uint8), np.zeros(count, bool)
    rows = np.frombuffer(data, np.uint8)[offset * HASH_BYTES : (offset + count) * HASH_BYTES]
    valid = np.ones(count, bool)
    if validity is not None and array.null_count:
        bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
        valid = bits[offset : offset + count].astype(bool)
    return np.where(valid[:, None], rows.reshape(count, HASH_BYTES), np.uint8(0)), valid


def word_codes(column: pa.ChunkedArray, words: Sequence[str]) -> ByteRows:
    """The place in `words` of each value of a dictionary column, shape (rows,)."""
    found = []
    for chunk in column.chunks:
        try:
            places = np.array([words.index(word) for word in chunk.dictionary.to_pylist()], np.uint8)
        except ValueError as error:
            raise IndexCorrupt(f"a segment table holds a word this version does not know: {error}") from error
        found.append(places[chunk.indices.to_numpy()])
    return np.concatenate(found) if found else np.zeros(0, np.uint8)


def segment_keys(table: pa.Table) -> ByteRows:
    """Keys of a segment table, shape (rows, 18): content hash, then modality and source as enum places."""
    hashes, _ = hash_rows(table["content_hash"])
    modality = word_codes(table["modality"], _MODALITIES)
    source = word_codes(table["source"], _SOURCES)
    return np.concatenate([hashes, modality[:, None], source[:, None]], axis=1)


def member_keys(table: pa.Table) -> ByteRows:
    """Keys that an item table's members refer to, shape (members with a hash, 18); not unique."""
    rows = elements(_flat(table["members"]))
    names = [field.name for field in rows.type]
    hashes, valid = hash_rows(rows.field(names.index("content_hash")))
    columns = []
    for name, words in (("modality", _MODALITIES), ("source", _SOURCES)):
        codes = rows.field(names.index(name)).dictionary_encode()
        places = np.array([words.index(word) for word in codes.dictionary.to_pylist()], np.uint8)
        columns.append(places[codes.indices.to_numpy()] if len(codes) else np.zeros(0, np.uint8))
    return np.concatenate([hashes, columns[0][:, None], columns[1][:, None]], axis=1)[valid]


def member_hashes(table: pa.Table) -> frozenset[bytes]:
    """The content hashes that an item table's members have."""
    packed = np.ascontiguousarray(member_keys(table)[:, :HASH_BYTES]).tobytes()
    return frozenset(packed[i : i + HASH_BYTES] for i in range(0, len(packed), HASH_BYTES))


def pack_key(key: tuple[bytes, Modality, Source]) -> bytes:
    """A key as the 18 bytes that `segment_keys` gives."""
    content_hash, modality, source = key
    return content_hash + bytes((_MODALITIES.index(modality), _SOURCES.index(source)))


def unpack_key(packed: bytes) -> tuple[bytes, Modality, Source]:
    """The other way round."""
    return packed[:HASH_BYTES], _MODALITIES[packed[HASH_BYTES]], _SOURCES[packed[HASH_BYTES + 1]]


def binary_array(rows: ByteRows) -> pa.Array:
    """Rows of bytes, shape (rows, width), as one fixed-size binary array without a copy."""
    import pyarrow as pa

    rows = np.ascontiguousarray(rows)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(rows.reshape(-1))]
    )
