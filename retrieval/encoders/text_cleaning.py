"""What libraries do to a text before they tokenise it, by name. Imports ftfy only when a text needs it."""

from __future__ import annotations

import html
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from indexer.errors import ModelError

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class Cleaning:
    """One way of cleaning."""

    clean: Callable[[str], str]
    lowers: bool = False  # whether letters lose their case


def repaired(text: str) -> str:
    """Text with broken encodings and HTML entities mended, and no space at its ends.

    What open_clip's `basic_clean` gives: ftfy with its own defaults, entities unescaped twice.
    """
    # Nothing of that touches a plain line of ASCII, and importing ftfy takes 0.1 s.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.strip()
    try:
        from ftfy import fix_text
    except ImportError as error:
        raise ModelError(
            "this model's texts are cleaned with ftfy, which is not installed", hint="pip install ftfy"
        ) from error
    return html.unescape(html.unescape(fix_text(text))).strip()


def _spaced(text: str) -> str:
    """Every run of white space as one space."""
    return " ".join(text.split())


def _canonical(text: str) -> str:
    """SigLIP's form: no punctuation of ASCII, lower case."""
    return _spaced(repaired(text).replace("_", " ").translate(_NO_PUNCTUATION).lower())


CLEANS: Mapping[str, Cleaning] = {
    "none": Cleaning(lambda text: text),
    "lower": Cleaning(str.lower, lowers=True),
    "ftfy-whitespace": Cleaning(lambda text: _spaced(repaired(text))),
    "ftfy-lower": Cleaning(lambda text: _spaced(repaired(text)).lower(), lowers=True),
    "canonicalize": Cleaning(_canonical, lowers=True),
}


def lower_in_place(text: str) -> str:
    """Lower case, with every character where it was: one that would become two stays."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(small if len(small := one.lower()) == 1 else one for one in text)
