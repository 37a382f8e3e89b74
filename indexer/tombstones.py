"""Which segments are deleted: worked out from the item table, and stored as one bitmap a part.

A segment lives as long as some member of some item has its content hash, modality and source; nothing is ever
marked by hand, so content that comes back lives again at no cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from indexer import schema
from indexer.errors import IndexCorrupt
from indexer.generation import Part
from indexer.types import Modality
from indexer.vectors import BoolArray

if TYPE_CHECKING:
    import pyarrow as pa

    from indexer.parts import PartReader

MAGIC = b"TRIPTOM1"


def by_modality(part: Part, mask: BoolArray) -> dict[Modality, int]:
    """How many rows of a part its mask, shape (rows,), deletes; modalities without any are left out."""
    counts = {}
    for modality, count in part.counts.items():
        start = part.offset(modality)
        dead = int(np.count_nonzero(mask[start : start + count]))
        if dead:
            counts[modality] = dead
    return counts


def dead_masks(readers: Sequence[PartReader], items: pa.Table) -> list[BoolArray]:
    """For each part, which rows are deleted, shape (rows,).

    Where two writers encoded the same content, the first part that has a segment counts; the copy in a later
    part of the same space is dead.
    """
    import pyarrow.compute as pc

    if not readers:
        return []
    referenced = schema.binary_array(schema.member_keys(items))
    tables = [reader.columns(["content_hash", "modality", "source", "start", "end"]) for reader in readers]
    keys = [schema.segment_keys(table) for table in tables]
    known = pc.is_in(schema.binary_array(np.concatenate(keys)), value_set=referenced)
    dead = ~known.to_numpy(zero_copy_only=False)
    masks = np.split(dead, np.cumsum([len(table) for table in tables])[:-1])
    for space in {reader.part.space_id for reader in readers}:
        own = [i for i, reader in enumerate(readers) if reader.part.space_id == space]
        if len(own) > 1:
            identities = np.concatenate([_identities(keys[i], tables[i]) for i in own])
            repeated = _repeated(schema.binary_array(identities))
            for i, more in zip(
                own, np.split(repeated, np.cumsum([len(tables[i]) for i in own])[:-1]), strict=True
            ):
                masks[i] = masks[i] | more
    return masks


def _identities(keys: schema.ByteRows, table: pa.Table) -> schema.ByteRows:
    """What tells one segment from another, shape (rows, 34): its key and its range."""
    ends = []
    for name in ("start", "end"):
        values = table[name].combine_chunks().fill_null(-1.0).to_numpy(zero_copy_only=False)
        ends.append(np.ascontiguousarray(values, "<f8").view(np.uint8).reshape(len(keys), 8))
    return np.concatenate([keys, *ends], axis=1)


def _repeated(values: pa.Array) -> BoolArray:
    """Which values came before. Codes follow first appearance, so a new value's code is a record."""
    codes = values.dictionary_encode().indices.to_numpy()
    if not len(codes):
        return np.zeros(0, bool)
    record = np.maximum.accumulate(codes)
    return np.concatenate([np.zeros(1, bool), codes[1:] <= record[:-1]])


def encode(parts: Sequence[Part], masks: Sequence[BoolArray]) -> bytes | None:
    """The file's bytes: magic, then each part's id (8 bytes), row count (8, little-endian) and bitmap.

    Bit i % 8 of byte i // 8 is set where row i is deleted. None where nothing is.
    """
    if not any(mask.any() for mask in masks):
        return None
    pieces = [MAGIC]
    for part, mask in zip(parts, masks, strict=True):
        pieces += [bytes.fromhex(part.id), len(mask).to_bytes(8, "little")]
        pieces.append(np.packbits(mask, bitorder="little").tobytes())
    return b"".join(pieces)


def decode(data: bytes, parts: Sequence[Part], *, name: str) -> list[BoolArray]:
    """The masks again, in the order of `parts`; raises IndexCorrupt where they do not fit the parts."""
    place = len(MAGIC)
    masks = []
    for part in parts:
        head = bytes.fromhex(part.id) + part.rows.to_bytes(8, "little")
        size = -(-part.rows // 8)
        if data[place : place + 16] != head or len(data) < place + 16 + size:
            raise IndexCorrupt(f"{name} does not fit part {part.id}")
        bits = np.frombuffer(data, np.uint8, size, place + 16)
        masks.append(np.unpackbits(bits, count=part.rows, bitorder="little").astype(bool))
        place += 16 + size
    if data[: len(MAGIC)] != MAGIC or place != len(data):
        raise IndexCorrupt(f"{name} is not a list of tombstones for these parts")
    return masks
