"""A query as JSON."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from indexer.errors import QueryError, QuerySyntaxError
from indexer.types import Modality
from retrieval.query.language.grammar import parse
from retrieval.query.language.jsonform import from_json, read_json, to_json
from retrieval.types import AllOf, AnyOf, Expression, Not, Query, Term, terms_of
from tests.indexer.indexes import unit
from tests.retrieval.test_grammar import expressions, words


def base64_of(numbers: list[float]) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


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


def test_multiplied_weights_come_back() -> None:
    asked = parse(["bird", "-", "10*(", "-", "100*cat", ")", "-", ".5*(", "2*(", "a", "|", "b", ")", ")"])
    assert [term.weight for term in terms_of(asked)] == [1, 1000, 1, 1]
    assert again(asked) == asked


def again(expression: Expression) -> Expression:
    return read_json(json.dumps(to_json(expression)))


def test_a_vector_comes_back_to_the_bit_as_what_it_asks_as() -> None:
    vector = unit("anything")
    query = Query(Modality.IMAGE, name="like pool.png", vector=vector)
    back = again(AllOf((words("a"), Not(Term(query, 2)))))
    assert back == AllOf((words("a"), Not(Term(query, 2))))
    (_, term) = terms_of(back)
    assert np.array_equal(term.query.vector, vector)  # type: ignore[arg-type]
    (unnamed,) = terms_of(again(Term(Query(Modality.AUDIO, vector=vector))))
    assert unnamed.query.label == "a vector"


def test_a_vector_of_a_program_becomes_a_unit_vector() -> None:
    (term,) = terms_of(from_json({"vector": base64_of([3, 0, 4]), "modality": "text"}))
    assert np.allclose(term.query.vector, [0.6, 0, 0.8])  # type: ignore[arg-type]


def test_a_concept_is_told_by_its_name_alone() -> None:
    boat = Term(Query(Modality.IMAGE, concept="boat", name="concept:boat", vector=unit("x")))
    assert to_json(boat) == {"concept": "boat"}


def test_files_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("~pool.png", "-", "naïve \udcff.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, format="PNG")
        monkeypatch.chdir(tmp_path)
        written = to_json(Term(Query(Modality.IMAGE, path=Path(name))))
        monkeypatch.chdir("/")
        assert read_json(json.dumps(written)) == Term(Query(Modality.IMAGE, path=tmp_path / name))


def test_a_medium_from_standard_input_is_gone() -> None:
    piped = Term(Query(Modality.IMAGE, path=Path("/tmp/some"), name="-"))
    assert to_json(piped) == {"file": "-"}
    with pytest.raises(QueryError, match=r"the query.file is a picture or sound from standard input"):
        again(piped)


def test_whatever_arguments_may_nest_comes_back() -> None:
    deep = parse(["a", *["-", "(", "b", "|", "c"] * 31, *[")"] * 31])
    assert str(to_json(deep)).count("{") > 3 * 31
    assert again(deep) == deep


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
        ({"vector": "AAAA", "modality": "text"}, "the query.vector is no vector"),
        ({"vector": "?", "modality": "text"}, "the query.vector is no vector"),
        ({"vector": [1.0], "modality": "text"}, "the query.vector is a list, not a string"),
        (
            {"vector": "", "modality": "text"},
            "the query.vector is empty, zero or has numbers that are not finite",
        ),
        (
            {"vector": base64_of([1, float("nan")]), "modality": "text"},
            "the query.vector is empty, zero or has numbers that are not finite",
        ),
        ({"vector": base64_of([1])}, "the query has no modality"),
        ({"vector": base64_of([1]), "modality": "smell"}, "the query.modality is 'smell'"),
        ({"text": "a", "modality": "text"}, "the query has an unknown key 'modality'"),
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


@pytest.mark.parametrize("text", ["[" * 100_000, '{"not":' * 100_000, '{"not":' * 200 + "1" + "}" * 200])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(QueryError) as caught:
        read_json(text)
    assert caught.value.hint


def test_a_key_given_twice_loses_nothing() -> None:
    with pytest.raises(QueryError, match="gives 'text' twice"):
        read_json('{"text": "a", "text": "b"}')
