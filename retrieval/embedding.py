"""Vectors of any texts, pictures and sounds, for other programs: `triptych embed`.

Rows stay aligned with the inputs: one that cannot be read is a row of NaN with its reason beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import ConfigError, TriptychError
from indexer.fsio import write_atomic
from indexer.types import Encoder, FloatArray, Modality
from retrieval.query.compose import Encoded, encode_many, pooled
from retrieval.query.language.parse import try_parse
from retrieval.types import Query

GROUP = 1024  # inputs handled together, so that the model sees full batches


@dataclass(frozen=True, slots=True)
class Row:
    """One vector, and what it is of."""

    input: int  # position among the inputs, from 0
    label: str
    vector: FloatArray  # (dim,), unit length, or NaN where `error` says why
    modality: Modality | None
    start: float | None = None
    end: float | None = None
    error: str | None = None


def embed_inputs(
    inputs: Iterable[str], encoder_of: Callable[[Modality], Encoder], *, dim: int, segments: bool = False
) -> Iterator[Row]:
    """A row an input, in order: the normalised mean of its segments' vectors; with `segments` a row each.

    Inputs follow the rules of a search's query. Memory holds GROUP inputs, whatever their number.
    """
    numbered = enumerate(inputs)
    while group := list(islice(numbered, GROUP)):
        yield from _embed_group(group, encoder_of, dim, segments)


def _embed_group(
    group: Sequence[tuple[int, str]], encoder_of: Callable[[Modality], Encoder], dim: int, segments: bool
) -> list[Row]:
    queries = [try_parse(argument) for _, argument in group]
    rows: list[Row] = []
    for (number, label), query, found in zip(group, queries, encode_many(queries, encoder_of), strict=True):
        if isinstance(found, TriptychError):
            nothing = np.full(dim, np.nan, dtype=np.float32)
            rows.append(Row(number, label, nothing, None, error=found.message))
            continue
        assert isinstance(query, Query), "what was no query has no vectors"
        if segments:
            rows += [
                Row(number, label, vector, query.modality, *((span.start, span.end) if span else ()))
                for span, vector in found
            ]
        else:
            rows.append(_whole(number, label, query.modality, found))
    return rows


def _whole(number: int, label: str, modality: Modality, found: Encoded) -> Row:
    """One row of an input: its only segment's vector as it is, or the mean of several."""
    vector = found[0][1] if len(found) == 1 else pooled(found)
    return Row(number, label, vector, modality)


def write_rows(rows: Sequence[Row], out: Path, *, dim: int, space_id: str) -> None:
    """A .npy of shape (rows, dim) with a .jsonl beside it, or one .parquet; see `check_out`."""
    vectors = np.stack([row.vector for row in rows]) if rows else np.zeros((0, dim), np.float32)
    if out.suffix == ".npy":
        with out.open("wb") as file:
            np.save(file, vectors)
        lines = [json.dumps(_entry(row) | {"space_id": space_id}, ensure_ascii=False) for row in rows]
        write_atomic(
            out.with_suffix(".jsonl"), "".join(line + "\n" for line in lines).encode("utf-8", "replace")
        )
    else:
        _write_parquet(rows, vectors, out, space_id)


def check_out(out: Path) -> None:
    """Refuse an unusable --out before the work, not after it."""
    if out.suffix not in (".npy", ".parquet"):
        raise ConfigError(f"--out is {out}", hint="it takes a name ending in .npy or .parquet")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"the folder of --out {out} does not exist", hint="create it first")


def _entry(row: Row) -> dict[str, Any]:
    return {
        "input": row.input,
        "label": row.label,
        "modality": row.modality.value if row.modality else None,
        "start": row.start,
        "end": row.end,
        "error": row.error,
    }


def _write_parquet(rows: Sequence[Row], vectors: FloatArray, out: Path, space_id: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"input": pa.int64(), "label": pa.string(), "modality": pa.string(), "start": pa.float64()}
    kinds |= {"end": pa.float64(), "error": pa.string()}
    entries = [_entry(row) for row in rows]
    for entry in entries:
        entry["label"] = entry["label"].encode("utf-8", "replace").decode("utf-8")
    columns = {name: pa.array([entry[name] for entry in entries], kind) for name, kind in kinds.items()}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    table = pa.table(columns).replace_schema_metadata({"space_id": space_id})
    pq.write_table(table, out)
