"""Updates end to end with the toy encoder: what is encoded, what is kept, what is reported.

Whatever an index went through, it must tell the same as one built from scratch of the same tree.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.build import update
from indexer.errors import SpaceMismatch
from indexer.report import Committed, Event, FileFailed, Planned, Progress
from indexer.snapshot import Snapshot
from indexer.types import Modality
from tests.indexer.trees import (
    OLD,
    OPTIONS,
    aged,
    assert_as_from_scratch,
    cost,
    items,
    media,
    picture,
    run,
    sound,
    text,
)
from tests.toy import ToyEncoder, toy_encoders, word_vector

pytestmark = pytest.mark.usefixtures("decoding")


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


def test_a_file_written_within_the_tick_is_hashed_again(tree: Path, index: Path) -> None:
    path = text(tree / "a.txt", "red one")
    path.write_text("red two")
    stamp = path.stat().st_mtime_ns
    run(index, tree)
    assert items(index)["a.txt"].members[0].mtime_ns == -stamp
    assert run(index, tree).unchanged == 1
    path.write_text("red six")  # same size, and the same time, as on a clock with long ticks
    aged(path, stamp)
    report, seen = cost(index, tree)
    assert (report.changed, seen) == (1, {"text": 1})
    aged(path)
    run(index, tree)
    assert items(index)["a.txt"].members[0].mtime_ns == OLD
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


def test_events_say_how_far_it_is(tree: Path, index: Path) -> None:
    media(tree)
    events: list[Event] = []
    update(index, [tree], encoders=toy_encoders(), options=OPTIONS, on_event=events.append)
    assert events[0] == Planned(total=7, unchanged=0, gone=0)
    assert events[-1] == Committed(generation=1, segments=9)
    assert [event for event in events if isinstance(event, Progress)][-1] == Progress(7, 7, 9)
