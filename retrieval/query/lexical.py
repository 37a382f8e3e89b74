"""Which items hold the words of a query, by BM25. The words themselves are taken from indexer.words' lists.

A word counts for an item once, at the best place: the content that scores best for it, or the names (folders,
file name, metadata). An item's score is the sum over the query's words, so words found in different places of
an item add up, and one that is in its name and its caption does not count twice.

The score of a word in a document is idf * tf / (tf + K1 * (1 - B + B * length / mean length)), with idf =
ln(1 + (n - df + 0.5) / (df + 0.5)): Okapi BM25 (Robertson and Zaragoza, 'The Probabilistic Relevance
Framework', 2009) without its constant factor, with an idf that is never negative. df and n are summed over
the lists of all parts and of the names, mean lengths over all parts and over the names apart, so that a
score does not depend on how an index came about. Deleted documents do not come, but count in df, n and mean
lengths until their part is written anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from indexer import schema
from indexer.postings import Postings
from indexer.snapshot import Key, Snapshot
from indexer.tokens import Word
from indexer.tokens import words as words_of
from indexer.types import Modality
from indexer.vectors import BoolArray, IndexArray
from indexer.words import Contents, Names

if TYPE_CHECKING:
    from retrieval.query.filters.where import Filter

K1 = 1.2  # how soon more of the same word stops to count
B = 0.75  # how much long documents are marked down, in [0, 1]
MOST_WORDS = 32  # of a query that are looked up: the rarest
COMMON = 0.1  # share of all documents; a word that more of them hold finds nothing by itself
STOP = frozenset(  # words that are rare in small indexes only, and never tell what is meant
    ["a", "an", "and", "are", "at", "by", "for", "from", "in", "is", "of", "on", "or", "the", "to", "with"]
)
FEW = 5  # documents; a word that is in no more of them is never common
ASSURED = 0.4  # share of a query's idf that must be in one item before words count by themselves

Scores = npt.NDArray[np.float64]
Halves = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class LexicalHit:
    """An item that holds words of a query."""

    item_id: str
    row: int  # of the item table
    score: float  # BM25, above 0; higher is better
    words: tuple[str, ...]  # that were found, folded as indexer.tokens does, in the query's order
    key: Key | None  # of the content that scores best by itself; None where only names hold the words


@dataclass(frozen=True, slots=True)
class Sought:
    """A word of a query that some document holds, or one that none does."""

    text: str
    frequency: int  # documents that hold it
    idf: float


class Lexicon:
    """The word lists of a snapshot, opened; good for any number of queries."""

    def __init__(self, snapshot: Snapshot, contents: Mapping[int, Contents], names: Names) -> None:
        self.snapshot = snapshot
        self.contents = contents  # by the part's place
        self.names = names
        lists = self._lists
        self.documents = sum(one.filled for one in lists)
        inside = sum(one.length for one in contents.values()), sum(one.filled for one in contents.values())
        self.mean_content = inside[0] / max(inside[1], 1)
        self.mean_name = names.length / max(names.filled, 1)
        self._last: tuple[str, _Found] | None = None

    @classmethod
    def open(cls, snapshot: Snapshot) -> Lexicon | None:
        """None where the list of names is missing: made by the next update of the index."""
        names = Names.of(snapshot)
        if names is None:
            return None
        parts = enumerate(snapshot.generation.parts)
        own = (place for place, part in parts if part.space_id == snapshot.space_id)
        found = ((place, Contents.of(snapshot, place)) for place in own)
        return cls(snapshot, {place: one for place, one in found if one is not None}, names)

    @property
    def _lists(self) -> list[Postings]:
        return [*self.contents.values(), self.names]

    # Words

    def sought(self, words: str) -> list[Sought]:
        """Each word of a query once, in order. A compound that no document holds is taken apart."""
        found: dict[str, Sought] = {}
        for word in words_of(words):
            for one in self._resolved(word):
                found.setdefault(one.text, one)
        return list(found.values())

    def _resolved(self, word: Word) -> Iterator[Sought]:
        frequency = sum(
            one.frequency(number) for one in self._lists if (number := one.find(word.text)) is not None
        )
        if frequency or not word.pieces or not word.replaceable:
            share = (self.documents - frequency + 0.5) / (frequency + 0.5)
            yield Sought(word.text, frequency, float(np.log1p(share)))
            return
        for piece in word.pieces:
            yield from self._resolved(piece)

    def _is_rare(self, word: Sought) -> bool:
        return 0 < word.frequency <= max(FEW, COMMON * self.documents) and word.text not in STOP

    def _asked(self, words: str) -> list[Sought]:
        """The words to look up: those that are not common, or where all are, the common ones."""
        known = [word for word in self.sought(words) if word.frequency]
        asked = [word for word in known if self._is_rare(word)] or known
        rarest = sorted(asked, key=lambda word: (word.frequency, word.text))[:MOST_WORDS]
        return [word for word in asked if word in rarest]

    def worth_it(self, words: str) -> bool:
        """Whether words should count by themselves where the user left it open.

        They should where one item holds so much of the query, by idf, that it is hardly there by chance.
        Words that no document holds are the rarest of all and speak against it; common ones hardly count.
        """
        sought = self.sought(words)
        rare = [word for word in sought if self._is_rare(word)]
        if not rare:
            return False
        found = self._found(words)
        if not len(found.rows):
            return False
        first = found.table[:, found.total == found.total.max()] > 0  # the best items, if several tie
        counting = {word.text for word in rare}
        idf = np.array([word.idf if word.text in counting else 0.0 for word in found.asked])
        return float((idf @ first).max()) >= ASSURED * sum(word.idf for word in sought)

    # Scores

    def search(
        self,
        words: str,
        *,
        limit: int,
        allowed: Filter | None = None,
        modalities: Sequence[Modality] = (),
        prefer: Sequence[str] = (),
    ) -> list[LexicalHit]:
        """The `limit` best items, by score, then as `prefer` has their ids, then by id.

        `allowed` decides which items come, not which of their words count. An item comes if some content of
        it has one of `modalities` (none given: any).
        """
        found = self._found(words)
        if limit < 1 or not len(found.rows):
            return []
        rows = found.rows
        kept = np.ones(len(rows), bool)
        if modalities:
            kept &= self.names.having(modalities)[rows]
        if allowed is not None:
            kept &= self._permitted(allowed)[rows]
        places = np.flatnonzero(kept)
        if allowed is None and len(places) > limit:  # sorting all that hold a common word takes a while
            scores = found.total[places]
            places = places[scores >= np.partition(scores, len(scores) - limit)[len(scores) - limit]]
        high, low = self.names.id_halves(rows[places])
        order = places[np.lexsort((low, high, _preferred(high, low, prefer), -found.total[places]))]
        chosen = self._first(order, rows, limit, allowed)
        keys = self._best_keys(found.parts, rows[chosen])
        return [
            LexicalHit(
                self.names.id(row), row, float(found.total[place]), found.words_at(place), keys.get(row)
            )
            for place, row in zip(chosen.tolist(), rows[chosen].tolist(), strict=True)
        ]

    def _found(self, words: str) -> _Found:
        """The items that hold words of a query. The last query's are kept, as `worth_it` asks first."""
        if self._last is None or self._last[0] != words:
            asked = self._asked(words)
            parts = [self._in_part(place, one, asked) for place, one in sorted(self.contents.items())]
            rows, table = self._by_item(parts, asked)
            total = sum(table, np.zeros(len(rows)))  # word by word, so that equal items score equally
            self._last = words, _Found(asked, parts, rows, table, total)
        return self._last[1]

    def _in_part(self, place: int, one: Contents, asked: Sequence[Sought]) -> _Part:
        """The living documents of a part that hold words, and the items that have them."""
        hits = [_scored(one, word, self.mean_content) for word in asked]
        documents = _distinct([found for found, _ in hits])
        if len(documents):
            documents = documents[self.snapshot.living(place)[one.row[documents]]]
        table = np.zeros((len(asked), len(documents)))
        for line, (found, scores) in zip(table, hits, strict=True):
            spots = np.searchsorted(documents, found)
            there = spots < len(documents)
            there[there] = documents[spots[there]] == found[there]
            line[spots[there]] = scores[there]
        which, items = self.names.items_of(one.halves(documents))
        return _Part(one, documents, table, which, items)

    def _by_item(self, found: Sequence[_Part], asked: Sequence[Sought]) -> tuple[IndexArray, Scores]:
        """Items that hold words, ascending, (n,), and what each word scores in each, (words, n)."""
        named = [_scored(self.names, word, self.mean_name) for word in asked]
        rows = _distinct([*(part.items for part in found), *(own for own, _ in named)])
        table = np.zeros((len(asked), len(rows)))
        for part in found:
            spots = np.searchsorted(rows, part.items)
            for line, scores in zip(table, part.table, strict=True):
                np.maximum.at(line, spots, scores[part.which])
        for line, (own, scores) in zip(table, named, strict=True):
            spots = np.searchsorted(rows, own)
            line[spots] = np.maximum(line[spots], scores)
        return rows, table

    def _best_keys(self, found: Sequence[_Part], rows: IndexArray) -> dict[int, Key]:
        """Of each item the content with the highest score, then the least key."""
        best: dict[int, tuple[float, bytes]] = {}
        wanted = np.zeros(self.names.documents, bool)
        wanted[rows] = True
        for part in found:
            total = sum(part.table, np.zeros(len(part.documents)))
            mine = np.flatnonzero(wanted[part.items])
            for row, which in zip(part.items[mine].tolist(), part.which[mine].tolist(), strict=True):
                key = part.list.keys[int(part.documents[which])].tobytes()
                best[row] = min(best.get(row, (np.inf, b"")), (-float(total[which]), key))
        return {row: schema.unpack_key(key) for row, (_, key) in best.items()}

    # Filters

    def _permitted(self, allowed: Filter) -> BoolArray:
        """Items with a content that a filter lets through, (items,); some may be there for another's sake."""
        mask = np.zeros(self.names.documents, bool)
        for place, rows in enumerate(allowed.allowed):
            if rows.any():
                hashes, _ = schema.hash_rows(
                    self.snapshot.segment_columns(place, ["content_hash"])["content_hash"]
                )
                halves = np.ascontiguousarray(hashes[rows, 8:16]).view("<u8")[:, 0]
                mask[self.names.items_of(halves)[1]] = True
        return mask

    def _first(self, order: IndexArray, rows: IndexArray, limit: int, allowed: Filter | None) -> IndexArray:
        """The first places of `order` whose items a filter wants, as many as `limit`."""
        if allowed is None:
            return order[:limit]
        chosen: list[int] = []
        for start in range(0, len(order), limit):
            some = order[start : start + limit]
            wanted = self._wanted(sorted(rows[some].tolist()), allowed)
            chosen += [place for place in some.tolist() if int(rows[place]) in wanted]
            if len(chosen) >= limit:
                break
        return np.array(chosen[:limit], np.int64)

    def _wanted(self, rows: Sequence[int], allowed: Filter) -> set[int]:
        """Which rows of the item table a filter wants for some segment of theirs."""
        items = dict(zip(rows, self.snapshot.items_at(rows), strict=True))
        keys = {row: [one.key for one in item.members if one.content_hash] for row, item in items.items()}
        places = self.snapshot.places_of({key for own in keys.values() for key in own})  # type: ignore[misc]
        return {
            row
            for row, own in keys.items()
            if any(
                allowed.allowed[part][at] and items[row].id in allowed.items_of(part, at)
                for key in own
                for part, at in places.get(key, ())  # type: ignore[arg-type]
            )
        }


@dataclass(frozen=True, slots=True)
class _Part:
    """What words find in a part."""

    list: Contents
    documents: IndexArray  # (d,), ascending, living
    table: Scores  # (words, d)
    which: IndexArray  # (m,): places in `documents`, for each item that has it
    items: IndexArray  # (m,): the items


@dataclass(frozen=True, slots=True)
class _Found:
    """What words find in all parts and in names."""

    asked: Sequence[Sought]
    parts: Sequence[_Part]
    rows: IndexArray  # (n,): items that hold words, ascending
    table: Scores  # (words, n)
    total: Scores  # (n,)

    def words_at(self, place: int) -> tuple[str, ...]:
        """The words that the item at a place of `rows` holds."""
        return tuple(
            word.text for word, score in zip(self.asked, self.table[:, place], strict=True) if score > 0
        )


def _distinct(lists: Sequence[IndexArray]) -> IndexArray:
    """Every number once, ascending. np.unique would do, but its first call loads modules for 50 ms."""
    numbers = np.sort(np.concatenate([np.zeros(0, np.int64), *lists]))
    first = np.ones(len(numbers), bool)
    first[1:] = numbers[1:] != numbers[:-1]
    return numbers[first]


def _preferred(high: Halves, low: Halves, names: Sequence[str]) -> IndexArray:
    """The place of each id, given as two numbers (n,), among some names; their count if it is not there."""
    found = np.full(len(high), len(names))
    for place, name in enumerate(names):
        found[(high == int(name[:16], 16)) & (low == int(name[16:], 16))] = place
    return found


def _scored(one: Postings, word: Sought, mean: float) -> tuple[IndexArray, Scores]:
    """The documents of a list that hold a word, ascending, and the word's score in each."""
    number = one.find(word.text)
    if number is None:
        return np.zeros(0, np.int64), np.zeros(0)
    documents, counts = one.holding(number)
    tf = counts.astype(np.float64)
    length = one.lengths[documents] / mean
    return documents.astype(np.int64), word.idf * tf / (tf + K1 * (1 - B + B * length))
