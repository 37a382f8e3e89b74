"""Which words count: each is left out in turn, of a text that was found or of the query that found it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from indexer.types import Encoder, FloatArray, Preparer
from retrieval.query.compose import AsksDifferently
from retrieval.query.explain.passes import encoded, scores
from retrieval.query.explain.types import Word, Words

WORD = re.compile(r"\w+(?:['’\-]\w+)*")
MOST = 256  # words, or groups of neighbouring words where a text has more


def words_heat(text: str, encoder: Encoder, queries: FloatArray, *, asking: bool = False) -> list[Words]:
    """What each word of a text adds to the cosine with each vector (t, dim), from one set of passes.

    With `asking` the text is prepared as a question, for models that tell the two apart. A text's only word
    adds all of its cosine.
    """
    preparer = encoder.preparer
    if asking and isinstance(preparer, AsksDifferently):
        preparer = preparer.for_queries()
    spans = word_spans(text)
    rest = [text[:start] + text[end:] for start, end in spans]
    vectors = encoded(_tensors([text, *rest], preparer), encoder)
    told = scores(vectors, queries)
    blank = np.array([not WORD.search(one) for one in rest], bool)
    found = []
    for line in told:
        effects = line[0] - np.where(blank, 0.0, line[1:])
        words = (Word(text[a:b], a, b, float(e)) for (a, b), e in zip(spans, effects, strict=True))
        found.append(Words(text, tuple(words), len(vectors)))
    return found


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where words begin and end, in characters; neighbours together where there are more than MOST."""
    spans = [found.span() for found in WORD.finditer(text)]
    together = -(-len(spans) // MOST)
    groups = [spans[first : first + together] for first in range(0, len(spans), max(1, together))]
    return [(group[0][0], group[-1][1]) for group in groups]


def _tensors(
    texts: list[str], preparer: Preparer
) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    for text in texts:
        yield preparer.tensor(text)
