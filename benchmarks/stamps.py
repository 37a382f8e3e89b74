"""The Tux Paint stamps as the query layer's benchmarks take them: halves, an index of each, vectors.

Halves are those of data/starter_data.py, so that a number here compares with the starter's own. An index is
made once with the starter, by the indexer's own update, and kept under data/cache/. Anything chosen is chosen
on the training half and reported on the test half.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from common import say

from indexer.build import update
from indexer.deriving import derive
from indexer.report import BuildOptions
from indexer.snapshot import Candidates, Snapshot
from indexer.store import Writer
from indexer.types import FloatArray, Modality
from retrieval.indexing import derivations
from retrieval.models.model import Model
from retrieval.models.registry import load_model
from retrieval.query.compose import encode_many, pooled
from retrieval.runtime.choose import Placement
from retrieval.types import Query

ROOT = Path(__file__).resolve().parent.parent
STAMPS = ROOT / "data" / "cache" / "tuxpaint-stamps"
KEPT = ROOT / "data" / "cache" / "stamps-indexes"
VERSION = 1  # of how the indexes are made
COLUMNS = ("id", "image", "text", "audio", "label")

Half = Literal["train", "test", "all"]
Row = dict[str, Any]  # id, image, text, audio or None, label; files relative to STAMPS
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """The segments of one modality of some stamps."""

    vectors: FloatArray  # (n, dim), unit, as the index keeps them
    row: Rows  # (n,): which of the half's rows each is of, counted within the half

    @property
    def rows(self) -> Rows:
        """The rows that have such a segment, ascending."""
        return np.unique(self.row)


@cache
def all_rows() -> tuple[Row, ...]:
    """All 950 stamps, in the manifest's order."""
    return tuple(pq.read_table(STAMPS / "manifest.parquet", columns=list(COLUMNS)).to_pylist())


@cache
def halves() -> tuple[Rows, Rows]:
    """Places in `all_rows` of the training half (276) and the test half (288), as the starter's.

    Symbols and captions that several stamps share are in neither, since no query could tell them apart.
    """
    rows = all_rows()
    often = Counter(row["text"] for row in rows)
    asked = np.array([not row["id"].startswith("symbols/") and often[row["text"]] == 1 for row in rows])
    even = np.array([hashlib.sha256(row["id"].encode()).digest()[0] % 2 == 0 for row in rows])
    return np.flatnonzero(asked & ~even), np.flatnonzero(asked & even)


def rows_of(half: Half) -> list[Row]:
    """The stamps of a half, in order; every stamp for "all"."""
    rows = all_rows()
    if half == "all":
        return list(rows)
    train, test = halves()
    return [rows[place] for place in (train if half == "train" else test)]


def texts(half: Half) -> list[str]:
    """The English caption of each row."""
    return [row["text"] for row in rows_of(half)]


def labels(half: Half) -> list[str]:
    """The folder of each row, such as `animals/birds`."""
    return [row["label"] for row in rows_of(half)]


@cache
def captions(half: Half) -> tuple[dict[str, str], ...]:
    """Each row's captions by language code."""
    table = pq.read_table(STAMPS / "manifest.parquet", columns=["id", "captions"])
    known = {row["id"]: dict(row["captions"] or ()) for row in table.to_pylist()}
    return tuple(known[row["id"]] for row in rows_of(half))


@cache
def model() -> Model:
    """The starter, opened for queries."""
    return load_model("starter", threads=2)


def stamps_index(half: Half) -> Path:
    """An index of a half's pictures, captions and sounds; made once; what derives is brought up to date."""
    return index_of(rows_of(half), half)


def index_of(rows: Sequence[Row], name: str) -> Path:
    """An index of some stamps, made once under a name."""
    place = KEPT / f"{name}-v{VERSION}-{model().space_id[:12]}"
    index, manifest = place / "index", place / "manifest.parquet"
    wanted = [{**row, **{kind: _file(row[kind]) for kind in ("image", "audio")}} for row in rows]
    if not (index / "CURRENT").exists() or _ids(manifest) != [row["id"] for row in rows]:
        say(f"an index of {len(rows)} stamps is made")
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(wanted), manifest)
        made = model().for_indexing(Placement())
        encoders = {modality: made.tower(modality) for modality in made.modalities}
        update(
            index, [manifest], encoders=encoders, options=BuildOptions(model=made.name, workers=2, prune=True)
        )
    derive(index, derivations(model()))
    return index


def gallery(half: Half, modality: Modality) -> Gallery:
    """The vectors of a half's segments of one modality, with the row that each is of."""
    return gallery_of(stamps_index(half), rows_of(half), modality)


def gallery_of(index: Path, rows: Sequence[Row], modality: Modality) -> Gallery:
    """The same of an index of some rows."""
    number = {row["id"]: place for place, row in enumerate(rows)}
    found: list[tuple[int, int, int]] = []  # row, part, row of the part
    with Snapshot.open(index) as snapshot:
        keys: dict[Any, list[int]] = {}
        for item in snapshot.item_list():
            for member in item.members:
                if member.modality is modality and member.content_hash is not None:
                    keys.setdefault(member.key, []).append(number[item.path])
        for key, places in snapshot.places_of(list(keys)).items():
            found += [(row, part, place) for row in keys[key] for part, place in places]
        row, part, place = (np.array(column, np.int64) for column in zip(*sorted(found), strict=True))
        vectors = snapshot.vectors_of(Candidates.at(part, place))
    return Gallery(vectors, row.astype(np.intp))


def text_vectors(asked: Sequence[str]) -> FloatArray:
    """Unit vectors of texts as queries, shape (n, dim); kept under data/cache/."""
    name = hashlib.sha256(json.dumps([model().space_id, *asked]).encode()).hexdigest()[:20]
    file = KEPT / f"texts-{name}.npy"
    if not file.exists():
        found = encode_many([Query(Modality.TEXT, text=text) for text in asked], model().tower)
        vectors = np.stack([pooled(one) for one in found if not isinstance(one, Exception)])
        if len(vectors) != len(asked):
            raise SystemExit("a text could not be encoded")
        KEPT.mkdir(parents=True, exist_ok=True)
        np.save(file, vectors)
    return np.asarray(np.load(file), np.float32)


def queries(half: Half, modality: Modality) -> Gallery:
    """What to ask of the other modalities: captions as queries, or each picture's and sound's own vector."""
    if modality is Modality.TEXT:
        asked = texts(half)
        return Gallery(text_vectors(asked), np.arange(len(asked), dtype=np.intp))
    found = gallery(half, modality)
    rows = found.rows
    means = [found.vectors[found.row == row].mean(axis=0) for row in rows]
    vectors = np.stack(means) if means else found.vectors
    return Gallery(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rows)


def part_of_all(rows: Sequence[Row], name: str) -> Path:
    """An index of some stamps with the vectors that the index of all has: nothing is encoded for it."""
    place = KEPT / f"{name}-v{VERSION}-{model().space_id[:12]}" / "index"
    wanted = {row["id"] for row in rows}
    if not (place / "CURRENT").exists():
        with Snapshot.open(stamps_index("all")) as snapshot:
            items = [item for item in snapshot.item_list() if item.path in wanted]
            keys = {member.key: None for item in items for member in item.members if member.content_hash}
            found = [where for spots in snapshot.places_of(list(keys)).values() for where in spots]
            part, row = (np.array(column, np.int64) for column in zip(*sorted(found), strict=True))
            chosen = Candidates.at(part, row)
            segments, vectors = snapshot.segments(chosen), snapshot.vectors_of(chosen)
            roots, spaces = snapshot.generation.roots, snapshot.generation.spaces
        with Writer.open(place, create=True) as writer:
            made = writer.add_part(segments, vectors, space_id=model().space_id)
            writer.commit(None, roots=roots, items=items, spaces=spaces, parts=[made])
    derive(place, derivations(model()))
    return place


def _ids(manifest: Path) -> list[str]:
    return pq.read_table(manifest, columns=["id"])["id"].to_pylist() if manifest.exists() else []


def _file(name: str | None) -> str | None:
    return str(STAMPS / name) if name else None
