"""The written form of a query, from arguments to an expression. Encodes nothing.

    any    = all { "|" all }
    all    = unary { ["+"] unary | "-" unary }
    unary  = "-" unary | [ weight ] ( term | "(" any ")" )

Spoken of at length in docs/query.md; the form for programs is in jsonform.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from indexer.errors import QueryError, QuerySyntaxError
from retrieval.query.language.expressions import (
    MAX_DEPTH,
    MAX_TERMS,
    WEIGHTS,
    all_of,
    any_of,
    asks,
    negated,
    reweighted,
    weight_fault,
)
from retrieval.query.language.parse import parse_query
from retrieval.query.language.pointer import pointed
from retrieval.types import Expression, Term

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf|infinity)"
_WEIGHT = re.compile(rf"({_NUMBER})\*", re.IGNORECASE | re.ASCII)
_BARE = re.compile(r'[^\s"]+')  # an argument that an error shows without quotes


class Kind(StrEnum):
    """What stands in a query."""

    AND = "+"
    NOT = "-"
    OR = "|"
    OPEN = "("
    CLOSE = ")"
    WEIGHT = "*"
    TERM = "term"


OPERATORS = frozenset("+-|()")


@dataclass(frozen=True, slots=True)
class Token:
    """One of them, and where it stands."""

    kind: Kind
    text: str  # of a term what parse_query takes, of a weight the number
    column: int  # from 0, in the query as it is shown


def parse(arguments: Sequence[str], *, stdin: Callable[[], bytes] | None = None) -> Expression:
    """An expression from the arguments of a command line: each is one term or one operator.

    A lone `-` is standard input, as `parse_query` reads it. QuerySyntaxError, which points at the column of
    the arguments joined by spaces, where they are no query; QueryError where there is none at all.
    """
    if len(arguments) == 1 and arguments[0] not in OPERATORS - {"-"} and not _WEIGHT.match(arguments[0]):
        return Term(parse_query(arguments[0], stdin=stdin))
    shown, tokens = "", list[Token]()
    for argument in arguments:
        before = f"{shown} " if shown else ""
        tokens += _of_argument(argument, len(before))
        bare = _BARE.fullmatch(argument)
        shown = before + (argument if bare else '"' + argument.replace('"', '\\"') + '"')
    return _Parser(tokens, shown).whole()


def _of_argument(argument: str, column: int) -> Iterator[Token]:
    if argument in OPERATORS and argument:
        yield Token(Kind(argument), argument, column)
        return
    weight = _WEIGHT.match(argument.lstrip())
    if weight is None:
        yield Token(Kind.TERM, argument, column)
        return
    yield Token(Kind.WEIGHT, weight[1], column)
    rest = argument.lstrip()[weight.end() :].strip()
    if rest == "(":
        yield Token(Kind.OPEN, rest, column + weight.end())
    elif rest:
        yield Token(Kind.TERM, rest, column + weight.end())


class _Parser:
    """From tokens to an expression, one token after the other."""

    def __init__(self, tokens: Sequence[Token], shown: str) -> None:
        self.tokens, self.shown = tokens, shown
        self.at = 0
        self.depth = 0

    def whole(self) -> Expression:
        if not self.tokens:
            raise QueryError("the query is empty", hint="give words, a picture or a sound")
        terms = [token for token in self.tokens if token.kind is Kind.TERM]
        if len(terms) > MAX_TERMS:
            raise self._fault(f"more than {MAX_TERMS} terms", terms[MAX_TERMS], hint="ask for fewer at once")
        found = self._any()
        if self.at < len(self.tokens):
            raise self._fault("this ) closes no group", self.tokens[self.at], hint=_as_words(")"))
        if not asks(found):
            first = next(token for token in self.tokens if token.kind is Kind.NOT)
            raise self._fault("there are only negated terms", first, hint="say what to look for as well")
        return found

    def _any(self) -> Expression:
        starts, parts = [self.at], [self._all()]
        while self._accept(Kind.OR):
            starts.append(self.at)
            parts.append(self._all())
        told = [asks(part) for part in parts]
        if any(told) and not all(told):
            place = self.tokens[starts[told.index(False)]]
            hint = "say on each side of | what to look for"
            raise self._fault("this side of | has only negated terms", place, hint=hint)
        return any_of(parts)

    def _all(self) -> Expression:
        parts = [self._unary()]
        while self._accept(Kind.AND) or self._peek() not in (None, Kind.OR, Kind.CLOSE):
            parts.append(self._unary())
        return all_of(parts)

    def _unary(self) -> Expression:
        minus = 0
        while self._accept(Kind.NOT):
            minus += 1
        start = self.at
        found = self._weighted()
        if minus % 2 == 0:
            return found
        turned = negated(found)
        if fault := weight_fault(turned.weight):  # of a weight on each side of two minuses
            raise self._fault(fault, self.tokens[start], hint=WEIGHTS)
        return turned

    def _weighted(self) -> Expression:
        start = self.tokens[self.at] if self.at < len(self.tokens) else None
        if not self._accept(Kind.WEIGHT):
            return self._primary()
        assert start is not None, "it was accepted"
        weight = float(start.text)
        found = reweighted(self._primary(after=start), weight)
        if fault := weight_fault(weight) or weight_fault(found.weight):
            raise self._fault(fault, start, hint=f"{WEIGHTS}; for the words put text: before them")
        return found

    def _primary(self, *, after: Token | None = None) -> Expression:
        """A term or a group. `after` is the weight before it."""
        kind = self._peek()
        token = self.tokens[self.at] if kind else None
        if token is None or kind not in (Kind.TERM, Kind.OPEN):
            raise self._lacks(after or (self.tokens[self.at - 1] if self.at else None), token)
        self.at += 1
        if kind is Kind.TERM:
            return self._term(token)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._fault(f"more than {MAX_DEPTH} groups in one another", token, hint="use fewer")
        if self._peek() is Kind.CLOSE:
            raise self._fault("the group is empty", token, hint="put a term in it, or leave it out")
        found = self._any()
        if not self._accept(Kind.CLOSE):
            raise self._fault("the group is not closed", token, hint=f"put a ) after it; {_as_words('(')}")
        self.depth -= 1
        return found

    def _lacks(self, before: Token | None, found: Token | None) -> QuerySyntaxError:
        """What to say where a term was expected, after a weight, an operator, a parenthesis or nothing."""
        if before is not None and before.kind is not Kind.OPEN:
            name = f"{before.text}*" if before.kind is Kind.WEIGHT else before.text
            return self._fault(f"{name} has no term after it", before, hint=_as_words(name))
        if found is None:
            assert before is not None, "a query has a token"
            return self._fault("the group is not closed", before, hint=_as_words("("))
        if found.kind is Kind.CLOSE:
            return self._fault("this ) closes no group", found, hint=_as_words(")"))
        return self._fault(f"{found.text} has no term before it", found, hint=_as_words(found.text))

    def _term(self, token: Token) -> Expression:
        try:
            return Term(parse_query(token.text, stdin=_no_stdin))
        except QueryError as error:
            raise self._fault(error.message, token, hint=error.hint) from None

    def _peek(self) -> Kind | None:
        return self.tokens[self.at].kind if self.at < len(self.tokens) else None

    def _accept(self, kind: Kind) -> bool:
        if self._peek() is not kind:
            return False
        self.at += 1
        return True

    def _fault(self, message: str, token: Token, *, hint: str | None) -> QuerySyntaxError:
        shown = pointed(self.shown, token.column)
        return QuerySyntaxError(message, column=token.column + 1, shown=shown, hint=hint)


def _as_words(operator: str) -> str:
    return f"to search for it as words, write text:{operator}"


def _no_stdin() -> bytes:
    raise QueryError("a term cannot stand for standard input", hint="give - alone, or name a file")
