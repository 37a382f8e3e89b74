"""Hits of a manifest's rows: what file a row opens, and what names a row that has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from indexer.build import BuildOptions, update
from indexer.snapshot import Snapshot
from indexer.types import Modality
from retrieval.query.compose import compose
from retrieval.query.search import search
from retrieval.types import Hit, Query
from tests.toy import asked, toy_encoders


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Rows: a text alone; a picture with a caption; a caption whose picture is not there."""
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    rows = [
        {"id": "words", "text": "white snow"},
        {"id": "both", "image": "red.png", "text": "red boat"},
        {"id": "half", "image": "gone.png", "text": "green hill"},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = BuildOptions(workers=1)
    update(tmp_path / "index", [tmp_path / "m.jsonl"], encoders=toy_encoders(), options=options)
    return tmp_path / "index"


def best(index: Path, words: str) -> Hit:
    query = Query(Modality.TEXT, text=words)
    with Snapshot.open(index) as snapshot:
        vector = compose(query, toy_encoders()[Modality.TEXT])
        return search(snapshot, asked(query, vector, k=1, modalities=(Modality.TEXT,))).hits[0]


def test_a_hit_has_a_path_only_where_a_file_was_read(index: Path, tmp_path: Path) -> None:
    shown = {words: best(index, words) for words in ("white snow", "red boat", "green hill")}
    assert {words: (hit.path, hit.key) for words, hit in shown.items()} == {
        "white snow": (None, "words"),
        "red boat": (str(tmp_path / "red.png"), "both"),
        "green hill": (None, "half"),
    }
    assert {hit.manifest for hit in shown.values()} == {str(tmp_path / "m.jsonl")}


def test_one_file_as_a_root_is_found_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text("black cat")
    update(
        tmp_path / "index", [tmp_path / "note.md"], encoders=toy_encoders(), options=BuildOptions(workers=1)
    )
    hit = best(tmp_path / "index", "black cat")
    assert (hit.path, hit.key) == (str(tmp_path / "note.md"), None)
