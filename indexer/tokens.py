"""From text to the words that are looked up, the same for documents and queries. Pure functions of strings.

Unicode's letters and digits make words; case, compatibility forms and accents are folded; scripts that are
written without spaces give pairs of letters; an English plural is its singular. No language is guessed, and
nothing is known here of where texts come from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

LONGEST = 64  # letters of a word that count
MOST_PIECES = 8  # of a compound; one with more is a hash or the like, and stays whole

_APART = {  # letters that Unicode does not take apart, as keyboards without them write them
    "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ħ": "h", "Ħ": "H", "ı": "i",
    "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "þ": "th", "Þ": "TH", "ð": "d", "Ð": "D",
}  # fmt: skip
_UNSPACED = (  # scripts without spaces between words: Thai to Burmese, Khmer, kana, Han, Hangul
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_ASCII_RUN = re.compile(r"[A-Za-z0-9]+")
_SIDES = re.compile(r"\d+|\D+")  # a word's letters and its digits
_HUMPS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z]+")  # camelCase


class Word(NamedTuple):
    """A word, with what it is made of."""

    text: str
    pieces: tuple[Word, ...] = ()
    replaceable: bool = True  # whether, where no document holds it, the pieces are looked up instead


def words(text: str) -> Iterator[Word]:
    """The words of a text in order; those of `IMG2023` and `goldenEagle` have pieces."""
    if text.isascii():
        for run in _ASCII_RUN.findall(text):
            yield compound(run)
        return
    for unspaced, run in _runs().findall(_folded(text)):
        if unspaced:
            yield from _pairs(unspaced)
        else:
            yield compound(run)


@lru_cache(1)  # not at import: it takes milliseconds, and most queries are in ASCII
def _runs() -> re.Pattern[str]:
    return re.compile(f"([{_UNSPACED}]+)|([^\\s{_UNSPACED}]+)")


def every(word: Word) -> Iterator[str]:
    """What a document that holds a word is found by: the word and all of its pieces."""
    yield word.text
    for piece in word.pieces:
        yield from every(piece)


def found_by(text: str) -> tuple[int, list[str]]:
    """How many words a text has, and what it is found by: those and their pieces, each time they come."""
    found: list[str] = []
    many = 0
    for word in words(text):
        many += 1
        found += every(word) if word.pieces else (word.text,)
    return many, found


@lru_cache(1 << 15)  # words come again and again
def compound(run: str) -> Word:
    """A run of letters and digits: whole, then its letters and digits apart, then those at their humps."""
    run = run[:LONGEST]
    sides = _SIDES.findall(run)
    if len(sides) == 1:
        return _humps(run)
    if len(sides) > MOST_PIECES:
        return Word(run.casefold())
    return Word(run.casefold(), tuple(_humps(side) for side in sides))


def _humps(letters: str) -> Word:
    text = singular(letters.casefold())
    if letters.islower() or letters.isdigit():
        return Word(text)
    humps = _HUMPS.findall(letters)
    if not 1 < len(humps) <= MOST_PIECES:
        return Word(text)
    return Word(text, tuple(Word(singular(hump.casefold())) for hump in humps))


def _pairs(run: str) -> Iterator[Word]:
    """Neighbouring letters. One alone can be found too, but does not stand for a pair that is not there."""
    letters = [Word(letter) for letter in run]
    if len(run) == 1:
        yield letters[0]
    for place in range(len(run) - 1):
        last = place == len(run) - 2
        yield Word(run[place : place + 2], tuple(letters[place : place + 1 + last]), replaceable=False)


def singular(word: str) -> str:
    """A word without an English plural's ending, by the rules of Harman's S stemmer (JASIS 42, 1991)."""
    if len(word) < 4 or not word.endswith("s") or not word.isascii():
        return word
    if word.endswith("ies"):
        return word if word.endswith(("eies", "aies")) else word[:-3] + "y"
    if word.endswith("es"):
        return word if word.endswith(("aes", "ees", "oes")) else word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]


class _Folding(dict[int, str]):
    """What each character of a decomposed text becomes, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        if _is_accent(letter):
            folded = ""
        elif letter.isalnum() or unicodedata.category(letter)[0] == "M":
            folded = _APART.get(letter, letter)
        else:
            folded = " "
        self[code] = folded
        return folded


_FOLDING = _Folding()


def _is_accent(letter: str) -> bool:
    """Marks that people leave out: accents, Hebrew and Arabic vowel points; not Indic vowel signs."""
    place = unicodedata.combining(letter)
    return 10 <= place <= 36 or 202 <= place <= 240


def _folded(text: str) -> str:
    """Letters, digits and vowel signs, all else as spaces."""
    apart = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFC", apart.translate(_FOLDING))
