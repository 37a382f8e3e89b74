"""The demo shows each command as it runs it: a copied line does the same in the same terminal."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import demo
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was run, in order; a listing of hits gives one picture with a space in its name."""
    commands: list[list[str]] = []

    def record(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert "cwd" not in options
        commands.append(command)
        hits = {"hits": [{"path": str(tmp_path / "my media/a cow.png")}]}
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(hits))

    stamps = tmp_path / "data/cache/tuxpaint-stamps"
    stamps.mkdir(parents=True)
    rows = [
        {"id": "animals/mammals/bovines/cow", "image": "stamps/cow.png", "audio": None},
        {"id": "hobbies/music/string/violin", "image": "stamps/violin.png", "audio": "stamps/violin.ogg"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), stamps / "manifest.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "CACHE", tmp_path / "data/cache")
    monkeypatch.setattr(demo, "STAMPS", stamps)
    monkeypatch.setattr(demo, "TRIPTYCH", tmp_path / ".venv/bin/triptych")
    monkeypatch.setattr(demo.subprocess, "run", record)
    return commands


def shown(out: str) -> list[list[str]]:
    return [shlex.split(line[2:]) for line in out.splitlines() if line.startswith("$ ")]


def test_the_stamps_demo_shows_what_it_runs(ran: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.stamps_demo(Path("data/cache/stamps.triptych").absolute()) == 0
    commands = shown(capsys.readouterr().out)
    assert commands == ran[1:]  # after the recipe that brings the stamps
    index = ["--index", "data/cache/stamps.triptych"]
    program = ".venv/bin/triptych"
    assert commands[0] == [program, "index", "data/cache/tuxpaint-stamps/manifest.parquet", *index]
    assert len(commands) == 5
    assert all(command[0] == program and command[-2:] == index for command in commands)
    assert commands[3][2] == "data/cache/tuxpaint-stamps/stamps/cow.png"
    assert commands[4][2] == "data/cache/tuxpaint-stamps/stamps/violin.ogg"


def test_the_folder_demo_shows_what_it_runs(
    ran: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my media").mkdir()
    assert demo.folder_demo(tmp_path / "my media", tmp_path / "data/cache/own.triptych") == 0
    commands = shown(capsys.readouterr().out)
    assert commands == [command for command in ran if "--json" not in command]
    assert commands[0][1:3] == ["index", "./my media"]
    assert commands[-1][1:3] == ["search", "file:my media/a cow.png"]


def test_the_program_is_shown_by_name_where_the_shell_finds_it(
    ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert demo.program() == ".venv/bin/triptych"
    monkeypatch.setattr(demo.shutil, "which", lambda _: str(tmp_path / ".venv/bin/triptych"))
    assert demo.program() == "triptych"
