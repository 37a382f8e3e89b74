"""The last search, kept for its user: what was asked and what was found, for `--like 3` and `--repeat`.

One small file in the user's own folder, which only the user may read. Nothing of an index stands in it but
what the result showed. Keeping it never fails a search.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from indexer.errors import QueryError
from indexer.fsio import write_atomic
from indexer.snapshot import Snapshot
from indexer.types import Modality, Range, Source
from retrieval.config import data_dir
from retrieval.query.language.jsonform import from_json, to_json
from retrieval.query.language.parse import parse_query
from retrieval.types import Hit, Lexical, Query, Request, Rerank, SearchResult

VERSION = 2
FILE = "last-search.json"
MOST = 1000  # hits that are kept
NOTHING = "there is no last search to go back to"
HINT = "search first; nothing is kept with --no-history, nor with `history = false` in the configuration"


@dataclass(frozen=True, slots=True)
class SessionHit:
    """A hit of the last search: which segment it was."""

    rank: int
    item_id: str
    path: str | None
    modality: Modality
    source: Source
    content: bytes
    range: Range | None


@dataclass(frozen=True, slots=True)
class Session:
    """The last search."""

    index: Path
    space_id: str | None
    asked: Mapping[str, Any]  # the request as JSON, see `request_json`
    hits: tuple[SessionHit, ...]

    @property
    def request(self) -> Request:
        """What was asked for. QueryError where that cannot be asked again."""
        try:
            found = request_from(self.asked)
        except QueryError as error:
            told = f"the last search cannot be asked again: {error.message}"
            raise QueryError(told, hint=error.hint) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _damaged() from None
        if any(term.query.vector is not None for term in found.terms):
            from indexer.generation import read_current

            if self.space_id not in read_current(self.index).spaces:
                raise QueryError(
                    "the last search was for vectors of another model than the index has now",
                    hint="name again what it was like",
                )
        return found

    def hit(self, number: int, index: Path) -> SessionHit:
        """The hit that was shown under a number. QueryError where there is none, or in another index."""
        if index.absolute() != self.index:
            raise QueryError(
                f"the last search was in {self.index}, not in {index}",
                hint=f"search here first, or name that one: --index {self.index}",
            )
        for hit in self.hits:
            if hit.rank == number:
                return hit
        if not self.hits:
            raise QueryError(f"the last search found nothing, so it has no hit {number}", hint="search again")
        shown = f"{self.hits[0].rank} to {self.hits[-1].rank}"
        raise QueryError(f"the last search has no hit {number}", hint=f"its hits: {shown}")


def save(result: SearchResult) -> None:
    """Keep a result as the last search. A folder that cannot be written keeps nothing, and says nothing."""
    with contextlib.suppress(OSError, ValueError):
        folder = data_dir()
        folder.mkdir(parents=True, exist_ok=True)
        said = json.dumps(_document(result), separators=(",", ":")).encode()
        write_atomic(folder / FILE, said, private=True, durable=False)  # no search waits for the disk


def forget() -> None:
    """Keep no last search any more. OSError where the file cannot be removed."""
    (data_dir() / FILE).unlink(missing_ok=True)


def last() -> Session:
    """The last search. QueryError where none is kept, or what is kept cannot be read."""
    try:
        return _session(json.loads((data_dir() / FILE).read_bytes()))
    except FileNotFoundError:
        raise QueryError(NOTHING, hint=HINT) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _damaged() from None


def repeated() -> tuple[Request, Path]:
    """The last request, and the index that it was made of. QueryError where it cannot be made again."""
    session = last()
    return session.request, session.index


def _damaged() -> QueryError:
    return QueryError("the last search cannot be read", hint="search once more")


def like_query(snapshot: Snapshot, which: str) -> Query:
    """A query for more like a hit of the last search, an item or a file.

    Its vector is there where the index has one; a file that it does not know is left to be encoded. Errors as
    `examples.find`.
    """
    from retrieval.query.concepts.examples import find

    found = find(snapshot, which)
    if found.vector is None:
        return parse_query(f"file:{found.path}")
    return Query(found.modality, name=f"like {found.name}", vector=found.vector)


# Requests as JSON


def request_json(request: Request) -> dict[str, Any]:
    """A request as JSON has it; its expression as `jsonform` writes it: it means the same in any folder."""
    plain = {field.name: getattr(request, field.name) for field in fields(Request)}
    return plain | {
        "expression": to_json(request.expression),
        "modalities": [modality.value for modality in request.modalities],
    }


def request_from(document: Mapping[str, Any]) -> Request:
    """The request of `request_json`; ValueError, KeyError or TypeError where it is none.

    QueryError where its expression cannot be asked again: a file of it is gone, say.
    """
    known = {field.name for field in fields(Request)}
    given = {name: value for name, value in document.items() if name in known}
    return Request(
        **given
        | {
            "expression": from_json(document["expression"]),
            "modalities": tuple(Modality(name) for name in document["modalities"]),
            "lexical": Lexical(document["lexical"]),
            "rerank": None if document["rerank"] is None else Rerank(document["rerank"]),
        }
    )


# The file


def _document(result: SearchResult) -> dict[str, Any]:
    return {
        "version": VERSION,
        "index": os.fspath(result.index.absolute()),
        "space_id": result.space_id,
        "request": request_json(result.request),
        "hits": [_hit_json(hit) for hit in result.hits[:MOST]],
    }


def _hit_json(hit: Hit) -> list[Any]:
    ends = [None, None] if hit.range is None else [hit.range.start, hit.range.end]
    content = hit.content_hash.hex()
    return [hit.rank, hit.item_id, hit.path, hit.modality.value, hit.source.value, content, *ends]


def _session(document: Any) -> Session:
    """ValueError, KeyError or TypeError where a document is none of a last search."""
    if document["version"] != VERSION:
        raise ValueError("another version")
    hits = []
    for rank, item_id, path, modality, source, content, start, end in document["hits"]:
        span = None if start is None else Range(start, end)
        hits.append(
            SessionHit(rank, item_id, path, Modality(modality), Source(source), bytes.fromhex(content), span)
        )
    return Session(Path(document["index"]), document["space_id"], document["request"], tuple(hits))
