"""Rows from tables, folders and COCO files: what is read, what is a problem of a row, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import ManifestError, TrainingError
from indexer.types import Modality
from retrieval.training.coco import split_of_name
from retrieval.training.manifest import read_pairs, require_trainable
from retrieval.training.types import PairSet, Row, Split
from tests.retrieval.training.sources import picture_bytes, put, put_table, sound_bytes

TABLES = (".csv", ".jsonl", ".parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures and two sounds."""
    for name in ("a", "b", "c"):
        put(tmp_path / "data" / "pictures" / f"{name}.png", picture_bytes())
    for name in ("a", "b"):
        put(tmp_path / "data" / f"{name}.wav", sound_bytes())
    return tmp_path / "data"


def read(source: Path | str, tmp_path: Path) -> PairSet:
    return read_pairs(source, cache=tmp_path / "cache")


def table(folder: Path, rows: list[dict[str, Any]], suffix: str = ".jsonl") -> PairSet:
    return read_pairs(put_table(folder / f"pairs{suffix}", rows), cache=folder / "cache")


def refused(folder: Path, rows: list[dict[str, Any]], suffix: str = ".jsonl") -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        table(folder, rows, suffix)
    return caught.value


# Tables


@pytest.mark.parametrize("suffix", TABLES)
def test_every_column_reaches_the_row(folder: Path, suffix: str) -> None:
    full = {
        "id": "r1",
        "image": "pictures/a.png",
        "text": "a red square",
        "audio": "a.wav",
        "label": "square",
        "group": "g",
        "split": "val",
        "weight": 0.5,
    }
    bare = {"id": "r2", "image": "pictures/b.png", "text": "another", "audio": "", "label": "", "group": ""}
    pairs = table(folder, [full, bare | {"split": "", "weight": None if suffix != ".csv" else ""}], suffix)
    assert pairs.rows == (
        Row(
            "r1",
            str(folder / "pictures/a.png"),
            ("a red square",),
            str(folder / "a.wav"),
            "square",
            "g",
            Split.VALIDATION,
            0.5,
        ),
        Row("r2", str(folder / "pictures/b.png"), ("another",)),
    )
    assert not pairs.problems
    assert not pairs.notes


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_list_of_texts_is_several_texts(folder: Path, suffix: str) -> None:
    rows = [
        {"image": "pictures/a.png", "text": ["one", "two", "", "one", None]},
        {"image": "pictures/b.png", "text": ["three"]},
    ]
    assert [row.texts for row in table(folder, rows, suffix).rows] == [("one", "two"), ("three",)]


def test_rows_of_one_picture_without_ids_are_one_row(folder: Path) -> None:
    rows = [
        {"image": "pictures/a.png", "text": "one"},
        {"image": "pictures/b.png", "text": "other"},
        {"image": "./pictures/a.png", "text": "two"},
        {"image": "pictures/a.png", "text": "one"},
    ]
    pairs = table(folder, rows, ".csv")
    assert [row.texts for row in pairs.rows] == [("one", "two"), ("other",)]
    assert len({row.id for row in pairs.rows}) == 2


def test_rows_that_differ_in_more_than_the_text_stay_apart(folder: Path) -> None:
    rows = [
        {"image": "pictures/a.png", "audio": "a.wav", "text": "one", "label": "x"},
        {"image": "pictures/a.png", "audio": "b.wav", "text": "two", "label": "x"},
        {"image": "pictures/a.png", "audio": "a.wav", "text": "three", "label": "y"},
    ]
    pairs = table(folder, rows)
    assert [(row.texts, row.label) for row in pairs.rows] == [
        (("one",), "x"),
        (("two",), "x"),
        (("three",), "y"),
    ]
    assert len({row.id for row in pairs.rows}) == 3
    with_ids = [row | {"id": number, "label": "x"} for number, row in enumerate([rows[0], rows[2]])]
    assert [row.id for row in table(folder, with_ids).rows] == ["0", "1"]


def test_ids_and_digest_do_not_depend_on_where_the_data_lies(folder: Path, tmp_path: Path) -> None:
    rows = [{"image": "pictures/a.png", "text": "one"}, {"image": "pictures/b.png", "text": "two"}]
    before = table(folder, rows)
    moved = folder.rename(tmp_path / "elsewhere")
    after = table(moved, rows)
    assert [row.id for row in before.rows] == [row.id for row in after.rows]
    assert before.digest == after.digest
    assert before.rows[0].image != after.rows[0].image
    rows[1]["text"] = "changed"
    assert table(moved, rows).digest != after.digest


def test_missing_files_cost_a_medium_or_a_row(folder: Path) -> None:
    rows = [
        {"image": "pictures/a.png", "text": "fine", "audio": "no.wav"},
        {"image": "pictures/no.png", "text": "lost"},
        {"image": "https://example.org/a.png", "text": "far away"},
        {"image": "pictures", "text": "a folder"},
        {"image": None, "text": "alone"},
        {"image": 5, "text": "a number"},
    ]
    pairs = table(folder, rows)
    assert [(row.image is not None, row.texts, row.audio) for row in pairs.rows] == [(True, ("fine",), None)]
    assert dict(pairs.problems) == {
        "row 1": "audio 'no.wav': no such file; the row's other media are used",
        "row 2": "image 'pictures/no.png': no such file",
        "row 3": "image 'https://example.org/a.png': an address; only files on this machine are read",
        "row 4": "image 'pictures': not a file",
        "row 5": "a pair takes two of image, text and audio, it has only text",
        "row 6": "image holds int, not a path",
    }


def test_all_files_missing_is_an_error_with_the_first_reasons(folder: Path) -> None:
    rows = [{"image": f"no{i}.png", "text": "t"} for i in range(5)]
    error = refused(folder, rows)
    assert "of 5 rows none is a pair" in error.message
    assert "row 1: image 'no0.png': no such file" in error.message
    assert "and 2 more" in error.message


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("imgae", "image"), ("Image", "image"), ("txt", "text"), ("lable", "label"), ("spilt", "split")],
)
def test_a_misspelt_column_is_an_error(folder: Path, wrong: str, right: str) -> None:
    row = {"image": "pictures/a.png", "text": "one", "audio": "a.wav"}
    row = {wrong if column == right else column: value for column, value in row.items()} | {wrong: "train"}
    error = refused(folder, [row])
    assert f"column {wrong!r} and no {right!r}" in error.message
    assert error.hint
    assert right in error.hint


def test_other_columns_are_noted(folder: Path) -> None:
    rows = [
        {"image": "pictures/a.png", "text": "one", "image_id": 3, "images": "x", "licence": "CC0", "idx": 0}
    ]
    pairs = table(folder, rows)
    assert pairs.notes == ("columns not used: image_id, images, licence, idx",)
    assert not pairs.problems


def test_no_usable_columns(folder: Path) -> None:
    error = refused(folder, [{"path": "pictures/a.png", "caption": "one"}])
    assert "path, caption" in error.message
    assert "image, text, audio" in error.message


def test_no_rows(folder: Path) -> None:
    put(folder / "empty.csv", "image,text\n")
    with pytest.raises(ManifestError, match="has no rows"):
        read_pairs(folder / "empty.csv", cache=folder)


def test_an_id_given_twice_is_an_error(folder: Path) -> None:
    rows = [{"id": 7, "image": f"pictures/{name}.png", "text": name} for name in "ab"]
    error = refused(folder, rows)
    assert "row 2 has the id '7', which row 1 has" in error.message


def test_an_id_given_twice_is_an_error_even_where_a_row_is_left_out(folder: Path) -> None:
    rows = [{"id": 7, "image": "no.png", "text": "a"}, {"id": 7, "image": "pictures/a.png", "text": "b"}]
    assert "'7'" in refused(folder, rows).message


@pytest.mark.parametrize(
    ("column", "value"),
    [("split", "tset"), ("split", 3), ("weight", -1), ("weight", "much"), ("weight", True), ("id", [1])],
)
def test_values_that_mean_nothing_are_errors(folder: Path, column: str, value: object) -> None:
    good = {"image": "pictures/b.png", "text": "fine"}
    error = refused(folder, [good, {"image": "pictures/a.png", "text": "one", column: value}])
    assert "row 2" in error.message
    assert f"{column} {value!r}" in error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_are_finite(folder: Path, value: float) -> None:
    row = {"image": "pictures/a.png", "text": "one", "weight": value}
    if value == float("inf"):
        assert "weight inf" in refused(folder, [row], ".parquet").message
    else:  # what pandas writes for none
        assert table(folder, [row], ".parquet").rows[0].weight == 1.0


def test_integers_that_pandas_made_floats(folder: Path) -> None:
    rows = [{"image": "pictures/a.png", "text": "one", "label": 3.0, "group": 2, "split": float("nan")}]
    found = table(folder, rows).rows[0]
    assert (found.label, found.group, found.split) == ("3", "2", None)


def test_a_table_that_breaks_off_says_where(folder: Path) -> None:
    put(folder / "broken.jsonl", '{"image": "pictures/a.png", "text": "one"}\n{"image": "pict')
    with pytest.raises(ManifestError, match="row 2: not JSON"):
        read_pairs(folder / "broken.jsonl", cache=folder)


@pytest.mark.parametrize("source", ["pipe:cat x.tar", "https://example.org/x.tar", "s3://bucket/x.csv"])
def test_addresses_and_pipes_are_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="address or a pipe"):
        read(source, tmp_path)


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there is no") as caught:
        read(tmp_path / "none.csv", tmp_path)
    assert "parquet" in (caught.value.hint or "")
    with pytest.raises(ManifestError, match="no source of pairs by its name"):
        read(put(tmp_path / "x.xlsx", "x"), tmp_path)


# Folders


def test_a_folder_pairs_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    put(folder / "crow.jpg", picture_bytes(kind="JPEG"))
    put(folder / "crow.txt", "  a crow\non a fence\n")
    put(folder / "sub" / "owl.png", picture_bytes())
    put(folder / "sub" / "owl.png.txt", "an owl")
    put(folder / "sub" / "owl.wav", sound_bytes())
    put(folder / "sub" / "owl.txt", "its call")
    put(folder / "wren.wav", sound_bytes())
    put(folder / "wren.md", "a wren")
    put(folder / "alone.png", picture_bytes())
    put(folder / "readme.txt", "not a caption")
    pairs = read(folder, tmp_path)
    assert [row.id for row in pairs.rows] == ["crow.jpg", "sub/owl.png", "wren.wav"]
    crow, owl, wren = pairs.rows
    assert crow == Row("crow.jpg", str(folder / "crow.jpg"), ("a crow\non a fence",))
    assert owl.texts == ("an owl", "its call")
    assert owl.audio == str(folder / "sub/owl.wav")
    assert owl.label is None
    assert wren.modalities == (Modality.TEXT, Modality.AUDIO)
    assert [where for where, _ in pairs.problems] == ["alone.png"]
    assert "1 texts" in pairs.notes[0]


def test_two_pictures_of_one_name_share_the_caption_but_not_the_sound(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    put(folder / "a.jpg", picture_bytes(kind="JPEG"))
    put(folder / "a.png", picture_bytes())
    put(folder / "a.wav", sound_bytes())
    put(folder / "a.txt", "both")
    first, second = read(folder, tmp_path).rows
    assert (first.id, first.texts, first.audio) == ("a.jpg", ("both",), str(folder / "a.wav"))
    assert (second.id, second.texts, second.audio) == ("a.png", ("both",), None)


def test_an_unreadable_caption_is_a_problem(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    for name in "ab":
        put(folder / f"{name}.png", picture_bytes())
    put(folder / "a.txt", b"\x00\x01\x02\x03")
    put(folder / "b.txt", "fine")
    pairs = read(folder, tmp_path)
    assert [row.id for row in pairs.rows] == ["b.png"]
    assert [where for where, _ in pairs.problems] == ["a.txt", "a.png"]


def test_a_folder_without_pairs(tmp_path: Path) -> None:
    put(tmp_path / "x" / "a.png", picture_bytes())
    with pytest.raises(ManifestError, match="of 1 pictures and sounds none is a pair"):
        read(tmp_path / "x", tmp_path)
    (tmp_path / "y").mkdir()
    with pytest.raises(ManifestError, match="has no pictures and sounds"):
        read(tmp_path / "y", tmp_path)


# COCO


def coco(path: Path, *, count: int = 2, **more: Any) -> Path:
    document = {
        "images": [{"id": i, "file_name": f"{i:03d}.png"} for i in range(count)],
        "annotations": [
            {"image_id": i, "caption": f"{word} {i}"} for i in range(count) for word in ("a", "one ")
        ],
    }
    return put(path, json.dumps(document | more))


@pytest.mark.parametrize("place", [".", "images", "val2017", "../val2017", "../images/val2017"])
def test_coco_finds_its_pictures(tmp_path: Path, place: str) -> None:
    source = coco(tmp_path / "annotations" / "captions_val2017.json")
    for i in range(2):
        put(tmp_path / "annotations" / place / f"{i:03d}.png", picture_bytes())
    pairs = read(source, tmp_path)
    assert [(row.id, row.texts, row.split) for row in pairs.rows] == [
        ("0", ("a 0", "one  0"), Split.VALIDATION),
        ("1", ("a 1", "one  1"), Split.VALIDATION),
    ]
    assert Path(pairs.rows[0].image or "").read_bytes() == picture_bytes()


def test_coco_without_pictures_says_where_it_looked(tmp_path: Path) -> None:
    source = coco(tmp_path / "annotations" / "captions_train2017.json")
    with pytest.raises(ManifestError) as caught:
        read(source, tmp_path)
    assert "'000.png'" in caught.value.message
    for place in ("annotations", "annotations/images", "train2017"):
        assert str(tmp_path / place) in caught.value.message


def test_coco_rows_that_lack_something(tmp_path: Path) -> None:
    annotations = [{"image_id": 0, "caption": "a"}, {"image_id": 9, "caption": "of nothing"}, {"image_id": 1}]
    source = coco(tmp_path / "x.json", count=3, annotations=annotations)
    for i in (0, 1):
        put(tmp_path / f"{i:03d}.png", picture_bytes())
    pairs = read(source, tmp_path)
    assert [row.id for row in pairs.rows] == ["0"]
    assert [where for where, _ in pairs.problems] == ["image 9", "image 1", "image 2"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"annotations": [{"image_id": 0, "category_id": 4}]}, "none of the 1 annotations"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}, "images[1] has the id 1"),
        ({"images": [{"id": 1}]}, "images[0] has no id and file_name"),
        ({"images": []}, "has no images"),
        ({"annotations": [{"caption": "a"}]}, "annotations[0] has no image_id"),
        ({"annotations": None}, "no COCO captions file"),
    ],
)
def test_coco_that_is_none(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(coco(tmp_path / "x.json", **more), tmp_path)
    assert said in caught.value.message


def test_json_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not JSON"):
        read(put(tmp_path / "x.json", "{"), tmp_path)


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("captions_train2017", Split.TRAIN),
        ("val", Split.VALIDATION),
        ("my-test-set", Split.TEST),
        ("train_and_val", None),
        ("captions", None),
        ("training_latest", Split.TRAIN),
    ],
)
def test_split_of_a_name(stem: str, split: Split | None) -> None:
    assert split_of_name(stem) is split


# What can be trained on


def pairs_of(*rows: Row) -> PairSet:
    return PairSet("x.csv", rows, "")


def test_what_cannot_be_trained_on() -> None:
    row = Row("a", "/a.png", ("t",))
    with pytest.raises(TrainingError, match="no pair"):
        require_trainable(pairs_of(Row("a", "/a.png")))
    with pytest.raises(TrainingError, match="one row, 'a'"):
        require_trainable(pairs_of(row, Row("b", None, ("t",))))
    with pytest.raises(TrainingError, match=r"all 2 rows .* weight 0"):
        require_trainable(pairs_of(*[Row(key, "/a.png", ("t",), weight=0) for key in "ab"]))
    require_trainable(pairs_of(row, Row("b", "/b.png", ("u",))))
