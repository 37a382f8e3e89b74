"""A query as JSON, for programs: to an expression and back. docs/query.md shows the form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from indexer.errors import QueryError, QuerySyntaxError
from retrieval.query.language.expressions import (
    MAX_DEPTH,
    MAX_TERMS,
    WEIGHTS,
    asks,
    reweighted,
    weight_fault,
)
from retrieval.query.language.parse import parse_query
from retrieval.query.language.pointer import pointed
from retrieval.types import AllOf, AnyOf, Expression, Not, Query, Term, terms_of

KINDS = ("all", "any", "not", "text", "file", "concept")
FORM = 'such as {"all": [{"text": "a bird"}, {"not": {"text": "a cartoon"}}]}; keys: ' + ", ".join(KINDS)


def from_json(value: object) -> Expression:
    """An expression from JSON that was read. QueryError, which says at which place, where it is none."""
    found = _expression(value, "the query", 0)
    terms = sum(1 for _ in terms_of(found))
    if terms > MAX_TERMS:
        raise QueryError(f"the query has {terms} terms, over {MAX_TERMS}", hint="ask for fewer at once")
    if not asks(found):
        raise QueryError("there are only negated terms", hint="say what to look for as well, in each of any")
    return found


def read_json(text: str) -> Expression:
    """An expression from the text of its JSON; a column is pointed at where that is not JSON."""
    try:
        return from_json(json.loads(text, object_pairs_hook=_once))
    except json.JSONDecodeError as error:
        column = min(error.pos, len(text))
        raise QuerySyntaxError(
            f"the query is not JSON: {error.msg.lower()}",
            column=column + 1,
            shown=pointed(text, column),
            hint=FORM,
        ) from None
    except RecursionError:
        raise QueryError("the query is nested too deeply", hint=f"at most {MAX_DEPTH} levels") from None


def to_json(expression: Expression) -> dict[str, Any]:
    """Any expression, as `from_json` takes it where its terms are words, files and concepts. Never raises.

    A term that only has a vector is told as {"like": its name}, which `from_json` refuses.
    """
    if isinstance(expression, Term):
        told: dict[str, Any] = _query_json(expression.query)
    elif isinstance(expression, Not):
        told = {"not": to_json(expression.part)}
    else:
        key = "all" if isinstance(expression, AllOf) else "any"
        told = {key: [to_json(part) for part in expression.parts]}
    return told if expression.weight == 1 else {**told, "weight": expression.weight}


def _query_json(query: Query) -> dict[str, Any]:
    if query.concept is not None:
        return {"concept": query.concept}
    if query.text is not None:
        return {"text": query.text}
    if query.path is not None:
        return {"file": str(query.path)}
    return {"like": (query.name or "a vector").removeprefix("like ")}


def _expression(value: object, place: str, depth: int) -> Expression:
    if depth > MAX_DEPTH:
        raise QueryError("the query is nested too deeply", hint=f"at most {MAX_DEPTH} levels")
    kind, content, weight = _opened(value, place)
    inside = f"{place}.{kind}"
    if kind == "not":
        made: Expression = Not(_expression(content, inside, depth + 1))
    elif kind in ("all", "any"):
        if not isinstance(content, Sequence) or isinstance(content, str) or not content:
            raise QueryError(f"{inside} is not a list with anything in it", hint=FORM)
        parts = tuple(_expression(one, f"{inside}[{at}]", depth + 1) for at, one in enumerate(content))
        made = AllOf(parts) if kind == "all" else AnyOf(parts)
    else:
        made = Term(_query(kind, content, inside))
    return reweighted(made, weight)


def _opened(value: object, place: str) -> tuple[str, object, float]:
    """The one key of an object that says what it is, what it holds, and the weight."""
    if not isinstance(value, dict):
        raise QueryError(f"{place} is {_called(value)}, not an object", hint=FORM)
    for key in value:
        if key not in (*KINDS, "weight"):
            import difflib

            near = difflib.get_close_matches(str(key), (*KINDS, "weight"), 1)
            raise QueryError(
                f"{place} has an unknown key {key!r}", hint=f"did you mean {near[0]}?" if near else FORM
            )
    kinds = [key for key in value if key in KINDS]
    if len(kinds) != 1:
        told = f"has both {' and '.join(kinds)}" if kinds else "says nothing to look for"
        raise QueryError(f"{place} {told}", hint=FORM)
    return kinds[0], value[kinds[0]], _weight(value.get("weight", 1), place)


def _weight(value: object, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise QueryError(f"{place}.weight is {_called(value)}, not a number", hint=WEIGHTS)
    try:
        weight = float(value)
    except OverflowError:
        weight = float("inf")
    if fault := weight_fault(weight):
        raise QueryError(f"{place}: {fault}", hint=WEIGHTS)
    return weight


def _query(kind: str, content: object, place: str) -> Query:
    if not isinstance(content, str):
        raise QueryError(f"{place} is {_called(content)}, not a string", hint=FORM)
    try:
        return parse_query(f"{kind}:{content}")
    except QueryError as error:
        raise QueryError(f"{place}: {error.message}", hint=error.hint) from None


def _called(value: object) -> str:
    """What JSON calls a value."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, of which no key may be given twice: the first would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise QueryError(f"the query gives {twice!r} twice in one object", hint="put both into a list of all")
    return found
