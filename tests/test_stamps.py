"""From real stamps to hits, through the real command and the whole path: readers, towers, store, search."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.snapshot import Snapshot
from indexer.types import Modality
from indexer.verify import verify
from retrieval.models.model import Model
from retrieval.query.compose import compose
from retrieval.query.search import search
from retrieval.types import Query
from tests.toy import asked

ROOT = Path(__file__).parent.parent
MANIFEST = ROOT / "data" / "cache" / "tuxpaint-stamps" / "manifest.parquet"
TRIPTYCH = Path(sys.executable).parent / "triptych"
pytestmark = [
    pytest.mark.starter,
    pytest.mark.stamps,
    pytest.mark.skipif(not MANIFEST.exists(), reason="the stamps are not here: `make data` brings them"),
]


def stamps() -> list[dict[str, Any]]:
    columns = ["id", "image", "text", "audio", "label"]
    return pq.read_table(MANIFEST, columns=columns).to_pylist()


def write_manifest(rows: list[dict[str, Any]], file: Path) -> Path:
    """Some stamps as a manifest elsewhere, their files named absolutely."""
    for row in rows:
        row |= {kind: str(MANIFEST.parent / row[kind]) for kind in ("image", "audio") if row[kind]}
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def triptych(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(TRIPTYCH), *map(str, arguments)], capture_output=True, text=True, check=False)


def captions(*arguments: str | Path) -> list[str]:
    done = triptych("search", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [hit["text"] for hit in json.loads(done.stdout)["hits"]]


@pytest.fixture
def index(tmp_path: Path, home_with_starter: Path) -> Path:
    """Every stamp with a sound, and every fourth other, indexed."""
    rows = [row for number, row in enumerate(stamps()) if row["audio"] or number % 4 == 0]
    manifest = write_manifest(rows, tmp_path / "some.parquet")
    done = triptych("index", manifest)
    assert done.returncode == 0, done.stderr
    assert "gave nothing" not in done.stderr
    return tmp_path / ".triptych"


def test_four_directions(index: Path) -> None:
    base = MANIFEST.parent / "stamps"
    named = ("--index", index)
    assert "A cow." in captions("a cow in a meadow", "--in", "image", "-k", "3", *named)
    assert "Big fireworks." in captions("fireworks exploding", "--in", "audio", "-k", "3", *named)
    assert "A cow." in captions(base / "animals/mammals/bovines/cow.png", "--in", "text", "-k", "3", *named)
    violin = base / "hobbies/music/string/violin.ogg"
    assert "A violin." in captions(violin, "--in", "image", "-k", "3", *named)
    assert captions(violin, "--in", "audio", "-k", "1", *named) == ["A violin."]


def test_killed_while_it_indexes_and_whole_the_next_time(tmp_path: Path, home_with_starter: Path) -> None:
    rows = stamps()[:120]
    manifest = write_manifest(rows, tmp_path / "some.parquet")
    process = subprocess.Popen([str(TRIPTYCH), "index", str(manifest)], stderr=subprocess.DEVNULL)
    staging = tmp_path / ".triptych" / "staging"
    while process.poll() is None and not staging.exists():
        time.sleep(0.01)  # until it has begun to write; nothing is asserted on the time
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = triptych("index", manifest)
    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / ".triptych").problems == []
    with Snapshot.open(tmp_path / ".triptych") as snapshot:
        assert snapshot.generation.item_count == len(rows)
        assert snapshot.counts[Modality.IMAGE] == len({Path(row["image"]).read_bytes() for row in rows})


def test_recall_is_what_the_model_card_says(tmp_path: Path, starter: Model, home_with_starter: Path) -> None:
    """Text to image on the test half, as data/fit_starter_heads.py measures it on features."""
    rows = stamps()
    often = Counter(row["text"] for row in rows)
    held_out = [
        row | {"audio": None}
        for row in rows
        if not row["id"].startswith("symbols/")
        and often[row["text"]] == 1
        and hashlib.sha256(row["id"].encode()).digest()[0] % 2 == 0
    ]
    assert triptych("index", write_manifest(held_out, tmp_path / "test.parquet")).returncode == 0
    tower = starter.tower(Modality.TEXT)
    found = 0
    with Snapshot.open(tmp_path / ".triptych") as snapshot:
        for row in held_out:
            query = Query(Modality.TEXT, text=row["text"])
            hits = search(snapshot, asked(query, compose(query, tower), modalities=(Modality.IMAGE,))).hits
            found += row["image"] in {hit.path for hit in hits}
    published = json.loads((ROOT / "benchmarks/results/starter_quality.json").read_text())["image"]["test"]
    assert len(held_out) == published["queries"]
    assert found / len(held_out) == pytest.approx(published["text to image"]["R@10"][0], abs=0.011)
