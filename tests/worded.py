"""Indexes of pictures with captions and names, and BM25 the slow way, as the oracle of word search."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from indexer.generation import Generation, Root, Space
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.tokens import every, words
from indexer.types import Item, Member, Modality, Range, Segment, Source
from indexer.words import WordLists

DIM = 4
ROOT = Root("r" * 16, "/media", "folder")


@dataclass(frozen=True)
class Thing:
    """A picture with captions; each caption is cut into pieces of three words, as long texts are."""

    path: str
    captions: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return digest(self.path).hex()

    @property
    def item(self) -> Item:
        members = [Member(Modality.IMAGE, Source.FILE, self.path, 1, 1, digest(self.path))]
        for text in self.captions:
            members.append(Member(Modality.TEXT, Source.CAPTION, None, len(text), 0, digest(text), text))
        return Item(self.id, ROOT.id, self.path, tuple(members), self.metadata)

    @property
    def names(self) -> str:
        pieces = {*self.path.split("/")[:-1], self.path.split("/")[-1].removesuffix(".png")}
        return " / ".join(sorted(pieces | set(self.metadata.values())))


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def segments_of(things: Sequence[Thing], known: set[bytes]) -> list[Segment]:
    """What is new of some things; `known` grows."""
    found: list[Segment] = []
    for thing in things:
        contents = [(thing.path, Modality.IMAGE), *((text, Modality.TEXT) for text in thing.captions)]
        for text, modality in contents:
            if digest(text) in known:
                continue
            known.add(digest(text))
            if modality is Modality.IMAGE:
                found.append(Segment(digest(text), modality, Source.FILE))
                continue
            pieces = text.split()
            for at in range(0, len(pieces), 3):
                piece = " ".join(pieces[at : at + 3])
                found.append(Segment(digest(text), modality, Source.CAPTION, Range(at, at + 3), piece))
    return found


def index(folder: Path, things: Sequence[Thing], *, parts: int = 1) -> Generation:
    """Bring an index to hold these things, what is new of them in so many parts, with its words."""
    with Writer.open(folder, create=True) as writer:
        parent = writer.current()
        known: set[bytes] = set()
        if parent is not None:
            with Snapshot.open(folder) as snapshot:
                keys = snapshot.keys()
            known = {key[0] for key in keys}
        staged = []
        for part in range(parts):
            own = segments_of(things[part::parts], known)
            if own:
                vectors = np.zeros((len(own), DIM), np.float32)
                vectors[:, part % DIM] = 1.0
                staged.append(writer.add_part(own, vectors, space_id="toy"))
        made = writer.commit(
            parent,
            roots=[ROOT],
            items=[thing.item for thing in things],
            spaces={"toy": Space("toy", DIM)},
            parts=staged,
        )
        return writer.derive(made, [WordLists()])


def bm25(
    things: Sequence[Thing], query: Sequence[str], *, k1: float = 1.2, b: float = 0.75
) -> dict[str, float]:
    """Every item's score for words that are not common, as retrieval.query.lexical describes it."""
    captions = {text for thing in things for text in thing.captions}
    inside = [count(text) for text in sorted(captions)]
    outside = [count(thing.names) for thing in things]
    documents = inside + outside
    scores = {}
    for thing in things:
        total = 0.0
        for word in query:
            df = sum(word in counts for counts, _ in documents)
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            values = [0.0]
            for texts, field_ in (([thing.names], outside), (thing.captions, inside)):
                mean = sum(length for _, length in field_) / len(field_) if field_ else 1.0
                for counts, length in map(count, texts):
                    tf = counts[word]
                    values.append(idf * tf / (tf + k1 * (1 - b + b * length / mean)))
            total += max(values)
        if total:
            scores[thing.id] = total
    return scores


def count(text: str) -> tuple[Counter[str], int]:
    found = list(words(text))
    return Counter(one for word in found for one in every(word)), len(found)
