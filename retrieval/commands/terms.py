"""The flags that say what to look for, beside the arguments, and the expression that all of them make."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.errors import QueryError

if TYPE_CHECKING:
    from retrieval.types import Expression

AddFlag = Annotated[
    list[str] | None, typer.Option("--add", help="A term that must match as well; repeatable, for scripts.")
]
NotFlag = Annotated[
    list[str] | None, typer.Option("--not", help="A term that must not match; repeatable, for scripts.")
]
WeightFlag = Annotated[
    list[float] | None,
    typer.Option(
        "--weight", help="A weight for each --add, then for each --not, in their order; repeatable."
    ),
]
JsonQueryFlag = Annotated[
    str | None,
    typer.Option(
        "--query-json",
        metavar="JSON",
        help='The query as JSON: {"all": [{"text": "a bird"}, ...]}, or what `search --json` printed;'
        " - for stdin.",
    ),
]


def expression_of(
    arguments: Sequence[str],
    adds: Sequence[str] = (),
    nots: Sequence[str] = (),
    weights: Sequence[float] = (),
    query_json: str | None = None,
    *,
    stdin: Callable[[], bytes] | None = None,
) -> Expression:
    """What the arguments and flags ask for together. QueryError where they are no query.

    Every value of `adds` and `nots` is one term, whatever is in it; none of them is an operator or a weight.
    """
    if query_json is not None:
        if arguments or adds or nots or weights:
            raise QueryError("--query-json is a whole query", hint="leave out the arguments, --add and --not")
        return _from_json(query_json, stdin)
    if weights and len(weights) != len(adds) + len(nots):
        raise QueryError(
            f"{len(weights)} of --weight for {len(adds)} of --add and {len(nots)} of --not",
            hint="give one for each --add, then one for each --not, or none at all",
        )
    from retrieval.query.language.expressions import all_of
    from retrieval.query.language.grammar import parse

    given = list(weights) or [1.0] * (len(adds) + len(nots))
    parts = [parse(arguments, stdin=stdin)] if arguments else []
    parts += [
        _term("--add", one, weight, stdin) for one, weight in zip(adds, given[: len(adds)], strict=True)
    ]
    if not parts:
        told = "there are only negated terms" if nots else "the query is empty"
        raise QueryError(told, hint='say what to look for: triptych search "a red hat"')
    from retrieval.types import Not

    unwanted = zip(nots, given[len(adds) :], strict=True)
    return all_of([*parts, *(Not(_term("--not", one, weight, stdin)) for one, weight in unwanted)])


def _term(flag: str, argument: str, weight: float, stdin: Callable[[], bytes] | None) -> Expression:
    from retrieval.query.language.expressions import WEIGHTS, weight_fault
    from retrieval.query.language.parse import parse_query
    from retrieval.types import Term

    if fault := weight_fault(weight):
        raise QueryError(f"{flag} {argument}: {fault}", hint=WEIGHTS)
    try:
        return Term(parse_query(argument, stdin=stdin), weight)
    except QueryError as error:
        raise QueryError(f"{flag} {argument}: {error.message}", hint=error.hint) from None


def _from_json(text: str, stdin: Callable[[], bytes] | None) -> Expression:
    from retrieval.query.language.jsonform import read_json

    if text != "-":
        return read_json(text)
    data = stdin() if stdin else sys.stdin.buffer.read()
    try:
        return read_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise QueryError("the query on standard input is not UTF-8", hint="pipe UTF-8 JSON") from None
