"""A query as JSON: to an expression and back, for programs and for the last search that is kept.

The only writer and the only reader of that form, which docs/query.md shows. Opens no file but to see what
kind of medium it is; encodes nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from indexer.errors import QueryError, QuerySyntaxError
from indexer.types import FloatArray, Modality
from retrieval.query.language.expressions import (
    MAX_DEPTH,
    MAX_TERMS,
    WEIGHTS,
    asks,
    reweighted,
    weight_fault,
)
from retrieval.query.language.parse import STDIN, parse_query
from retrieval.query.language.pointer import pointed
from retrieval.types import AllOf, AnyOf, Expression, Not, Query, Term, terms_of

KINDS = ("all", "any", "not", "text", "file", "concept", "vector")
OF_A_VECTOR = ("modality", "name")  # keys beside `vector`: what it asks as, and what to call it
FORM = 'such as {"all": [{"text": "a bird"}, {"not": {"text": "a cartoon"}}]}; keys: ' + ", ".join(KINDS)
LEVELS = 4 * MAX_DEPTH  # of objects: a group in arguments is up to three, for |, + and -
IN_A_RESULT = "query_json"  # the key of a whole result's JSON that holds its query
UNIT = 1e-4  # how far the length of a unit vector may be from 1, as float32 keeps it
VECTOR = "a vector is the base64 of its little-endian float32 numbers"


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
    """An expression from the text of its JSON, or the one that a whole result of `search --json` was for.

    A column is pointed at where the text is not JSON.
    """
    if not text.strip():
        raise QueryError("the query is empty", hint=FORM)
    try:
        value = json.loads(text, object_pairs_hook=_once)
        return from_json(value[IN_A_RESULT] if isinstance(value, dict) and IN_A_RESULT in value else value)
    except json.JSONDecodeError as error:
        column = min(error.pos, len(text))
        raise QuerySyntaxError(
            f"the query is not JSON: {error.msg.lower()}",
            column=column + 1,
            shown=pointed(text, column),
            hint=FORM,
        ) from None
    except RecursionError:
        raise QueryError("the query is nested too deeply", hint=f"at most {LEVELS} levels") from None


def to_json(expression: Expression) -> dict[str, Any]:
    """An expression as `from_json` takes it, in any folder of this machine: files are absolute.

    A concept is told by its name, also where its vector is known; what only has a vector, by that. A medium
    from standard input is told as such, and `from_json` refuses it: it is gone. OSError where the working
    folder is gone, and a file's path is relative.
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
        return {"file": STDIN if query.name == STDIN else os.fspath(query.path.absolute())}
    raw = np.asarray([] if query.vector is None else query.vector, "<f4").tobytes()
    told = {"vector": base64.b64encode(raw).decode(), "modality": query.modality.value}
    return told if query.name is None else {**told, "name": query.name}


def _expression(value: object, place: str, depth: int) -> Expression:
    if depth > LEVELS:
        raise QueryError("the query is nested too deeply", hint=f"at most {LEVELS} levels")
    opened, kind, weight = _opened(value, place)
    content = opened[kind]
    inside = f"{place}.{kind}"
    if kind == "not":
        made: Expression = Not(_expression(content, inside, depth + 1))
    elif kind in ("all", "any"):
        if not isinstance(content, Sequence) or isinstance(content, str) or not content:
            raise QueryError(f"{inside} is not a list with anything in it", hint=FORM)
        parts = tuple(_expression(one, f"{inside}[{at}]", depth + 1) for at, one in enumerate(content))
        made = AllOf(parts) if kind == "all" else AnyOf(parts)
    elif kind == "vector":
        made = Term(_vector_query(opened, place))
    else:
        made = Term(_query(kind, content, inside))
    return reweighted(made, weight)


def _opened(value: object, place: str) -> tuple[Mapping[str, Any], str, float]:
    """An object, the one key of it that says what it is, and its weight."""
    if not isinstance(value, dict):
        raise QueryError(f"{place} is {_called(value)}, not an object", hint=FORM)
    for key in value:
        known = (*KINDS, "weight", *(OF_A_VECTOR if "vector" in value else ()))
        if key not in known:
            import difflib

            near = difflib.get_close_matches(str(key), known, 1)
            raise QueryError(
                f"{place} has an unknown key {key!r}", hint=f"did you mean {near[0]}?" if near else FORM
            )
    kinds = [key for key in value if key in KINDS]
    if len(kinds) != 1:
        told = f"has both {' and '.join(kinds)}" if kinds else "says nothing to look for"
        raise QueryError(f"{place} {told}", hint=FORM)
    return value, kinds[0], _weight(value.get("weight", 1), place)


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
    words = _string(content, place)
    if kind == "file" and words == STDIN:
        raise QueryError(
            f"{place} is a picture or sound from standard input, which is gone",
            hint="save it, and name its file",
        )
    try:
        return parse_query(f"{kind}:{words}")
    except QueryError as error:
        raise QueryError(f"{place}: {error.message}", hint=error.hint) from None


def _vector_query(told: Mapping[str, Any], place: str) -> Query:
    """A query by its vector, made a unit vector; its length is checked against an index's by the search."""
    modality = told.get("modality")
    if modality not in list(Modality):
        raise QueryError(
            f"{place}.modality is {modality!r}" if "modality" in told else f"{place} has no modality",
            hint=f"say what the vector is of: {', '.join(Modality)}",
        )
    name = _string(told.get("name", "a vector"), f"{place}.name")
    vector = _vector(_string(told["vector"], f"{place}.vector"), f"{place}.vector")
    return Query(Modality(modality), name=name, vector=vector)


def _vector(text: str, place: str) -> FloatArray:
    try:
        vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except (binascii.Error, ValueError):
        raise QueryError(f"{place} is no vector", hint=VECTOR) from None
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(length) or length == 0:
        raise QueryError(f"{place} is empty, zero or has numbers that are not finite", hint=VECTOR)
    return vector if abs(length - 1) < UNIT else (vector / length).astype(np.float32)


def _string(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise QueryError(f"{place} is {_called(value)}, not a string", hint=FORM)
    return value


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
