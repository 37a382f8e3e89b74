"""Updates end to end with the toy encoder: what is encoded, what is kept, what is reported.

Whatever an index went through, it must tell the same as one built from scratch of the same tree.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from indexer.build import BuildOptions, UpdateReport, forget, update
from indexer.diff import DIRTY
from indexer.errors import CommitConflict, ConfigError, MediaError, PruneRefused, SpaceMismatch
from indexer.media.prepare import prepare_file, prepare_text
from indexer.media.workers import Chunk, Failed, Finished, Job
from indexer.report import Committed, Event, FileFailed, Planned, Progress
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import Item, Modality
from indexer.verify import verify
from tests.toy import COLOURS, ToyEncoder, toy_encoders, word_vector

REPOSITORY = Path(__file__).parent.parent.parent
OPTIONS = BuildOptions(model="toy", workers=1)
OLD = 1_600_000_000_000_000_000  # ns: long before any test


class InlinePool:
    """Decodes in the test's own process, which saves starting workers; same outcomes, one job at a time."""

    def __init__(self, preparers: Mapping[Modality, Any], **_: object) -> None:
        self.preparers = preparers

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(self, jobs: Iterable[Job]) -> Iterator[Chunk | Finished | Failed]:
        for job in jobs:
            preparer = self.preparers[job.modality]
            size = mtime_ns = 0
            try:
                if job.path is None:
                    prepared = list(prepare_text(job.text or "", preparer))
                else:
                    status = Path(job.path).stat()
                    size, mtime_ns = status.st_size, status.st_mtime_ns
                    prepared = list(prepare_file(job.path, job.modality, preparer))
            except (MediaError, OSError) as error:
                yield Failed(job.id, str(error))
            else:
                yield Chunk(job.id, prepared)
                yield Finished(job.id, size, mtime_ns)


@pytest.fixture(autouse=True)
def decoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inline, but for tests that ask for real `workers`."""
    if "workers" not in request.fixturenames:
        monkeypatch.setattr("indexer.build.DecodePool", InlinePool)


@pytest.fixture
def workers() -> None:
    """Decode in real worker processes."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


def picture(path: Path, colour: str, *, dot: int = 0) -> Path:
    """A picture of one colour; `dot` tells pictures of that colour apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (24, 16), colour)
    image.putpixel((0, 0), (dot % 256, dot // 256, 7))
    image.save(path, "PNG")
    return aged(path)


def text(path: Path, words: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words)
    return aged(path)


def sound(path: Path, hertz: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.sin(np.arange(8000) * 2 * np.pi * hertz / 8000) * 20_000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.astype("<i2").tobytes())
    return aged(path)


def aged(path: Path, ns: int = OLD) -> Path:
    os.utime(path, ns=(ns, ns))
    return path


def run(
    index: Path, *sources: Path, encoders: Mapping[Modality, Any] | None = None, **options: Any
) -> UpdateReport:
    return update(index, sources, encoders=encoders or toy_encoders(), options=replace(OPTIONS, **options))


def cost(index: Path, *sources: Path, **options: Any) -> tuple[UpdateReport, dict[str, int]]:
    """An update, and how many segments each encoder saw, by its own count."""
    encoders = toy_encoders()
    report = run(index, *sources, encoders=encoders, **options)
    seen = {str(modality): encoder.encoded for modality, encoder in encoders.items() if encoder.encoded}
    assert seen == {str(modality): count for modality, count in report.encoded.items() if count}
    return report, seen


def items(index: Path) -> dict[str, Item]:
    with Snapshot.open(index) as snapshot:
        return {item.path: item for item in snapshot.item_list()}


def told(index: Path) -> tuple[Any, ...]:
    """All that an index tells: its items, and what each query finds, with scores and ranges."""
    with Snapshot.open(index) as snapshot:
        table = sorted(
            (
                i.id,
                i.path,
                tuple((m.path, m.content_hash, m.error) for m in i.members),
                sorted(i.metadata.items()),
            )
            for i in snapshot.item_list()
        )
        answers = []
        for word in [*COLOURS, "cow", "high"]:
            for modality in Modality:
                hits = snapshot.search(modality, word_vector(word), 10_000)
                segments = snapshot.segments(hits)
                owners = snapshot.items_of({(s.content_hash, s.modality, s.source) for s in segments})
                answers.append(
                    [
                        (s.content_hash, s.source, s.range, s.text, round(float(score), 6),
                         sorted(i.path for i in owners[(s.content_hash, s.modality, s.source)]))
                        for s, score in zip(segments, hits.score, strict=True)
                    ]
                )  # fmt: skip
        return table, answers, snapshot.counts


def assert_as_from_scratch(index: Path, *sources: Path) -> None:
    fresh = index.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    run(fresh, *sources)
    assert told(index) == told(fresh)


def media(tree: Path) -> None:
    """Four pictures, one of them twice and two with captions, a sound, a text: 5 + 3 + 1 contents."""
    picture(tree / "red.png", "red")
    text(tree / "red.txt", "a red cow")
    picture(tree / "green.png", "green")
    picture(tree / "sub/green again.png", "green")
    picture(tree / "sub/blue.png", "blue")
    text(tree / "sub/blue.txt", "a blue sky")
    picture(tree / "sub/white.png", "white")
    sound(tree / "high.wav", 2000)
    text(tree / "notes.txt", "cow and sky " * 20)


def test_a_first_run_and_an_unchanged_one(tree: Path, index: Path, workers: None) -> None:
    media(tree)
    report, seen = cost(index, tree)
    assert (report.added, report.items, report.failed, report.committed) == (7, 7, 0, True)
    assert seen == {"image": 4, "text": 4, "audio": 1}  # the notes are two segments; green is encoded once
    assert report.segments == {Modality.IMAGE: 4, Modality.TEXT: 4, Modality.AUDIO: 1}
    again, seen = cost(index, tree)
    assert (again.unchanged, again.committed, seen) == (7, False, {})
    assert again.generation == report.generation
    with Snapshot.open(index) as snapshot:
        best = snapshot.segments(snapshot.search(Modality.IMAGE, word_vector("red"), 1))[0]
        assert best.content_hash == items(index)["red.png"].members[0].content_hash


def test_additions_changes_and_deletions(tree: Path, index: Path) -> None:
    media(tree)
    run(index, tree)
    picture(tree / "black.png", "black")
    aged(picture(tree / "red.png", "blue", dot=3), OLD + 1)
    (tree / "notes.txt").unlink()
    report, seen = cost(index, tree)
    assert (report.added, report.changed, report.deleted, report.unchanged) == (1, 1, 1, 5)
    assert seen == {"image": 2}
    assert_as_from_scratch(index, tree)


def test_a_touch_costs_a_hash_and_no_encoding(tree: Path, index: Path) -> None:
    media(tree)
    run(index, tree)
    for path in tree.rglob("*.*"):
        aged(path, OLD + 10**9)
    report, seen = cost(index, tree)
    assert (report.touched, report.committed, seen) == (7, True, {})
    assert cost(index, tree)[0].unchanged == 7
    assert_as_from_scratch(index, tree)


def test_moves_and_copies_cost_no_encoding(tree: Path, index: Path) -> None:
    media(tree)
    run(index, tree)
    (tree / "sub").rename(tree / "other")
    (tree / "red.png").rename(tree / "crimson.png")
    (tree / "red.txt").rename(tree / "crimson.txt")
    shutil.copy2(tree / "high.wav", tree / "twin.wav")
    report, seen = cost(index, tree)
    assert (report.moved, report.copied, report.added, report.deleted) == (4, 1, 0, 0)
    assert seen == {}
    assert_as_from_scratch(index, tree)


def test_what_was_deleted_and_comes_back_costs_no_encoding(tree: Path, index: Path) -> None:
    media(tree)
    run(index, tree)
    (tree / "red.png").rename(tree.parent / "kept.png")
    assert run(index, tree).deleted == 1
    (tree.parent / "kept.png").rename(tree / "red.png")
    report, seen = cost(index, tree)
    assert (report.added + report.changed, seen.get("image", 0)) == (1, 0)
    assert_as_from_scratch(index, tree)


def test_a_caption_comes_changes_and_goes(tree: Path, index: Path) -> None:
    picture(tree / "a.png", "red")
    run(index, tree)
    text(tree / "a.txt", "one")
    report, seen = cost(index, tree)
    assert (report.changed, seen) == (1, {"text": 1})
    text(tree / "a.txt", "other words")
    assert cost(index, tree)[1] == {"text": 1}
    assert_as_from_scratch(index, tree)
    (tree / "a.txt").unlink()
    assert cost(index, tree)[1] == {}
    assert_as_from_scratch(index, tree)
    assert run(index, tree).unchanged == 1


def test_bad_files_cost_one_line_each_and_shift_nothing(tree: Path, index: Path, workers: None) -> None:
    media(tree)
    text(tree / "text.jpg", "no picture")
    aged(tree / "text.jpg")
    (tree / "zero.png").write_bytes(b"")
    whole = (tree / "red.png").read_bytes()
    (tree / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tree / "noise.ogg").write_bytes(b"OggS" + bytes(100))
    text(tree / "sub/white.txt", " ")  # an empty caption costs the caption, not the picture
    for name in ("zero.png", "cut.png", "noise.ogg"):
        aged(tree / name)
    events: list[Event] = []
    report = update(index, [tree], encoders=toy_encoders(), options=OPTIONS, on_event=events.append)
    failed = {Path(event.path).name for event in events if isinstance(event, FileFailed)}
    assert failed == {"text.jpg", "zero.png", "cut.png", "noise.ogg", "white.txt"}
    assert sorted(report.failures, key=str) == sorted(
        (e for e in events if isinstance(e, FileFailed)), key=str
    )
    rows = items(index)
    assert {path for path, item in rows.items() if item.failed} == {
        "text.jpg",
        "zero.png",
        "cut.png",
        "noise.ogg",
    }
    assert [e.done for e in events if isinstance(e, Progress)] == list(range(1, 12))
    again, seen = cost(index, tree)
    assert (again.failed, again.failed_before, again.unchanged, seen) == (0, 5, 11, {})
    aged(tree / "cut.png", OLD + 1)  # a touch alone is no reason to try again
    again = run(index, tree)
    assert (again.failed, again.failed_before, again.touched) == (0, 5, 1)
    assert run(index, tree, retry_failed=True).failed == 5
    (tree / "cut.png").write_bytes(whole)
    again, seen = cost(index, tree)
    assert (again.changed, again.failed_before, seen) == (1, 4, {})
    for name in ("text.jpg", "zero.png", "noise.ogg", "sub/white.txt"):
        (tree / name).unlink()
    run(index, tree)
    assert_as_from_scratch(index, tree)


def test_names_survive_to_the_byte(tree: Path, index: Path, workers: None) -> None:
    names = [b"new\nline.png", b"quo\"te'.png", b"bad\xff\xfe.png", b"\x1b[31m.png", "süß.png".encode()]
    for dot, name in enumerate(names):
        picture(tree / os.fsdecode(name), "red", dot=dot)
    assert run(index, tree).failed == 0
    assert sorted(os.fsencode(path) for path in items(index)) == sorted(names)
    assert run(index, tree).unchanged == len(names)


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


def test_a_file_written_within_the_tick_is_hashed_again(tree: Path, index: Path) -> None:
    path = text(tree / "a.txt", "red one")
    path.write_text("red two")
    stamp = path.stat().st_mtime_ns
    run(index, tree)
    assert items(index)["a.txt"].members[0].mtime_ns == DIRTY
    assert run(index, tree).unchanged == 1
    path.write_text("red six")  # same size, and the same time, as on a clock with long ticks
    aged(path, stamp)
    report, seen = cost(index, tree)
    assert (report.changed, seen) == (1, {"text": 1})
    aged(path)
    run(index, tree)
    assert items(index)["a.txt"].members[0].mtime_ns == OLD
    assert_as_from_scratch(index, tree)


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


def test_a_missing_encoder_leaves_its_media_alone(tree: Path, index: Path) -> None:
    media(tree)
    two = {m: e for m, e in toy_encoders().items() if m is not Modality.AUDIO}
    report = run(index, tree, encoders=two)
    assert (report.added, report.skipped) == (6, {Modality.AUDIO: 1})
    report, seen = cost(index, tree)
    assert (report.added, report.unchanged, seen) == (1, 6, {"audio": 1})
    sound(tree / "high.wav", 1000)
    aged(tree / "high.wav", OLD + 1)
    report = run(index, tree, encoders=two)
    assert (report.unknown, report.deleted, report.committed) == (1, 0, False)
    run(index, tree)
    assert_as_from_scratch(index, tree)


def test_another_models_vectors_are_refused(tree: Path, index: Path) -> None:
    media(tree)
    run(index, tree)
    strange = {m: replace(e, space_id="f" * 64) for m, e in toy_encoders().items()}
    with pytest.raises(SpaceMismatch, match="toy"):
        run(index, tree, encoders=strange)
    mixed = toy_encoders() | {Modality.AUDIO: strange[Modality.AUDIO]}
    with pytest.raises(SpaceMismatch, match="2 spaces"):
        run(index.with_name("new"), tree, encoders=mixed)


def test_vectors_that_are_not_finite_cost_their_own_file_only(tree: Path, index: Path) -> None:
    class Sick(ToyEncoder):
        def encode(self, tensors: Any) -> Any:
            vectors = super().encode(tensors)
            vectors[[i for i, t in enumerate(tensors) if t[0, 8 // 2, 4].tolist() == [0, 0, 255]]] = np.nan
            return vectors

    media(tree)
    report = run(index, tree, encoders=toy_encoders() | {Modality.IMAGE: Sick(Modality.IMAGE)})
    assert [Path(f.path).name for f in report.failures] == ["blue.png"]
    assert report.segments[Modality.IMAGE] == 3


def rows(tree: Path) -> list[dict[str, str]]:
    picture(tree / "m/red.png", "red")
    picture(tree / "m/blue.png", "blue")
    sound(tree / "m/high.wav", 2000)
    return [
        {"id": "r", "image": "red.png", "text": "a red cow", "audio": "high.wav", "label": "animal"},
        {"id": "b", "image": "blue.png", "text": "", "audio": "", "label": "sky"},
        {"id": "w", "image": "", "text": "white words", "audio": "", "label": ""},
    ]


def write_manifest(path: Path, table: list[dict[str, str]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        pq.write_table(pa.Table.from_pylist(table), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_manifest_is_a_root(tree: Path, index: Path, suffix: str) -> None:
    table = rows(tree)
    manifest = write_manifest(tree / f"m/list{suffix}", table)
    report, seen = cost(index, manifest)
    assert (report.added, seen) == (3, {"image": 2, "text": 2, "audio": 1})
    assert {path: dict(item.metadata) for path, item in items(index).items()} == {
        "r": {"label": "animal"},
        "b": {"label": "sky"},
        "w": {},
    }
    assert run(index, manifest).unchanged == 3
    table[0]["label"] = "beast"
    table[2]["text"] = "black words"
    (tree / "m/blue.png").rename(tree / "blue.png")
    write_manifest(manifest, table)
    report, seen = cost(index, manifest)
    assert (report.touched, report.changed, report.unknown, seen) == (1, 1, 1, {"text": 1})
    assert "row 2" in report.failures[0].path
    (tree / "blue.png").rename(tree / "m/blue.png")
    write_manifest(manifest, table[:2])
    assert run(index, manifest).deleted == 1
    assert_as_from_scratch(index, manifest)


def test_forget_takes_items_out_of_the_files(tree: Path, tmp_path: Path, index: Path) -> None:
    media(tree)
    text(tree / "secret/word.txt", "xyzzyplugh")
    other = tmp_path / "other"
    picture(other / "green.png", "green")
    manifest = write_manifest(tmp_path / "list.jsonl", [{"id": "s", "text": "frobozz"}])
    run(index, tree, other, manifest)
    assert forget(index, [tmp_path / "nowhere"]) == 0
    assert forget(index, [tree / "secret", tree / "green.png", manifest]) == 3
    assert set(items(index)) == {"red.png", "sub/green again.png", "sub/blue.png", "sub/white.png"} | {
        "high.wav", "notes.txt", "green.png",
    }  # fmt: skip
    data = b"".join(path.read_bytes() for path in index.rglob("*.parquet"))
    assert b"xyzzyplugh" not in data
    with Snapshot.open(index) as snapshot:
        assert {Path(root.path).name for root in snapshot.roots.values()} == {"tree", "other"}
        assert snapshot.counts[Modality.IMAGE] == 4
        assert len(snapshot.keys()) == sum(snapshot.counts.values()) - 1  # the notes are two segments
    shutil.rmtree(tree / "secret")
    (tree / "green.png").unlink()
    assert_as_from_scratch(index, tree, other)
    assert forget(index, [other]) == 1
    assert_as_from_scratch(index, tree)


def test_events_say_how_far_it_is(tree: Path, index: Path) -> None:
    media(tree)
    events: list[Event] = []
    update(index, [tree], encoders=toy_encoders(), options=OPTIONS, on_event=events.append)
    assert events[0] == Planned(total=7, unchanged=0, gone=0)
    assert events[-1] == Committed(generation=1, segments=9)
    assert [event for event in events if isinstance(event, Progress)][-1] == Progress(7, 7, 9)


def test_an_index_inside_its_own_root_is_not_indexed(tree: Path) -> None:
    media(tree)
    for place in (tree / ".triptych", tree / "visible"):
        run(place, tree)
        text(place / "stray.txt", "not media")
        assert run(place, tree).unchanged == 7
        shutil.rmtree(place)
