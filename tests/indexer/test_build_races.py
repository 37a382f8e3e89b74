"""Updates while files change, while others write, and after a run was stopped: nothing is lost or doubled."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from indexer.build import UpdateReport, update
from indexer.errors import CommitConflict
from indexer.report import Committed, Event
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import Modality
from indexer.verify import verify
from tests.indexer.trees import (
    OLD,
    OPTIONS,
    REPOSITORY,
    aged,
    assert_as_from_scratch,
    cost,
    items,
    media,
    picture,
    run,
    text,
)
from tests.toy import ToyEncoder, toy_encoders

pytestmark = pytest.mark.usefixtures("decoding")


class Meddler(ToyEncoder):
    """Runs something when it first encodes: a user who edits while the index is built."""

    def __init__(self, modality: Modality, deed: Callable[[], object], times: int = 1) -> None:
        super().__init__(modality, batch_size=1)
        self.deed = deed
        self.times = times

    def encode(self, tensors: Any) -> Any:
        if self.times:
            self.times -= 1
            self.deed()
        return super().encode(tensors)


def test_a_file_that_changes_while_it_is_indexed_is_read_again(
    tree: Path, index: Path, workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    media(tree)
    from indexer import build

    real = build.hash_items

    def growing(pending: Any, **kwargs: Any) -> Iterator[Any]:
        for item in real(pending, **kwargs):
            if item.pending.found.path == "notes.txt" and kwargs.get("trust", True):
                text(tree / "notes.txt", "new words, hashed no more")
                aged(tree / "notes.txt", OLD + 5)
            yield item

    monkeypatch.setattr(build, "hash_items", growing)
    report = run(index, tree)
    assert (report.failed, report.added) == (0, 7)
    monkeypatch.undo()
    assert run(index, tree).unchanged == 7
    assert_as_from_scratch(index, tree)


def test_a_file_that_never_rests_is_reported_and_tried_next_time(
    tree: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media(tree)
    from indexer import build

    real = build.hash_items

    def growing(pending: Any, **kwargs: Any) -> Iterator[Any]:
        for item in real(pending, **kwargs):
            if item.pending.found.path == "notes.txt":
                with (tree / "notes.txt").open("a") as file:
                    file.write("and more ")
            yield item

    monkeypatch.setattr(build, "hash_items", growing)
    report = run(index, tree)
    assert [(Path(f.path).name, f.reason) for f in report.failures] == [
        ("notes.txt", "changed while it was read")
    ]
    assert items(index)["notes.txt"].members[0].error == "changed while it was read"
    monkeypatch.undo()
    aged(tree / "notes.txt")
    assert run(index, tree).changed == 1
    assert_as_from_scratch(index, tree)


def test_a_file_that_vanishes_is_reported_and_deleted_next_time(
    tree: Path, index: Path, workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    media(tree)
    from indexer import build

    real = build.hash_items

    def vanishing(pending: Any, **kwargs: Any) -> Iterator[Any]:
        for item in real(pending, **kwargs):
            (tree / "notes.txt").unlink(missing_ok=True)
            yield item

    monkeypatch.setattr(build, "hash_items", vanishing)
    report = run(index, tree)
    assert [Path(f.path).name for f in report.failures] == ["notes.txt"]
    monkeypatch.undo()
    assert run(index, tree).deleted == 1
    assert_as_from_scratch(index, tree)


KILLED = """
import os, signal, sys
from pathlib import Path
from indexer.build import BuildOptions, update
from indexer.report import Committed
from tests.toy import toy_encoders

def stop(event):
    if isinstance(event, Committed) and event.generation == 2:
        os.kill(os.getpid(), getattr(signal, sys.argv[3]))

options = BuildOptions(model="toy", workers=1, commit_segments=10)
update(Path(sys.argv[1]), [Path(sys.argv[2])], encoders=toy_encoders(), options=options, on_event=stop)
"""


@pytest.mark.parametrize("blow", ["SIGKILL", "SIGINT"])
def test_a_run_that_is_stopped_loses_little(tree: Path, index: Path, blow: str) -> None:
    for dot in range(60):
        picture(tree / f"{dot:02}.png", "red", dot=dot)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(index), str(tree), blow],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -getattr(signal, blow) or "KeyboardInterrupt" in ended.stderr
    done = items(index)
    assert 16 <= len(done) < 60
    with Snapshot.open(index) as snapshot:
        assert snapshot.counts[Modality.IMAGE] == len(done)
    report, seen = cost(index, tree)
    assert (report.unchanged, seen) == (len(done), {"image": 60 - len(done)})
    assert_as_from_scratch(index, tree)


def test_an_unchanged_run_cleans_up_after_a_writer_that_died(tree: Path, index: Path) -> None:
    media(tree)
    run(index, tree)
    dead = index / "staging" / ("d" * 16)
    dead.mkdir()
    (dead / "lease.lock").touch()
    assert any("has no writer" in problem for problem in verify(index).problems)
    assert not run(index, tree).committed
    assert verify(index).problems == []


def test_a_long_medium_is_never_committed_in_half(tree: Path, index: Path) -> None:
    text(tree / "long.txt", " ".join(f"word{i}" for i in range(32 * 50)))
    for dot in range(6):
        picture(tree / f"{dot}.png", "red", dot=dot)
    seen: list[tuple[bool, int]] = []

    def look(event: Event) -> None:
        if isinstance(event, Committed):
            with Snapshot.open(index) as snapshot:
                has = any(item.path == "long.txt" for item in snapshot.item_list())
                seen.append((has, snapshot.counts[Modality.TEXT]))

    options = replace(OPTIONS, commit_segments=2)
    update(index, [tree], encoders=toy_encoders(), options=options, on_event=look)
    assert len(seen) > 2
    assert {count for has, count in seen if has} == {50}
    assert {count for has, count in seen if not has} <= {0}
    assert_as_from_scratch(index, tree)


def test_two_updates_at_once_keep_each_others_work(
    tree: Path, tmp_path: Path, index: Path, workers: None
) -> None:
    """The second run takes place while the first is encoding, so the first must lay its work over it."""
    media(tree)
    other = tmp_path / "other"
    picture(other / "black.png", "black")
    picture(other / "green.png", "green")  # which the first run has too
    inner: list[UpdateReport] = []
    encoders: dict[Modality, Any] = dict(toy_encoders())
    encoders[Modality.IMAGE] = Meddler(Modality.IMAGE, lambda: inner.append(run(index, other)))
    report = run(index, tree, encoders=encoders)
    assert (inner[0].added, inner[0].generation, report.added, report.generation) == (2, 1, 7, 2)
    assert_as_from_scratch(index, tree, other)
    assert run(index, tree, other).unchanged == 9


def test_two_updates_of_one_root_at_once(tree: Path, index: Path) -> None:
    media(tree)
    encoders: dict[Modality, Any] = dict(toy_encoders())
    encoders[Modality.IMAGE] = Meddler(Modality.IMAGE, lambda: run(index, tree))
    run(index, tree, encoders=encoders)
    with Snapshot.open(index) as snapshot:
        assert snapshot.counts == {Modality.IMAGE: 4, Modality.TEXT: 4, Modality.AUDIO: 1}
        assert sum(part.rows for part in snapshot.generation.parts) == 9  # nothing was stored twice
    assert_as_from_scratch(index, tree)


def test_a_run_gives_up_when_others_keep_committing(
    tree: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media(tree)

    def lose(*_: object, **__: object) -> None:
        raise CommitConflict("another writer was first")

    monkeypatch.setattr(Writer, "commit", lose)
    with pytest.raises(CommitConflict, match="5 times"):
        run(index, tree)
