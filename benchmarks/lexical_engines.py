"""Which engine keeps the words: 100,000 captions, built, then asked by processes that start anew.

Our postings (indexer/postings.py) against SQLite's FTS5, bm25s and tantivy. All get words as
indexer/tokens.py makes them, so that only the engine differs. DuckDB's full-text search is an extension
that is downloaded when first used; a program that works offline cannot count on it, so it is only asked for
whether it is there. Each process times its own imports, opening and first three queries, since Python's
start is there either way.

    python benchmarks/lexical_engines.py [--documents 100000] [--rounds 5]

bm25s and tantivy are not needed for anything else: install them for this.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Budget, median, save, say

WORDS = 60_000  # that captions are made of
PLACES = ((7, 1234), (3, 150, 20001), (40000,))  # of the words of three queries, by frequency
TOP = 10
CHOSEN = (
    "postings: the only one whose scores are those of the whole collection when each part has its own file, "
    "since frequencies and lengths are kept and not scores; nothing to import; bytes that are only "
    "read, which the store checks, names and drops as its other files"
)


def captions(count: int) -> list[str]:
    """Captions of 3 to 15 words whose frequencies follow Zipf's law, seed 0."""
    random = np.random.default_rng(0)
    share = 1 / np.arange(1, WORDS + 1)
    lengths = random.integers(3, 16, count)
    drawn = random.choice(WORDS, int(lengths.sum()), p=share / share.sum())
    names = [word_of(number) for number in range(WORDS)]
    ends = np.cumsum(lengths).tolist()
    return [
        " ".join(names[n] for n in drawn[start:end].tolist())
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def word_of(number: int) -> str:
    """A word of letters, without an ending that a plural has."""
    letters = ""
    for _ in range(4):
        number, letter = divmod(number, 20)
        letters += "bcdfghjklmnpqrtvwxyz"[letter] + "aeiou"[(letter + number) % 5]
    return letters


def queries() -> list[str]:
    return [" ".join(map(word_of, places)) for places in PLACES]


class Ours:
    """A file of postings, mapped."""

    def build(self, texts: list[str], folder: Path) -> None:
        from indexer.postings import Builder
        from indexer.words import document

        builder = Builder()
        for text in texts:
            builder.add(document([text]))
        (folder / "words.bin").write_bytes(builder.content())

    def open(self, folder: Path) -> Any:
        import mmap

        from indexer.postings import Postings

        with (folder / "words.bin").open("rb") as file:
            return Postings(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), name="words")

    def ask(self, opened: Any, query: str) -> list[int]:
        scores = np.zeros(opened.documents)
        for word in query.split():
            number = opened.find(word)
            if number is None:
                continue
            documents, counts = opened.holding(number)
            frequency, mean = len(documents), opened.length / opened.filled
            idf = np.log1p((opened.filled - frequency + 0.5) / (frequency + 0.5))
            tf = counts.astype(np.float64)
            scores[documents] += idf * tf / (tf + 1.2 * (0.25 + 0.75 * opened.lengths[documents] / mean))
        best = np.argpartition(-scores, TOP)[:TOP]
        return [int(one) for one in best[np.lexsort((best, -scores[best]))] if scores[one] > 0]


class Sqlite:
    """FTS5 of the standard library's SQLite, contents not kept."""

    def build(self, texts: list[str], folder: Path) -> None:
        import sqlite3

        with sqlite3.connect(folder / "words.sqlite") as base:
            base.execute("create virtual table words using fts5(text, content='', tokenize='ascii')")
            base.executemany("insert into words(rowid, text) values (?, ?)", enumerate(texts))
            base.execute("insert into words(words) values ('optimize')")

    def open(self, folder: Path) -> Any:
        import sqlite3

        return sqlite3.connect(f"file:{folder / 'words.sqlite'}?mode=ro", uri=True)

    def ask(self, opened: Any, query: str) -> list[int]:
        found = opened.execute(
            "select rowid from words where words match ? order by bm25(words), rowid limit ?",
            (" OR ".join(query.split()), TOP),
        )
        return [row for (row,) in found]


class Bm25s:
    """bm25s: scores worked out when it is built, kept as a sparse matrix."""

    def build(self, texts: list[str], folder: Path) -> None:
        import bm25s

        made = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        made.index([text.split() for text in texts], show_progress=False)
        made.save(str(folder / "bm25s"))

    def open(self, folder: Path) -> Any:
        import bm25s

        return bm25s.BM25.load(str(folder / "bm25s"), mmap=True)

    def ask(self, opened: Any, query: str) -> list[int]:
        found = opened.retrieve([query.split()], k=TOP, show_progress=False)[0]
        return [int(one) for one in found[0]]


class Tantivy:
    """tantivy, one segment store on disk."""

    def build(self, texts: list[str], folder: Path) -> None:
        import tantivy

        (folder / "tantivy").mkdir()
        index = tantivy.Index(self._schema(), path=str(folder / "tantivy"))
        writer = index.writer(heap_size=200_000_000, num_threads=1)
        for number, text in enumerate(texts):
            writer.add_document(tantivy.Document(id=number, text=text))
        writer.commit()
        writer.wait_merging_threads()

    def _schema(self) -> Any:
        import tantivy

        made = tantivy.SchemaBuilder()
        made.add_integer_field("id", stored=True)
        made.add_text_field("text", tokenizer_name="whitespace")
        return made.build()

    def open(self, folder: Path) -> Any:
        import tantivy

        return tantivy.Index.open(str(folder / "tantivy"))

    def ask(self, opened: Any, query: str) -> list[int]:
        searcher = opened.searcher()
        hits = searcher.search(opened.parse_query(query, ["text"]), TOP).hits
        return [searcher.doc(address)["id"][0] for _, address in hits]


ENGINES: dict[str, Any] = {"postings": Ours, "sqlite fts5": Sqlite, "bm25s": Bm25s, "tantivy": Tantivy}


def child(name: str, folder: Path) -> None:
    """Open and ask in a new process, and print the milliseconds; what any search has loaded is loaded."""
    import indexer.snapshot  # noqa: F401

    engine = ENGINES[name]()
    start = time.perf_counter()
    opened = engine.open(folder)
    ready = time.perf_counter()
    answers, times = [], []
    for query in queries():
        began = time.perf_counter()
        answers.append(engine.ask(opened, query))
        times.append((time.perf_counter() - began) * 1e3)
    print(json.dumps({"open": (ready - start) * 1e3, "queries": times, "answers": answers}))


def measure(name: str, texts: list[str], rounds: int) -> dict[str, Any]:
    """Build once, ask `rounds` times in processes of their own, files in the system's cache."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start = time.perf_counter()
        ENGINES[name]().build(texts, folder)
        built = time.perf_counter() - start
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        runs = []
        for _ in range(rounds + 1):
            done = subprocess.run(
                [sys.executable, __file__, "--child", name, place], capture_output=True, check=True
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    runs = runs[1:]
    return {
        "build_s": round(built, 3),
        "megabytes": round(size / 1e6, 2),
        "import_and_open_ms": median([run["open"] for run in runs]),
        "queries_ms": [median([run["queries"][n] for run in runs]) for n in range(len(PLACES))],
        "open_and_first_ms": median([run["open"] + run["queries"][0] for run in runs]),
        "answers": runs[0]["answers"],
    }


def duckdb_offline() -> str:
    """What DuckDB says of its full-text search where nothing may be downloaded."""
    duckdb = importlib.import_module("duckdb")
    with tempfile.TemporaryDirectory() as empty:
        base = duckdb.connect(config={"extension_directory": empty, "autoinstall_known_extensions": "false"})
        try:
            base.execute("load fts")
        except duckdb.Error as error:
            return f"not there without a download ({type(error).__name__})"
    return "there"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    texts = captions(options.documents)
    found: dict[str, Any] = {}
    for name in ENGINES:
        try:
            found[name] = measure(name, texts, options.rounds)
        except ImportError as error:
            found[name] = {"missing": str(error)}
        say(name, {key: value for key, value in found[name].items() if key != "answers"})
    ours = found["postings"]
    wanted = [set(one) for one in ours["answers"]]
    for result in found.values():
        answers = result.pop("answers", None)
        if answers is not None:
            same = [
                len(set(one) & want) / max(len(want), 1) for one, want in zip(answers, wanted, strict=True)
            ]
            result["share of the ten that postings give"] = [round(value, 2) for value in same]
    budget = Budget(
        "open and first query, cold, 100,000 documents", ours["open_and_first_ms"], 50.0, unit=" ms"
    )
    save(
        "lexical_engines",
        {
            "documents": options.documents,
            "words": sum(len(text.split()) for text in texts),
            "queries": queries(),
            "engines": found,
            "duckdb fts, offline": duckdb_offline(),
            "chosen": CHOSEN,
            "budgets": [budget.as_dict()],
        },
    )


if __name__ == "__main__":
    sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))
    main()
