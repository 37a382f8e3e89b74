"""Words of texts: scripts, compounds, plurals."""

from __future__ import annotations

import pytest

from indexer.tokens import every, singular, words


def texts(text: str) -> list[str]:
    return [word.text for word in words(text)]


def found_by(text: str) -> list[str]:
    return [one for word in words(text) for one in every(word)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A frog, on the_lily-pad.", ["a", "frog", "on", "the", "lily", "pad"]),
        ("Žába ÉTÉ Straße Łódź smørrebrød", ["zaba", "ete", "strasse", "lodz", "smorrebrod"]),
        ("Ænima \ufb01sh ½", ["aenima", "fish", "1", "2"]),
        ("ёлка й", ["елка", "и"]),
        ("ΟΔΟΣ οδός", ["οδοσ", "οδοσ"]),
        ("שָׁלוֹם مَرْحَبًا", ["שלום", "مرحبا"]),
        ("एक मेंढक", ["एक", "मेंढक"]),  # vowel signs are no ends of words
        ("東京都 in 京", ["東京", "京都", "in", "京"]),
        ("カエル", ["カエ", "エル"]),
        ("が", ["が"]),  # its mark is no accent
        ("개구리", ["개구", "구리"]),
        ("invoice 2023-04", ["invoice", "2023", "04"]),
        ("bad \udc80 byte", ["bad", "byte"]),
        ("  .,;  ", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IMG2023", ["img2023", "img", "2023"]),
        ("goldenEagle", ["goldeneagle", "golden", "eagle"]),
        ("iPhone12", ["iphone12", "iphone", "i", "phone", "12"]),
        ("HTMLParser", ["htmlparser", "html", "parser"]),
        ("a1b2c3d4e5f6a7b8", ["a1b2c3d4e5f6a7b8"]),  # a hash
        ("東京都", ["東京", "東", "京都", "京", "都"]),
    ],
)
def test_a_document_is_found_by_a_word_and_its_pieces(text: str, expected: list[str]) -> None:
    assert found_by(text) == expected


def test_a_long_run_is_cut() -> None:
    assert texts("x" * 1000) == ["x" * 64]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("frogs", "frog"),
        ("berries", "berry"),
        ("boxes", "boxe"),  # as "boxe" would be: the rules are short, and the same on both sides
        ("bus", "bus"),
        ("glass", "glass"),
        ("cactus", "cactus"),
        ("goes", "goes"),
        ("1980s", "1980"),
        ("gas", "gas"),
    ],
)
def test_plurals(word: str, expected: str) -> None:
    assert singular(word) == expected
