"""Texts for a tower: token ids, and the cuts that keep every segment within the model's token limit.

`tokenizers` is imported when a preparer is first used: preparers travel to decode workers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import DecodeHint, Modality, Range
from retrieval.encoders.description import fields_of

KIND = "tokenizer-json/1"
PIECE = 20_000  # characters tokenised at a time, so that memory does not grow with the text
PARAGRAPH, SENTENCE, SPACE, WORD = 3, 2, 1, 0  # how good a place is to cut at
_BLANK_LINE = re.compile(r"\n\s*\n")
_SENTENCE_END = ".!?…:;\"'”’)»"
_WIDE_SENTENCE_END = "。！？"
_INK = re.compile(r"\S")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TextPreparer:
    """WordPiece ids with the special tokens, cut at `max_tokens`."""

    tokenizer: str  # path of a tokenizer.json
    max_tokens: int = 256  # of a segment, the two special tokens included

    @property
    def modality(self) -> Modality:
        return Modality.TEXT

    @property
    def hint(self) -> DecodeHint:
        return DecodeHint()

    def describe(self) -> dict[str, Any]:
        """What the space depends on, as JSON; the tokenizer file counts among the weights."""
        return {"kind": KIND, "max_tokens": self.max_tokens}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], *, tokenizer: str) -> TextPreparer:
        """The preparer that `describe` described. ModelError where it is of another version."""
        return cls(tokenizer, **fields_of(description, KIND))

    def tensor(self, media: str) -> npt.NDArray[np.int64]:
        """Token ids, int64, shape (tokens,), at most `max_tokens`; a longer text is cut like a query is."""
        ids = _tokenizer(self.tokenizer).encode(_clean(media)).ids
        if len(ids) > self.max_tokens:
            ids = [*ids[: self.max_tokens - 1], ids[-1]]
        return np.array(ids, dtype=np.int64)

    def plan(self, text: str) -> tuple[Range, ...]:
        """Character ranges within the token limit, in order; none for a text without a token.

        They end at a paragraph, else a sentence, else a space, else between two words of the tokenizer, and
        leave out nothing but white space. Time and memory are linear in the text's length.
        """
        cuts = _cuts(_tokenizer(self.tokenizer), _clean(text), self.max_tokens - 2)
        parts = ((start, text[start:end]) for start, end in cuts)
        return tuple(
            Range(start + len(part) - len(part.lstrip()), start + len(part.rstrip())) for start, part in parts
        )


@lru_cache(maxsize=4)
def _tokenizer(path: str) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _clean(text: str) -> str:
    """The text with what is not Unicode replaced one for one, since the tokenizer refuses it."""
    return _SURROGATES.sub("�", text)


def _cuts(tokenizer: Any, text: str, limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive (start, end) in characters of parts with 1 to `limit` tokens."""
    position = 0
    while ink := _INK.search(text, position):
        position = ink.start()
        piece = text[position : position + PIECE]
        last = position + PIECE >= len(text)
        encoding = tokenizer.encode(piece, add_special_tokens=False)
        ends = _piece_cuts(piece, encoding, limit, last)
        start = 0
        for end in ends:
            yield position + start, position + end
            start = end
        # What is left of a piece is read again with the next, so that no segment ends where a piece does.
        position += start if ends else len(piece)


def _piece_cuts(piece: str, encoding: Any, limit: int, last: bool) -> list[int]:
    """Where to cut one piece; after the last cut at most `limit` tokens remain, none in the last piece."""
    offsets, words = encoding.offsets, encoding.word_ids
    cuts: list[int] = []
    first, count = 0, len(offsets)
    while count - first > limit:
        cut = _best_cut(piece, offsets, words, first, first + limit)
        cuts.append(offsets[cut][0])
        first = cut
    if last and count > first:
        cuts.append(len(piece))
    elif not cuts and count:
        # A whole piece of few tokens: all but its last word, or the word where it is longer than the piece.
        cuts.append(
            next((offsets[i][0] for i in range(count - 1, 0, -1) if words[i] != words[i - 1]), len(piece))
        )
    return cuts


def _best_cut(piece: str, offsets: Any, words: Any, first: int, end: int) -> int:
    """The token to start the next segment with: the best place, and the latest of those, after half."""
    best, best_rank = end, -1
    for token in range(end, first + (end - first) // 2, -1):
        if words[token] == words[token - 1]:
            continue  # inside a word: cutting there would change its tokens
        rank = _rank(piece, offsets[token - 1][1], offsets[token][0])
        if rank > best_rank:
            best, best_rank = token, rank
            if rank == PARAGRAPH:
                break
    return best


def _rank(piece: str, end: int, start: int) -> int:
    """How good the gap between two tokens, from `end` to `start`, is to cut at."""
    gap, before = piece[end:start], piece[end - 1]
    if _BLANK_LINE.search(gap):
        return PARAGRAPH
    if before in _WIDE_SENTENCE_END or (gap and before in _SENTENCE_END) or "\n" in gap:
        return SENTENCE
    return SPACE if gap else WORD
