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
from indexer.types import Encoder, FloatArray, Modality, Prepared
from retrieval.query.compose import prepare, unit
from retrieval.query.parse import parse_query

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
    rows: dict[int, list[Row]] = {}
    waiting: dict[Modality, list[tuple[int, str, Prepared]]] = {}

    def flush(modality: Modality) -> None:
        batch = waiting.pop(modality, [])
        vectors = encoder_of(modality).encode([prepared.tensor for _, _, prepared in batch]) if batch else ()
        for (number, label, prepared), vector in zip(batch, vectors, strict=True):
            span = prepared.range
            row = Row(
                number, label, vector, modality, span.start if span else None, span.end if span else None
            )
            rows.setdefault(number, []).append(row)

    for number, argument in group:
        try:
            query = parse_query(argument)
            encoder = encoder_of(query.modality)
            for prepared in prepare(query, encoder):
                queue = waiting.setdefault(query.modality, [])
                queue.append((number, argument, prepared))
                if len(queue) >= encoder.batch_size:
                    flush(query.modality)
        except TriptychError as error:
            nothing = np.full(dim, np.nan, dtype=np.float32)
            waiting = {m: [one for one in queue if one[0] != number] for m, queue in waiting.items()}
            rows[number] = [Row(number, argument, nothing, None, error=error.message)]
    for modality in list(waiting):
        flush(modality)
    return [row for number, _ in group for row in (rows[number] if segments else [_pooled(rows[number])])]


def _pooled(rows: Sequence[Row]) -> Row:
    first = rows[0]
    if len(rows) == 1:
        return Row(first.input, first.label, first.vector, first.modality, error=first.error)
    mean = np.mean([row.vector for row in rows], axis=0, dtype=np.float64)
    return Row(first.input, first.label, unit(mean), first.modality)


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
