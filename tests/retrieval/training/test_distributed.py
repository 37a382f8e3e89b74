"""Two real processes over gloo come to the loss and the gradients of one process on the joined batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.training.distributed import Ranks
from retrieval.training.trainer import train
from tests.retrieval.training import tiny
from tests.retrieval.training.tiny import checkpoints
from tests.retrieval.training.two_ranks import CASES, exact, gradients

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], Path]:
    """What both ranks found, started with the variables that `accelerate launch` sets."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable, "-m", "tests.retrieval.training.two_ranks", str(folder)]
    running = [
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)], folder


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_one_process(two: tuple[list[dict], Path], case: str) -> None:
    alone = gradients(CASES[case], Ranks())
    for rank in two[0]:
        found = rank["found"][case]
        assert found.keys() == alone.keys()
        for name, wanted in alone.items():
            assert found[name] == pytest.approx(wanted, abs=1e-6, rel=2e-5), name


def test_in_float64_they_are_exact(two: tuple[list[dict], Path]) -> None:
    alone = exact(Ranks())
    for rank in two[0]:
        for name, wanted in alone.items():
            assert rank["found"]["exact"][name] == pytest.approx(wanted, abs=1e-10, rel=0), name


def test_a_run_reports_and_saves_once(two: tuple[list[dict], Path], tmp_path: Path) -> None:
    ranks, folder = two
    assert [rank["facts"]["events"] for rank in ranks] == [15, 0]  # one before training, 7 an epoch
    assert ranks[0]["facts"]["best"] == ranks[1]["facts"]["best"]
    assert checkpoints(folder / "run") == ["step-0000000004.safetensors", "step-0000000008.safetensors"]
    chosen = tiny.options("epochs=2")
    alone = train(tiny.space(chosen), tiny.source(), tiny.data(), chosen, tmp_path)
    assert ranks[1]["facts"]["plain"] == pytest.approx([event.loss for event in alone.history], rel=1e-4)
