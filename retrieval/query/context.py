"""What a search goes by beside the request: vectors, a filter, what the index and the model tell of scores.

Gathered once a search; every stage that something is missing for does without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from indexer.snapshot import Allowed, Candidates
from indexer.types import FloatArray, Modality
from retrieval.types import Expression, Not, Request, Term

if TYPE_CHECKING:
    from indexer.twins import Twins
    from retrieval.query.concepts.concept import Concept
    from retrieval.query.filters.where import Filter
    from retrieval.query.lexical import Lexicon
    from retrieval.query.scores.background import Background
    from retrieval.query.scores.calibrate import Calibration


@dataclass(frozen=True, slots=True)
class Context:
    """A request with its terms' unit vectors, shape (t, dim), and what there is to judge scores by."""

    request: Request
    vectors: FloatArray
    filter: Filter | None = None
    background: Background | None = None
    calibration: Calibration | None = None
    twins: Twins | None = None
    words: str = ""  # those that count as they are written; empty: none do
    lexicon: Lexicon | None = None  # is there where words count
    concepts: Mapping[int, Concept] = field(default_factory=dict)  # by the term's number

    @property
    def plain(self) -> bool:
        """Whether the order is that of one cosine."""
        return isinstance(self.request.expression, Term) and not self.hubness

    @property
    def hubness(self) -> bool:
        """Whether hubness is taken off. Not by default: on real data it did not win, see docs/quality.md."""
        return bool(self.request.hubness) and self.background is not None

    @property
    def asked_words(self) -> str:
        """The words of the terms that are to match."""
        return " ".join(words_of(self.request.expression))

    @property
    def allowed(self) -> Allowed | None:
        return None if self.filter is None else self.filter.allowed

    @property
    def centres(self) -> Mapping[Modality, FloatArray]:
        """The mean vector of each modality."""
        return {} if self.background is None else self.background.centres

    @property
    def asked(self) -> Sequence[Modality]:
        """The modality of each term's query."""
        return [term.query.modality for term in self.request.terms]

    def cut(self, modality: Modality) -> float:
        """The probability that the best hit of a modality must have for any to be shown; 0: none.

        Only a single query that is calibrated has one: what several terms together make likely was never
        fitted, and a concept's own threshold is not a judgement of the list.
        """
        if self.calibration is None or self.concepts or len(self.asked) > 1:
            return 0.0
        return self.calibration.cut(self.asked[0], modality)

    def adjusted(self, modality: Modality, found: Candidates, cosine: FloatArray) -> FloatArray:
        """Cosines (t, n) after what hubness takes away."""
        if not self.hubness or self.background is None:
            return cosine
        from retrieval.query.scores import hubness

        return hubness.adjusted(cosine, self.background, self.asked, modality, found)

    def probabilities(self, modality: Modality, cosine: FloatArray) -> FloatArray | None:
        """That each segment is relevant to each term, (t, n); None where a term is not calibrated."""
        if self.calibration is None and not self.concepts:
            return None
        asked = self.asked
        rows = []
        for number, line in enumerate(cosine):
            concept = self.concepts.get(number)
            if concept is not None:
                from retrieval.query.concepts.concept import probability as of_concept

                rows.append(of_concept(concept, line, modality))
            elif self.calibration is None or self.background is None:
                return None
            else:
                told = self.calibration.probabilities(
                    line, asked[number], modality, self.background, self.vectors[number]
                )
                if told is None:
                    return None
                rows.append(told)
        return np.stack(rows)


def words_of(expression: Expression) -> Iterator[str]:
    """The words of an expression's terms, without those that must not match."""
    if isinstance(expression, Term):
        if expression.query.text is not None:
            yield expression.query.text
    elif not isinstance(expression, Not):
        for part in expression.parts:
            yield from words_of(part)


def unwanted_words(expression: Expression) -> Iterator[str]:
    """The words of the terms that must not match."""
    if isinstance(expression, Not):
        yield from words_of(expression.part)
    elif not isinstance(expression, Term):
        for part in expression.parts:
            yield from unwanted_words(part)


def has_not(expression: Expression) -> bool:
    """Whether something must not match."""
    if isinstance(expression, Term | Not):
        return isinstance(expression, Not)
    return any(map(has_not, expression.parts))
