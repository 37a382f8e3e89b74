"""An index is committed before it is registered: a registry that fails costs a warning, not the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from indexer.report import Event, UpdateReport, Warned
from retrieval import indexing, places
from retrieval.config import Settings
from retrieval.indexing import update_index
from retrieval.runtime.choose import Choice, Engine, Placement, Precision
from tests.toy import DIM, SPACE, toy_encoders


class ToyModel:
    """As much of a model as an update asks of it."""

    name, space_id, dim, modalities = "toy", SPACE, DIM, tuple(toy_encoders())
    note: str | None = None  # what every tower's runtime has to say

    def for_indexing(self, placement: Placement, *, note: Any) -> ToyModel:
        self.placement, self.hears = placement, note
        return self

    def choices(self) -> dict[Any, Choice]:
        choice = Choice(Engine.ONNX, Precision.F32, note=self.note)
        return dict.fromkeys(self.modalities, choice)

    def tower(self, modality: Any) -> Any:
        return toy_encoders()[modality]


@pytest.fixture
def notes(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(indexing, "_model_for", lambda *_, **__: ToyModel())
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("a cow")
    return folder


def run(notes: Path) -> tuple[UpdateReport, list[Event]]:
    events: list[Event] = []
    report = update_index(notes / ".triptych", [notes], settings=Settings(workers=1), on_event=events.append)
    return report, events


def assert_warned(notes: Path, *parts: str) -> None:
    report, events = run(notes)
    assert (report.added, report.committed, report.generation) == (1, True, 2)  # files, then what derives
    (warned,) = report.warnings
    assert [event for event in events if isinstance(event, Warned)] == [warned]
    assert "the index is complete" in warned.message
    hint = warned.hint or ""
    assert f"--index {notes / '.triptych'}" in hint
    assert all(part in warned.message or part in hint for part in parts)


def test_a_registry_in_order_says_nothing(notes: Path) -> None:
    report, events = run(notes)
    assert report.warnings == ()
    assert not any(isinstance(event, Warned) for event in events)
    assert [entry.path for entry in places.entries()] == [notes / ".triptych"]


def test_a_corrupt_registry_is_a_warning_after_the_commit(notes: Path, home: Path) -> None:
    (home / "data").mkdir()
    (home / "data" / "indexes.json").write_text("{")
    assert_warned(notes, "indexes.json cannot be read", "remove it")


def test_a_registry_that_cannot_be_written_is_a_warning_after_the_commit(notes: Path, home: Path) -> None:
    (home / "data").write_text("a file where the folder should be")
    assert_warned(notes, "data: file exists", "TRIPTYCH_HOME")


def test_what_a_runtime_says_is_said_once(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ToyModel()
    model.note = "OpenVINO is not installed"
    monkeypatch.setattr(indexing, "_model_for", lambda *_, **__: model)
    events: list[Event] = []
    settings = Settings(workers=1, device="cpu", runtime="onnx", precision="bf16")
    report = update_index(notes / ".triptych", [notes], settings=settings, on_event=events.append)
    assert model.placement == Placement("cpu", "onnx", "bf16")
    assert [event for event in events if isinstance(event, Warned)] == [Warned("OpenVINO is not installed")]
    assert report.warnings == (Warned("OpenVINO is not installed"),)
    model.hears("the device ran out of memory")  # while it computes
    assert events[-1] == Warned("the device ran out of memory")
