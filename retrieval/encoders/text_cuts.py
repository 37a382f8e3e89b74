"""Where a text is cut, so that every segment keeps within a model's token limit; and tokenizers from files.

Shared by every text preparer. `tokenizers` is imported when a tokenizer is first opened: preparers travel to
decode workers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from indexer.types import Range

PIECE = 20_000  # characters tokenised at a time, so that memory does not grow with the text
PER_TOKEN = 16  # characters a token that a piece holds at least, where the limit is large
PARAGRAPH, SENTENCE, SPACE, WORD = 3, 2, 1, 0  # how good a place is to cut at
_BLANK_LINE = re.compile(r"\n\s*\n")
_SENTENCE_END = ".!?…:;\"'”’)»"
_WIDE_SENTENCE_END = "。！？"
_INK = re.compile(r"\S")
_SPACE = re.compile(r"\s")
_SURROGATES = re.compile("[\ud800-\udfff]")


@lru_cache(maxsize=4)
def open_tokenizer(path: str) -> Any:
    """The `tokenizers.Tokenizer` in a file, which neither pads nor truncates; the same one each time."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def as_unicode(text: str) -> str:
    """The text with what is not Unicode replaced one for one, since the tokenizer refuses it."""
    return _SURROGATES.sub("\ufffd", text)


def cuts(tokenizer: Any, text: str, limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive (start, end) in characters of parts with 1 to `limit` tokens.

    They end at a paragraph, else a sentence, else a space, else between two words of the tokenizer, and leave
    out nothing but white space. Time and memory are linear in the text's length.
    """
    size = max(PIECE, PER_TOKEN * limit)
    position = 0
    while ink := _INK.search(text, position):
        position = ink.start()
        piece = text[position : position + size]
        last = position + size >= len(text)
        encoding = tokenizer.encode(piece, add_special_tokens=False)
        ends = _piece_cuts(piece, encoding, limit, last)
        start = 0
        for end in ends:
            yield position + start, position + end
            start = end
        # What is left of a piece is read again with the next, so that no segment ends where a piece does.
        position += start if ends else len(piece)


def stripped(text: str, start: int, end: int) -> Range:
    """The part's range without the white space at its ends."""
    part = text[start:end]
    return Range(start + len(part) - len(part.lstrip()), start + len(part.rstrip()))


def _piece_cuts(piece: str, encoding: Any, limit: int, last: bool) -> list[int]:
    """Where to cut one piece, ascending; after the last cut at most `limit` remain, none in the last."""
    gaps = _Gaps(piece, encoding)
    found: list[int] = []
    first, count = 0, gaps.tokens
    while count - first > limit:
        first = _best_cut(gaps, first, first + limit)
        # The bytes of one character are tokens with the same place, so a cut may fall where the last one did.
        if gaps.start(first) > (found[-1] if found else 0):
            found.append(gaps.start(first))
    if last and count > first:
        found.append(len(piece))
    elif not found and count:
        # A whole piece of few tokens: all but its last word, or the word where it is longer than the piece.
        found.append(
            next((gaps.start(i) for i in range(count - 1, 0, -1) if not gaps.inside(i)), 0) or len(piece)
        )
    return found


class _Gaps:
    """What lies between a piece's tokens. White space that a tokenizer counts to a token is not its own."""

    def __init__(self, piece: str, encoding: Any) -> None:
        self._piece = piece
        self._offsets = encoding.offsets
        self._words = encoding.word_ids
        self.tokens = len(self._offsets)

    def start(self, token: int) -> int:
        """Where the token's first visible character is."""
        start, end = self._offsets[token]
        while start < end and self._piece[start].isspace():
            start += 1
        return int(start)

    def _end(self, token: int) -> int:
        """Behind the token's last visible character."""
        start, end = self._offsets[token]
        while end > start and self._piece[end - 1].isspace():
            end -= 1
        return int(end)

    def inside(self, token: int) -> bool:
        """Whether it continues the word before it: cutting there would change its tokens."""
        if self._words[token] != self._words[token - 1]:
            return False
        # Some tokenizers take a whole text for one word.
        return not _SPACE.search(self._piece, self._end(token - 1), self.start(token))

    def rank(self, token: int) -> int:
        """How good a place the gap before it is to cut at."""
        end, start = self._end(token - 1), self.start(token)
        gap, before = self._piece[end:start], self._piece[max(end - 1, 0) : end]
        if _BLANK_LINE.search(gap):
            return PARAGRAPH
        closed = bool(before) and (before in _WIDE_SENTENCE_END or bool(gap and before in _SENTENCE_END))
        if closed or "\n" in gap:
            return SENTENCE
        return SPACE if gap else WORD


def _best_cut(gaps: _Gaps, first: int, end: int) -> int:
    """The token to start the next segment with: the best place, and the latest of those, after half."""
    best, best_rank = end, -1
    for token in range(end, first + (end - first) // 2, -1):
        if gaps.inside(token):
            continue
        rank = gaps.rank(token)
        if rank > best_rank:
            best, best_rank = token, rank
            if rank == PARAGRAPH:
                break
    return best
