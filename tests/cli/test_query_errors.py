"""What the command line says of a query that is wrong."""

from __future__ import annotations

import sys

import pytest

from cli import app


def told(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed on stderr; exit code 2, and nothing on stdout."""
    monkeypatch.setattr(sys, "argv", ["triptych", *arguments])
    with pytest.raises(SystemExit) as ended:
        app()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_a_caret_stands_below_the_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(["search", "red hat", "-", "(", "b\x1b"], monkeypatch, capsys).splitlines()
    assert lines[:3] == ["error: the group is not closed (column 13)", '  "red hat" - ( b ', " " * 14 + "^"]
    assert lines[3].startswith("  put a ) after it")


def test_a_query_of_negated_terms_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "only negated terms" in told(["search", "--not", "a"], monkeypatch, capsys)
    assert "not JSON" in told(["search", "--query-json", "{"], monkeypatch, capsys)


def test_a_user_who_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["search", "~100 birds", "--index", "~no such user/x"],
        ["search", "--query-json", '{"file": "~no such user/x.png"}'],
        ["explain", "~100 birds", "~no such user/x.png", "--index", "~no such user/x"],
    ):
        assert told(arguments, monkeypatch, capsys).startswith("error: ")
