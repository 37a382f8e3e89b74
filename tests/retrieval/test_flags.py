"""A command's flags as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from indexer.errors import ConfigError, QueryError
from indexer.types import Modality
from retrieval.commands.flags import takes
from retrieval.commands.request import SearchFlags, check_together, format_of, request_of
from retrieval.config import Settings
from retrieval.render.data import Format
from retrieval.types import AllOf, Lexical, Not, Request, Rerank
from tests.retrieval.test_grammar import words


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Those of a command of this test."""

    words: Annotated[list[str] | None, typer.Argument(help="Some words.")] = None
    count: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 3
    loud: Annotated[bool, typer.Option("--loud", help="Or not.")] = False


def test_a_field_is_a_flag_with_its_default_and_its_help() -> None:
    got: list[Flags] = []

    @takes(Flags)
    def command(flags: Flags) -> None:
        """Says nothing."""
        got.append(flags)

    app = typer.Typer()
    app.command()(command)
    runner = CliRunner()
    assert runner.invoke(app, ["a", "-n", "2", "b", "--loud"]).exit_code == 0
    assert runner.invoke(app, []).exit_code == 0
    assert got == [Flags(words=["a", "b"], count=2, loud=True), Flags()]
    assert runner.invoke(app, ["-n", "0"]).exit_code == 2
    shown = runner.invoke(app, ["--help"]).output
    assert all(part in shown for part in ("Says nothing.", "Some words.", "How many.", "--loud"))


def asked(**flags: object) -> Request:
    return request_of(SearchFlags(**flags), Settings(k=7, reranker="r"))[1]  # type: ignore[arg-type]


def test_flags_make_a_request() -> None:
    assert asked() == Request(k=7, reranker="r")
    full = asked(
        query=["a"],
        no=["b"],
        within="text",
        k=2,
        offset=3,
        lexical="OFF",
        rerank="cross",
        min_score=0.5,
        diverse=True,
        group=True,
        hubness=False,
        segments=True,
        where=["width > 3"],
    )
    assert full.expression == AllOf((words("a"), Not(words("b"))))
    assert full.modalities == (Modality.TEXT,)
    assert (full.k, full.offset, full.lexical, full.rerank) == (2, 3, Lexical.OFF, Rerank.CROSS)
    assert (full.min_score, full.group_duplicates, full.hubness, full.segments) == (0.5, True, False, True)
    assert full.diverse is not None
    assert "width > 3" in (full.where or "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lexical": "some"}, "--lexical is 'some'"),
        ({"types": " , "}, "--type is empty"),
        ({"within": ""}, "--in is ''"),
        ({"label": ["a", " "]}, "--label is empty"),
        ({"json_query": ""}, "the query is empty"),
        ({"like": "3", "weight": [2.0]}, "1 of --weight for 0 of --add and 0 of --not"),
        ({"repeat": True, "diverse": True}, "--repeat and other flags"),
    ],
)
def test_flags_that_make_none(flags: dict[str, object], message: str) -> None:
    with pytest.raises((ConfigError, QueryError)) as caught:
        asked(**flags)
    assert caught.value.message == message


def test_flags_that_do_not_go_together() -> None:
    assert format_of(SearchFlags(query=["a"], nul=True)) is Format.NUL
    for flags, message in (
        (SearchFlags(), "nothing to search for"),
        (SearchFlags(repeat=True, like="3"), "--repeat and a query"),
        (SearchFlags(query=["a"], as_json=True, as_csv=True), "two output formats: json and csv"),
        (SearchFlags(batch=Path("-"), as_csv=True), "--batch prints JSON lines only"),
        (SearchFlags(batch=Path("-"), query=["a"]), "both --batch and a query"),
        (SearchFlags(query=["a"], gpu=False), "--gpu and --no-gpu are for many queries"),
    ):
        with pytest.raises(ConfigError) as caught:
            check_together(flags, format_of(flags))
        assert caught.value.message == message
