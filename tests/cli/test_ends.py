"""How the program ends where nobody reads what it prints, and what it says of itself."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from indexer.build import update
from tests.toy import toy_encoders

TRIPTYCH = Path(sys.executable).parent / "triptych"
CLOSED = 141
FULL = Path("/dev/full")


def started(arguments: Sequence[str], *, stdout: int, stderr: int, unbuffered: str = "") -> tuple[int, bytes]:
    done = subprocess.run(
        [str(TRIPTYCH), *arguments],
        stdout=stdout,
        stderr=stderr,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr or b""


@pytest.fixture
def index(tmp_path: Path, home: Path) -> Path:
    (tmp_path / "media").mkdir()
    for name in ("a.md", "b.md"):
        (tmp_path / "media" / name).write_text("the same words")
    update(tmp_path / "index", [tmp_path / "media"], encoders=toy_encoders())
    return tmp_path / "index"


@pytest.fixture
def closed() -> int:
    """The end to write to of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["schema", "info", "duplicates"])
def test_a_closed_pipe_ends_it_without_a_word(
    index: Path, closed: int, command: str, unbuffered: str
) -> None:
    asked = [command, "--index", str(index)]
    code, said = started(asked, stdout=closed, stderr=subprocess.PIPE, unbuffered=unbuffered)
    assert code == CLOSED
    assert not any(word in said.lower() for word in (b"pipe", b"error", b"exception", b"traceback")), said


def test_so_does_one_that_takes_the_talk_too(index: Path, closed: int) -> None:
    assert (
        started(["search", "x", "--in", "", "--index", str(index)], stdout=closed, stderr=closed)[0] == CLOSED
    )
    assert started(["--help"], stdout=closed, stderr=subprocess.PIPE) == (CLOSED, b"")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_full_disk_is_said_once(index: Path) -> None:
    with FULL.open("w") as file:
        code, said = started(["info", "--index", str(index)], stdout=file.fileno(), stderr=subprocess.PIPE)
    assert (code, said) == (2, b"error: No space left on device\n")


def test_the_version_is_one_line() -> None:
    done = subprocess.run([str(TRIPTYCH), "--version"], capture_output=True, text=True, check=True)
    program, number, python = done.stdout.split(maxsplit=2)
    assert (program, python, done.stderr) == ("triptych", f"(Python {platform.python_version()})\n", "")
    assert number[0].isdigit()
