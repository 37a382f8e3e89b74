"""What `triptych search` may be asked: its flags, and the request that they make. Opens no index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from indexer.errors import ConfigError
from retrieval.commands.batch import BatchFlag, SearchGpuFlag
from retrieval.commands.place import IndexFlag, modalities
from retrieval.commands.talk import JsonFlag, ModelFlag
from retrieval.commands.terms import AddFlag, JsonQueryFlag, NotFlag, WeightFlag, expression_of
from retrieval.config import Settings

if TYPE_CHECKING:
    from retrieval.render.data import Format
    from retrieval.types import Request

E = TypeVar("E", bound=StrEnum)
DIVERSE = 0.3  # how much unlike the others counts, with --diverse


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFlags:
    """Every flag of `triptych search`, in the order of its help."""

    query: Annotated[
        list[str] | None,
        typer.Argument(
            help="Words, a picture, a sound, a concept:NAME, or - for stdin; text: and file: force."
            " Several are joined by + - | ( ) that stand alone; 2*TERM weighs more.",
        ),
    ] = None
    within: Annotated[str | None, typer.Option("--in", help="Modalities to search: image,text,audio.")] = None
    k: Annotated[int | None, typer.Option("-k", min=1, help="Hits to show.")] = None
    offset: Annotated[int, typer.Option(min=0, help="Hits to leave out before them.")] = 0
    index: IndexFlag = None
    model: ModelFlag = None
    add: AddFlag = None
    no: NotFlag = None
    weight: WeightFlag = None
    json_query: JsonQueryFlag = None
    like: Annotated[
        str | None, typer.Option(help="More like a hit of the last search (3), a file or an item.")
    ] = None
    repeat: Annotated[bool, typer.Option("--repeat", help="The last search once more.")] = False
    where: Annotated[
        list[str] | None,
        typer.Option(help="A condition in SQL over the columns that `triptych schema` lists; repeatable."),
    ] = None
    under: Annotated[Path | None, typer.Option(help="Only what lies in this folder.")] = None
    types: Annotated[str | None, typer.Option("--type", help="Only files of these endings: jpg,png.")] = None
    since: Annotated[str | None, typer.Option(help="Only from this day on: 2024-05-01.")] = None
    before: Annotated[str | None, typer.Option(help="Only before this day.")] = None
    label: Annotated[list[str] | None, typer.Option(help="Only with this label; repeatable.")] = None
    lexical: Annotated[str, typer.Option(help="Whether the words themselves count: off, auto or only.")] = (
        "auto"
    )
    min_score: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Probability that a hit must have; 0 shows all.")
    ] = None
    hubness: Annotated[
        bool | None, typer.Option("--hubness/--no-hubness", help="Take off what is near everything.")
    ] = None
    diverse: Annotated[bool, typer.Option("--diverse", help="Hits unlike each other.")] = False
    group: Annotated[bool, typer.Option("--group-duplicates", help="Near-duplicates once.")] = False
    rerank: Annotated[
        str | None, typer.Option(help="Look at the best again: reciprocal, or cross for texts.")
    ] = None
    segments: Annotated[bool, typer.Option("--segments", help="Show every segment, not its item once.")] = (
        False
    )
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Keep nothing of this search for --like and --repeat.")
    ] = False
    as_json: JsonFlag = False
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a JSON object a line.")] = False
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False
    paths: Annotated[bool, typer.Option("--paths", help="Print bare paths.")] = False
    nul: Annotated[bool, typer.Option("-0", help="Print bare paths, each ended by a NUL.")] = False
    batch: BatchFlag = None
    gpu: SearchGpuFlag = None

    @property
    def asks(self) -> bool:
        """Whether there is a query in words, files, terms or JSON."""
        return bool(self.query or self.add or self.no) or self.json_query is not None


def format_of(flags: SearchFlags) -> Format:
    """The one output format. ConfigError for two of them."""
    from retrieval.render.data import pick_format

    return pick_format(
        {
            "json": flags.as_json,
            "jsonl": flags.jsonl,
            "csv": flags.as_csv,
            "paths": flags.paths,
            "nul": flags.nul,
        }
    )


def check_together(flags: SearchFlags, form: Format) -> None:
    """ConfigError where nothing is to be searched for, and for flags or a format that do not go together."""
    from retrieval.render.data import Format

    named = flags.asks or bool(flags.like)
    if flags.repeat and named:
        raise ConfigError("--repeat and a query", hint="--repeat is the last search as it was; leave one out")
    if flags.batch is None:
        if not (named or flags.repeat):
            raise ConfigError("nothing to search for", hint='name it: triptych search "a red hat"')
        if flags.gpu is not None:
            raise ConfigError("--gpu and --no-gpu are for many queries", hint="give them with --batch FILE")
    elif named or flags.repeat:
        raise ConfigError("both --batch and a query", hint="give one of them")
    elif form not in (Format.TABLE, Format.JSONL):
        raise ConfigError("--batch prints JSON lines only", hint="leave out the other output format")


def request_of(flags: SearchFlags, settings: Settings) -> tuple[Path | None, Request]:
    """The index that is named, and the request; without terms where --like or --batch gives them.

    ConfigError for a flag that makes no sense, QueryError for a query that is none.
    """
    request = _plain(flags, settings)
    if flags.repeat:
        return _repeated(flags, request)
    if not (flags.asks or flags.weight):
        return flags.index, request
    expression = expression_of(
        flags.query or [], flags.add or [], flags.no or [], flags.weight or [], flags.json_query
    )
    return flags.index, replace(request, expression=expression)


def _plain(flags: SearchFlags, settings: Settings) -> Request:
    """The request but for its terms."""
    from retrieval.types import Lexical, Request, Rerank

    return Request(
        k=flags.k or settings.k,
        offset=flags.offset,
        modalities=modalities(flags.within),
        segments=flags.segments,
        where=_predicate(flags),
        lexical=_choice(Lexical, "--lexical", flags.lexical),
        hubness=flags.hubness,
        min_score=flags.min_score,
        diverse=DIVERSE if flags.diverse else None,
        group_duplicates=flags.group,
        rerank=None if flags.rerank is None else _choice(Rerank, "--rerank", flags.rerank),
        reranker=settings.reranker,
    )


def _repeated(flags: SearchFlags, request: Request) -> tuple[Path, Request]:
    """The last search's index and request, another page of it if asked for."""
    from retrieval.query.session import repeated
    from retrieval.types import Request

    if request != Request(k=request.k, offset=request.offset, reranker=request.reranker) or flags.weight:
        raise ConfigError("--repeat and other flags", hint="it takes -k, --offset and an output format only")
    last, searched = repeated()
    return flags.index or searched, replace(last, offset=flags.offset, k=flags.k or last.k)


def _choice(kind: type[E], flag: str, word: str) -> E:
    """A flag's word as a member of its enumeration. ConfigError for what is none."""
    try:
        return kind(word.lower())
    except ValueError:
        raise ConfigError(f"{flag} is {word!r}", hint=f"it takes {', '.join(kind)}") from None


def _predicate(flags: SearchFlags) -> str | None:
    """What every --where and its short forms ask for together."""
    short: dict[str, Any] = {
        "under": flags.under,
        "types": _listed(flags.types),
        "since": flags.since,
        "before": flags.before,
        "labels": flags.label,
    }
    if not all(label.strip() for label in flags.label or ()):
        raise ConfigError("--label is empty", hint="name one; `triptych schema` shows an example")
    conditions: Sequence[str] = flags.where or ()
    if not conditions and not any(short.values()):
        return None
    from retrieval.query.filters.where import predicate_of

    return predicate_of(where=conditions, **short)


def _listed(words: str | None) -> list[str]:
    """The words between commas; ConfigError where there is none."""
    found = [word.strip() for word in (words or "").split(",") if word.strip()]
    if words is not None and not found:
        raise ConfigError("--type is empty", hint="it takes endings or modalities: jpg,png")
    return found
