"""`triptych models` through its entry point, on an empty cache: what is listed and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cli


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `triptych models`."""
    with pytest.raises(SystemExit) as end:
        cli.app(["models", *arguments])
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_a_starter_that_is_not_built_is_listed_with_its_licences(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "list")
    assert code == 0
    assert "not built yet" in out
    assert "image, text: Apache-2.0; audio: CC-BY-4.0" in out
    code, out, _ = call(capsys, "list", "--json")
    assert json.loads(out)[0]["licences"]["audio"] == "CC-BY-4.0"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["list", "--device", "cuda"], "--device without --available", "add --available"),
        (["pull", "starter"], "is not pulled", "triptych models build starter"),
        (["show", "startr"], "no model startr", "did you mean starter ?"),
        (["show", "elephant"], "no model elephant", "choose one of those"),
        (["build", "clip"], "'clip' cannot be built", "models pull"),
    ],
)
def test_what_cannot_be_done_says_what_can(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, hint: str
) -> None:
    code, out, said = call(capsys, *arguments)
    assert (code, out) == (2, "")
    first, second = said.rstrip("\n").split("\n")
    assert message in first
    assert hint in second
