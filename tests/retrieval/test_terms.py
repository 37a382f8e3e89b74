"""The flags of a composed query, and that a bare minus comes as an argument."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from indexer.errors import QueryError
from retrieval.commands.terms import AddFlag, JsonQueryFlag, NotFlag, WeightFlag, expression_of
from retrieval.types import AllOf, Expression, Not
from tests.retrieval.test_grammar import words

A, B, C = map(words, "abc")


def asked(*arguments: str, stdin: str = "") -> Expression:
    """What a command with these flags makes of a command line."""
    found: list[Expression] = []
    app = typer.Typer()

    @app.command()
    def search(
        query: Annotated[list[str] | None, typer.Argument()] = None,
        within: Annotated[str, typer.Option("--in")] = "",
        add: AddFlag = None,
        no: NotFlag = None,
        weight: WeightFlag = None,
        json_query: JsonQueryFlag = None,
    ) -> None:
        told = expression_of(query or [], add or [], no or [], weight or [], json_query, stdin=stdin.encode)
        found.append(told)

    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["a", "-", "b", "--in", "image"], AllOf((A, Not(B)))),
        (["a", "--in", "image", "-", "b", "+", "c"], AllOf((A, Not(B), C))),
        (["a", "+", "b"], AllOf((A, B))),
        (["--add", "a"], A),
        (["--add", "a", "--not", "b", "--add", "c"], AllOf((A, C, Not(B)))),
        (["a", "--not", "b"], AllOf((A, Not(B)))),
        (["a", "b", "--add", "c"], AllOf((AllOf((A, B)), C))),
        (["--add", "2*a"], words("2*a")),  # scripts pass on what users type: nothing in it is an operator
        (["--add", "(", "--not", "- x"], AllOf((words("("), Not(words("- x"))))),
        (
            ["--not", "b", "--weight", "2", "--add", "a", "--weight", "0.5"],
            AllOf((words("a", 2), Not(words("b", 0.5)))),
        ),
        (["--query-json", '{"all": [{"text": "a"}, {"not": {"text": "b"}}]}'], AllOf((A, Not(B)))),
    ],
)
def test_command_lines(line: list[str], expected: Expression) -> None:
    assert asked(*line) == expected


def test_standard_input() -> None:
    assert asked("-", stdin="a") == A
    assert asked("--query-json", "-", stdin='\ufeff{"text": "a"}') == A
    assert asked("b", "--add", "-", stdin="a") == AllOf((B, A))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "the query is empty"),
        (["--not", "a"], "there are only negated terms"),
        (["--add", "a", "--weight", "1", "--weight", "2"], "2 of --weight for 1 of --add and 0 of --not"),
        (["a", "--weight", "2"], "1 of --weight for 0 of --add and 0 of --not"),
        (["--add", "a", "--weight", "nan"], "--add a: a weight is not a number"),
        (["a", "--not", "b", "--weight", "0"], "--not b: a weight of 0 is not positive"),
        (["a", "--not", ""], "--not : the query is empty"),
        (["--query-json", '{"text": "a"}', "b"], "--query-json is a whole query"),
    ],
)
def test_what_is_wrong(line: list[str], message: str) -> None:
    with pytest.raises(QueryError) as caught:
        asked(*line)
    assert caught.value.message == message
    assert caught.value.hint
