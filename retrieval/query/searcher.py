"""An index and its model, opened together, ready to be asked. What the command line and a server call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import MediaError, ModelNotFound, QueryError, SpaceMismatch, TriptychError
from indexer.snapshot import Snapshot
from indexer.types import FloatArray, Modality
from retrieval.query.compose import encode_many, pooled
from retrieval.query.context import Context, has_not, words_of
from retrieval.query.language.parse import parse_query
from retrieval.query.search import Stopwatch, search, searchable
from retrieval.types import Expression, Lexical, Not, Query, Request, SearchResult, Term

if TYPE_CHECKING:
    from indexer.twins import Twins
    from retrieval.models.model import Model
    from retrieval.query.concepts.concept import Concept
    from retrieval.query.filters.where import Filter
    from retrieval.query.lexical import Lexicon
    from retrieval.query.scores.background import Background
    from retrieval.query.scores.calibrate import Calibration


class Searcher:
    """One generation of an index, and the model that made it. Towers load when a query first needs them."""

    def __init__(self, snapshot: Snapshot, model: Model) -> None:
        self.snapshot = snapshot
        self.model = model
        self._filtered: tuple[str, Filter] | None = None

    @classmethod
    def open(
        cls,
        index: Path,
        *,
        model: str | None = None,
        threads: int = 0,
        on_build: Callable[[str, float], None] | None = None,
    ) -> Searcher:
        """Open an index and find its model in the user's cache, by space; the starter is built if need be.

        SpaceMismatch where `model` names one of another space; ModelNotFound where the cache lacks it.
        """
        snapshot = Snapshot.open(index)
        found = _model(model, snapshot, threads, on_build)
        if snapshot.space_id and found.space_id != snapshot.space_id:
            raise SpaceMismatch(
                f"{found.name} (space {found.space_id[:12]}) cannot search {index}, which was made with "
                f"{snapshot.model} (space {snapshot.space_id[:12]})",
                hint=f"leave out --model, or index again with --model {found.name}",
            )
        return cls(snapshot, found)

    def search(self, asked: str | Query | Request, **options: Any) -> SearchResult:
        """The hits for a request; see `retrieval.query.search.search`.

        A query, or an argument of the command line that is one, becomes a request with these options.
        """
        watch = Stopwatch()
        request = self.resolved(asked if isinstance(asked, Request) else _request(asked, **options))
        wanted = searchable(self.snapshot, request.modalities)
        with ThreadPoolExecutor(1) as pool, watch.stage("encode"):
            # Vectors are checked and mapped while the model loads: both are most of a cold search.
            warm = pool.submit(self._prepare, request, wanted)
            vectors = self.vectors(request)
            warm.result()
        with watch.stage("context"):
            context = self.context(request, vectors)
        return search(self.snapshot, context, watch=watch)

    def vectors(self, request: Request) -> FloatArray:
        """The unit vector of each term, shape (t, dim); terms of one modality are encoded together.

        QueryError where a medium cannot be read.
        """
        queries = [term.query for term in request.terms]
        found = []
        for query, encoded in zip(queries, encode_many(queries, self.model.tower), strict=True):
            if isinstance(encoded, MediaError):
                raise QueryError(f"{query.label}: {encoded.message}", hint=encoded.hint)
            if isinstance(encoded, TriptychError):
                raise encoded
            found.append(pooled(encoded))
        return np.stack(found)

    def _prepare(self, request: Request, wanted: Sequence[Modality]) -> None:
        """What needs no vector of the query: may run beside its encoding."""
        self.snapshot.warm(wanted)
        self._filter(request.where)

    def resolved(self, request: Request) -> Request:
        """The request with the vectors of the concepts that it names. QueryError as `resolve`."""
        if all(term.query.concept is None and term.query.vector is None for term in request.terms):
            return request

        def filled(part: Expression) -> Expression:
            if isinstance(part, Term):
                return replace(part, query=self.resolve(part.query))
            if isinstance(part, Not):
                return replace(part, part=filled(part.part))
            return replace(part, parts=tuple(map(filled, part.parts)))

        return replace(request, expression=filled(request.expression))

    def resolve(self, query: Query) -> Query:
        """The query with its vector where it names a concept.

        QueryError where there is no such, or where a query's vector is not as long as the index's.
        """
        if query.concept is None:
            if query.vector is not None and len(query.vector) != self.model.dim:
                raise QueryError(
                    f"{query.label} has {len(query.vector)} dimensions, the index's vectors {self.model.dim}",
                    hint="give a vector of the model that made the index",
                )
            return query
        from retrieval.query.concepts.concept import resolve

        return resolve(query, self.snapshot)

    def context(self, request: Request, vectors: FloatArray) -> Context:
        """What a search of this index for a request, its terms' vectors (t, dim) given, goes by.

        QueryError where the request asks for what the index does not have: `triptych index` makes it.
        """
        if request.min_score and self.calibration is None and not _all_concepts(request):
            made = self.background is not None
            raise QueryError(
                f"--min-score {request.min_score:g} is a probability, and nothing here tells it by scores",
                hint="run `triptych calibrate` on this index, or leave it out"
                if made
                else "run `triptych index` once, which works out what tells it, or leave it out",
            )
        words = self._words(request)
        return Context(
            request,
            vectors,
            filter=self._filter(request.where),
            background=self.background,
            calibration=self.calibration,
            twins=self.twins if request.group_duplicates else None,
            words=words,
            lexicon=self.lexicon if words else None,
            concepts=self._concepts(request),
        )

    @cached_property
    def background(self) -> Background | None:
        """How queries at large score here; None where the index has no such file."""
        from retrieval.query.scores.background import Background

        return Background.open(self.snapshot)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What turns scores into probabilities; None where neither index nor model has it."""
        from retrieval.query.scores.calibrate import Calibration

        return None if self.background is None else Calibration.of(self.model, self.snapshot)

    @cached_property
    def lexicon(self) -> Lexicon | None:
        """The word lists; None where the index has none."""
        from retrieval.query.lexical import Lexicon

        return Lexicon.open(self.snapshot)

    @cached_property
    def twins(self) -> Twins | None:
        """The groups of near-duplicates; None where the index has none."""
        from indexer.twins import Twins

        return Twins.open(self.snapshot)

    def _filter(self, predicate: str | None) -> Filter | None:
        """The segments that a predicate allows; the last ones are kept."""
        if predicate is None:
            return None
        if self._filtered is None or self._filtered[0] != predicate:
            from retrieval.query.filters.where import filtered

            self._filtered = predicate, filtered(self.snapshot, predicate)
        return self._filtered[1]

    def _words(self, request: Request) -> str:
        """The words that count as they are written. QueryError where only those are to count and none can."""
        only = request.lexical is Lexical.ONLY
        if request.lexical is Lexical.OFF or (request.segments and not only):
            return ""
        words = " ".join(words_of(request.expression))
        if only and (not words or request.segments):
            what = "lists items, not segments" if words else "needs words in the query"
            raise QueryError(f"--lexical only {what}", hint="leave out one of the two")
        if words and only and self.lexicon is None:
            raise QueryError("the index has no lists of words", hint="run `triptych index` once to make them")
        if not words or self.lexicon is None or not (only or self.lexicon.worth_it(words)):
            return ""
        if not only and has_not(request.expression):
            return ""  # what has the words may well be what must not match; ranks cannot tell
        return words

    def _concepts(self, request: Request) -> dict[int, Concept]:
        """The concepts among a request's terms, by the term's number."""
        named = [(number, term.query.concept) for number, term in enumerate(request.terms)]
        if all(name is None for _, name in named):
            return {}
        from retrieval.query.concepts.concept import load

        return {number: load(self.snapshot, name) for number, name in named if name is not None}

    def close(self) -> None:
        self.snapshot.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _all_concepts(request: Request) -> bool:
    return all(term.query.concept is not None for term in request.terms)


def _request(asked: str | Query, **options: Any) -> Request:
    query = parse_query(asked) if isinstance(asked, str) else asked
    return Request(Term(query), **options)


def _model(
    asked: str | None, snapshot: Snapshot, threads: int, on_build: Callable[[str, float], None] | None
) -> Model:
    """The model asked for, with the index's own dimension where it has that, else the index's own."""
    from retrieval.models.registry import find_model, load_model, load_space, means_starter, names_folder

    if asked and names_folder(asked):
        return load_model(asked, threads=threads).in_space(snapshot.space_id or "")
    name = asked or snapshot.space_id or "starter"
    try:
        found = find_model(name, called=None if asked else snapshot.model, threads=threads)
    except ModelNotFound:
        if not means_starter(name):
            raise
        found = load_space(name, threads=threads, progress=on_build)
    return found.in_space(snapshot.space_id or "")
