"""Composed queries over the stamps with what is right and what is forbidden, from labels and captions alone.

A label is a folder's path, such as `animals/birds/cartoon`: an item belongs to each of its folders. Words of
a caption say what else is to be seen. Neither is complete: a red hat whose caption says "A hat." counts as
wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import numpy.typing as npt
import stamps

from indexer.types import Modality
from retrieval.types import AllOf, AnyOf, Expression, Not, Query, Term, terms_of

Bools = npt.NDArray[np.bool_]

FOLDERS = {  # what a person types for a folder
    "animals": "an animal", "birds": "a bird", "mammals": "a mammal", "fish": "a fish",
    "insects": "an insect", "bovines": "cattle", "rodents": "a rodent", "cats": "a cat",
    "bears": "a bear", "aquatic": "a sea mammal", "food": "food", "fruit": "fruit",
    "vegetables": "vegetables", "plants": "a plant", "flowers": "a flower", "trees": "a tree",
    "town": "a town", "houses": "a house", "roadsigns": "a road sign", "flags": "a flag",
    "monuments": "a monument", "household": "a household item", "electronics": "electronics",
    "tools": "a tool", "dishes": "dishes", "arttools": "art supplies", "vehicles": "a vehicle",
    "locomotive": "a locomotive", "construction": "a construction vehicle", "ship": "a ship",
    "clothes": "clothes", "hats": "a hat", "people": "people", "body_parts": "a part of the body",
    "space": "space", "planets": "a planet", "seasonal": "a holiday", "christmas": "Christmas",
    "halloween": "Halloween", "easter": "Easter", "hanukkah": "Hanukkah", "hobbies": "a hobby",
    "music": "a musical instrument", "sports": "sports", "military": "the military",
    "cartoon": "a cartoon",
}  # fmt: skip
WORDS = (
    "red", "green", "blue", "yellow", "white", "black", "brown", "pink", "silver", "orange",
    "colorful", "old", "big", "small", "wooden", "round", "toy", "candle", "truck", "car", "bus",
    "flag", "hat", "flower", "tower", "planet", "computer", "guitar", "bear", "eye", "ball", "pair",
    "light", "penguin", "rabbit", "egg", "apple",
)  # fmt: skip
STYLE = "cartoon"


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One composed query against the pictures of a half."""

    kind: str  # of the queries that are counted together
    group: str  # of those that are not independent
    expression: Expression
    right: Bools  # (n,)
    forbidden: Bools  # (n,): what its "not" forbids
    asked: Bools  # (n,): pictures that the query is made of, which are not ranked


@dataclass(slots=True)
class Subjects:
    """The pictures of a half by folder and by word, and the queries that they allow."""

    half: stamps.Half
    members: dict[str, Bools] = field(default_factory=dict)
    pictures: list[Query] = field(default_factory=list)

    def __post_init__(self) -> None:
        folders = [set(label.split("/")) for label in stamps.labels(self.half)]
        words = [set(re.findall(r"[a-z]+", text.lower())) for text in stamps.texts(self.half)]
        for name in FOLDERS:
            self.members[name] = np.array([name in one for one in folders])
        for word in WORDS:
            self.members[f"word {word}"] = np.array([word in one for one in words])
        found = stamps.queries(self.half, Modality.IMAGE)
        ids = [row["id"] for row in stamps.rows_of(self.half)]
        assert len(found.row) == len(ids), "every stamp has a picture"
        self.pictures = [
            Query(Modality.IMAGE, name=name, vector=vector)
            for name, vector in zip(ids, found.vectors, strict=True)
        ]

    def text(self, name: str) -> Term:
        """The words for a folder or a word of captions."""
        return Term(Query(Modality.TEXT, text=FOLDERS.get(name) or name.removeprefix("word ")))

    def all(self) -> list[Asked]:
        """Every query, in a fixed order."""
        parts = (self.not_style(), self.not_part(), self.not_word(), self.two_words(), self.either())
        return [*(one for part in parts for one in part), *self.with_picture()]

    def not_style(self) -> Iterator[Asked]:
        """'a bird' and not 'a cartoon'."""
        style = self.members[STYLE]
        for name in FOLDERS:
            right, forbidden = self.members[name] & ~style, self.members[name] & style
            if name != STYLE and right.any() and forbidden.any():
                yield self._asked("A and not cartoon", name, self._without(name, STYLE), right, style)

    def not_part(self) -> Iterator[Asked]:
        """'an animal' and not 'a bird': a folder without one that lies in it."""
        for whole, part in product(FOLDERS, FOLDERS):
            inside = self.members[part] & self.members[whole]
            nested = inside.sum() == self.members[part].sum() >= 3 and whole != part and part != STYLE
            if nested and (self.members[whole] & ~inside).sum() >= 3:
                right = self.members[whole] & ~inside
                yield self._asked("A and not B", whole, self._without(whole, part), right, self.members[part])

    def not_word(self) -> Iterator[Asked]:
        """'a hat' and not 'red': a folder without what captions call by a word."""
        for name, word in product(FOLDERS, [name for name in self.members if name.startswith("word ")]):
            right, forbidden = (
                self.members[name] & ~self.members[word],
                self.members[name] & self.members[word],
            )
            if name != STYLE and 3 <= self.members[name].sum() <= 40 and right.any() and forbidden.sum() >= 2:
                yield self._asked(
                    "A and not a word", name, self._without(name, word), right, self.members[word]
                )

    def two_words(self) -> Iterator[Asked]:
        """'a hat' and 'red': a folder and a word of the caption, neither of which says the other."""
        words = [name for name in self.members if name.startswith("word ")]
        for name, word in product(FOLDERS, [*words, STYLE]):
            right = self.members[name] & self.members[word]
            apart = right.sum() < min(self.members[name].sum(), self.members[word].sum())
            if name != word and name != STYLE and right.any() and apart:
                both = AllOf((self.text(name), self.text(word)))
                yield self._asked("A and B", name, both, right)

    def either(self) -> Iterator[Asked]:
        """'a fish' or 'a hat': two folders that share nothing."""
        names = [name for name in FOLDERS if 3 <= self.members[name].sum() <= 12]
        for place, name in enumerate(names):
            other = names[(place + 5) % len(names)]
            if not (self.members[name] & self.members[other]).any():
                both = AnyOf((self.text(name), self.text(other)))
                yield self._asked("A or B", name, both, self.members[name] | self.members[other])

    def with_picture(self) -> Iterator[Asked]:
        """A picture and words: its own class, its class in another style, and its class but not the style."""
        style = self.members[STYLE]
        for name in FOLDERS:
            for number in np.flatnonzero(self.members[name])[:8] if name != STYLE else ():
                others = self.members[name].copy()
                others[number] = False
                own = Term(self.pictures[number])
                if others.any() and self.members[name].sum() <= 40:
                    both = AllOf((own, self.text(name)))
                    yield self._asked("picture and its class", name, both, others, number=number)
                if (others & style).any() and not style[number]:
                    both = AllOf((own, self.text(STYLE)))
                    yield self._asked("picture and cartoon", name, both, others & style, number=number)
                if (others & ~style).any() and style[number]:
                    but = AllOf((own, Not(self.text(STYLE))))
                    yield self._asked(
                        "picture and not cartoon", name, but, others & ~style, style, number=number
                    )

    def _without(self, name: str, other: str) -> Expression:
        return AllOf((self.text(name), Not(self.text(other))))

    def _asked(
        self,
        kind: str,
        group: str,
        expression: Expression,
        right: Bools,
        forbidden: Bools | None = None,
        *,
        number: int | None = None,
    ) -> Asked:
        asked = np.zeros_like(right)
        if number is not None:
            asked[number] = True
        none = np.zeros_like(right)
        return Asked(kind, group, expression, right, none if forbidden is None else forbidden, asked)


def vectors_of(asked: list[Asked]) -> list[npt.NDArray[np.float32]]:
    """The unit vectors (t, dim) of each query's terms."""
    words = sorted({term.query.text for one in asked for term in terms_of(one.expression) if term.query.text})
    known = dict(zip(words, stamps.text_vectors(words), strict=True))
    return [
        np.stack(
            [
                known[term.query.text] if term.query.text else np.asarray(term.query.vector)
                for term in terms_of(one.expression)
            ]
        )
        for one in asked
    ]
