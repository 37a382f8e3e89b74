"""Words beside vectors: text to image on the stamps, dense, lexical, and both by reciprocal rank.

Two collections of the same pictures. In "file names" an item's words are its path; in "other languages" its
captions in every language but English, without those that repeat the English one. A query is the English
caption (set "captions"), which is in neither collection, or of it only the words that are proper names or
numbers (set "rare words"). Of a picture's own there is its vector alone.

The rule, the constant and how words are made are chosen on the training half; the numbers are of the test
half. The starter learned from the training half, and finds its pictures as no others. So where something is
chosen, noise is laid over the queries' vectors there, until dense search is as good as cross-validation
found the starter to be (mean of R@1, R@5, R@10 of 0.51, see results/starter_quality.json), and, for a good
model, some less.

    python benchmarks/lexical.py [--choose]
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import stamps
from common import Budget, save, say

from indexer import tokens
from indexer.generation import Root, Space
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import Item, Member, Modality, Segment, Source
from indexer.words import WordLists
from retrieval.query import lexical
from retrieval.query.blend import DEPTH
from retrieval.query.fuse import CONSTANT, middle_ranks, places, reciprocal_rank
from retrieval.query.lexical import Lexicon

CUTS = (1, 5, 10)
DRAWS = 2000
LIMIT = 100  # of the words' list that are fused
CONSTANTS = (1, 5, 10, 20, 60, 200)
NOISES = (4.3, 1.2)  # lengths, against 1 of the vector: as cross-validation found the starter; a good model
COLLECTIONS = ("file names", "other languages")
SETS = ("captions", "rare words")
Ranks = dict[str, np.ndarray]  # by way of searching: the rank of each query's picture, from 1


@dataclass(frozen=True)
class Asked:
    """Queries of one set, and the row of the half that each is of."""

    texts: list[str]
    rows: np.ndarray


def documents(half: stamps.Half, collection: str) -> list[tuple[str, list[str]]]:
    """Of each row the path and the captions that its item has."""
    found: list[tuple[str, list[str]]] = []
    for number, (row, captions) in enumerate(zip(stamps.rows_of(half), stamps.captions(half), strict=True)):
        if collection == "file names":
            found.append((f"{row['id']}.png", []))
            continue
        english = [row["text"]] + [text for code, text in captions.items() if code.startswith("en")]
        known = {folded(text) for text in english}
        others = {text for code, text in sorted(captions.items()) if not code.startswith("en")}
        found.append((f"{number}.png", sorted(text for text in others if folded(text) not in known)))
    return found


def folded(text: str) -> tuple[str, ...]:
    """The words of a text without small ones that a translator may have left out."""
    return tuple(word.text for word in tokens.words(text) if word.text not in ("a", "an", "the"))


def make_index(folder: Path, half: stamps.Half, collection: str) -> None:
    """A half's pictures with their own vectors, and the documents; captions' vectors are of no use here."""
    gallery = stamps.gallery(half, Modality.IMAGE)
    dim = gallery.vectors.shape[1]
    one = np.eye(1, dim, dtype=np.float32)[0]
    items, segments, vectors = [], {}, {}
    for number, (path, captions) in enumerate(documents(half, collection)):
        digest = hashlib.sha256(f"{half}/{number}".encode()).digest()[:16]
        members = [Member(Modality.IMAGE, Source.FILE, path, 1, 1, digest)]
        segments[digest] = Segment(digest, Modality.IMAGE, Source.FILE)
        vectors[digest] = gallery.vectors[gallery.row == number][0]
        for text in captions:
            key = hashlib.sha256(text.encode()).digest()[:16]
            members.append(Member(Modality.TEXT, Source.CAPTION, None, len(text), 0, key, text))
            segments[key], vectors[key] = Segment(key, Modality.TEXT, Source.CAPTION, text=text), one
        items.append(Item(hashlib.md5(str(number).encode()).hexdigest(), "stamps", path, tuple(members)))
    with Writer.open(folder, create=True) as writer:
        part = writer.add_part(list(segments.values()), np.stack(list(vectors.values())), space_id="stamps")
        root = Root("stamps", "/stamps", "folder")
        made = writer.commit(
            None, roots=[root], items=items, spaces={"stamps": Space("stamps", dim)}, parts=[part]
        )
        writer.derive(made, [WordLists()])


def asked(half: stamps.Half, name: str) -> Asked:
    """The queries of a set."""
    texts = stamps.texts(half)
    if name == "rare words":
        texts = [" ".join(names_in(text)) for text in texts]
    rows = np.flatnonzero([bool(text) for text in texts])
    return Asked([texts[row] for row in rows], rows)


def names_in(text: str) -> list[str]:
    """Words with a digit, and capitalised ones that begin no sentence."""
    found = re.findall(r"(?:^|(?<=\s))[^\s]+", text)
    inside = [False] + [not re.search(r"[.!?:—]\W*$", before) for before in found[:-1]]
    return [
        word
        for word, within in zip(found, inside, strict=True)
        if any(letter.isdigit() for letter in word) or (within and re.match(r"\W*[A-Z]\w", word))
    ]


def noisy(vectors: np.ndarray, noise: float) -> np.ndarray:
    """Unit vectors (n, dim) with normal noise of that length laid over them."""
    random = np.random.default_rng(0).standard_normal(vectors.shape)
    mixed = vectors + noise * random / np.sqrt(vectors.shape[1])
    return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))


def ranks_of(half: stamps.Half, collection: str, name: str, *, noise: float = 0.0) -> Ranks:
    """The rank of each query's own picture by each way."""
    queries = asked(half, name)
    gallery = stamps.gallery(half, Modality.IMAGE)
    pictures = np.stack([gallery.vectors[gallery.row == row][0] for row in range(len(stamps.rows_of(half)))])
    scores = noisy(stamps.text_vectors(queries.texts), noise) @ pictures.T
    ids = [hashlib.md5(str(number).encode()).hexdigest() for number in range(len(pictures))]
    found: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_index(Path(folder) / "index", half, collection)
        with Snapshot.open(Path(folder) / "index") as snapshot:
            lexicon = Lexicon.open(snapshot)
            assert lexicon is not None, "the word lists were made"
            for text, row, line in zip(queries.texts, queries.rows.tolist(), scores, strict=True):
                dense = [ids[place] for place in np.lexsort((ids, -line)).tolist()]
                alone = [hit.item_id for hit in lexicon.search(text, limit=LIMIT)]
                hits = lexicon.search(text, limit=LIMIT, prefer=dense[:DEPTH])
                words = middle_ranks([hit.item_id for hit in hits], [hit.score for hit in hits])
                ways = {"dense": dense, "lexical": alone}
                worth = lexicon.worth_it(text)
                for constant in CONSTANTS:
                    fused = list(reciprocal_rank([places(dense), words], constant=constant))
                    ways[f"fused, {constant}"] = fused
                    ways[f"auto, {constant}"] = fused if worth else dense
                for way, order in ways.items():
                    found.setdefault(way, []).append(rank(order, ids[row]))
                found.setdefault("worth it", []).append(int(worth))
    return {way: np.array(values) for way, values in found.items()}


def rank(order: Sequence[str], wanted: str) -> int:
    """The place of an id, from 1; of one that is not there, far behind."""
    return order.index(wanted) + 1 if wanted in order else 10**6


def table(found: np.ndarray, base: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """R@1, R@5, R@10 and MRR: [value, low, high], and each less that of `base` on the same draws."""
    picks = np.random.default_rng(seed).integers(0, len(found), size=(DRAWS, len(found)))
    measures: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        f"R@{cut}": partial(_within, cut) for cut in CUTS
    }
    measures["MRR"] = lambda ranks: 1.0 / ranks
    result: dict[str, Any] = {}
    for title, measure in measures.items():
        own, against = measure(found), measure(base)
        result[title] = _interval(own, picks)
        if found is not base:
            result[f"{title} gained"] = _interval(own - against, picks)
    return result


def _within(cut: int, ranks: np.ndarray) -> np.ndarray:
    return (ranks <= cut).astype(float)


def _interval(values: np.ndarray, picks: np.ndarray) -> list[float]:
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return [round(float(one), 4) for one in (values.mean(), low, high)]


def choose() -> dict[str, Any]:
    """The mean reciprocal rank of the training half under each setting: what the constants were chosen by."""
    kept = {name: getattr(lexical, name) for name in ("K1", "B", "COMMON", "ASSURED")}
    stem = tokens.singular
    settings: list[dict[str, Any]] = [{}, {"stem": False}]
    settings += [{"K1": k1, "B": b} for k1 in (0.6, 1.2, 2.0) for b in (0.0, 0.4, 0.75)]
    settings += [{"COMMON": share} for share in (0.02, 0.05, 0.1, 0.2, 1.0)]
    settings += [{"ASSURED": share} for share in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    tried = {}
    for setting in settings:
        for name, value in (kept | setting).items():
            setattr(lexical, name, value)
        tokens.singular = stem if setting.get("stem", True) else str.strip  # type: ignore[assignment]
        tokens.compound.cache_clear()
        title = ", ".join(f"{name} {value}" for name, value in setting.items()) or "as chosen"
        tried[title] = _tried("ASSURED" in setting or not setting)
        say(title, tried[title])
    for name, value in kept.items():
        setattr(lexical, name, value)
    tokens.singular = stem
    tokens.compound.cache_clear()
    return tried


def _tried(whole: bool) -> dict[str, float]:
    """The words' own mean reciprocal rank; `whole`: that of all ways, for a weak and for a good model."""
    result = {}
    for collection, name, noise in itertools.product(COLLECTIONS, SETS, NOISES if whole else NOISES[:1]):
        found = ranks_of("train", collection, name, noise=noise)
        result[f"{collection}, {name}, lexical"] = _mrr(found["lexical"])
        if whole:
            shown = [way for way in found if way not in ("lexical", "worth it")]
            result |= {f"{collection}, {name}, noise {noise}, {way}": _mrr(found[way]) for way in shown}
    return result


def _mrr(ranks: np.ndarray) -> float:
    return round(float((1.0 / ranks).mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", action="store_true", help="try other settings on the training half first")
    options = parser.parse_args()
    tried = choose() if options.choose else None
    result: dict[str, Any] = {}
    for collection, name in itertools.product(COLLECTIONS, SETS):
        found = ranks_of("test", collection, name)
        worth = found.pop("worth it")
        result[f"{collection}, {name}"] = {
            "queries": len(worth),
            "share that auto takes words for": round(float(worth.mean()), 4),
            **{way: table(ranks, found["dense"]) for way, ranks in found.items()},
        }
        say(collection, name, {way: round(float((1 / ranks).mean()), 4) for way, ranks in found.items()})
    report(result, tried)


def report(result: dict[str, Any], tried: dict[str, dict[str, float]] | None) -> None:
    budgets = []
    for pair, ways in result.items():
        limit = 0.0 if "captions" in pair else 0.01
        for way in ("auto", "fused"):
            gained = ways[f"{way}, {CONSTANT}"]["MRR gained"][0]
            budgets.append(Budget(f"{pair}: MRR of {way} less dense", gained, limit, at_most=False, unit=""))
    measured = {
        "model": {"name": stamps.model().name, "space": stamps.model().space_id},
        "gallery": len(stamps.rows_of("test")),
        "settings": {"constant": CONSTANT}
        | {name: getattr(lexical, name) for name in ("K1", "B", "COMMON", "FEW", "ASSURED")},
        "test half": result,
        "budgets": [budget.as_dict() for budget in budgets],
    }
    save("lexical", measured | ({"training half, MRR": tried} if tried else {}))


if __name__ == "__main__":
    main()
