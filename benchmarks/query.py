"""What the stages of a search cost: p50 of each way to search among 100,000 items, and each stage's share.

In process, query to result, the words encoded by the starter; ways take turns query by query. The items are
pictures with made vectors (search_million.py), named by words of the captions that ship, so that words are
common and rare as in a collection. Queries are words of names, and words that are in none.

    python benchmarks/query.py [--items 100000] [--queries 60]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from common import Budget, save, say
from search_million import sample

from indexer.generation import Root, Space
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import Item, Member, Modality, Segment, Source
from retrieval.indexing import derivations
from retrieval.models.model import Model
from retrieval.models.registry import load_model
from retrieval.query.scores.bank import shipped_phrases
from retrieval.query.searcher import Searcher
from retrieval.types import AllOf, Lexical, Not, Query, Request, Rerank, Term

PLAIN: dict[str, Any] = {"lexical": Lexical.OFF, "hubness": False, "min_score": 0.0}
WAYS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "default": {},
    "hubness": {**PLAIN, "hubness": True},
    "where": {**PLAIN, "where": "path like '%7%'"},
    "group duplicates": {**PLAIN, "group_duplicates": True},
    "diverse": {**PLAIN, "diverse": 0.5},
    "rerank": {**PLAIN, "rerank": Rerank.RECIPROCAL},
    "second page": {**PLAIN, "offset": 10},
    "composed": PLAIN,
}
DEARER = ("rerank", "composed")  # a second look at a hundred hits, and two more queries to encode
UNKNOWN = ("zq", "xv", "wk")  # begin words that are in no name


def made_index(folder: Path, count: int, model: Model) -> tuple[Path, list[str]]:
    """An index of pictures with names of words, and all that is derived of it; and the names."""
    rng = np.random.default_rng(0)
    words = sorted({word for phrase in shipped_phrases() for word in phrase.split() if word.isalpha()})
    chances = 1 / np.arange(1, len(words) + 1)
    order = rng.permutation(len(words))
    drawn = order[rng.choice(len(words), (count, 3), p=chances / chances.sum())]
    hashes = [number.to_bytes(16, "big") for number in range(count)]
    names = [
        f"{n % 97:02d}/{'-'.join(words[one] for one in row)}-{n:06d}.jpg"
        for n, row in enumerate(drawn.tolist())
    ]
    items = [
        Item(f"{n:032x}", "bench", name, (Member(Modality.IMAGE, Source.FILE, name, 1, 1, hashes[n]),))
        for n, name in enumerate(names)
    ]
    bits = rng.integers(0, 1 << 63, count)
    segments = [
        Segment(one, Modality.IMAGE, Source.FILE, phash=int(own))
        for one, own in zip(hashes, bits, strict=True)
    ]
    index = folder / "index"
    start = time.perf_counter()
    with Writer.open(index, create=True) as writer:
        part = writer.add_part(segments, sample(count, 1), space_id=model.space_id)
        made = writer.commit(
            None,
            roots=[Root(id="bench", path=str(folder / "media"), kind="folder")],
            items=items,
            spaces={model.space_id: Space(model.name, model.dim)},
            parts=[part],
        )
        say(f"index written in {time.perf_counter() - start:.1f} s")
        for one in derivations(model):
            start = time.perf_counter()
            made = writer.derive(made, [one])
            say(f"{type(one).__name__}: {time.perf_counter() - start:.1f} s")
    return index, names


def requests(query: str, other: str) -> dict[str, Request]:
    """The query in each way."""
    term = Term(Query(Modality.TEXT, text=query))
    found = {way: Request(term, **options) for way, options in WAYS.items()}
    parts = (term, Term(Query(Modality.TEXT, text=other)), Not(Term(Query(Modality.TEXT, text="people"))))
    found["composed"] = Request(AllOf(parts), **WAYS["composed"])
    return found


def measured(searcher: Searcher, queries: list[str]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The median milliseconds of each way, and of each of its stages."""
    times: dict[str, list[float]] = defaultdict(list)
    stages: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number, query in enumerate(queries):
        ways = requests(query, queries[number - 1])
        order = list(ways) if number % 2 else list(reversed(ways))
        for way in order:
            start = time.perf_counter()
            result = searcher.search(ways[way])
            times[way].append((time.perf_counter() - start) * 1e3)
            for stage, took in result.milliseconds.items():
                stages[way][stage].append(took)
    medians = {way: statistics.median(values) for way, values in times.items()}
    shares = {
        way: {stage: round(statistics.median(values), 3) for stage, values in own.items()}
        for way, own in stages.items()
    }
    return medians, shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=60)
    options = parser.parse_args()
    model = load_model("starter", threads=2)
    rng = np.random.default_rng(2)
    phrases = [str(one) for one in rng.choice(shipped_phrases(), options.queries, replace=False)]
    unknown = [
        " ".join(start + word for start, word in zip(UNKNOWN, one.split(), strict=False)) for one in phrases
    ]
    result: dict[str, Any] = {"items": options.items, "queries of each kind": options.queries}
    with tempfile.TemporaryDirectory() as name:
        index, names = made_index(Path(name), options.items, model)
        named = [
            " ".join(names[place].split("/")[1].split("-")[:2])
            for place in rng.choice(len(names), options.queries)
        ]
        with Searcher(Snapshot.open(index), model) as searcher:
            result["share of named queries whose words count"] = float(
                np.mean([searcher.lexicon is not None and searcher.lexicon.worth_it(one) for one in named])
            )
            measured(searcher, phrases + named[:5])  # reads what a searcher that was asked before has read
            named_p50, named_stages = measured(searcher, named)
            p50, stages = measured(searcher, unknown)
    plain = p50["plain"]
    result["p50_ms"] = {way: round(value, 3) for way, value in p50.items()}
    result["ratio_to_plain"] = {way: round(value / plain, 3) for way, value in p50.items()}
    result["stages_ms"] = stages
    result["words count: p50_ms"] = {way: round(named_p50[way], 3) for way in ("plain", "default")}
    result["words count: stages_ms"] = {"default": named_stages["default"]}
    budgets = [
        Budget("default search, p50 against a plain one", p50["default"] / plain, 1.2),
        Budget("the same, words in names", named_p50["default"] / named_p50["plain"], 1.2),
        *(
            Budget(f"{way}, p50 against a plain one", p50[way] / plain, 1.2)
            for way in WAYS
            if way not in ("plain", "default", *DEARER)
        ),
    ]
    print("words count", named_p50["default"], named_stages["default"])
    for way, ratio in result["ratio_to_plain"].items():
        print(f"{way:18} {p50[way]:8.2f} ms  {ratio:5.2f}x  {stages[way]}")
    save("query", {**result, "budgets": [one.as_dict() for one in budgets]})


if __name__ == "__main__":
    main()
