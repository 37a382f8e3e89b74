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
    assert [item.path for item in found.items] == ["a", "b", "d"]
    gone, good, folder = found.items
    assert good.members[0].path == "pics/cow.png"
    assert [place.rpartition(", ")[2] for place, _ in found.problems] == ["row 3", "row 4"]
    reasons = [reason for _, reason in found.problems]
    assert "earlier row" in reasons[0]
    assert "all empty" in reasons[1]
    assert [(m.path, m.text, m.error) for m in gone.members] == [
        ("pics/gone.png", None, "no such file or directory"),
        (None, "x", None),
    ]
    assert [(m.path, m.error) for m in folder.members] == [("pics", "not a file")]
    away = {key: (place.rpartition(", ")[2], reason) for key, (place, reason) in found.away.items()}
    assert set(away) == {"a", "d"}
    assert away["a"][0] == "row 1"
    assert "image 'pics/gone.png': no such file" in away["a"][1]
    assert away["d"] == ("row 5", "image 'pics': not a file: what the index knows of the row is kept")


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
        ("m.csv", b"\xff\xfet\0e\0x\0t\0", r"m\.csv: UTF-16"),
        ("m.csv", b"PAR1\0\0\0", r"m\.csv: a Parquet file, not CSV"),
        ("m.csv", b"\x89PNG\0\0", r"m\.csv: a binary file"),
        ("m.jsonl", b"\x1f\x8b\0", r"m\.jsonl: a binary file, not JSON lines"),
        ("m.parquet", b"PAR1 but not really", r"m\.parquet: a Parquet file that is cut off: it has 19 bytes"),
        ("m.parquet", b"PAR1\xff\xff\xff\x7fPAR1", r"m\.parquet: a Parquet file that is damaged"),
        ("m.parquet", b"", r"m\.parquet: not Parquet: the file is empty, 0 bytes"),
        ("m.parquet", b"image,text\n", r"m\.parquet: not Parquet: it begins with b'imag'"),
    ],
)
def test_a_broken_table_is_an_error_as_a_whole(media: Path, name: str, data: bytes, says: str) -> None:
    (media / name).write_bytes(data)
    with pytest.raises(ManifestError, match=f"(?s){says}") as caught:
        read_manifest(media / name)
    if "row" not in says:
        assert "row" not in caught.value.message


def test_columns_of_a_wrong_type_are_problems_of_their_rows(media: Path) -> None:
    rows = [{"image": {"bytes": "x"}}, {"text": 5}, {"id": [1], "text": "a"}, {"id": 9, "text": "b"}]
    found = read_manifest(as_jsonl(media, rows))
    assert [item.path for item in found.items] == ["9"]
    assert len(found.problems) == 3


def test_a_manifest_that_is_not_there_is_missing(tmp_path: Path) -> None:
    found = read_manifest(tmp_path / "gone.csv")
    assert (found.missing, found.kind, found.unknown) == (True, "manifest", {""})


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("m.csv", b"", "the file is empty, 0 bytes"),
        ("m.csv", b"image,text\n", "a header and no rows"),
        ("m.csv", b"image,text\n\n\n", "a header and no rows"),
        ("m.jsonl", b"", "the file is empty, 0 bytes"),
        ("m.jsonl", b"\n \n", "no rows"),
    ],
)
def test_a_manifest_without_rows_says_so(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    found = read_manifest(tmp_path / name)
    assert (found.items, found.empty) == ([], True)
    ((where, reason),) = found.problems
    assert where == os.path.realpath(tmp_path / name)
    assert reason.startswith(f"{says}: nothing to index")


def test_a_parquet_file_without_rows_says_so(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "m.parquet")
    found = read_manifest(tmp_path / "m.parquet")
    assert (found.empty, found.problems[0][1].split(":")[0]) == (True, "no rows")


def test_a_manifest_that_cannot_be_opened_is_no_rows_fault(tmp_path: Path) -> None:
    (tmp_path / "m.csv").mkdir()
    with pytest.raises(ManifestError, match=r"m\.csv: cannot be read: is a directory"):
        read_manifest(tmp_path / "m.csv")
