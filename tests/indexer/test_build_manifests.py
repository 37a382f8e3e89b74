"""Updates whose root is a manifest, and what forgetting leaves of roots of both kinds."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.build import forget
from indexer.snapshot import Snapshot
from indexer.types import Modality
from indexer.verify import verify
from tests.indexer.trees import (
    assert_as_from_scratch,
    cost,
    items,
    media,
    picture,
    run,
    sound,
    text,
    told,
)
from tests.toy import word_vector

pytestmark = pytest.mark.usefixtures("decoding")


def rows(tree: Path) -> list[dict[str, str]]:
    picture(tree / "m/red.png", "red")
    picture(tree / "m/blue.png", "blue")
    sound(tree / "m/high.wav", 2000)
    return [
        {"id": "r", "image": "red.png", "text": "a red cow", "audio": "high.wav", "label": "animal"},
        {"id": "b", "image": "blue.png", "text": "", "audio": "", "label": "sky"},
        {"id": "w", "image": "", "text": "white words", "audio": "", "label": ""},
    ]


def write_manifest(path: Path, table: list[dict[str, str]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        pq.write_table(pa.Table.from_pylist(table), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_manifest_is_a_root(tree: Path, index: Path, suffix: str) -> None:
    table = rows(tree)
    manifest = write_manifest(tree / f"m/list{suffix}", table)
    report, seen = cost(index, manifest)
    assert (report.added, seen) == (3, {"image": 2, "text": 2, "audio": 1})
    assert {path: dict(item.metadata) for path, item in items(index).items()} == {
        "r": {"label": "animal"},
        "b": {"label": "sky"},
        "w": {},
    }
    assert run(index, manifest).unchanged == 3
    table[0]["label"] = "beast"
    table[2]["text"] = "black words"
    (tree / "m/blue.png").rename(tree / "blue.png")
    write_manifest(manifest, table)
    report, seen = cost(index, manifest)
    assert (report.touched, report.changed, report.unknown, seen) == (1, 1, 1, {"text": 1})
    assert "row 2" in report.failures[0].path
    (tree / "blue.png").rename(tree / "m/blue.png")
    write_manifest(manifest, table[:2])
    assert run(index, manifest).deleted == 1
    assert_as_from_scratch(index, manifest)


def failures(index: Path) -> dict[str, str]:
    """What `info --failures` lists: file by name, or row by key, and why."""
    with Snapshot.open(index) as snapshot:
        return {
            member.path or item.path: member.error
            for item in snapshot.item_list()
            for member in item.members
            if member.error is not None
        }


GONE = "no such file or directory"


def test_a_new_row_without_its_picture_keeps_its_text_and_its_sound(tree: Path, index: Path) -> None:
    table = rows(tree)
    (tree / "m/red.png").rename(tree / "red.png")
    (tree / "m/blue.png").rename(tree / "blue.png")
    manifest = write_manifest(tree / "m/list.csv", table)
    report, seen = cost(index, manifest)
    assert (report.added, report.items, seen) == (3, 3, {"text": 2, "audio": 1})
    assert {Path(f.path).name: f.reason for f in report.failures} == {"red.png": GONE, "blue.png": GONE}
    assert failures(index) == {"red.png": GONE, "blue.png": GONE}
    with Snapshot.open(index) as snapshot:
        (best,) = snapshot.segments(snapshot.search(Modality.TEXT, word_vector("cow"), 1))
        assert best.text == "a red cow"
        key = (best.content_hash, best.modality, best.source)
        assert [item.path for item in snapshot.items_of({key})[key]] == ["r"]
        assert snapshot.counts[Modality.AUDIO] == 1
    assert verify(index).problems == []
    again = run(index, manifest)
    assert (again.unchanged, again.failed, again.failed_before, again.committed) == (3, 0, 2, False)
    assert run(index, manifest, retry_failed=True).failed == 2
    (tree / "red.png").rename(tree / "m/red.png")
    report, seen = cost(index, manifest)
    assert (report.changed, report.unchanged, seen) == (1, 2, {"image": 1})
    assert failures(index) == {"blue.png": GONE}
    assert_as_from_scratch(index, manifest)


def test_a_text_can_change_while_its_picture_was_never_there(tree: Path, index: Path) -> None:
    table = rows(tree)
    (tree / "m/red.png").unlink()
    manifest = write_manifest(tree / "m/list.csv", table)
    run(index, manifest)
    table[0]["text"] = "a green cow"
    write_manifest(manifest, table)
    report, seen = cost(index, manifest)
    assert (report.changed, report.unknown, seen) == (1, 0, {"text": 1})
    assert items(index)["r"].members[-1].text == "a green cow"
    assert failures(index) == {"red.png": GONE}
    assert_as_from_scratch(index, manifest)


def test_a_row_that_was_whole_keeps_all_while_its_volume_is_away(tree: Path, index: Path) -> None:
    table = rows(tree)
    manifest = write_manifest(tree / "m/list.csv", table)
    run(index, manifest)
    before = told(index)
    for name in ("red.png", "blue.png", "high.wav"):
        (tree / "m" / name).rename(tree / name)
    report = run(index, manifest)
    assert (report.unknown, report.unchanged, report.committed) == (2, 1, False)
    assert told(index) == before
    where = [(failure.path.rpartition(", ")[2], failure.reason) for failure in report.failures]
    assert where == [
        ("row 2", f"image 'blue.png': {GONE}: what the index knows of the row is kept"),
        (
            "row 1",
            f"image 'red.png': {GONE}; audio 'high.wav': {GONE}: what the index knows of the row is kept",
        ),
    ]
    assert failures(index) == {}


def test_a_file_that_a_whole_row_never_had_is_only_listed(tree: Path, index: Path) -> None:
    table = rows(tree)
    manifest = write_manifest(tree / "m/list.csv", table)
    run(index, manifest)
    table[1]["audio"] = "none.wav"
    write_manifest(manifest, table)
    report, seen = cost(index, manifest)
    assert (report.changed, report.unknown, seen) == (1, 0, {})
    assert failures(index) == {"none.wav": GONE}
    assert items(index)["b"].members[0].error is None
    assert_as_from_scratch(index, manifest)


@pytest.mark.parametrize("data", ["", "id,image,text,audio,label\n"])
def test_a_manifest_that_became_empty_keeps_its_items_and_says_so(tree: Path, index: Path, data: str) -> None:
    manifest = write_manifest(tree / "m/list.csv", rows(tree))
    run(index, manifest)
    before = told(index)
    manifest.write_text(data)
    report = run(index, manifest)
    assert (report.unknown, report.deleted, report.committed) == (3, 0, False)
    ((path, reason),) = [(failure.path, failure.reason) for failure in report.failures]
    assert path == str(manifest)
    assert "nothing to index" in reason
    assert told(index) == before
    assert run(index, manifest, prune=True).deleted == 3


def test_a_text_that_gives_nothing_is_named_by_its_row(tree: Path, index: Path) -> None:
    manifest = write_manifest(
        tree / "list.jsonl", [{"id": "blank", "text": " \n"}, {"id": "w", "text": "cow"}]
    )
    report = run(index, manifest)
    assert [failure.path for failure in report.failures] == [f"{manifest}, row 'blank'"]


def test_forget_takes_items_out_of_the_files(tree: Path, tmp_path: Path, index: Path) -> None:
    media(tree)
    text(tree / "secret/word.txt", "xyzzyplugh")
    other = tmp_path / "other"
    picture(other / "green.png", "green")
    manifest = write_manifest(tmp_path / "list.jsonl", [{"id": "s", "text": "frobozz"}])
    run(index, tree, other, manifest)
    assert forget(index, [tmp_path / "nowhere"]) == 0
    assert forget(index, [tree / "secret", tree / "green.png", manifest]) == 3
    assert set(items(index)) == {"red.png", "sub/green again.png", "sub/blue.png", "sub/white.png"} | {
        "high.wav", "notes.txt", "green.png",
    }  # fmt: skip
    data = b"".join(path.read_bytes() for path in index.rglob("*.parquet"))
    assert b"xyzzyplugh" not in data
    with Snapshot.open(index) as snapshot:
        assert {Path(root.path).name for root in snapshot.roots.values()} == {"tree", "other"}
        assert snapshot.counts[Modality.IMAGE] == 4
        assert len(snapshot.keys()) == sum(snapshot.counts.values()) - 1  # the notes are two segments
    shutil.rmtree(tree / "secret")
    (tree / "green.png").unlink()
    assert_as_from_scratch(index, tree, other)
    assert forget(index, [other]) == 1
    assert_as_from_scratch(index, tree)
