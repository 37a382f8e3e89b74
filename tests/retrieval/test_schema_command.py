"""`triptych schema`: the table and the JSON that list the columns of filters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from indexer.generation import Root, Space
from indexer.store import Writer
from indexer.types import Facts, Item, Member, Modality, Segment, Source
from retrieval.commands.schema import schema
from retrieval.query.filters.columns import COLUMNS
from tests.indexer.indexes import DIM, digest, unit


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    root = Root("a" * 16, "/media", "folder")
    member = Member(Modality.IMAGE, Source.FILE, "x.png", 5, 10**18, digest("x"))
    item = Item(digest("item").hex(), root.id, "x.png", (member,), {"author": "A\x1b[31m" + "n" * 90})
    segment = Segment(digest("x"), Modality.IMAGE, Source.FILE, facts=Facts(width=640))
    with Writer.open(tmp_path / "index", create=True) as writer:
        part = writer.add_part([segment], unit("x")[None], space_id="toy")
        writer.commit(None, roots=[root], items=[item], spaces={"toy": Space("toy", DIM)}, parts=[part])
    return tmp_path / "index"


def _run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(schema)
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_names_every_column_with_an_example(index: Path) -> None:
    lines = _run("--index", str(index)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [column.name for column in COLUMNS]
    by_name = {line.split()[0]: line for line in lines}
    assert "  640  " in by_name["width"]
    assert "  /media/x.png  " in by_name["path"]
    assert "  -  " in by_name["duration"]
    assert "['author'] = A\\x1b[31mnnn" in by_name["metadata"]
    assert "\x1b" not in "".join(lines)


def test_json_gives_the_values_themselves(index: Path) -> None:
    rows = {row["name"]: row for row in json.loads(_run("--index", str(index), "--json"))}
    assert list(rows) == [column.name for column in COLUMNS]
    assert rows["width"] == {
        "name": "width",
        "type": "BIGINT",
        "of": "item",
        "about": next(column.about for column in COLUMNS if column.name == "width"),
        "example": 640,
    }
    assert rows["metadata"]["example"]["author"].startswith("A\x1b[31mn")


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_is_not_run_over(index: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.render.table.terminal_width", lambda: width)
    lines = _run("--index", str(index)).splitlines()
    assert max(map(len, lines)) <= width
    about = lines[0].index("what it is")
    assert " ".join(line[about:].strip() for line in lines[1:]) == " ".join(one.about for one in COLUMNS)
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == [c.name for c in COLUMNS]
    (metadata,) = [line for line in lines if line.startswith("metadata")]
    assert "['author'] = A" in metadata
