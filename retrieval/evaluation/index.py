"""An index as evaluation data: its items of two or more media, with the vectors that it stores.

Reads one generation; encodes nothing and needs no model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer import schema
from indexer.errors import TrainingError
from indexer.snapshot import Snapshot
from indexer.types import FloatArray, Item, Member, Modality
from retrieval.evaluation.encode import EncodedRows, numbered, padded, pool_segments, usable_slots
from retrieval.training.types import Examples, Ints

if TYPE_CHECKING:
    import pyarrow as pa

Numbers = dict[Modality, dict[bytes, int]]  # a content's number, by its hash


def index_rows(snapshot: Snapshot) -> EncodedRows:
    """Items with two or more modalities as rows, each a group of its own; texts by their first characters.

    Vectors are those stored (float16); a content of several segments gets their normalised mean, as
    `encode_rows` gives it. Raises TrainingError where no item has two modalities.
    """
    items = [item for item in snapshot.item_list() if len(_modalities(item)) > 1]
    if not items:
        raise TrainingError(
            f"no item of {snapshot.path} has two modalities, so there is no pair to measure",
            hint="put captions beside pictures or sounds (bird.jpg with bird.txt) and index again, "
            "or give a manifest of pairs",
        )
    roots = {root.id: root.base for root in snapshot.roots.values()}
    numbers: Numbers = {modality: {} for modality in Modality}
    names: dict[Modality, list[str]] = {modality: [] for modality in Modality}
    slots: list[dict[Modality, list[int]]] = []
    for item in items:
        mine: dict[Modality, list[int]] = {}
        for member in _usable(item):
            known = numbers[member.modality]
            assert member.content_hash is not None
            if member.content_hash not in known:
                known[member.content_hash] = len(known)
                names[member.modality].append(_name(member, roots[item.root_id]))
            mine.setdefault(member.modality, []).append(known[member.content_hash])
        slots.append(mine)
    vectors = {modality: _stored(snapshot, modality, numbers, names) for modality in Modality}
    return _rows(items, slots, vectors, names)


def evaluate_index(index: Path) -> EncodedRows:
    """`index_rows` of what CURRENT names. Raises IndexNotFound, IndexCorrupt, TrainingError."""
    with Snapshot.open(index) as snapshot:
        return index_rows(snapshot)


def _usable(item: Item) -> Iterator[Member]:
    return (member for member in item.members if member.error is None and member.content_hash is not None)


def _modalities(item: Item) -> set[Modality]:
    return {member.modality for member in _usable(item)}


def _name(member: Member, base: str) -> str:
    if member.path is None:
        return member.text or ""
    return os.path.join(base, member.path)  # noqa: PTH118 - names stay bytes-exact


def _stored(
    snapshot: Snapshot, modality: Modality, numbers: Numbers, names: dict[Modality, list[str]]
) -> FloatArray:
    """One vector a content, (contents, dim), NaN where the index has none; a text's name becomes its text."""
    known = numbers[modality]
    dim = snapshot.generation.spaces[snapshot.space_id].dim if snapshot.space_id else 0
    pooled = np.full((len(known), dim), np.nan, np.float32)
    for table, vectors in snapshot.vectors(modality):
        hashes, _ = schema.hash_rows(table["content_hash"])
        places = np.array([known.get(row.tobytes(), -1) for row in hashes], np.int64)
        wanted = np.flatnonzero(places >= 0)
        wanted = wanted[np.argsort(places[wanted], kind="stable")]
        contents, starts = np.unique(places[wanted], return_index=True)
        for content, rows in zip(contents.tolist(), np.split(wanted, starts[1:]), strict=False):
            # The same content as a file and as a caption is stored twice, with the same vectors.
            if (
                np.isnan(pooled[content, 0])
                and (mean := pool_segments(_one_source(table, vectors, rows))) is not None
            ):
                pooled[content] = mean
                if modality is Modality.TEXT:
                    names[modality][content] = table["text"][int(rows[0])].as_py() or ""
    return pooled


def _one_source(table: pa.Table, vectors: FloatArray, rows: Ints) -> FloatArray:
    """The vectors of a content's segments, those of its first source only."""
    sources = [table["source"][int(row)].as_py() for row in rows]
    return vectors[rows[[source == sources[0] for source in sources]]]


def _rows(
    items: Sequence[Item],
    slots: Sequence[dict[Modality, list[int]]],
    vectors: dict[Modality, FloatArray],
    names: dict[Modality, list[str]],
) -> EncodedRows:
    """Rows that keep two modalities; a content without a vector (of another space) does not count."""
    left, kept = usable_slots(slots, vectors)
    if not kept:
        raise TrainingError(
            f"none of {len(slots)} items of two media has vectors of two modalities",
            hint="index again with a model that has towers for them",
        )
    contents = {m: padded([left[place].get(m, ()) for place in kept]) for m in vectors}
    labels = numbered([items[place].metadata.get("label") or None for place in kept])
    groups = np.arange(len(kept))
    examples = Examples(contents, labels, groups, np.ones(len(kept), np.float32))
    shown = {modality: tuple(own) for modality, own in names.items()}
    return EncodedRows(vectors, examples, shown, np.array(kept, int))
