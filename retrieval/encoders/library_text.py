"""Texts for towers of pretrained families: cleaned, prefixed, tokenised and padded as their library does it.

Everything that a library's configuration says about texts is a field here; the tokenizer itself is a
tokenizer.json in the model's folder. Imports nothing heavy: preparers travel to decode workers, and a search
runs one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ModelError
from indexer.types import DecodeHint, Modality, Range
from retrieval.encoders.description import fields_of
from retrieval.encoders.text_cleaning import CLEANS, lower_in_place
from retrieval.encoders.text_cuts import PIECE, as_unicode, cuts, open_tokenizer, stripped

KIND = "tokenizer-json/2"
NO_ID = -1


@dataclass(frozen=True, slots=True)
class LibraryTextPreparer:
    """Token ids as a library's own tokenizer gives them, special tokens included, cut at `max_tokens`."""

    tokenizer: str  # path of a tokenizer.json
    max_tokens: int  # of a segment, with the special tokens, the prefix and `last_id`
    clean: str = "none"  # one of CLEANS: what is done to a text before it is tokenised
    pad_to: int = 0  # tokens that every text is padded to; 0: not padded, the tower pads a batch and masks it
    pad_id: int = 0
    prefix: str = ""  # put before documents, and counted to their tokens
    query_prefix: str = ""  # put before what a user types
    query_max_tokens: int = 0  # as `max_tokens`, of a query; 0: the same
    last_id: int = NO_ID  # put behind the padding (open_clip's "clips" mode)
    zeroed_id: int = NO_ID  # written as 0 (open_clip's strip_sep_token)

    @property
    def modality(self) -> Modality:
        return Modality.TEXT

    @property
    def hint(self) -> DecodeHint:
        return DecodeHint()

    def describe(self) -> dict[str, Any]:
        """What the space depends on, as JSON; the tokenizer file counts among the weights."""
        values = asdict(self)
        del values["tokenizer"]
        return {"kind": KIND} | values

    @classmethod
    def from_description(cls, description: Mapping[str, Any], *, tokenizer: str) -> LibraryTextPreparer:
        """The preparer that `describe` described. ModelError where this version computes another."""
        values = fields_of(description, KIND)
        strange = sorted(values.keys() - cls.__dataclass_fields__.keys() | values.keys() & {"tokenizer"})
        if strange or values.get("clean", "none") not in CLEANS or "max_tokens" not in values:
            raise ModelError(
                f"the model's text preprocessing cannot be computed: {strange or values}",
                hint="pull the model again with this version: triptych models pull",
            )
        return cls(tokenizer, **values)

    def for_queries(self) -> LibraryTextPreparer:
        """The preparer of what a user types; itself where queries are treated as documents are."""
        limit = self.query_max_tokens or self.max_tokens
        if (self.query_prefix, limit) == (self.prefix, self.max_tokens):
            return self
        return replace(self, prefix=self.query_prefix, max_tokens=limit)

    def tensor(self, media: str) -> npt.NDArray[np.int64]:
        """A document's token ids, int64, shape (tokens,); the end of a text beyond `max_tokens` is left out.

        Special tokens stay at both ends. With `pad_to` there are exactly that many.
        """
        tokenizer = open_tokenizer(self.tokenizer)
        encoding = self._encoded(tokenizer, media)
        encoding.truncate(self._room(tokenizer))
        ids = tokenizer.post_process(encoding).ids
        last = [] if self.last_id == NO_ID else [self.last_id]
        ids += [self.pad_id] * (self.pad_to - len(ids) - len(last)) + last
        found = np.array(ids, dtype=np.int64)
        if self.zeroed_id != NO_ID:
            found[found == self.zeroed_id] = 0
        return found

    def query(self, media: str) -> npt.NDArray[np.int64]:
        """As `tensor`, of what a user types."""
        return self.for_queries().tensor(media)

    def plan(self, text: str) -> tuple[Range, ...]:
        """Character ranges that keep within the token limit, prefix included, in order; see `text_cuts.cuts`.

        None for a text without a token. A text that fits as a whole is one range.
        """
        if not text.strip():
            return ()
        tokenizer = open_tokenizer(self.tokenizer)
        room = self._room(tokenizer)
        if len(text) <= PIECE and (count := self._count(tokenizer, text)) <= room:
            return (stripped(text, 0, len(text)),) if count else ()
        limit = max(1, room - self._prefix_tokens(tokenizer))
        parts = self._fitting(tokenizer, text, 0, limit)
        return tuple(stripped(text, start, end) for start, end in parts)

    def _fitting(self, tokenizer: Any, text: str, offset: int, limit: int) -> Iterator[tuple[int, int]]:
        """Cuts of a text that begins at `offset`.

        A part's tokens can be more than were counted in its place, since the first word has lost the space
        before it and cleaning can lengthen a text: such a part is cut again.
        """
        room = self._room(tokenizer)
        read = lower_in_place(as_unicode(text)) if CLEANS[self.clean].lowers else as_unicode(text)
        for start, end in cuts(tokenizer, read, limit):
            count = self._count(tokenizer, text[start:end])
            if count > room and limit > 1:
                smaller = max(1, min(limit - 1, limit * room // count))
                yield from self._fitting(tokenizer, text[start:end], offset + start, smaller)
            elif count:
                yield offset + start, offset + end

    def _encoded(self, tokenizer: Any, text: str) -> Any:
        cleaned = as_unicode(CLEANS[self.clean].clean(self.prefix + text))
        return tokenizer.encode(cleaned, add_special_tokens=False)

    def _count(self, tokenizer: Any, text: str) -> int:
        """Tokens of a text with its prefix; 0 where the text itself has none."""
        count = len(self._encoded(tokenizer, text))
        if not self.prefix or count > self._prefix_tokens(tokenizer):
            return count
        # The space that ends a prefix may be a token of its own only while nothing follows.
        return count if len(replace(self, prefix="")._encoded(tokenizer, text)) else 0

    def _prefix_tokens(self, tokenizer: Any) -> int:
        return len(self._encoded(tokenizer, "")) if self.prefix else 0

    def _room(self, tokenizer: Any) -> int:
        """Tokens that remain for prefix and text."""
        added = int(tokenizer.num_special_tokens_to_add(False)) + (self.last_id != NO_ID)
        return max(0, self.max_tokens - added)
