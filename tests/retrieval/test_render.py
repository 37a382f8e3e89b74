"""What goes to a terminal cannot act on it; what goes to a pipe is exact."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from indexer.errors import ConfigError
from indexer.types import Modality, Range, Source
from retrieval.render.data import Format, pick_format, render
from retrieval.render.escape import printable, snippet
from retrieval.render.table import hit_lines
from retrieval.types import Hit, Query, SearchResult

NASTY = "/m/\x1b[31m[bold]red[/bold]\n\"'\udcff.jpg"


def result(*hits: Hit) -> SearchResult:
    query = Query(Modality.TEXT, text="words")
    return SearchResult(query, hits, Path("/i"), 3, "toy", "00ff", (Modality.IMAGE,))


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


def test_two_formats_are_refused() -> None:
    assert pick_format({"json": False}) is Format.TABLE
    with pytest.raises(ConfigError, match="two output formats"):
        pick_format({"json": True, "csv": True})
