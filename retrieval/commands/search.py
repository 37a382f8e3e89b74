"""`triptych search`: from flags to a request, from a result to what is printed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from indexer.errors import ConfigError
from retrieval.commands.batch import BatchFlag, SearchGpuFlag, check_flags, open_batch, search_batch
from retrieval.commands.place import IndexFlag, chosen_index, modalities, say_build
from retrieval.commands.talk import JsonFlag, ModelFlag, say
from retrieval.commands.terms import AddFlag, JsonQueryFlag, NotFlag, WeightFlag, expression_of
from retrieval.config import Settings, load_settings
from retrieval.render.escape import printable

if TYPE_CHECKING:
    from retrieval.query.searcher import Searcher
    from retrieval.render.data import Format
    from retrieval.types import Expression, Request, SearchResult

E = TypeVar("E", bound=StrEnum)
DIVERSE = 0.3  # how much unlike the others counts, with --diverse

InFlag = Annotated[str | None, typer.Option("--in", help="Modalities to search: image,text,audio.")]


def search(
    query: Annotated[
        list[str] | None,
        typer.Argument(
            help="Words, a picture, a sound, a concept:NAME, or - for stdin; text: and file: force."
            " Several are joined by + - | ( ) that stand alone; 2*TERM weighs more.",
        ),
    ] = None,
    within: InFlag = None,
    k: Annotated[int | None, typer.Option("-k", min=1, help="Hits to show.")] = None,
    offset: Annotated[int, typer.Option(min=0, help="Hits to leave out before them.")] = 0,
    index: IndexFlag = None,
    model: ModelFlag = None,
    add: AddFlag = None,
    no: NotFlag = None,
    weight: WeightFlag = None,
    json_query: JsonQueryFlag = None,
    like: Annotated[
        str | None, typer.Option(help="More like a hit of the last search (3), a file or an item.")
    ] = None,
    repeat: Annotated[bool, typer.Option("--repeat", help="The last search once more.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(help="A condition in SQL over the columns that `triptych schema` lists; repeatable."),
    ] = None,
    under: Annotated[Path | None, typer.Option(help="Only what lies in this folder.")] = None,
    types: Annotated[str | None, typer.Option("--type", help="Only files of these endings: jpg,png.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from this day on: 2024-05-01.")] = None,
    before: Annotated[str | None, typer.Option(help="Only before this day.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only with this label; repeatable.")] = None,
    lexical: Annotated[
        str, typer.Option(help="Whether the words themselves count: off, auto or only.")
    ] = "auto",
    min_score: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Probability that a hit must have; 0 shows all.")
    ] = None,
    hubness: Annotated[
        bool | None, typer.Option("--hubness/--no-hubness", help="Take off what is near everything.")
    ] = None,
    diverse: Annotated[bool, typer.Option("--diverse", help="Hits unlike each other.")] = False,
    group: Annotated[bool, typer.Option("--group-duplicates", help="Near-duplicates once.")] = False,
    rerank: Annotated[
        str | None, typer.Option(help="Look at the best again: reciprocal, or cross for texts.")
    ] = None,
    segments: Annotated[
        bool, typer.Option("--segments", help="Show every segment, not its item once.")
    ] = False,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Keep nothing of this search for --like and --repeat.")
    ] = False,
    as_json: JsonFlag = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print bare paths.")] = False,
    nul: Annotated[bool, typer.Option("-0", help="Print bare paths, each ended by a NUL.")] = False,
    batch: BatchFlag = None,
    gpu: SearchGpuFlag = None,
) -> None:
    """Find items by words, pictures, sounds and concepts. Exits 0 with hits, 1 without, 2 on an error."""
    from retrieval.render.data import Format, pick_format
    from retrieval.types import Lexical, Request, Rerank

    form = pick_format({"json": as_json, "jsonl": jsonl, "csv": as_csv, "paths": paths, "nul": nul})
    named = bool(query or add or no or json_query or like)
    check_flags(named or repeat, batch, gpu, other_form=form not in (Format.TABLE, Format.JSONL))
    if repeat and named:
        raise ConfigError("--repeat and a query", hint="--repeat is the last search as it was; leave one out")
    settings = load_settings()
    request = Request(
        k=k or settings.k,
        offset=offset,
        modalities=modalities(within),
        segments=segments,
        where=_predicate(
            where or [], under=under, types=_listed(types), since=since, before=before, labels=label
        ),
        lexical=_choice(Lexical, "--lexical", lexical),
        hubness=hubness,
        min_score=min_score,
        diverse=DIVERSE if diverse else None,
        group_duplicates=group,
        rerank=None if rerank is None else _choice(Rerank, "--rerank", rerank),
        reranker=settings.reranker,
    )
    if repeat:
        plain = Request(k=request.k, offset=offset, reranker=request.reranker)
        if request != plain:
            raise ConfigError(
                "--repeat and other flags", hint="it takes -k, --offset and an output format only"
            )
        index, request = _repeated(index, k=k, offset=offset)
    elif query or add or no or json_query:
        request = replace(
            request, expression=expression_of(query or [], add or [], no or [], weight or [], json_query)
        )
    with _opened(chosen_index(index, settings), model, settings) as searcher:
        if batch is not None:
            with open_batch(batch) as file:
                code = search_batch(searcher, file, request, gpu=gpu, device=settings.device)
            raise typer.Exit(code)
        if like is not None:
            request = replace(request, expression=_with_like(searcher, like, request.expression))
        result = searcher.search(request)
    if settings.history and not no_history:
        _remember(result)
    _show(result, form)
    raise typer.Exit(0 if result.hits else 1)


def _opened(place: Path, model: str | None, settings: Settings) -> Searcher:
    from retrieval.query.searcher import Searcher

    return Searcher.open(place, model=model, threads=settings.threads, on_build=say_build)


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


def _choice(kind: type[E], flag: str, word: str) -> E:
    """A flag's word as a member of its enumeration. ConfigError for what is none."""
    try:
        return kind(word.lower())
    except ValueError:
        raise ConfigError(f"{flag} is {word!r}", hint=f"it takes {', '.join(kind)}") from None


def _listed(words: str | None) -> list[str]:
    """The words between commas; ConfigError where there is none."""
    found = [word.strip() for word in (words or "").split(",") if word.strip()]
    if words is not None and not found:
        raise ConfigError("--type is empty", hint="it takes endings or modalities: jpg,png")
    return found


def _predicate(conditions: Sequence[str], **short: Any) -> str | None:
    """What every --where and its short forms ask for together."""
    if not conditions and not any(short.values()):
        return None
    from retrieval.query.filters.where import predicate_of

    return predicate_of(where=conditions, **short)


def _repeated(index: Path | None, *, k: int | None, offset: int) -> tuple[Path, Request]:
    """The last search's index and request, another page of it if asked for."""
    from retrieval.query.session import repeated

    request, searched = repeated()
    return index or searched, replace(request, offset=offset, k=k or request.k)


def _with_like(searcher: Searcher, like: str, others: Expression) -> Expression:
    """A term that is like a hit, together with the other terms."""
    from retrieval.query.session import like_query
    from retrieval.types import AllOf, Term, terms_of

    term = Term(like_query(searcher.snapshot, like))
    return AllOf((term, others)) if any(terms_of(others)) else term


def _remember(result: SearchResult) -> None:
    from retrieval.query.session import save

    save(result)
