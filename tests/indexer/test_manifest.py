"""Manifests: the three formats agree, keys, paths, metadata, bad rows and bad tables."""

from __future__ import annotations

import csv
import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.errors import ManifestError
from indexer.fsio import hash_bytes
from indexer.manifest import read_manifest
from indexer.types import Modality, Source

Rows = list[dict[str, Any]]


def as_csv(path: Path, rows: Rows) -> Path:
    with (path / "m.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path / "m.csv"


def as_jsonl(path: Path, rows: Rows) -> Path:
    (path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path / "m.jsonl"


def as_parquet(path: Path, rows: Rows) -> Path:
    names = dict.fromkeys(key for row in rows for key in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path / "m.parquet")
    return path / "m.parquet"


@pytest.fixture(params=[as_csv, as_jsonl, as_parquet], ids=["csv", "jsonl", "parquet"])
def write(request: pytest.FixtureRequest) -> Callable[[Path, Rows], Path]:
    return request.param


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (tmp_path / "pics").mkdir()
    for name in ("pics/cow.png", "pics/dog.png", "moo.ogg"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_a_row_is_an_item_of_up_to_three_members(media: Path, write: Callable[[Path, Rows], Path]) -> None:
    rows = [
        {"id": "cow", "image": "pics/cow.png", "text": 'A cow,\n"moo"', "audio": "moo.ogg", "label": "farm"},
        {"id": "only", "image": "", "text": "just words", "audio": "", "label": ""},
        {"id": "abs", "image": str(media / "pics/dog.png"), "text": "", "audio": "", "label": "pet"},
    ]
    found = read_manifest(write(media, rows))
    assert found.problems == ()
    assert [item.path for item in found.items] == ["abs", "cow", "only"]
    dog, cow, words = found.items
    assert [(m.modality, m.source, m.path, m.size) for m in cow.members] == [
        (Modality.IMAGE, Source.FILE, "pics/cow.png", 12),
        (Modality.AUDIO, Source.FILE, "moo.ogg", 7),
        (Modality.TEXT, Source.CAPTION, None, 12),
    ]
    assert cow.members[2].text == 'A cow,\n"moo"'
    assert cow.members[2].content_hash == hash_bytes(b'A cow,\n"moo"')
    assert cow.members[0].mtime_ns == (media / "pics/cow.png").stat().st_mtime_ns
    assert cow.metadata == {"label": "farm"}
    assert [(m.source, m.text) for m in words.members] == [(Source.FILE, "just words")]
    assert words.metadata == {}
    assert dog.members[0].path == str(media / "pics/dog.png")


def test_bad_rows_are_reported_by_number_and_the_others_go_on(
    media: Path, write: Callable[[Path, Rows], Path]
) -> None:
    rows = [
        {"id": "a", "image": "pics/gone.png", "text": "x"},
        {"id": "b", "image": "pics/cow.png", "text": "y"},
        {"id": "b", "image": "pics/dog.png", "text": "z"},
        {"id": "c", "image": "", "text": ""},
        {"id": "d", "image": "pics", "text": ""},
    ]
    found = read_manifest(write(media, rows))
    assert [item.path for item in found.items] == ["b"]
    assert found.items[0].members[0].path == "pics/cow.png"
    assert [place.rpartition(", ")[2] for place, _ in found.problems] == ["row 1", "row 3", "row 4", "row 5"]
    reasons = [reason for _, reason in found.problems]
    assert "no such file" in reasons[0]
    assert "earlier row" in reasons[1]
    assert "all empty" in reasons[2]
    assert "not a file" in reasons[3]
    assert found.unknown == {"a", "d"}


def test_rows_without_an_id_are_keyed_by_content(media: Path) -> None:
    row = {"image": "pics/cow.png", "text": "cow"}
    before = read_manifest(as_jsonl(media, [row, row, {"text": "dog"}]))
    after = read_manifest(as_jsonl(media, [{"text": "dog"}, {**row, "note": "new"}]))
    keys = {item.path for item in before.items}
    assert len(keys) == 3
    assert {item.path for item in after.items} == keys - {key for key in keys if key.endswith("-2")}


def test_metadata_is_text_by_rule(media: Path) -> None:
    table = pa.table(
        {
            "text": ["hi"],
            "whole": [7],
            "half": [0.5],
            "yes": [True],
            "none": pa.array([None], pa.string()),
            "when": [datetime.datetime(2024, 5, 6, 7, 8, 9)],
            "tags": [["b", "a"]],
            "nested": [{"z": 1, "a": "é"}],
            "raw": [b"\x00\xff"],
            "path": ["not ours"],
            "__index_level_0__": [3],
        }
    )
    pq.write_table(table, media / "m.parquet")
    assert read_manifest(media / "m.parquet").items[0].metadata == {
        "whole": "7",
        "half": "0.5",
        "yes": "true",
        "when": "2024-05-06T07:08:09",
        "tags": '["b","a"]',
        "nested": '{"a":"é","z":1}',
        "raw": "AP8=",
        "manifest.path": "not ours",
    }


def test_two_columns_that_end_up_with_one_name_are_an_error(media: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.path"):
        read_manifest(as_jsonl(media, [{"text": "x", "path": "1", "manifest.path": "2"}]))


def test_undecodable_names_and_broken_texts_survive(media: Path) -> None:
    name = b"bad\xff.png"
    Path(os.fsdecode(os.fsencode(media) + b"/" + name)).write_bytes(b"x")
    (media / "m.csv").write_bytes(b"image,text,note\nbad\xff.png,half \xff,n\xffote\n")
    item = read_manifest(media / "m.csv").items[0]
    assert os.fsencode(item.members[0].path or "") == name
    assert item.members[1].text == "half �"
    assert item.metadata == {"note": "n�ote"}
    (media / "m.jsonl").write_text('{"image": "bad\\udcff.png", "text": "\\ud83d\\ude00 \\ud800"}\n')
    item = read_manifest(media / "m.jsonl").items[0]
    assert os.fsencode(item.members[0].path or "") == name
    assert item.members[1].text == "😀 �"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("m.jsonl", b'{"text": "a"}\n{"text": \n', "row 2.*JSON"),
        ("m.jsonl", b'{"text": "a"}\n\n[1]\n', "row 2.*object"),
        ("m.jsonl", b'{"words": "a"}\n', "no column image, text or audio.*words"),
        ("m.csv", b"text,label\na,b\nc\n", "row 2.*1 fields.*2"),
        ("m.csv", b'text\n"never closed\n', "row 1.*not a table"),
        ("m.csv", b"text,text\na,b\n", "twice"),
        ("m.parquet", b"PAR1 but not really", "Parquet"),
        ("m.parquet", b"", "Parquet"),
    ],
)
def test_a_broken_table_is_an_error_as_a_whole(media: Path, name: str, data: bytes, says: str) -> None:
    (media / name).write_bytes(data)
    with pytest.raises(ManifestError, match=f"(?s){says}"):
        read_manifest(media / name)


def test_columns_of_a_wrong_type_are_problems_of_their_rows(media: Path) -> None:
    rows = [{"image": {"bytes": "x"}}, {"text": 5}, {"id": [1], "text": "a"}, {"id": 9, "text": "b"}]
    found = read_manifest(as_jsonl(media, rows))
    assert [item.path for item in found.items] == ["9"]
    assert len(found.problems) == 3


def test_a_manifest_that_is_not_there_is_missing(tmp_path: Path) -> None:
    found = read_manifest(tmp_path / "gone.csv")
    assert (found.missing, found.kind, found.unknown) == (True, "manifest", {""})


def test_an_empty_manifest_has_no_items(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("")
    assert read_manifest(tmp_path / "m.jsonl").items == []
