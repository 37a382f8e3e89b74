"""A query as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from indexer.errors import QueryError, QuerySyntaxError
from indexer.types import Modality
from retrieval.query.language.jsonform import from_json, read_json, to_json
from retrieval.types import AllOf, AnyOf, Expression, Not, Query, Term
from tests.retrieval.test_grammar import expressions, words


def test_every_kind(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    value = {
        "all": [
            {"text": "- a", "weight": 2},
            {"any": [{"file": str(tmp_path / "a.png")}, {"concept": "boat"}], "weight": 0.5},
            {"not": {"text": "b"}},
        ]
    }
    boat = Term(Query(Modality.TEXT, concept="boat", name="concept:boat"))
    picture = Term(Query(Modality.IMAGE, path=tmp_path / "a.png"))
    expected = AllOf((words("- a", 2), AnyOf((picture, boat), 0.5), Not(words("b"))))
    assert from_json(value) == expected
    assert read_json(json.dumps(value)) == expected
    assert to_json(expected) == value


@given(expressions)
def test_there_and_back(expression: Expression) -> None:
    assert from_json(json.loads(json.dumps(to_json(expression)))) == expression


@pytest.mark.parametrize(
    ("name", "told"), [("like pool.png", "pool.png"), ("hit 3", "hit 3"), (None, "a vector")]
)
def test_a_bare_vector_is_named_and_not_read_back(name: str | None, told: str) -> None:
    query = Query(Modality.IMAGE, name=name, vector=np.ones(2, np.float32))
    value = to_json(AllOf((words("a"), Not(Term(query, 2)))))
    assert value == {"all": [{"text": "a"}, {"not": {"like": told, "weight": 2}}]}
    with pytest.raises(QueryError, match="unknown key 'like'"):
        from_json(json.loads(json.dumps(value)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a bird", "the query is a string, not an object"),
        (None, "the query is null, not an object"),
        ({}, "the query says nothing to look for"),
        ({"weight": 2}, "the query says nothing to look for"),
        ({"text": "a", "file": "b"}, "the query has both text and file"),
        ({"txt": "a"}, "the query has an unknown key 'txt'"),
        ({"all": []}, "the query.all is not a list with anything in it"),
        ({"all": "ab"}, "the query.all is not a list with anything in it"),
        ({"all": [{"text": "a"}, 3]}, r"the query.all[1] is a number, not an object"),
        ({"text": 3}, "the query.text is a number, not a string"),
        ({"all": [{"text": " "}]}, "the query.all[0].text: the query is empty"),
        ({"file": "none.png"}, "the query.file: none.png does not exist"),
        ({"text": "a", "weight": True}, "the query.weight is true or false, not a number"),
        ({"text": "a", "weight": "2"}, "the query.weight is a string, not a number"),
        ({"text": "a", "weight": 0}, "the query: a weight of 0 is not positive"),
        ({"text": "a", "weight": float("nan")}, "the query: a weight is not a number"),
        ({"text": "a", "weight": 10**400}, "the query: a weight of inf is too large"),
        ({"not": {"text": "a"}}, "there are only negated terms"),
        ({"any": [{"text": "a"}, {"not": {"text": "b"}}]}, "there are only negated terms"),
        ({"all": [{"text": "a"}] * 65}, "the query has 65 terms, over 64"),
    ],
)
def test_what_is_wrong_and_where(value: Any, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        from_json(value)
    assert caught.value.message == message
    assert caught.value.hint


def test_an_unknown_key_suggests_the_nearest() -> None:
    with pytest.raises(QueryError) as caught:
        from_json({"txt": "a"})
    assert caught.value.hint == "did you mean text?"


def test_text_that_is_no_json_points_at_the_column() -> None:
    with pytest.raises(QuerySyntaxError) as caught:
        read_json('{"text": red}')
    assert caught.value.column == 10
    assert caught.value.shown == ('{"text": red}', " " * 9 + "^")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"not":' * 100_000, '{"not":' * 40 + "1" + "}" * 40])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(QueryError) as caught:
        read_json(text)
    assert caught.value.hint


def test_a_key_given_twice_loses_nothing() -> None:
    with pytest.raises(QueryError, match="gives 'text' twice"):
        read_json('{"text": "a", "text": "b"}')
