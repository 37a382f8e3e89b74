"""`triptych concept`: its arguments, the marking of hits, and what it says, over an index of toy vectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from indexer.errors import ConfigError, TriptychError
from indexer.snapshot import Snapshot
from indexer.types import Modality, Source
from retrieval.commands import concepts
from retrieval.commands.concepts import (
    concept_json,
    concept_lines,
    concepts_app,
    marked,
    measured_line,
    spread,
    weak_line,
)
from retrieval.query.concepts.concept import Concept, Line, Marked, load, names
from retrieval.query.concepts.probe import Measured
from retrieval.query.searcher import Searcher
from retrieval.types import Hit
from tests.indexer.indexes import update as update_world

WORLD = {f"{letter}.png": f"image{letter}" for letter in "abcdefgh"}


@pytest.fixture
def index(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index whose model is nowhere: what it has vectors of needs none."""
    update_world(tmp_path / "index", WORLD)

    def opened(place: Path, **_: object) -> Searcher:
        return Searcher(Snapshot.open(place), SimpleNamespace(name="toy", space_id="toy-space"))  # type: ignore[arg-type]

    monkeypatch.setattr(Searcher, "open", opened)
    return tmp_path / "index"


def run(index: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(concepts_app, [*arguments, "--index", str(index)])
    if isinstance(result.exception, TriptychError):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("boat --yes a b --no c", "boat --yes a --yes b --no c"),
        ("boat --yes a --yes b", "boat --yes a --yes b"),
        ("--yes a b --index i boat", "--yes a --yes b --index i boat"),
        ("boat --yes=a b --json", "boat --yes=a --yes b --json"),
        ("boat --no c - d", "boat --no c --no - --no d"),
        ("boat --yes", "boat --yes"),
        ("boat --yes --no c", "boat --yes --no c"),
        ("--yes a -- b --no c", "--yes a -- b --no c"),
        ("", ""),
    ],
)
def test_several_values_after_an_option(given: str, meant: str) -> None:
    assert spread(given.split()) == meant.split()


def test_a_name_with_a_space_stays_one_value() -> None:
    assert spread(["x", "--yes", "a b.jpg", "c"]) == ["x", "--yes", "a b.jpg", "--yes", "c"]


def test_learn_list_show_export_import_remove(index: Path, tmp_path: Path) -> None:
    yes = [f"/media/{letter}.png" for letter in "abc"]
    code, out, said = run(index, "learn", "my-boat", "--yes", *yes, "--no", "/media/d.png", "/media/e.png")
    assert (code, out) == (0, "")
    assert "my-boat  image, 3 good, 2 bad, against 3 others of the collection" in said
    assert "search it: triptych search concept:my-boat" in said
    with Snapshot.open(index) as snapshot:
        concept = load(snapshot, "my-boat")
    assert [one.name for one in concept.examples if one.good] == yes
    assert concept.no == 2

    assert run(index, "list")[1].startswith("my-boat  image, 3 good, 2 bad; found ")
    (listed,) = json.loads(run(index, "list", "--json")[1])
    shown = json.loads(run(index, "show", "my-boat", "--json")[1])
    assert listed == shown
    assert (shown["yes"], shown["no"], shown["measured"]["yes"]) == (3, 2, 3)
    assert "  no   /media/e.png" in run(index, "show", "my-boat")[1].splitlines()

    assert run(index, "export", "my-boat", str(tmp_path / "boat.json"))[0] == 0
    assert run(index, "remove", "my-boat")[2] == "removed my-boat\n"
    assert run(index, "list") == (
        0,
        "",
        "there is no concept yet: triptych concept learn NAME --yes a.jpg b.jpg\n",
    )
    run(index, "import", str(tmp_path / "boat.json"))
    with Snapshot.open(index) as snapshot:
        assert names(snapshot) == ["my-boat"]


def test_a_concept_is_replaced_only_when_asked(index: Path) -> None:
    run(index, "learn", "boat", "--yes", "/media/a.png")
    with pytest.raises(TriptychError, match="a concept boat already"):
        run(index, "learn", "boat", "--yes", "/media/b.png")
    run(index, "learn", "boat", "--yes", "/media/b.png", "--replace")
    with Snapshot.open(index) as snapshot:
        assert load(snapshot, "boat").examples[0].name == "/media/b.png"


def test_one_side_only(index: Path) -> None:
    with pytest.raises(TriptychError, match="boat has no good example, only bad ones"):
        run(index, "learn", "boat", "--no", "/media/a.png")
    _, _, said = run(index, "learn", "boat", "--yes", "/media/a.png")
    assert "1 good, 0 bad, against 7 others of the collection\nnot measured" in said


def test_mark_wants_a_terminal(index: Path) -> None:
    with pytest.raises(TriptychError, match="no terminal"):
        run(index, "mark", "boat", "a boat")


def hits(count: int) -> list[Hit]:
    return [
        Hit(rank, f"{rank:032x}", f"/media/{rank}\x1b.png", Modality.IMAGE, Source.FILE, 0.5)
        for rank in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    ("answers", "yes", "no"),
    [
        ("y n s y", [1, 4], [2]),
        ("y q", [1], []),
        ("YES No maybe skip y", [1, 4], [2]),
        ("y", [1], []),  # the end of the input
    ],
)
def test_marking(answers: str, yes: list[int], no: list[int]) -> None:
    given, shown = iter(f"{answer}\n" for answer in answers.split()), list[str]()
    found = marked(hits(4), ask=lambda: next(given, ""), show=shown.append)
    assert found == (yes, no)
    assert shown[0] == "1/4  /media/1\\x1b.png"


def test_marking_learns_from_what_was_marked(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.query.session import last
    from tests.retrieval.test_session import found

    result = found(index, "imageb", k=4)
    monkeypatch.setattr(Searcher, "search", lambda *_, **__: result)
    monkeypatch.setattr(concepts, "_at_terminal", lambda: True)
    answers = iter(["y", "n", "s", "y"])
    monkeypatch.setattr(concepts, "_ask", lambda: next(answers))
    assert run(index, "mark", "boat", "a boat")[0] == 0
    with Snapshot.open(index) as snapshot:
        concept = load(snapshot, "boat")
    marks = [(one.content, one.good) for one in concept.examples]
    kept = [hit.content.hex() for hit in last().hits]
    assert marks == [(kept[0], True), (kept[3], True), (kept[1], False)]


def test_what_was_measured_in_words() -> None:
    line = measured_line(Measured(yes=10, yes_found=8, no=2, no_found=1, others=100, others_found=1))
    assert line == (
        "found 8 of 10 good ones that were left out (recall 0.80, 95 % interval 0.49-0.94), 1 of 2 bad ones,"
        " 1 of 100 others, which may be good too (precision at least 0.80, 0.49-0.94)"
    )
    nothing = measured_line(Measured(yes=2, yes_found=0, no=0, no_found=0, others=9, others_found=0))
    assert nothing.endswith("(recall 0.00, 95 % interval 0.00-0.66), 0 of 9 others, which may be good too")
    missed = measured_line(Measured(yes=2, yes_found=0, no=0, no_found=0, others=9, others_found=1))
    assert missed.endswith(
        "1 of 9 others, which may be good too"
    )  # the precision of no right one says nothing
    assert measured_line(None) == "not measured: that takes two good examples"


def mixed(sounds_found: int) -> Concept:
    """A concept of two pictures and three sounds, of which so many were found."""
    of_each = {
        Modality.IMAGE: Measured(2, 2, 0, 0, 50, 1),
        Modality.AUDIO: Measured(3, sounds_found, 0, 0, 20, 0),
    }
    kinds = [Modality.AUDIO] * 3 + [Modality.IMAGE] * 2
    marked_ones = tuple(Marked(f"{n}", True, one, "00" * 16, True) for n, one in enumerate(kinds))
    line = Line(1.0, 0.0)
    whole = Measured(5, 2 + sounds_found, 0, 0, 70, 1)
    lines = {Modality.IMAGE: line, Modality.AUDIO: line}
    return Concept("purr", "s", None, np.ones(1, np.float32), lines, marked_ones, 70, whole, of_each)


def test_a_modality_none_of_which_was_found_is_warned_of() -> None:
    assert weak_line(mixed(1)) is None
    line = weak_line(mixed(0))
    assert line is not None
    assert line.startswith("warning: no audio example would be taken for purr")
    none = replace(mixed(0), measured=Measured(5, 0, 0, 0, 70, 1))
    assert (weak_line(none) or "").startswith("warning: no example would be taken for purr")
    lines = concept_lines(mixed(0))
    assert lines[0].startswith("purr  audio and image, 5 good")
    assert [one.split(";")[0] for one in lines if one.startswith("  audio: found 0 of 3")]
    assert concept_json(mixed(0))["measured_of"]["audio"]["yes"] == 3


def test_learning_warns_on_stderr(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concepts, "weak_line", lambda _: "warning: none was found")
    code, out, said = run(index, "learn", "boat", "--yes", "/media/a.png", "/media/b.png", "--json")
    assert (code, said) == (0, "warning: none was found\n")
    assert json.loads(out)["name"] == "boat"


def test_an_export_into_no_folder_names_the_folder(index: Path, tmp_path: Path) -> None:
    run(index, "learn", "boat", "--yes", "/media/a.png")
    with pytest.raises(ConfigError, match="there is no folder"):
        run(index, "export", "boat", str(tmp_path / "none" / "boat.json"))


def test_the_command_itself(tmp_path: Path, home: Path) -> None:
    """Through the real program: the group is there, and an error is one line and exit code 2."""
    program = str(Path(sys.executable).parent / "triptych")
    done = subprocess.run(
        [program, "concept", "learn", "x", "--no", "a", "--index", str(tmp_path)],
        env=os.environ | {"TRIPTYCH_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
