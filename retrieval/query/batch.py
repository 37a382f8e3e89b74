"""Many queries at once: encoded in full batches, then compared with all vectors by matrix products.

A line is one term, as one argument of the command line is, or an object of JSON: a query of any form. One of
several terms is a search of its own, since each term asks for candidates by itself.

Each query's result is that of a search of its own, with one exception: a part with inverted lists is searched
through them by a search of its own, which may miss a hit, and here compared whole. A model may round a vector
in another way in a batch than alone: with the starter the scores differ by 1e-7 at most. Imports torch only
where a GPU may be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import BinaryIO

import numpy as np

from indexer.errors import QueryError, TriptychError
from indexer.snapshot import Find, Snapshot
from indexer.types import Modality
from retrieval.query.compose import Encoded, encode_many, pooled
from retrieval.query.context import Context, words_of
from retrieval.query.language.jsonform import read_json
from retrieval.query.language.parse import parse_query
from retrieval.query.matches import Match, best_items, best_segments
from retrieval.query.pool import Pool, cut, reach, scored
from retrieval.query.ranked import OVERFETCH, hits_of
from retrieval.query.search import Stopwatch, depth_of, page, search, searchable, starved
from retrieval.query.searcher import Searcher
from retrieval.runtime.bulk import Bulk, search_device
from retrieval.runtime.devices import CPU
from retrieval.types import Expression, Query, Request, SearchResult, Term

GROUP = 4096  # queries answered together
CANDIDATES = 1 << 22  # places and scores of segments that are held together
MATCHES = 1 << 16  # segments that are read together, with their texts
MAX_LINE = 1 << 20  # bytes of a query
WORTH = 1 << 28  # queries times vectors; below, the CPU is done before a GPU has started

Note = Callable[[str], None]  # takes a line for the user
Matched = tuple[Pool, list[Match]]  # a query's segments, and what of them is wanted


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one line."""

    line: str
    result: SearchResult | None = None
    error: str | None = None  # why there is no result


def read_lines(file: BinaryIO) -> Iterator[str]:
    """The lines of a file, one by one, as file names are decoded; of one too long only its beginning."""
    mark = b"\xef\xbb\xbf"  # that some editors put before the first line
    while raw := file.readline(MAX_LINE + 1):
        yield raw.removeprefix(mark).rstrip(b"\r\n").decode("utf-8", "surrogateescape")
        mark = b""
        while len(raw) > MAX_LINE and not raw.endswith(b"\n"):
            raw = file.readline(MAX_LINE + 1)


def search_lines(
    searcher: Searcher,
    lines: Iterable[str],
    form: Request,
    *,
    gpu: bool | None = None,
    device: str = "auto",
    note: Note | None = None,
) -> Iterator[Answer]:
    """An answer a line, in order. Memory holds GROUP queries with their hits, whatever the number of lines.

    A line follows the rules of one term on the command line, and one that begins with { those of jsonform;
    one that cannot be read gives an error. `form` is the request to which each line gives its expression.
    `gpu` is True for a GPU, None for one that is there and worth it, and `device` the user's word for which;
    `note` hears once that there is none, or that it failed. QueryError where the index has none of the
    modalities that are wanted.
    """
    modalities = searchable(searcher.snapshot, form.modalities)
    vectors = sum(searcher.snapshot.counts[modality] for modality in modalities)
    find, decided = Bulk(CPU, note=note), gpu is False
    lines = iter(lines)
    while group := list(islice(lines, GROUP)):
        if not decided and (gpu or len(group) * vectors >= WORTH):
            decided, find = True, Bulk(search_device(gpu, setting=device, note=note), note=note)
        yield from _answers(searcher, group, form, modalities, find)


def _answers(
    searcher: Searcher, lines: Sequence[str], form: Request, modalities: Sequence[Modality], find: Find
) -> Iterator[Answer]:
    """The answers of one group. Hits are found as they are pulled."""
    parsed = [_parsed(line, searcher) for line in lines]
    encoded = encode_many(list(map(_alone, parsed)), searcher.model.tower)
    asked = [_context(searcher, form, one, own) for one, own in zip(parsed, encoded, strict=True)]
    contexts = [one for one in asked if isinstance(one, Context)]
    lists = [_found(searcher.snapshot, modality, contexts, find) for modality in modalities]
    for line, one in zip(lines, asked, strict=True):
        if isinstance(one, TriptychError):
            yield Answer(line, error=one.message)
            continue
        found = [next(some) for some in lists] if isinstance(one, Context) else []
        try:
            if isinstance(one, Context):
                yield Answer(line, _result(searcher.snapshot, one, found, modalities))
            else:
                yield Answer(line, _composed(searcher, replace(form, expression=one)))
        except TriptychError as error:  # a model that lacks a tower, say: the other lines may do without
            yield Answer(line, error=error.message)


def _composed(searcher: Searcher, request: Request) -> SearchResult:
    """A search of its own, of several terms. QueryError where a file of it cannot be read."""
    try:
        return searcher.search(request)
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> QueryError:
    return QueryError(f"it cannot be read: {error.strerror or error}")


def _alone(parsed: Expression | TriptychError) -> Query | TriptychError:
    """What is encoded with others: the query of a single term."""
    if isinstance(parsed, Term):
        return parsed.query
    return parsed if isinstance(parsed, TriptychError) else QueryError("several terms")


def _context(
    searcher: Searcher,
    form: Request,
    parsed: Expression | TriptychError,
    encoded: Encoded | TriptychError,
) -> Context | Expression | TriptychError:
    """What the search of one line goes by; several terms as they are; or why it cannot be searched."""
    if not isinstance(parsed, Term):
        return parsed
    if isinstance(encoded, TriptychError):
        return encoded
    try:
        return searcher.context(replace(form, expression=parsed), pooled(encoded)[None])
    except QueryError as error:
        return error


def _result(
    snapshot: Snapshot, context: Context, found: Sequence[Matched], modalities: Sequence[Modality]
) -> SearchResult:
    """As a search of its own gives it."""
    depth = depth_of(context)
    hits = [hits_of(snapshot, context, pool, matches[:depth]) for pool, matches in found]
    result = page(snapshot, context, hits, searched=modalities, watch=Stopwatch(), depth=depth)
    return search(snapshot, context) if starved(snapshot, context, result, hits, depth) else result


def _parsed(line: str, searcher: Searcher) -> Expression | TriptychError:
    """The query of a line, its concept found where it is one alone; or what is wrong with it."""
    if len(line.encode("utf-8", "surrogateescape")) > MAX_LINE:
        return QueryError(f"the line is longer than {MAX_LINE >> 20} MB")
    try:
        is_json = line.lstrip().startswith("{")
        found = read_json(line) if is_json else Term(parse_query(line, stdin=_no_stdin))
        if not _is_utf8(line) and (is_json or any(words_of(found))):
            return QueryError("the line is not UTF-8")
        return replace(found, query=searcher.resolve(found.query)) if isinstance(found, Term) else found
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        return _unreadable(error)
    except TriptychError as error:
        return error


def _is_utf8(line: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in line)


def _no_stdin() -> bytes:
    raise QueryError("a line cannot stand for standard input")


def _found(
    snapshot: Snapshot, modality: Modality, contexts: Sequence[Context], find: Find, *, asked: int = 0
) -> Iterator[Matched]:
    """As `ranked` for each context, or more; those that `asked` segments do not settle ask for more."""
    if not contexts:
        return
    form, allowed, only = contexts[0].request, contexts[0].allowed, contexts[0].filter
    depth, total = max(map(depth_of, contexts)), snapshot.counts[modality]
    asked = asked or depth * (1 if form.segments else OVERFETCH)
    count = reach(contexts[0], asked, total)
    for some in _slices(len(contexts), CANDIDATES // count):
        block = contexts[some]
        vectors = np.concatenate([context.vectors for context in block])
        found = snapshot.search_many(modality, vectors, count, find=find, allowed=allowed)
        whole = count == total or len(found[0]) < count  # a filter leaves all of them the same number
        pools = [
            cut(scored(snapshot, context, modality, one, one.score[None], whole=whole), asked)
            for context, one in zip(block, found, strict=True)
        ]
        for few in _slices(len(pools), MATCHES // count):
            segments = [pool.found for pool in pools[few]]
            if form.segments:
                yield from zip(pools[few], best_segments(snapshot, segments, depth, only=only), strict=True)
                continue
            whole = all(pool.whole for pool in pools[few])
            best = best_items(snapshot, segments, depth, whole=whole, only=only)
            again = [context for context, one in zip(block[few], best, strict=True) if one is None]
            more = _found(snapshot, modality, again, find, asked=4 * asked)
            for pool, one in zip(pools[few], best, strict=True):
                yield next(more) if one is None else (pool, one)


def _slices(count: int, size: int) -> Iterator[slice]:
    """All of `count` things, at most `size` at a time, but one at the least."""
    step = max(1, size)
    for start in range(0, count, step):
        yield slice(start, start + step)
