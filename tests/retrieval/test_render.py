"""What goes to a terminal cannot act on it; what goes to a pipe is exact."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from indexer.build import BuildOptions, update
from indexer.errors import ConfigError
from indexer.report import FileFailed, UpdateReport, Warned
from indexer.types import Modality, Range, Source
from retrieval.query.language.jsonform import from_json, read_json
from retrieval.render.data import Format, pick_format, render
from retrieval.render.escape import near, printable, snippet
from retrieval.render.progress import build_progress
from retrieval.render.report import failure_lines, failures_json, update_json
from retrieval.render.table import aligned, hit_lines, terminal_width
from retrieval.types import (
    AllOf,
    Hit,
    LexicalScore,
    Not,
    Query,
    Request,
    SearchResult,
    Stages,
    Term,
    TermScore,
)
from tests.toy import toy_encoders

NASTY = "/m/\x1b[31m[bold]red[/bold]\n\"'\udcff.jpg"


def result(*hits: Hit) -> SearchResult:
    query = Query(Modality.TEXT, text="words")
    return SearchResult(Request(Term(query)), hits, Path("/i"), 3, "toy", "00ff", (Modality.IMAGE,))


HIT = Hit(1, "ab", NASTY, Modality.AUDIO, Source.FILE, 0.25, Range(5, 65.5), 'a, "b"\nc', {"label": "x"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("naïve 写真 🎧", "naïve 写真 🎧"),
        ("a\nb\tc\x1b[2J", "a\\nb\\tc\\x1b[2J"),
        ("\udcff", "\\xff"),
        ("abc\u202etxt", "abc\\u202etxt"),
        ("👩\u200d🚀", "👩\u200d🚀"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_snippet_is_one_line_cut_at_a_word() -> None:
    assert snippet("one\ntwo  three", 80) == "one two three"
    assert snippet("alpha beta gamma", 12) == "alpha beta…"


def test_the_table_escapes_and_shows_the_range() -> None:
    heading, line = hit_lines(result(HIT))
    assert heading.split() == ["#", "score", "kind", "at", "text", "path"]
    assert line.endswith("/m/\\x1b[31m[bold]red[/bold]\\n\"'\\xff.jpg")
    assert line.split()[:4] == ["1", "0.250", "audio", "0:05-1:05.5"]


def test_the_table_aligns_wide_characters_and_leaves_out_empty_columns() -> None:
    wide = Hit(1, "a", "/here/a.jpg", Modality.IMAGE, Source.FILE, 0.5, text="写真")
    plain = Hit(2, "b", "/here/sub/b.jpg", Modality.IMAGE, Source.FILE, -0.25, text="abcd")
    lines = hit_lines(result(wide, plain), here=Path("/here"))
    assert lines == [
        "#   score  kind   text  path",
        "1   0.500  image  写真  a.jpg",
        "2  -0.250  image  abcd  sub/b.jpg",
    ]
    assert hit_lines(result(Hit(1, "a", "/x.jpg", Modality.IMAGE, Source.FILE, 0.5)))[0].split() == [
        *("#", "score", "kind", "path")
    ]


def test_the_last_column_alone_is_wrapped() -> None:
    rows = [("name", "n", "what it is"), ("写真", "12", "some words about pictures"), ("b", "3", "")]
    assert aligned(rows, right=("n",)) == [
        "name   n  what it is",
        "写真  12  some words about pictures",
        "b      3",
    ]
    assert aligned(rows, width=30) == [
        "name  n   what it is",
        "写真  12  some words about",
        "          pictures",
        "b     3",
    ]
    assert aligned(rows, width=3) == aligned(rows, width=30)  # never less than is worth it
    assert terminal_width() is None


def test_json_keeps_the_bytes_of_a_path() -> None:
    whole = json.loads(render(result(HIT), Format.JSON))
    (hit,) = whole["hits"]
    assert bytes.fromhex(hit["path_bytes"]) == os.fsencode(NASTY)
    assert (hit["start"], hit["end"], hit["score"], hit["text"]) == (5, 65.5, 0.25, HIT.text)
    assert json.loads(render(result(HIT), Format.JSONL)) == hit
    assert whole["generation"] == 3


def test_csv_and_paths() -> None:
    (row,) = csv.DictReader(io.StringIO(render(result(HIT), Format.CSV).decode()))
    assert row["text"] == HIT.text
    assert render(result(HIT, HIT), Format.NUL) == (os.fsencode(NASTY) + b"\0") * 2
    assert render(result(), Format.PATHS) == b""


ROW = Hit(
    *(2, "cd", None, Modality.TEXT, Source.FILE, 0.5),
    text="white words",
    manifest="/m/\udcff.csv",
    key="a/b.png\n",
)


def test_csv_keeps_the_bytes_of_a_path() -> None:
    first, second = csv.DictReader(io.StringIO(render(result(HIT, ROW), Format.CSV).decode()))
    assert bytes.fromhex(first["path_bytes"]) == os.fsencode(NASTY)
    assert (first["key"], first["manifest"]) == ("", "")
    assert (second["path"], second["path_bytes"], second["key"], second["item"]) == (
        "",
        "",
        "a/b.png\n",
        "cd",
    )


STAGES = Stages(
    (TermScore("a", 0.5, 0.25, 0.125), TermScore("b", -0.5, -0.5, None)),
    LexicalScore(3.25, 2, ("red", "hat")),
    0.0625,
    0.75,
)


def test_csv_has_the_stages_that_are_one_number() -> None:
    scored = replace(HIT, stages=STAGES, duplicates=2)
    found = result(scored, HIT)
    grouped = replace(found, request=replace(found.request, group_duplicates=True))
    first, second = csv.DictReader(io.StringIO(render(grouped, Format.CSV).decode()))
    names = ("duplicates", "cosine", "lexical_rank", "lexical_score", "lexical_words", "fused", "reranked")
    assert [first[name] for name in names] == ["2", "0.5", "2", "3.25", "red hat", "0.0625", "0.75"]
    assert [second[name] for name in names] == ["0", "", "", "", "", "", ""]
    assert (first["rank"], first["key"]) == ("1", "")
    (plain, _) = csv.DictReader(io.StringIO(render(found, Format.CSV).decode()))
    assert plain | {"duplicates": "2"} == first | {"duplicates": "2"}
    assert plain["duplicates"] == ""  # nobody counted


def test_json_shows_the_query_as_it_can_be_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "naïve \udcff.txt"
    file.write_text("words")
    asked = AllOf((Term(Query(Modality.TEXT, text="a hat"), 2), Not(Term(Query(Modality.TEXT, path=file)))))
    told = render(replace(result(HIT), request=Request(asked)), Format.JSON)
    shown = json.loads(told)
    assert read_json(told.decode()) == asked
    assert from_json(shown["query_json"]) == asked
    assert shown["query"] == f"2*a hat - {file}"


def test_a_row_without_a_file_is_no_path() -> None:
    assert render(result(HIT, ROW), Format.NUL) == os.fsencode(NASTY) + b"\0"
    assert render(result(ROW), Format.PATHS) == b""
    (hit,) = json.loads(render(result(ROW), Format.JSON))["hits"]
    assert (hit["path"], hit["item"], hit["key"]) == (None, "cd", "a/b.png\n")
    assert bytes.fromhex(hit["manifest_bytes"]) == b"/m/\xff.csv"
    assert "path_bytes" not in hit
    assert hit_lines(result(ROW), here=Path("/m"))[1].endswith(r"white words  (row a/b.png\n of \xff.csv)")


def test_an_updates_json_carries_what_is_on_disk() -> None:
    failures = (FileFailed(NASTY, "broken"), FileFailed("/m/naïve \u202e.png", "worse"))
    report = UpdateReport({}, failures, 0, {}, {}, 0, 0, {}, 1, False, {}, (Warned("no list", "mend it"),))
    written = update_json(report)
    first, second = written["failures"]
    assert os.fsdecode(bytes.fromhex(first["path_bytes"])) == NASTY
    assert "\x1b[31m[bold]" in first["path"]
    assert second == {"path": "/m/naïve \u202e.png", "error": "worse"}
    assert written["warnings"] == [{"message": "no list", "hint": "mend it"}]


def test_failures_name_the_file_or_the_row(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    manifest = tmp_path / "m" / "list.jsonl"
    rows = [{"id": "r", "image": "gone\udcff\n.png", "text": "a cow"}, {"id": "blank\x1b", "text": " "}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    update(tmp_path / "index", [manifest], encoders=toy_encoders(), options=BuildOptions(workers=1))
    found = {row["key"]: row for row in failures_json(tmp_path / "index")}
    gone = found["r"]
    assert bytes.fromhex(gone["path_bytes"]) == os.fsencode(tmp_path) + b"/m/gone\xff\n.png"
    assert (gone["kind"], gone["error"]) == ("image", "no such file or directory")
    assert (found["blank\x1b"]["path"], found["blank\x1b"]["manifest"]) == (None, str(manifest))
    lines = failure_lines(tmp_path / "index")
    assert f"{tmp_path}/m/gone\\xff\\n.png: no such file or directory" in lines
    assert any(line.startswith(f"{manifest}, row 'blank\\x1b': ") for line in lines)
    assert len(lines) == 2


def test_two_formats_are_refused() -> None:
    assert pick_format({"json": False}) is Format.TABLE
    with pytest.raises(ConfigError, match="two output formats"):
        pick_format({"json": True, "csv": True})


def test_steps_of_a_pull_are_said_once_each_where_there_is_no_terminal() -> None:
    said = io.StringIO()
    with build_progress(Console(file=said), title=None) as show:
        for step, share in (("downloading model.safetensors", 0.1), ("downloading model.safetensors", 0.4)):
            show(step, share)
        show("exporting \x1b[31mtext", 0.9)
    assert said.getvalue().splitlines() == ["downloading model.safetensors", "exporting \\x1b[31mtext"]


def test_a_model_that_is_built_says_so_once() -> None:
    said = io.StringIO()
    with build_progress(Console(file=said), title="building it") as show:
        show("text", 0.1)
        show("image", 0.5)
    assert said.getvalue().splitlines() == ["building it, once (under a minute)"]


def test_a_path_below_the_folder_is_short_and_harmless() -> None:
    assert near("/media/a/b.png", "/media/") == "a/b.png"
    assert near("/media2/b.png", "/media") == "/media2/b.png"
    assert near("/media/a\x1b.png", "/media") == "a\\x1b.png"
