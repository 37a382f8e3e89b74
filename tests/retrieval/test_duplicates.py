"""`triptych duplicates`: groups of files, which of them is best, and every form of its output."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from indexer.generation import Root, Space
from indexer.likeness import Nearness
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.twins import Twins, TwinsDerivation
from indexer.types import Item, Member, Modality, Range, Segment, Source
from retrieval.commands.duplicates import duplicates
from retrieval.query.duplicates import DuplicateFile, duplicate_groups

DIM = 16
FOLDER, OTHER = Root("a" * 16, "/media", "folder"), Root("b" * 16, "/media/more", "folder")
MANIFEST = Root("c" * 16, "/media/rows.csv", "manifest")
BAD = os.fsdecode(b"gr\xfcn.jpg")  # a name that is not UTF-8


def content(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def item(
    path: str, name: str, size: int, modality: Modality = Modality.IMAGE, *, root: Root = FOLDER
) -> Item:
    member = Member(modality, Source.FILE, path, size, 7, content(name))
    number = f"{root.id}{os.fsencode(path).hex()}".ljust(32, "0")[-32:]
    return Item(number, root.id, path, (member,))


def segment(name: str, modality: Modality, word: int, end: float = 0.0) -> Segment:
    span = Range(0.0, end) if modality is Modality.AUDIO else None
    return Segment(content(name), modality, Source.FILE, span, phash=word)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    place = tmp_path / "index"
    pictures = [("a", 0, 1), ("b", 0, 3), ("c", 0, 2), ("d", 5, 1 << 40), ("e", 6, 1 << 50)]
    sounds = [("s", 3, 9.0), ("t", 3, 9.1)]
    segments = [segment(name, Modality.IMAGE, word) for name, _, word in pictures]
    segments += [segment(name, Modality.AUDIO, 7, end) for name, _, end in sounds]
    axes = [axis for _, axis, _ in pictures] + [axis for _, axis, _ in sounds]
    items = [
        item("small.jpg", "a", 100),
        item("large.jpg", "b", 300),
        item(BAD, "c", 200),
        item("alone.jpg", "d", 900),
        item("more/e1.jpg", "e", 50),
        item("more/e2.jpg", "e", 50),
        item("e1.jpg", "e", 50, root=OTHER),  # the same file again, by another root
        item("short.wav", "s", 5000, Modality.AUDIO),
        item("long.wav", "t", 10, Modality.AUDIO),
    ]
    caption = Member(Modality.TEXT, Source.CAPTION, None, 5, 0, content("words"), text="words")
    items += [Item(f"{number:032x}", MANIFEST.id, f"row {number}", (caption,)) for number in (1, 2)]
    words = Segment(content("words"), Modality.TEXT, Source.CAPTION, None, "words")
    with Writer.open(place, create=True) as writer:
        vectors = np.eye(DIM, dtype=np.float32)[[*axes, 8]]
        part = writer.add_part([*segments, words], vectors, space_id="space")
        roots, spaces = [FOLDER, OTHER, MANIFEST], {"space": Space("toy", DIM)}
        writer.commit(None, roots=roots, items=items, spaces=spaces, parts=[part])
    return place


def derive(index: Path) -> None:
    with Writer.open(index) as writer:
        parent = writer.current()
        assert parent is not None
        writer.derive(parent, [TwinsDerivation(Nearness())])


def run(index: Path, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(duplicates)
    return CliRunner().invoke(app, ["--index", str(index), *arguments])


def test_groups_are_told_with_the_best_first(index: Path) -> None:
    derive(index)
    with Snapshot.open(index) as snapshot:
        twins = Twins.open(snapshot)
        found = duplicate_groups(snapshot, twins)
        only = duplicate_groups(snapshot, twins, modalities=[Modality.AUDIO])
    assert [(group.modality, [file.path for file in group.files]) for group in found] == [
        (Modality.IMAGE, ["/media/large.jpg", f"/media/{BAD}", "/media/small.jpg"]),  # as large a picture
        (Modality.AUDIO, ["/media/long.wav", "/media/short.wav"]),  # longer, though a smaller file
        (Modality.IMAGE, ["/media/more/e1.jpg", "/media/more/e2.jpg"]),
    ]
    assert [group.exact for group in found] == [False, False, True]
    assert only == found[1:2]


def test_more_pixels_are_better_than_a_larger_file() -> None:
    def file(path: str, size: int, width: int | None, height: int | None) -> DuplicateFile:
        return DuplicateFile(path, path, size, b"", width, height)

    files = [file("d", 9, 10, 10), file("c", 1, 20, 20), file("b", 9, None, None), file("a", 9, 10, 10)]
    assert [one.path for one in sorted(files, key=lambda one: one.order)] == ["c", "a", "d", "b"]


def test_an_index_without_groups_gives_exact_copies_and_says_so(index: Path) -> None:
    done = run(index, "--json")
    assert done.exit_code == 0
    (group,) = json.loads(done.stdout)
    assert group["exact"] is True
    assert [file["path"] for file in group["files"]] == ["/media/more/e1.jpg", "/media/more/e2.jpg"]
    assert "run `triptych index` once" in done.stderr
    derive(index)
    assert "triptych index" not in run(index).stderr


def test_the_forms_of_output(index: Path) -> None:
    derive(index)
    lines = run(index).stdout.splitlines()
    assert lines[0] == "3 alike (image)"
    assert lines[2].endswith("/media/gr\\xfcn.jpg")
    assert [line.split()[-1] for line in lines if line.endswith(".wav")] == [
        "/media/long.wav",
        "/media/short.wav",
    ]
    assert "2 copies (image)" in lines
    assert lines.count("") == 2  # between groups
    assert "3 groups; beside the best of each 4 files, " in run(index).stderr
    rest = [b"/media/gr\xfcn.jpg", b"/media/small.jpg", b"/media/short.wav", b"/media/more/e2.jpg"]
    assert run(index, "--paths").stdout_bytes == b"".join(path + b"\n" for path in rest)
    assert run(index, "-0").stdout_bytes == b"".join(path + b"\0" for path in rest)
    assert run(index, "-0", "--in", "audio").stdout_bytes == b"/media/short.wav\0"
    found = json.loads(run(index, "--json", "--in", "image").stdout)
    assert found[0]["files"][1]["path_bytes"] == b"/media/gr\xfcn.jpg".hex()
    assert [file["size"] for file in found[0]["files"]] == [300, 200, 100]
    seconds = json.loads(run(index, "--json", "--in", "audio").stdout)[0]["files"]
    assert [file["seconds"] for file in seconds] == [9.1, 9.0]


def test_nothing_alike_and_two_forms(index: Path) -> None:
    done = run(index, "--in", "text")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "no duplicates" in done.stderr
    assert run(index, "--json", "-0").exit_code == 1  # an error that cli.py shows
    assert "two output formats" in str(run(index, "--json", "-0").exception)
