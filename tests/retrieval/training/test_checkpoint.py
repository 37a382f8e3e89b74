"""Checkpoints: a resumed run comes to the same bits, and nothing half-written is ever taken."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from indexer.errors import TrainingError, TrainingStopped
from retrieval.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from retrieval.training.events import EpochDone, StepDone, TrainEvent
from retrieval.training.options import TrainOptions
from retrieval.training.source import FeatureSource
from retrieval.training.trainer import TrainingData, TrainResult, train
from tests.retrieval.training.tiny import checkpoints, data, examples, features, options, source, space

ROOT = Path(__file__).parents[3]
LIVELY = (
    "epochs=6",
    "head.kind=mlp",
    "head.hidden=24",
    "head.dropout=0.2",
    "ema=0.9",
    "modality_dropout=0.3",
)
HARD = (
    *LIVELY,
    "hard_negatives=1",
    "balance=2",
    "loss.kind=triplet",
    "loss.negatives=random",
    "head.layers=2",
)


def run(
    out: Path, chosen: TrainOptions, *, stop_at: int = 0, resume: bool = False
) -> tuple[TrainResult, dict]:
    def interrupt(event: TrainEvent) -> None:
        if isinstance(event, StepDone) and event.step == stop_at:
            signal.raise_signal(signal.SIGINT)

    made = space(chosen)
    result = train(made, source(), data(), chosen, out, on_event=interrupt, resume=resume)
    return result, made.state_dict()


@pytest.mark.parametrize(("more", "stop_at"), [(LIVELY, 12), (LIVELY, 14), (HARD, 13)])
def test_a_resumed_run_is_the_straight_one_to_the_bit(
    tmp_path: Path, more: tuple[str, ...], stop_at: int
) -> None:
    """Four steps an epoch: interrupted at the end of the third epoch, and in the middle of the fourth."""
    chosen = options(*more)
    straight, weights = run(tmp_path / "straight", chosen)
    with pytest.raises(TrainingStopped):
        run(tmp_path / "halves", chosen, stop_at=stop_at)
    again, resumed = run(tmp_path / "halves", chosen, resume=True)
    assert again == straight
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
    last = [latest_checkpoint(tmp_path / name / "checkpoints")[1] for name in ("straight", "halves")]
    assert last[0].facts == last[1].facts
    assert last[0].tensors.keys() == last[1].tensors.keys()
    assert all(torch.equal(value, last[1].tensors[name]) for name, value in last[0].tensors.items())
    assert run(tmp_path / "halves", chosen, resume=True)[0] == straight  # nothing is left to do


def test_a_killed_process_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    """kill -9 while the second checkpoint is written, which leaves the first and a file beside it."""
    out, chosen = tmp_path / "killed", options(*LIVELY, "save_steps=5")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom indexer import fsio\n"
        "from tests.retrieval.training import tiny\nfrom retrieval.training.trainer import train\n"
        "calls = []\n"
        "def kill(name):\n"
        "    calls.append(name)\n"
        "    if len(calls) == 4:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "fsio.step = kill\n"
        f"chosen = tiny.options(*{(*LIVELY, 'save_steps=5')!r})\n"
        "train(tiny.space(chosen), tiny.source(), tiny.data(), chosen, Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    names = checkpoints(out)
    assert names[-2:] == ["step-0000000005.safetensors", "step-0000000008.safetensors"]
    assert len(names) == 3
    assert names[0].startswith(".step-")
    straight, weights = run(tmp_path / "straight", chosen)
    again, resumed = run(out, chosen, resume=True)
    assert again == straight
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
    assert len(checkpoints(out)) == 2


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        tensors = {"model.w": torch.full((3,), float(step)), "model.same": torch.zeros(0)}
        newest = save_checkpoint(tmp_path, step, Checkpoint(tensors, {"epoch": step}))
    assert len(list(tmp_path.iterdir())) == 2
    assert latest_checkpoint(tmp_path)[1].part("model")["w"].tolist() == [3.0] * 3
    newest.write_bytes(newest.read_bytes()[:-4])
    path, found = latest_checkpoint(tmp_path)
    assert (path.name, found.facts["epoch"]) == ("step-0000000002.safetensors", 2)
    path.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"no checkpoint in .* can be read"):
        latest_checkpoint(tmp_path)


def test_a_later_versions_checkpoint_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, Checkpoint({}, {"version": 2}))
    with pytest.raises(TrainingError, match="later version"):
        latest_checkpoint(tmp_path)


def test_resuming_something_else_is_refused_with_the_difference(tmp_path: Path) -> None:
    chosen = options("epochs=1")
    train(space(chosen), source(), data(), chosen, tmp_path)
    with pytest.raises(TrainingError, match="holds a training run"):
        train(space(chosen), source(), data(), chosen, tmp_path)
    other = options("epochs=1", "lr=0.02", "loss.margin=0.3")
    with pytest.raises(TrainingError, match=r"loss.margin was 0.2, is 0.3; lr was 0.01, is 0.02"):
        train(space(other), source(), data(), other, tmp_path, resume=True)
    moved = FeatureSource({m: table + np.float16(1) for m, table in features().items()})
    rows = TrainingData(examples(np.arange(119)), examples(np.arange(120, 160)))
    for given, from_ in ((data(), moved), (rows, source())):
        with pytest.raises(TrainingError, match="data, their features or their split changed"):
            train(space(chosen), from_, given, chosen, tmp_path, resume=True)
    free = options("epochs=1", "save_steps=3", "workers=2")
    train(space(free), source(), data(), free, tmp_path, resume=True)
    with pytest.raises(TrainingError, match="no checkpoint in"):
        train(space(chosen), source(), data(), chosen, tmp_path / "other", resume=True)


def test_another_base_is_refused(tmp_path: Path) -> None:
    chosen = options("epochs=1", "start=ridge", "freeze=image")
    train(space(chosen), source(), data(), chosen, tmp_path)
    other = space(chosen)
    other.heads["image"].last_layers()[0].weight.data += 1.0
    with pytest.raises(TrainingError, match="the base model changed"):
        train(other, source(), data(), chosen, tmp_path, resume=True)


def test_history_without_validation(tmp_path: Path) -> None:
    chosen = options("epochs=2")
    given = TrainingData(data().train, examples(np.arange(0)))
    result = train(space(chosen), source(), given, chosen, tmp_path)
    assert result.best is None
    assert [event.best for event in result.history if isinstance(event, EpochDone)] == [True, True]
