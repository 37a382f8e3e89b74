"""`triptych search`: a request made, asked and its result printed. Its flags are in request.py."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from retrieval.commands.batch import open_batch, search_batch
from retrieval.commands.flags import takes
from retrieval.commands.place import chosen_index, say_absent, say_build
from retrieval.commands.request import SearchFlags, check_together, format_of, request_of
from retrieval.commands.talk import say
from retrieval.config import Settings, load_settings
from retrieval.render.escape import printable

if TYPE_CHECKING:
    from retrieval.query.searcher import Searcher
    from retrieval.render.data import Format
    from retrieval.types import Expression, SearchResult


@takes(SearchFlags)
def search(flags: SearchFlags) -> None:
    """Find items by words, pictures, sounds and concepts. Exits 0 with hits, 1 without, 2 on an error."""
    form = format_of(flags)
    check_together(flags, form)
    settings = load_settings()
    index, request = request_of(flags, settings)
    with _opened(chosen_index(index, settings), flags.model, settings) as searcher:
        say_absent(searcher.snapshot.counts, request.modalities)
        if flags.batch is not None:
            with open_batch(flags.batch) as file:
                code = search_batch(searcher, file, request, gpu=flags.gpu, device=settings.device)
            raise typer.Exit(code)
        if flags.like is not None:
            request = replace(request, expression=_with_like(searcher, flags.like, request.expression))
        result = searcher.search(request)
    if settings.history and not flags.no_history:
        from retrieval.query.session import save

        save(result)
    _show(result, form)
    raise typer.Exit(0 if result.hits else 1)


def _opened(place: Path, model: str | None, settings: Settings) -> Searcher:
    from retrieval.query.searcher import Searcher

    return Searcher.open(place, model=model, threads=settings.threads, on_build=say_build)


def _with_like(searcher: Searcher, like: str, others: Expression) -> Expression:
    """A term that is like a hit, together with the other terms."""
    from retrieval.query.session import like_query
    from retrieval.types import AllOf, Term, terms_of

    term = Term(like_query(searcher.snapshot, like))
    return AllOf((term, others)) if any(terms_of(others)) else term


def _show(result: SearchResult, form: Format) -> None:
    """The hits on stdout; why there are none on stderr."""
    from retrieval.render.data import Format, render

    if form is not Format.TABLE:
        sys.stdout.buffer.write(render(result, form))
    elif result.hits:
        from retrieval.render.table import hit_lines

        print("\n".join(hit_lines(result)))
    if not result.hits:
        say(printable(result.nothing or "nothing found"))
