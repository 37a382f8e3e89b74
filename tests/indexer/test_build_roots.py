"""Several roots in one index: missing, unmounted, nested, ignored; what may be deleted without consent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import ConfigError, PruneRefused
from indexer.types import Modality
from tests.indexer.trees import (
    assert_as_from_scratch,
    cost,
    items,
    media,
    picture,
    run,
    sound,
    text,
    told,
)

pytestmark = pytest.mark.usefixtures("decoding")


def test_a_root_that_is_missing_or_looks_unmounted_keeps_its_items(tree: Path, index: Path) -> None:
    media(tree)
    run(index, tree)
    before = told(index)
    tree.rename(tree.with_name("away"))
    report = run(index, tree)
    assert (report.unknown, report.failed, report.committed) == (7, 1, False)
    tree.mkdir()
    report = run(index, tree)
    assert (report.unknown, report.committed) == (7, False)
    assert [failure.path for failure in report.failures] == [str(tree)]
    assert "not mounted" in report.failures[0].reason
    assert told(index) == before
    assert run(index, tree, prune=True).deleted == 7
    assert items(index) == {}
    tree.rmdir()
    tree.with_name("away").rename(tree)
    _, seen = cost(index, tree)
    assert_as_from_scratch(index, tree)
    assert seen in ({}, {"image": 4, "text": 4, "audio": 1})  # as merging left the deleted rows or not


def test_a_folder_that_cannot_be_listed_keeps_its_items(
    tree: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media(tree)
    run(index, tree)
    real = os.scandir

    def failing(path: str) -> Any:
        if str(path).rstrip("/").endswith("/sub"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", failing)
    report = run(index, tree)
    assert (report.unknown, report.unchanged, report.deleted) == (3, 4, 0)
    assert [Path(f.path).name for f in report.failures] == ["sub"]


def test_many_deletions_need_consent_and_moves_do_not(tree: Path, index: Path) -> None:
    for dot in range(20):
        picture(tree / f"a/{dot:02}.png", "red", dot=dot)
    run(index, tree)
    (tree / "a").rename(tree / "b")
    assert cost(index, tree)[0].moved == 20
    for dot in range(12):
        (tree / f"b/{dot:02}.png").unlink()
    before = told(index)
    with pytest.raises(PruneRefused, match="12 of 20") as refused:
        run(index, tree)
    assert "--prune" in (refused.value.hint or "")
    assert told(index) == before
    assert run(index, tree, prune=True).deleted == 12
    assert_as_from_scratch(index, tree)


def test_several_roots_live_side_by_side(tree: Path, tmp_path: Path, index: Path) -> None:
    media(tree)
    other = tmp_path / "other"
    picture(other / "red.png", "black")
    sound(other / "low.wav", 100)
    run(index, tree)
    report = run(index, other)
    assert (report.added, report.items) == (2, 9)
    (other / "low.wav").unlink()
    assert run(index, tree).unchanged == 7
    assert run(index, other).deleted == 1
    assert_as_from_scratch(index, tree, other)
    with pytest.raises(ConfigError, match="inside"):
        run(index, tree / "sub")
    with pytest.raises(ConfigError, match="inside"):
        run(index, tree / "red.png")
    with pytest.raises(ConfigError, match="inside"):
        run(tmp_path / "new", tree, tree / "sub")
    assert run(index, tree, tree).unchanged == 7
    picture(tree / ".hidden/black.png", "black")  # which the walk of the tree leaves out
    assert run(index, tree / ".hidden").items == 9


def test_one_file_and_nothing_as_roots(tree: Path, tmp_path: Path, index: Path) -> None:
    media(tree)
    report = run(index, tree / "red.png")
    assert (report.added, report.segments[Modality.TEXT]) == (1, 1)
    (tree / "red.png").unlink()
    assert run(index, tree / "red.png").unknown == 1
    (tmp_path / "void").mkdir()
    report = run(tmp_path / "new", tmp_path / "void")
    assert (report.items, report.generation) == (0, 1)
    with pytest.raises(ConfigError, match="not there"):
        run(index, tmp_path / "nowhere")


def test_ignored_files_leave_and_come_back(tree: Path, index: Path) -> None:
    media(tree)
    run(index, tree)
    (tree / ".triptychignore").write_text("sub/\n")
    report, seen = cost(index, tree)
    assert (report.deleted, report.unchanged, seen) == (3, 4, {})
    assert_as_from_scratch(index, tree)
    (tree / ".triptychignore").unlink()
    assert cost(index, tree)[0].items == 7
    assert_as_from_scratch(index, tree)


def test_an_index_inside_its_own_root_is_not_indexed(tree: Path) -> None:
    media(tree)
    for place in (tree / ".triptych", tree / "visible"):
        run(place, tree)
        text(place / "stray.txt", "not media")
        assert run(place, tree).unchanged == 7
        shutil.rmtree(place)
