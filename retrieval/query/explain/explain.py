"""Why a hit is one: its stages from the search itself, then what its parts and the query's words add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.errors import MediaError, QueryError
from indexer.snapshot import Candidates, Snapshot
from indexer.types import FloatArray, Modality, Source
from retrieval.home import expanded
from retrieval.query.compose import encode_segments
from retrieval.query.concepts.examples import HIT, Example, find
from retrieval.query.explain.passes import scores
from retrieval.query.explain.types import Explanation, Heat, TermEffect, Words
from retrieval.query.search import search
from retrieval.types import Expression, Hit, Lexical, Not, Query, Request, Stages, Term, TermScore

if TYPE_CHECKING:
    from retrieval.query.filters.where import Filter
    from retrieval.query.searcher import Searcher

LOOKED_AT = 100  # hits among which the one that is explained is looked for


def explain(searcher: Searcher, request: Request, which: str) -> Explanation:
    """Why `which` is a hit for a request, or would be: a hit's number in the last search, a file or an item.

    The stages are those of the same search. Where its best hits lack the item they are those of a search
    among the item's segments alone, with rank 0, of words too; a file that the index does not know is
    compared as it is.
    QueryError where nothing has that name, or the file cannot be read.
    """
    request = replace(
        searcher.resolved(request), offset=0, min_score=0.0, diverse=None, group_duplicates=False
    )
    example = find(searcher.snapshot, which)
    vectors = searcher.vectors(request)
    hit = _hit(searcher, request, vectors, example) if example.indexed else None
    indexed, own = hit is not None, None
    if hit is None:
        hit, own = _outside(searcher, request, vectors, example, which)
    named = expanded(which)
    if not HIT.fullmatch(which) and named.is_file():
        hit = replace(hit, path=str(named))  # of several with its content
    heats, note = _heats(searcher, hit, vectors)
    target = own if own is not None else _stored(searcher.snapshot, hit)
    terms = _terms(searcher, request, hit, target, heats)
    return Explanation(request, hit, tuple(terms), indexed, note)


def _hit(searcher: Searcher, request: Request, vectors: FloatArray, example: Example) -> Hit | None:
    """The hit of an example that the index knows; None where it is not to be found."""
    some = replace(request, k=LOOKED_AT)
    full = search(searcher.snapshot, searcher.context(some, vectors))
    for hit in full.hits:
        if _is_of(hit, example):
            return hit
    words = Lexical.AUTO if some.lexical is Lexical.ONLY else some.lexical  # it need not hold the words
    alone = replace(
        some,
        segments=request.segments or example.segment is not None,
        where=None,
        modalities=(example.modality,),
        lexical=words,
        rerank=None,
    )
    context = replace(searcher.context(alone, vectors), filter=only(searcher.snapshot, example))
    for hit in search(searcher.snapshot, context).hits:
        if _is_of(hit, example):
            return replace(hit, rank=0, stages=_unranked(hit.stages))
    return None


def _unranked(stages: Stages) -> Stages:
    """A hit's numbers without those that only say that it was alone."""
    words = None if stages.lexical is None else replace(stages.lexical, rank=0)
    return replace(stages, lexical=words, fused=None)


def _is_of(hit: Hit, example: Example) -> bool:
    same = hit.content_hash == example.content and hit.modality is example.modality
    return same and (example.segment is None or hit.range == example.segment)


def only(snapshot: Snapshot, example: Example) -> Filter:
    """A filter that lets nothing through but an example's own segments."""
    from retrieval.query.filters.pairs import pairs_of
    from retrieval.query.filters.where import Filter

    pairs = pairs_of(snapshot)
    keys = [(example.content, example.modality, source) for source in Source]
    places = [place for some in snapshot.places_of(keys).values() for place in some]
    rows = [int(pairs.starts[part]) + row for part, row in places]
    return Filter(snapshot, pairs, np.isin(pairs.segment, np.array(rows, np.int64)))


def _outside(
    searcher: Searcher, request: Request, vectors: FloatArray, example: Example, which: str
) -> tuple[Hit, FloatArray]:
    """A file that the index does not know, by its best segment for the first term; and that one's vector."""
    query = Query(example.modality, path=example.path or Path(which))
    found = list(encode_segments(query, searcher.model.tower(example.modality)))
    if not found:
        raise QueryError(f"{which} has nothing to compare with", hint="name another file")
    cosine = scores(np.stack([vector for _, vector in found]), vectors)
    best = int(np.argmax(cosine[0]))
    prepared, vector = found[best]
    told = searcher.context(request, vectors).probabilities(example.modality, cosine[:, best : best + 1])
    terms = tuple(
        TermScore(term.query.label, value, value, None if told is None else float(told[number, 0]))
        for number, (term, value) in enumerate(zip(request.terms, cosine[:, best].tolist(), strict=True))
    )
    hit = Hit(
        rank=0,
        item_id="",
        path=str(query.path),
        modality=example.modality,
        source=Source.FILE,
        score=terms[0].cosine,
        range=prepared.range,
        text=prepared.text,
        probability=terms[0].probability if len(terms) == 1 else None,
        content_hash=example.content,
        stages=Stages(terms=terms),
    )
    return hit, vector


def _heats(searcher: Searcher, hit: Hit, vectors: FloatArray) -> tuple[list[Heat] | list[None], str | None]:
    """For each term what the parts of the hit's medium add; or why that cannot be told."""
    try:
        return _read_and_masked(searcher, hit, vectors), None
    except (MediaError, OSError) as error:
        reason = error.message if isinstance(error, MediaError) else error.strerror or str(error)
        return [None] * len(vectors), f"{hit.path or hit.item_id}: {reason}"


def _read_and_masked(searcher: Searcher, hit: Hit, vectors: FloatArray) -> list[Heat]:
    tower = searcher.model.tower(hit.modality)
    if hit.modality is Modality.TEXT:
        from retrieval.query.explain.text import words_heat

        return list(words_heat(hit.text or "", tower, vectors))
    if hit.path is None:
        raise MediaError("there is no file to read")
    if hit.modality is Modality.IMAGE:
        from retrieval.query.explain.image import picture_heat, read_picture

        return list(picture_heat(read_picture(hit.path, tower), tower, vectors))
    from retrieval.query.explain.sound import read_window, sound_heat

    span, pcm = read_window(hit.path, tower, hit.range)
    return list(sound_heat(pcm, span, tower, vectors))


def _terms(
    searcher: Searcher,
    request: Request,
    hit: Hit,
    target: FloatArray | None,
    heats: list[Heat] | list[None],
) -> Iterator[TermEffect]:
    """Each term with its heat, and which of its own words find the hit, whose vector (dim,) is `target`."""
    wanted = list(_wanted(request.expression, True))
    for number, term in enumerate(request.terms):
        cosine = hit.stages.terms[number].cosine
        asked = None if target is None else _asked(searcher, term.query, target)
        yield TermEffect(term.query.label, wanted[number], cosine, heats[number], asked)


def _asked(searcher: Searcher, query: Query, target: FloatArray) -> Words | None:
    """What the words of a query add; None of a query that is no text."""
    if query.text is None or query.vector is not None:
        return None
    from retrieval.query.explain.text import words_heat

    return words_heat(query.text, searcher.model.tower(Modality.TEXT), target[None], asking=True)[0]


def _stored(snapshot: Snapshot, hit: Hit) -> FloatArray | None:
    """The vector (dim,) that the index has of a hit's segment; None where it has none."""
    places = snapshot.places_of([(hit.content_hash, hit.modality, hit.source)])
    for part, row in next(iter(places.values()), []):
        one = Candidates.at(np.array([part]), np.array([row]))
        if snapshot.segments(one)[0].range == hit.range:
            return snapshot.vectors_of(one)[0]
    return None


def _wanted(expression: Expression, sign: bool) -> Iterator[bool]:
    """For each term from left to right whether it is to match."""
    if isinstance(expression, Term):
        yield sign
    elif isinstance(expression, Not):
        yield from _wanted(expression.part, not sign)
    else:
        for part in expression.parts:
            yield from _wanted(part, sign)
