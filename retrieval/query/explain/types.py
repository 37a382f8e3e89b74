"""What an explanation holds. Plain data; nothing is computed here beyond what derives.

An *effect* is what a part of a medium adds to the cosine with a term: positive where the cosine is lower
without it, negative where it is higher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.types import FloatArray
from retrieval.types import Hit, Request


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, and what it adds to the cosine."""

    text: str
    start: int  # in characters of the text
    end: int
    effect: float


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """A text whose words were left out one by one."""

    text: str
    words: tuple[Word, ...]
    passes: int  # forward passes of the tower

    @property
    def heat(self) -> FloatArray:
        """Each word's share of the greatest effect, shape (words,), in [-1, 1]."""
        return scaled(np.array([word.effect for word in self.words], np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class PictureHeat:
    """A picture, and what each cell of a grid over it adds."""

    effect: FloatArray  # (rows, columns), cosine
    picture: npt.NDArray[np.uint8]  # (height, width, 3), upright RGB
    passes: int

    @property
    def heat(self) -> FloatArray:
        """Each cell's share of the greatest effect, shape (rows, columns), in [-1, 1]."""
        return scaled(self.effect)


@dataclass(frozen=True, slots=True, eq=False)
class SoundHeat:
    """A window of a sound, and what each band at each time adds."""

    effect: FloatArray  # (bands, slices), the lowest band first, cosine
    seconds: FloatArray  # (slices + 1,): where slices begin and end, from the sound's beginning
    hertz: FloatArray  # (bands + 1,): where bands begin and end
    passes: int
    loudness: FloatArray  # (frequencies, times), even in mels, the lowest first, in [0, 1]: what is heard

    @property
    def heat(self) -> FloatArray:
        """Each cell's share of the greatest effect, shape (bands, slices), in [-1, 1]."""
        return scaled(self.effect)


Heat = PictureHeat | SoundHeat | Words


@dataclass(frozen=True, slots=True, eq=False)
class TermEffect:
    """What of the hit speaks for one term, and which of the term's own words find it."""

    label: str
    wanted: bool  # False: the term is negated
    cosine: float  # of the term with the segment as it is shown
    heat: Heat | None  # None: what the segment was made of cannot be read any more
    asked: Words | None = None  # of a term in words


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A hit with every stage's numbers, and what they come from."""

    request: Request
    hit: Hit
    terms: tuple[TermEffect, ...]  # in the request's order, as in the hit's stages
    indexed: bool  # False: a file that the index does not hold, judged as if it did
    note: str | None = None  # why there is no heat, where there is none

    @property
    def best(self) -> TermEffect:
        """The wanted term that matches best, the first of equals."""
        return max((term for term in self.terms if term.wanted), key=lambda term: term.cosine)


def scaled(effect: FloatArray) -> FloatArray:
    """Effects as shares of the greatest one, of either sign, in [-1, 1]; zeros stay zero."""
    top = float(np.max(np.abs(effect), initial=0.0))
    return (effect / top if top > 0 else np.zeros_like(effect)).astype(np.float32)


def positive_share(effect: FloatArray, columns: Sequence[bool] | npt.NDArray[np.bool_]) -> float:
    """The share of what speaks for the term that lies in some columns, in [0, 1]; 0.5 where nothing does."""
    heat = np.maximum(effect, 0.0)
    whole = float(heat.sum())
    return float(heat[:, np.asarray(columns, bool)].sum()) / whole if whole > 0 else 0.5
