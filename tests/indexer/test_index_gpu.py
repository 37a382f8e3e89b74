"""What an update says and does about a GPU for its search structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer import gpu, vectors
from indexer.build import BuildOptions, update
from indexer.report import Event, UpdateReport, Warned
from indexer.snapshot import Snapshot
from indexer.types import Modality
from tests.toy import toy_encoders

PIECES = 120  # segments a commit


def build(folder: Path, use: bool | None) -> tuple[UpdateReport, list[Warned]]:
    noise = np.random.default_rng(0)
    for number in range(300):
        (folder / f"{number}.md").write_text(" ".join(map(str, noise.integers(50, size=4))))
    said: list[Event] = []
    options = BuildOptions(gpu=use, commit_segments=PIECES, workers=1)
    report = update(
        folder / ".triptych", [folder], encoders=toy_encoders(), options=options, on_event=said.append
    )
    with Snapshot.open(folder / ".triptych") as snapshot:
        assert any(part.kinds[Modality.TEXT] == "ivf" for part in snapshot.generation.parts)
    return report, [event for event in said if isinstance(event, Warned)]


@pytest.fixture(autouse=True)
def small_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "IVF_FROM", 100)


@pytest.mark.parametrize("use", [True, False, None])
def test_without_a_gpu_it_is_said_once_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: bool | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    report, said = build(tmp_path, use)
    assert len(said) == (use is True)
    assert report.warnings == tuple(said)
    assert all("no GPU" in one.message for one in said)


@pytest.mark.parametrize("use", [True, False, None])
def test_a_gpu_trains_unless_it_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: bool | None
) -> None:
    import faiss

    used: list[int] = []
    monkeypatch.setattr(gpu, "devices", lambda: 1)
    monkeypatch.setattr(gpu, "clustering_index", lambda dim: used.append(dim) or faiss.IndexFlatIP(dim))
    _, said = build(tmp_path, use)
    assert bool(used) == (use is not False)
    assert not said


def test_a_gpu_that_fails_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dim: int) -> None:
        raise RuntimeError("CUDA error 2 out of memory")

    monkeypatch.setattr(gpu, "devices", lambda: 1)
    monkeypatch.setattr(gpu, "clustering_index", fail)
    report, said = build(tmp_path, None)
    assert [one.message for one in said] == [
        "training on the GPU failed, the CPU does it: CUDA error 2 out of memory"
    ]
    assert report.warnings == tuple(said)
