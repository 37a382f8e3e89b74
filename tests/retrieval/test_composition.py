"""Scores of terms as one score, the vectors to take candidates with, values where nothing calibrates."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.types import Modality
from retrieval.query.compose import MIXING, Mixing, centred, combined, likely, probes, standardised
from retrieval.query.language.expressions import influences
from retrieval.types import AllOf, AnyOf, Expression, Not, Query, Term, terms_of
from tests.retrieval.test_grammar import expressions, words

A, B, C = map(words, "abc")
unit_range = st.floats(0, 1, width=32)
mixings = st.builds(
    Mixing,
    all_power=st.sampled_from([0.0, -1.0, -8.0, 0.5]),
    any_power=st.sampled_from([1.0, 4.0, 16.0]),
    not_from=st.sampled_from([0.0, 0.2, 0.9]),
)


def one(expression: Expression, *values: float, mixing: Mixing = MIXING) -> float:
    return float(combined(expression, np.array(values, np.float32)[:, None], mixing=mixing)[0])


def oracle(expression: Expression, values: list[float], mixing: Mixing) -> float:
    """The same in plain numbers; takes what it uses off the front of the values."""
    if isinstance(expression, Term):
        return values.pop(0)
    if isinstance(expression, Not):
        inner = oracle(expression.part, values, mixing)
        return 1 - min(max((inner - mixing.not_from) / (1 - mixing.not_from), 0), 1)
    found, lost = [], []
    for part in expression.parts:
        value = oracle(part, values, mixing)
        if isinstance(part, Not) and isinstance(expression, AllOf):
            lost.append((part.weight * part.part.weight, value))
        else:
            found.append((part.weight, max(value, 1e-12)))
    power = mixing.all_power if isinstance(expression, AllOf) else mixing.any_power
    total = sum(weight for weight, _ in found)
    if power == 0:
        score = math.exp(sum(weight / total * math.log(value) for weight, value in found))
    else:
        score = sum(weight / total * value**power for weight, value in found) ** (1 / power)
    for weight, value in lost:
        score *= value ** (weight / (total / len(found)))
    return score


@given(expressions, mixings, st.data())
def test_values_are_those_of_the_oracle(expression: Expression, mixing: Mixing, data: st.DataObject) -> None:
    count = len(list(terms_of(expression)))
    values = data.draw(st.lists(st.lists(unit_range, min_size=3, max_size=3), min_size=count, max_size=count))
    found = combined(expression, np.array(values, np.float32), mixing=mixing)
    told = [oracle(expression, [row[place] for row in values], mixing) for place in range(3)]
    assert found == pytest.approx(told, abs=1e-5)
    assert ((found >= 0) & (found <= 1)).all()


@given(expressions, st.data())
def test_more_of_a_wanted_term_never_lowers_and_of_an_unwanted_one_never_raises(
    expression: Expression, data: st.DataObject
) -> None:
    signs = influences(expression)
    values = data.draw(st.lists(unit_range, min_size=len(signs), max_size=len(signs)))
    place = data.draw(st.integers(0, len(signs) - 1))
    more = [*values[:place], data.draw(st.floats(values[place], 1, width=32)), *values[place + 1 :]]
    before, after = one(expression, *values), one(expression, *more)
    assert after >= before - 1e-6 if signs[place] > 0 else after <= before + 1e-6


@given(st.lists(unit_range, min_size=1), st.sampled_from([0.01, 1.0, 50.0]))
def test_a_single_term_is_unchanged(values: list[float], weight: float) -> None:
    row = np.array(values, np.float32)
    assert combined(words("a", weight), row[None]).tolist() == row.tolist()


@given(st.lists(unit_range, min_size=2, max_size=4))
def test_all_and_any_lie_between_the_worst_and_the_best(values: list[float]) -> None:
    parts = tuple(words(str(number)) for number in range(len(values)))
    every, some = one(AllOf(parts), *values), one(AnyOf(parts), *values)
    assert min(values) - 1e-6 <= every <= sum(values) / len(values) + 1e-6
    assert sum(values) / len(values) - 1e-6 <= some <= max(values) + 1e-6
    assert one(AllOf(parts[::-1]), *values[::-1]) == pytest.approx(every, abs=1e-6)


def test_what_misses_one_part_is_out() -> None:
    assert one(AllOf((A, B)), 1.0, 0.0) < 1e-5
    assert one(AllOf((A, B)), 0.9, 0.1) < one(AllOf((A, B)), 0.4, 0.4)
    assert one(AnyOf((A, B)), 0.9, 0.1) > one(AnyOf((A, B)), 0.6, 0.6)


@pytest.mark.parametrize("joined", [AllOf, AnyOf])
def test_a_weight_draws_the_score_to_its_term(joined: type[AllOf] | type[AnyOf]) -> None:
    scores = [one(joined((words("a", weight), B)), 0.9, 0.2) for weight in (0.1, 0.5, 1, 2, 10)]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1] - 0.2
    assert one(joined((words("a", 3), words("b", 3))), 0.9, 0.2) == pytest.approx(scores[2])


def test_what_must_not_match_bites_only_what_matches_it() -> None:
    mixing = replace(MIXING, not_from=0.2)
    but = AllOf((A, Not(B)))
    assert one(but, 0.7, 0.0, mixing=mixing) == one(but, 0.7, 0.2, mixing=mixing) == pytest.approx(0.7)
    assert one(but, 0.7, 0.6, mixing=mixing) == pytest.approx(0.35)
    assert one(but, 0.7, 1.0, mixing=mixing) == 0
    for weighty in (AllOf((A, Not(words("b", 2)))), AllOf((A, Not(B, 2))), AllOf((words("a", 0.5), Not(B)))):
        assert one(weighty, 0.7, 0.6, mixing=mixing) == pytest.approx(0.7 * 0.5**2)


def test_an_average_item_is_not_bitten_where_nothing_calibrates() -> None:
    average = standardised(np.array([[0.3]]), [0.3], [0.1])[0, 0]
    assert one(AllOf((A, Not(B))), 0.5, average) == 0.5


def test_what_must_not_match_goes_by_how_far_it_stands_out() -> None:
    probability = np.array([[0.9, 0.8], [0.1, 0.1], [0.2, 0.2]], np.float32)
    values = np.array([[0.3, 0.3], [0.6, 0.1], [0.4, 0.5]], np.float32)
    found = likely(AllOf((A, Not(B), C)), probability, values)
    assert found.tolist() == [probability[0].tolist(), values[1].tolist(), probability[2].tolist()]


def test_standardised_values() -> None:
    found = standardised(np.array([[0.1, 0.4], [0.5, 0.5]]), [0.1, 0.2], [0.1, 0.0], mixing=Mixing(3, 0.5))
    assert found[0] == pytest.approx([1 / (1 + math.exp(1.5)), 0.5])
    assert found[1] == pytest.approx([1, 1])  # no spread at all: it stands out endlessly
    row = np.array([[0.1, 0.2, 0.6]])
    assert standardised(row).tolist() == standardised(row, [0.3], [row.std()]).tolist()
    assert (np.diff(standardised(row)[0]) > 0).all()


@pytest.mark.parametrize("deep", [-1e6, 1e6])
def test_standardised_does_not_overflow(deep: float) -> None:
    with np.errstate(all="raise"):
        assert standardised(np.array([[deep]]), [0.0], [1e-9])[0, 0] == (0 if deep < 0 else 1)


def test_probes_are_each_wanted_term_and_the_centred_sum() -> None:
    picture = Term(Query(Modality.IMAGE, name="p"), 2.0)
    vectors = np.array([[1, 0, 0], [0, 0.6, 0.8], [0, 1, 0]], np.float32)
    mean = np.array([0, 0.6, 0], np.float32)
    found = probes(AllOf((A, picture, Not(B))), vectors, {Modality.IMAGE: mean})
    summed = np.array([1, 0, 0]) + 2 * np.array([0, 0, 1]) - np.array([0, 1, 0])
    assert found[:2].tolist() == vectors[:2].tolist()
    assert found[2] == pytest.approx(summed / np.linalg.norm(summed))
    assert len(found) == 3


def test_probes_of_one_term_and_of_terms_that_cancel() -> None:
    vector = np.array([[0.6, 0.8]], np.float32)
    assert probes(A, vector, {}).tolist() == vector.tolist()
    assert probes(AllOf((A, Not(A))), np.repeat(vector, 2, axis=0), {}).tolist() == vector.tolist()


def test_centred_leaves_a_modality_without_a_mean() -> None:
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    found = centred(
        vectors, [Modality.TEXT, Modality.IMAGE], {Modality.TEXT: np.array([0.5, 0.5], np.float32)}
    )
    assert found[0] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])
    assert found[1].tolist() == [0, 1]
