"""Results for programs: JSON, JSON lines, CSV, bare paths. Paths are given exactly, texts unescaped.

A text that only a manifest's row holds has no path: null in JSON, empty in CSV, left out of bare paths; its
row's key stands in `key`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from indexer.errors import ConfigError
from retrieval.query.language.jsonform import IN_A_RESULT, to_json
from retrieval.types import Hit, SearchResult, Stages


class Format(StrEnum):
    """What goes to stdout."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PATHS = "paths"
    NUL = "nul"  # paths, each ended by a NUL, for xargs -0


def pick_format(flags: Mapping[str, bool]) -> Format:
    """The one format whose flag is set, else the table. ConfigError where there are two."""
    chosen = [Format(name) for name, is_set in flags.items() if is_set]
    if len(chosen) > 1:
        raise ConfigError(f"two output formats: {chosen[0]} and {chosen[1]}", hint="choose one")
    return chosen[0] if chosen else Format.TABLE


COLUMNS = (  # of CSV; new ones come last, so that a column keeps its number
    *("rank", "score", "probability", "modality", "source", "path", "start", "end", "text", "item"),
    *("path_bytes", "manifest", "key", "duplicates", "cosine", "lexical_rank", "lexical_score"),
    *("lexical_words", "fused", "reranked"),
)


def render(result: SearchResult, form: Format) -> bytes:
    """The bytes for stdout; a path that is not UTF-8 keeps its bytes in `paths` and `nul`."""
    if form is Format.JSON:
        whole = json.dumps(as_json(result), ensure_ascii=False, indent=2) + "\n"
        return whole.encode("utf-8", "backslashreplace")  # \udcff, as JSON too writes what is no UTF-8
    if form is Format.JSONL:
        lines = [json.dumps(hit_json(hit), ensure_ascii=False) + "\n" for hit in result.hits]
        return "".join(lines).encode("utf-8", "backslashreplace")
    if form is Format.CSV:
        return _csv(result).encode("utf-8", "replace")
    end = b"\0" if form is Format.NUL else b"\n"
    return b"".join(os.fsencode(hit.path) + end for hit in result.hits if hit.path is not None)


def as_json(result: SearchResult) -> dict[str, Any]:
    """The whole result as one JSON object."""
    return {
        "query": result.request.label,
        IN_A_RESULT: to_json(result.request.expression),
        **_asked_in(result),
        "index": str(result.index),
        "generation": result.generation,
        "model": result.model,
        "space_id": result.space_id,
        "searched": [modality.value for modality in result.searched],
        **({} if result.nothing is None else {"nothing": result.nothing}),
        "milliseconds": {name: round(value, 3) for name, value in result.milliseconds.items()},
        "hits": [hit_json(hit) for hit in result.hits],
    }


def answer_line(line: str, result: SearchResult | None, error: str | None) -> bytes:
    """What became of one query of many, as a JSON object on a line of its own."""
    entry: dict[str, Any] = {"query": line}
    if result is None:
        entry["error"] = error
    else:
        entry |= _asked_in(result)
        entry["hits"] = [hit_json(hit) for hit in result.hits]
    return (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _asked_in(result: SearchResult) -> dict[str, Any]:
    """The modality of a query; a composed one has those of its terms."""
    asked = [term.query.modality.value for term in result.request.terms]
    return {"query_modality": asked[0] if result.request.query else asked}


def path_fields(path: str | None, name: str = "path") -> dict[str, Any]:
    """A path as JSON can hold it; `path_bytes`, in hex, is there where the path is not UTF-8."""
    if path is None:
        return {name: None}
    shown = path.encode("utf-8", "backslashreplace").decode("utf-8")
    raw = os.fsencode(path)
    return {name: shown} if shown.encode() == raw else {name: shown, f"{name}_bytes": raw.hex()}


def hit_json(hit: Hit) -> dict[str, Any]:
    """One hit; `path` is null where there is no file, `manifest` and `key` are there for a manifest's row."""
    entry: dict[str, Any] = {
        "rank": hit.rank,
        "score": round(hit.score, 6),
        "modality": hit.modality.value,
        "source": hit.source.value,
        **path_fields(hit.path),
        "item": hit.item_id,
    }
    if hit.manifest is not None:
        entry |= {**path_fields(hit.manifest, "manifest"), "key": hit.key}
    if hit.probability is not None:
        entry["probability"] = round(hit.probability, 4)
    if hit.range is not None:
        entry["start"], entry["end"] = hit.range.start, hit.range.end
    if hit.text is not None:
        entry["text"] = hit.text
    if hit.metadata:
        entry["metadata"] = dict(hit.metadata)
    if hit.duplicates:
        entry["duplicates"] = hit.duplicates
    entry["stages"] = _stages_json(hit.stages)
    return entry


def _stages_json(stages: Stages) -> dict[str, Any]:
    """The numbers of every stage that the hit went through."""
    terms = [
        {"term": one.label, "cosine": round(one.cosine, 6)}
        | ({} if one.adjusted == one.cosine else {"adjusted": round(one.adjusted, 6)})
        | ({} if one.probability is None else {"probability": round(one.probability, 4)})
        for one in stages.terms
    ]
    entry: dict[str, Any] = {"terms": terms}
    if stages.lexical is not None:
        words = stages.lexical
        entry["lexical"] = {"score": round(words.score, 4), "rank": words.rank, "words": list(words.words)}
    for name in ("fused", "reranked"):
        if getattr(stages, name) is not None:
            entry[name] = round(getattr(stages, name), 6)
    return entry


def _csv(result: SearchResult) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    grouped = result.request.group_duplicates
    writer.writerows(_row(hit, grouped=grouped) for hit in result.hits)
    return buffer.getvalue()


def _row(hit: Hit, *, grouped: bool) -> dict[str, Any]:
    """A hit as a row of CSV, with what of its stages is one number; of several terms the cosine of the first.

    Each term's numbers and a manifest's own columns differ in number from search to search: JSON has them.
    Where nothing was `grouped` nobody counted duplicates, and there is no number of them.
    """
    entry = hit_json(hit)
    stages = entry["stages"]
    words = stages.get("lexical", {})
    return entry | {
        "duplicates": hit.duplicates if grouped else None,
        "cosine": stages["terms"][0]["cosine"] if stages["terms"] else None,
        "lexical_rank": words.get("rank"),
        "lexical_score": words.get("score"),
        "lexical_words": " ".join(words.get("words", ())),
        "fused": stages.get("fused"),
        "reranked": stages.get("reranked"),
    }
