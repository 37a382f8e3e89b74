"""Every step of a search on the stamps' test half: one row a step, for every pair of modalities.

Asked through the code of `triptych search`: pictures, sounds and captions of the test half lie in indexes
as items of their own, so that no picture carries the caption that is asked for; what words can tell is the
files' names. Background queries come from the training half and from phrases that ship; pictures and sounds
that ask for captions are compared with those of the training half.

    python benchmarks/quality.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from common import save, say
from stamps import Row, gallery_of, index_of, model, rows_of, text_vectors

from indexer.snapshot import Snapshot
from indexer.types import FloatArray, Modality
from retrieval.evaluation.intervals import intervals
from retrieval.evaluation.metrics import PerQuery
from retrieval.query.searcher import Searcher
from retrieval.types import AllOf, Expression, Lexical, Query, Request, Term

KS = (1, 5, 10)
KINDS = {Modality.IMAGE: "image", Modality.TEXT: "text", Modality.AUDIO: "audio"}
STEPS: dict[str, dict[str, Any]] = {
    "dense": {"hubness": False, "lexical": Lexical.OFF, "min_score": 0.0},
    "+ hubness": {"hubness": True, "lexical": Lexical.OFF, "min_score": 0.0},
    "+ lexical": {"hubness": False, "lexical": Lexical.AUTO, "min_score": 0.0},
    "+ calibration": {"hubness": False, "lexical": Lexical.AUTO},
    "composed": {"hubness": False, "lexical": Lexical.OFF, "min_score": 0.0},
}
EXPLAINED = {
    "dense": "the cosine alone",
    "+ hubness": "less what is near everything (CSLS); not on by default",
    "+ lexical": "without hubness; words of file names count where --lexical auto finds them worth it",
    "+ calibration": "the default: as before, and hits below the default cut-off are not shown",
    "composed": "the query and the word of its class as two terms that must both match; no words of names",
}
MISSED = 1_000_000  # the rank of what is not shown


def own_items(rows: Sequence[Row], kinds: Sequence[str], mark: str = "") -> list[Row]:
    """Each medium of some rows as an item of its own, named by its row and kind."""
    nothing = {"image": None, "text": None, "audio": None, "label": None}
    return [
        {**nothing, "id": f"{mark}{row['id']}#{kind}", kind: row[kind]}
        for row in rows
        for kind in kinds
        if row[kind]
    ]


def asked(rows: Sequence[Row], modality: Modality) -> list[tuple[int, Query]]:
    """The queries of a modality, each with its row's place."""
    kind = KINDS[modality]
    having = [place for place, row in enumerate(rows) if row[kind]]
    if modality is Modality.TEXT:
        texts = [rows[place]["text"] for place in having]
        pairs = zip(having, texts, text_vectors(texts), strict=True)
        return [(place, Query(modality, text=text, vector=vector)) for place, text, vector in pairs]
    found = gallery_of(index_of(rows, "test"), rows, modality)
    return [(place, Query(modality, name=rows[place]["id"], vector=_mean(found.vectors[found.row == place])))
            for place in having]  # fmt: skip


def _mean(vectors: FloatArray) -> FloatArray:
    mean = vectors.mean(axis=0)
    return mean / np.linalg.norm(mean)


def ranks(
    searcher: Searcher,
    queries: Sequence[tuple[int, Expression]],
    rows: Sequence[Row],
    modality: Modality,
    options: dict[str, Any],
) -> np.ndarray:
    """The rank of each query's own row among those of a modality, shape (queries,)."""
    size = sum(bool(row[KINDS[modality]]) for row in rows)
    found = []
    for place, expression in queries:
        request = Request(expression, k=size, modalities=(modality,), **options)
        result = searcher.search(request)
        wanted = f"{rows[place]['id']}#{KINDS[modality]}"
        found.append(next((hit.rank for hit in result.hits if hit.key == wanted), MISSED))
    return np.array(found, np.int64)


def summary(found: np.ndarray, size: int) -> dict[str, Any]:
    """R@k and MRR with 95 % intervals over queries."""
    scores = PerQuery(
        found, np.zeros(len(found)), np.zeros(len(found)), np.ones(len(found), np.int64), gallery=size
    )
    told = intervals(scores, np.arange(len(found)), ks=KS)
    names = [*(f"R@{k}" for k in KS), "MRR"]
    shown = {
        name: [round(getattr(told[name], part), 4) for part in ("value", "low", "high")] for name in names
    }
    return {**shown, "shown": round(float((found < MISSED).mean()), 4)}


def with_class(query: Query, row: Row, words: dict[str, FloatArray]) -> Expression:
    """The query and its class's word, as two terms."""
    word = class_word(row)
    return AllOf((Term(query), Term(Query(Modality.TEXT, text=word, vector=words[word]))))


def class_word(row: Row) -> str:
    return row["label"].split("/")[-1].replace("-", " ").replace("_", " ")


def main() -> None:
    test, train = rows_of("test"), rows_of("train")
    kinds = tuple(KINDS.values())
    media = index_of(own_items(test, ("image", "audio")), "quality-media")
    texts = index_of(
        own_items(test, ("text",)) + own_items(train, ("image", "audio"), "train/"), "quality-texts"
    )
    classes = sorted({class_word(row) for row in test})
    words = dict(zip(classes, text_vectors(classes), strict=True))
    table = []
    with (
        Searcher(Snapshot.open(media), model()) as of_media,
        Searcher(Snapshot.open(texts), model()) as of_texts,
    ):
        for target in KINDS:
            searcher = of_texts if target is Modality.TEXT else of_media
            size = sum(bool(row[KINDS[target]]) for row in test)
            for source in KINDS:
                if source is target:
                    continue
                queries = [one for one in asked(test, source) if test[one[0]][KINDS[target]]]
                for step, options in STEPS.items():
                    terms: list[tuple[int, Expression]] = [
                        (place, with_class(query, test[place], words) if step == "composed" else Term(query))
                        for place, query in queries
                    ]
                    found = ranks(searcher, terms, test, target, options)
                    line = {"direction": f"{source} to {target}", "step": step, "queries": len(queries),
                            "gallery": size, **summary(found, size)}  # fmt: skip
                    say(line["direction"], step, line["R@1"], line["R@10"], line["MRR"], line["shown"])
                    table.append(line)
    save(
        "quality",
        {
            "what": "every step of a search, on the stamps' test half, through the search's own code",
            "model": {"name": model().name, "space_id": model().space_id},
            "steps": EXPLAINED,
            "kinds": kinds,
            "rows": table,
        },
    )


if __name__ == "__main__":
    main()
