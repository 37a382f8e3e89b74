"""Many queries at once: encoded in full batches, then compared with all vectors by matrix products.

Each query's result is that of a search of its own, with one exception: a part with inverted lists is searched
through them by a search of its own, which may miss a hit, and here compared whole. A model may round a vector
in another way in a batch than alone: with the starter the scores differ by 1e-7 at most. Imports torch only
where a GPU may be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import numpy as np

from indexer.errors import QueryError, TriptychError
from indexer.snapshot import Find, Snapshot
from indexer.types import FloatArray, Modality
from retrieval.query.compose import encode_many, pooled
from retrieval.query.parse import try_parse
from retrieval.query.search import OVERFETCH, best_items, best_segments, fuse, result_of, searchable
from retrieval.query.searcher import Searcher
from retrieval.runtime.bulk import Bulk, search_device
from retrieval.runtime.devices import CPU
from retrieval.types import Hit, Query, SearchResult

GROUP = 4096  # queries answered together
CANDIDATES = 1 << 22  # places and scores of segments that are held together
MATCHES = 1 << 16  # segments that are read together, with their texts
MAX_LINE = 1 << 20  # bytes of a query
WORTH = 1 << 28  # queries times vectors; below, the CPU is done before a GPU has started

Note = Callable[[str], None]  # takes a line for the user


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one line."""

    line: str
    result: SearchResult | None = None
    error: str | None = None  # why there is no result


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for with every query, as Searcher.search has it."""

    k: int
    modalities: Sequence[Modality] = ()
    segments: bool = False


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
    wanted: Wanted,
    *,
    gpu: bool | None = None,
    device: str = "auto",
    note: Note | None = None,
) -> Iterator[Answer]:
    """An answer a line, in order. Memory holds GROUP queries with their hits, whatever the number of lines.

    Lines follow the rules of a query on the command line; one that cannot be read as one gives an error.
    `gpu` is True for a GPU, None for one that is there and worth it, and `device` the user's word for which;
    `note` hears once that there is none, or that it failed. QueryError where the index has none of the
    modalities that are wanted.
    """
    modalities = searchable(searcher.snapshot, wanted.modalities)
    vectors = sum(searcher.snapshot.counts[modality] for modality in modalities)
    find, decided = Bulk(CPU, note=note), gpu is False
    lines = iter(lines)
    while group := list(islice(lines, GROUP)):
        if not decided and (gpu or len(group) * vectors >= WORTH):
            decided, find = True, Bulk(search_device(gpu, setting=device, note=note), note=note)
        yield from _answers(searcher, group, wanted, modalities, find)


def _answers(
    searcher: Searcher, lines: Sequence[str], wanted: Wanted, modalities: Sequence[Modality], find: Find
) -> Iterator[Answer]:
    """The answers of one group. Hits are found as they are pulled."""
    snapshot = searcher.snapshot
    queries = [_parsed(line) for line in lines]
    encoded = encode_many(queries, searcher.model.tower)
    vectors = np.array([pooled(one) for one in encoded if not isinstance(one, TriptychError)])
    lists = [_hits(snapshot, modality, vectors, wanted, find) for modality in modalities]
    for line, query, one in zip(lines, queries, encoded, strict=True):
        if isinstance(one, TriptychError):
            yield Answer(line, error=one.message)
            continue
        assert isinstance(query, Query), "what was no query has no vectors"
        hits = fuse([next(found) for found in lists], wanted.k, segments=wanted.segments)
        yield Answer(line, result_of(snapshot, query, hits, searched=modalities))


def _parsed(line: str) -> Query | TriptychError:
    if len(line.encode("utf-8", "surrogateescape")) > MAX_LINE:
        return QueryError(f"the line is longer than {MAX_LINE >> 20} MB")
    query = try_parse(line, stdin=_no_stdin)
    if isinstance(query, Query) and query.text is not None and not _is_utf8(line):
        return QueryError("the line is not UTF-8")
    return query


def _is_utf8(line: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in line)


def _no_stdin() -> bytes:
    raise QueryError("a line cannot stand for standard input")


def _hits(
    snapshot: Snapshot, modality: Modality, vectors: FloatArray, wanted: Wanted, find: Find
) -> Iterator[list[Hit]]:
    """The best hits of one modality for each query's vector (q, dim), in order."""
    if not wanted.segments:
        yield from _items(snapshot, modality, vectors, wanted.k, find, asked=wanted.k * OVERFETCH)
        return
    count = min(wanted.k, snapshot.counts[modality])
    for some in _slices(len(vectors), CANDIDATES // count):
        found = snapshot.search_many(modality, vectors[some], count, find=find)
        for few in _slices(len(found), MATCHES // count):
            yield from best_segments(snapshot, found[few], wanted.k)


def _items(
    snapshot: Snapshot, modality: Modality, vectors: FloatArray, k: int, find: Find, *, asked: int
) -> Iterator[list[Hit]]:
    """As `search.item_hits` for each vector; those that `asked` segments do not settle ask for more."""
    total = snapshot.counts[modality]
    count = min(asked, total)
    for some in _slices(len(vectors), CANDIDATES // count):
        block = vectors[some]
        found = snapshot.search_many(modality, block, count, find=find)
        for few in _slices(len(found), MATCHES // count):
            best = best_items(snapshot, found[few], k, whole=asked >= total)
            unsettled = block[few][[one is None for one in best]]
            more = _items(snapshot, modality, unsettled, k, find, asked=4 * asked)
            for one in best:
                yield next(more) if one is None else one


def _slices(count: int, size: int) -> Iterator[slice]:
    """All of `count` things, at most `size` at a time, but one at the least."""
    step = max(1, size)
    for start in range(0, count, step):
        yield slice(start, start + step)
