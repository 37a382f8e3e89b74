"""The written form of a query, arguments, and where an error points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from indexer.errors import QueryError, QuerySyntaxError
from indexer.types import Modality
from retrieval.query.language.grammar import parse
from retrieval.query.language.jsonform import from_json, to_json
from retrieval.query.language.pointer import pointed
from retrieval.types import AllOf, AnyOf, Expression, Not, Query, Term


def words(text: str, weight: float = 1.0) -> Term:
    return Term(Query(Modality.TEXT, text=text), weight)


A, B, C, D = map(words, "abcd")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("a", A),
        ("a b", AllOf((A, B))),
        ("a + b", AllOf((A, B))),
        ("a - b", AllOf((A, Not(B)))),
        ("a + - b", AllOf((A, Not(B)))),
        ("- b a", AllOf((Not(B), A))),
        ("a - - b", AllOf((A, B))),
        ("a | b", AnyOf((A, B))),
        ("a b | c d", AnyOf((AllOf((A, B)), AllOf((C, D))))),  # "and" binds closer
        ("a - b c", AllOf((A, Not(B), C))),  # and "not" closer still
        ("a ( b | c )", AllOf((A, AnyOf((B, C))))),
        ("a - ( b c )", AllOf((A, Not(AllOf((B, C)))))),
        ("( ( a ) )", A),
        ("2*a b", AllOf((words("a", 2), B))),
        ("0.5*a - 2*b", AllOf((words("a", 0.5), Not(words("b", 2))))),
        ("2* ( a | b )", AnyOf((A, B), 2)),
        ("2*( a | b )", AnyOf((A, B), 2)),
        ("2*( 3*a ) b", AllOf((words("a", 6), B))),
        ("1e1*a", words("a", 10)),
        ("C++ well-known f(x) 5*", None),
    ],
)
def test_arguments(arguments: str, expected: Expression | None) -> None:
    if expected is None:
        with pytest.raises(QuerySyntaxError, match=r"^5\* has no term after it \(column 21\)$"):
            parse(arguments.split())
    else:
        assert parse(arguments.split()) == expected


@pytest.mark.parametrize("argument", ["black - white", "a | b", "(a)", "- -", "+a", "a*b", "text", "C++"])
def test_nothing_within_an_argument_is_an_operator(argument: str) -> None:
    assert parse([argument]) == words(argument)
    assert parse(["a", argument]) == AllOf((A, words(argument)))


@pytest.mark.parametrize("operator", ["+", "-", "|", "(", ")", "2*x"])
def test_a_prefix_makes_words_of_an_operator(operator: str) -> None:
    assert parse(["a", f"text:{operator}"]) == AllOf((A, words(operator)))


def test_terms_are_files_and_concepts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "my pool.png")
    monkeypatch.chdir(tmp_path)
    boat = Term(Query(Modality.TEXT, concept="my-boat", name="concept:my-boat"))
    pool = Term(Query(Modality.IMAGE, path=Path("my pool.png")), 2)
    assert parse(["a", "+", "2*my pool.png", "-", "concept:my-boat"]) == AllOf((A, pool, Not(boat)))


def test_a_lone_minus_is_standard_input() -> None:
    assert parse(["-"], stdin=lambda: b"a") == A
    with pytest.raises(QuerySyntaxError, match="no term after it"):
        parse(["a", "-"], stdin=lambda: b"b")


@pytest.mark.parametrize(
    ("arguments", "message", "column"),
    [
        (["a", "b", ")"], "this ) closes no group", 5),
        ([")"], "this ) closes no group", 1),
        (["a", "(", "b"], "the group is not closed", 3),
        (["(", "(", "a", ")"], "the group is not closed", 1),
        (["("], "the group is not closed", 1),
        (["a", "(", ")"], "the group is empty", 3),
        (["+", "a"], "+ has no term before it", 1),
        (["a", "|", "|", "b"], "| has no term after it", 3),
        (["red hat", "-"], "- has no term after it", 11),
        (["a", "(", "|", "b", ")"], "| has no term before it", 5),
        (["2*"], "2* has no term after it", 1),
        (["a", "2*", "+", "b"], "2* has no term after it", 3),
        (["-", "a"], "there are only negated terms", 1),
        (["(", "-", "a", "-", "b", ")"], "there are only negated terms", 3),
        (["a", "|", "-", "b"], "this side of | has only negated terms", 5),
        (["a", "0*b"], "a weight of 0 is not positive", 3),
        (["a", "-1*b"], "a weight of -1 is not positive", 3),
        (["a", "nan*b"], "a weight is not a number", 3),
        (["a", "INF*b"], "a weight of inf is too large", 3),
        (["a", "1e9*b"], "a weight of 1e+09 is too large", 3),
        (["1e-9*b"], "a weight of 1e-09 is too small", 1),
        (["100*", "(", "100*b", ")"], "a weight of 10000 is too large", 1),
        (["a", "-", "1000*(", "-", "1000*b", ")"], "a weight of 1e+06 is too large", 5),
        (["a", "-", "(", ".01*", "(", "-", ".01*b", ")", ")"], "a weight of 0.0001 is too small", 5),
        (["a", ""], "the query is empty", 3),
        (["a", "concept:"], "concept: has no name after it", 3),
        (["a", "./none.png"], "./none.png is no file", 3),
        (["a"] * 65, "more than 64 terms", 129),
        (["("] * 33 + ["a"], "more than 32 groups in one another", 65),
    ],
)
def test_errors_point_at_the_column(arguments: list[str], message: str, column: int) -> None:
    with pytest.raises(QuerySyntaxError) as caught:
        parse(arguments)
    assert caught.value.message == f"{message} (column {column})"
    assert caught.value.column == column
    line, caret = caught.value.shown
    assert caret.strip() == "^"
    shown = " ".join(f'"{one}"' if " " in one or not one else one for one in arguments)
    if len(shown) <= 100:
        assert (line, len(caret)) == (shown, column)
    assert caught.value.hint


@pytest.mark.parametrize("arguments", [[], [""], ["  "]])
def test_no_query_at_all(arguments: list[str]) -> None:
    with pytest.raises(QueryError, match="the query is empty"):
        parse(arguments)


def test_a_caret_stands_below_wide_and_combining_letters() -> None:
    assert pointed("日本 e\u0301x", 5) == ("日本 e\u0301x", " " * 6 + "^")
    assert pointed("a\nb\u202ec", 4) == ("a b c", "    ^")


def test_a_long_query_is_cut_around_the_column() -> None:
    line, caret = pointed("x" * 500 + "!" + "y" * 500, 500)
    assert line[len(caret) - 1] == "!"
    assert len(line) == 102
    assert line[0] == line[-1] == "…"


letters = st.sampled_from(
    ["red", "blue hat", 'say "x"', "C++", "日本", "+", "-", "|", "(", ")", "2*x", "f(x) y"]
)
weights = st.sampled_from([0.5, 1.0, 2.0])
terms = st.builds(words, letters, weights)


def grown(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    wanted = st.lists(inner, min_size=2, max_size=3)
    both = st.builds(lambda parts, no: AllOf((*parts, *map(Not, no))), wanted, st.lists(terms, max_size=2))
    return both | st.builds(lambda parts: AnyOf(tuple(parts)), wanted)


expressions = st.recursive(terms, grown, max_leaves=8)


def written(expression: Expression) -> list[str]:
    """An expression as the arguments that say it."""
    weight = "" if expression.weight == 1 else f"{expression.weight}*"
    if isinstance(expression, Term):
        return [f"{weight}text:{expression.query.text}"]
    if isinstance(expression, Not):
        return ["-", *written(expression.part)]
    between = ["+"] if isinstance(expression, AllOf) else ["|"]
    inside = [one for part in expression.parts for one in (*between, *written(part))][1:]
    return [f"{weight}(", *inside, ")"] if weight else ["(", *inside, ")"]


@given(expressions)
def test_what_is_written_is_what_is_read(expression: Expression) -> None:
    assert parse(written(expression)) == expression


def hint_or(read: Callable[[], object]) -> object:
    """What is read; of what is refused, the hint."""
    try:
        return read()
    except QueryError as error:
        return error.hint


@given(st.lists(st.sampled_from(["+", "-", "|", "(", ")", "2*", "0*", "a", "b c", "", "2*("]), max_size=9))
def test_any_arguments_are_read_or_refused(arguments: list[str]) -> None:
    assert hint_or(lambda: to_json(parse(arguments, stdin=lambda: b"a")))


@given(st.lists(st.sampled_from(["1000*", "0.001*", "20*", "0.1*", ""]), min_size=1, max_size=5))
def test_every_query_that_is_read_can_be_asked_again(weights: list[str]) -> None:
    """Where minuses meet, their weights are multiplied; what is read keeps to the limits of JSON."""
    arguments = ["b", *(one for weight in weights for one in ("-", f"{weight}(")), "-", "20*a"]
    try:
        found = parse([*arguments, *[")"] * len(weights)])
    except QuerySyntaxError:
        return
    assert from_json(to_json(found)) == found
