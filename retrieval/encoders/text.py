"""Texts for the starter's tower, and for towers trained on it: WordPiece ids. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import DecodeHint, Modality, Range
from retrieval.encoders.description import fields_of
from retrieval.encoders.text_cuts import as_unicode, cuts, open_tokenizer, stripped

KIND = "tokenizer-json/1"


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
        ids = open_tokenizer(self.tokenizer).encode(as_unicode(media)).ids
        if len(ids) > self.max_tokens:
            ids = [*ids[: self.max_tokens - 1], ids[-1]]
        return np.array(ids, dtype=np.int64)

    def plan(self, text: str) -> tuple[Range, ...]:
        """Character ranges within the token limit, in order; none for a text without a token."""
        found = cuts(open_tokenizer(self.tokenizer), as_unicode(text), self.max_tokens - 2)
        return tuple(stripped(text, start, end) for start, end in found)
