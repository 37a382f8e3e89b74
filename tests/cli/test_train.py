"""`triptych train` through its entry point: a real model from real pictures, stops, resumption, refusals."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import cli
from retrieval.models.trained import head_hash
from retrieval.training import run as running
from retrieval.training import trainer
from tests.conftest import TrainedFolder

TRIPTYCH = Path(sys.executable).parent / "triptych"
QUICK = ["--epochs", "6", "--batch-size", "4", "--set", "patience=0", "--set", "metric_k=1", "--seed", "3"]
Here = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.starter


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], trained_here: TrainedFolder) -> Here:
    """The command in this process: its exit code, stdout and stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            cli.app([str(one) for one in arguments])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def heads_of(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Hashes of the heads that each run would write from now on; nothing is exported any more."""
    seen: list[dict[str, str]] = []

    def note(_out: Path, prepared: Any, trained: Any, *_: object, **__: object) -> Any:
        seen.append({name: head_hash(head) for name, head in trained.space.heads.items()})
        return prepared.base.bundle

    monkeypatch.setattr(running, "write_model", note)
    return seen


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{**row, "image": str(table.parent / row["image"])} for row in rows]


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_model_is_written_with_its_split_and_says_how_it_was_made(trained: TrainedFolder) -> None:
    said = trained.said
    assert "epoch   4 of 4" in said
    assert "validation mean R@1 " in said
    spec = json.loads((trained.model / "model.json").read_text())
    assert [tower["modality"] for tower in spec["towers"]] == ["image", "text"]
    assert spec["nested"] == [64]
    made = spec["provenance"]
    assert (made["trained"], made["left out"]) == (["image", "text"], ["audio"])
    assert "left out: audio" in said  # the starter's sounds have no vectors of 64 dimensions
    assert made["options"]["epochs"] == 4
    splits = pq.read_table(trained.model / "split.parquet")["split"].to_pylist()
    assert made["data"]["splits"] == {one: splits.count(one) for one in ("train", "validation", "test")}
    assert len(splits) == 48
    assert min(made["data"]["splits"].values()) >= 4


def test_its_nested_space_indexes_and_searches(
    trained_here: TrainedFolder, here: Here, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    pictures = trained_here.table.parent / "pictures"
    code, _, said = here("index", pictures, "--index", index, "--model", trained_here.model, "--dim", "64")
    assert code == 0, said
    picture = pictures / "coffee-3.png"
    code, out, said = here("search", picture, "--in", "image", "--index", index, "-k", "1", "--json")
    assert code == 0, said
    assert Path(json.loads(out)["hits"][0]["path"]).name == picture.name
    code, out, _ = here("models", "show", trained_here.model)
    assert (code, json.loads(out)["name"]) == (0, "photos")


def test_a_second_run_reuses_features_and_a_trained_model_is_a_base(
    trained_here: TrainedFolder, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = heads_of(monkeypatch)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr("retrieval.training.features._compute", refuse)
    arguments = ["--base", trained_here.model, "--epochs", "1", "--json", "--set", "metric_k=1"]
    code, out, said = here("train", trained_here.table, "--out", tmp_path / "on", *arguments)
    assert code == 0, said
    assert json.loads(out)["pairs"] == {"image-text": json.loads(out)["rows"]["train"]}
    assert set(heads[0]) == {"image", "text"}


def test_ctrl_c_saves_and_resuming_ends_at_the_same_heads(
    trained_here: TrainedFolder, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", trained_here.table, *QUICK, "--out", tmp_path / "stopped"]
    child = subprocess.Popen([str(TRIPTYCH), *map(str, command)], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said = ""
    for line in child.stderr:  # ends with the process
        said += line
        if line.startswith("epoch   2"):
            child.send_signal(signal.SIGINT)
    assert child.wait(timeout=600) == 130, said
    assert "give the same command with --resume" in said
    assert "Traceback" not in said
    assert not (tmp_path / "stopped").exists()
    code, _, again = here(*command)
    assert code == 2
    assert "--resume" in again
    heads = heads_of(monkeypatch)
    code, _, said = here(*command, "--resume")
    assert code == 0, said
    assert "epoch   1 of" not in said  # it went on, and did not begin anew
    code, _, said = here("train", trained_here.table, *QUICK, "--out", tmp_path / "straight")
    assert code == 0, said
    assert heads[0] == heads[1]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["{table}", "--out", "{model}"], ("not empty", "--out")),
        (["{table}", "--out", "new/starter"], ("cannot be called 'starter'", "--out")),
        (["{table}", "--out", "{table}/below"], ("is not a folder", "--out")),
        (["{table}"], ("--out is missing", "--out models/NAME")),
        (["nowhere.csv", "--out", "new"], ("there is no nowhere.csv", "a table")),
        (["{table}", "--out", "new", "--device", "mps"], ("mps", "device=auto")),
        (["{table}", "--out", "new", "--loss", "distill"], ("teacher", "--teacher MODEL")),
        (["{table}", "--out", "new", "--teacher", "starter"], ("learns nothing from it", "distill_weight")),
        (["{table}", "--out", "new", "--unfreeze", "audio:1"], ("no row has it", "leave audio out")),
        (["{table}", "--out", "new", "--unfreeze", "image:99"], ("7 blocks", "at most")),
        (["{table}", "--out", "new", "--set", "haed.kind=mlp"], ("haed.kind", "head.kind")),
        (["{table}", "--out", "new", "--set", "validation=0"], ("no validation rows", "patience=0")),
        (["{table}", "--out", "new", "--resume"], ("no checkpoint", "begin anew")),
        (["{table}", "--out", "new", "--base", "none"], ("no model none", "choose one of those")),
    ],
)
def test_what_cannot_be_done_is_refused_before_features_are_computed(
    trained_here: TrainedFolder,
    here: Here,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    parts: tuple[str, str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("features were asked for")

    monkeypatch.setattr(running, "collect_features", refuse)
    monkeypatch.chdir(tmp_path)
    names = {"table": trained_here.table, "model": trained_here.model}
    code, out, said = here("train", *[one.format(**names) for one in arguments])
    assert (code, out) == (2, "")
    error, hint = said.rstrip("\n").split("\n")[-2:]
    assert error.startswith("error: ")
    assert parts[0] in error
    assert parts[1] in hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda rows: [{**row, "image": row["image"] + "x"} for row in rows], ("no such file", "start at")),
        (lambda rows: [{**row, "text": ""} for row in rows], ("it has only image", "second one")),
        (lambda rows: rows[:1], ("has one row", "a few hundred")),
        (lambda rows: [{"imgae": row["image"], "text": row["text"]} for row in rows], ("imgae", "'image'")),
        (lambda rows: [{**row, "id": "same"} for row in rows], ("the id 'same'", "unique")),
        (lambda rows: [{**row, "split": "test"} for row in rows], ("no training rows", "split column")),
        (lambda rows: [{**row, "split": "tarin"} for row in rows], ("'tarin'", "correct")),
        (
            lambda rows: (
                [{**row, "split": "train"} for row in rows] + [{**rows[0], "text": "x", "split": "test"}]
            ),
            ("1 held-out row has the same picture", "--allow-leaks"),
        ),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(
    trained_here: TrainedFolder,
    here: Here,
    tmp_path: Path,
    change: Callable[[list[dict[str, str]]], list[dict[str, str]]],
    parts: tuple[str, str],
) -> None:
    table = write_table(tmp_path / "rows.csv", change(rows_of(trained_here.table)))
    code, out, said = here("train", table, "--out", tmp_path / "new")
    assert (code, out) == (2, "")
    error, hint = said.rstrip("\n").split("\n")[-2:]
    assert parts[0] in error, said
    assert parts[1] in hint, said
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_files_that_are_missing_are_named_and_the_others_train(
    trained_here: TrainedFolder, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads_of(monkeypatch)
    rows = rows_of(trained_here.table)
    rows[5]["image"] = "gone.png"
    table = write_table(tmp_path / "rows.csv", rows)
    code, out, said = here("train", table, "--out", tmp_path / "new", "--epochs", "1", "--json")
    assert code == 0, said
    assert "row 6: image 'gone.png': no such file" in said
    assert sum(json.loads(out)["rows"].values()) == 47
    assert "pairs of a kind: R@10 is" in said  # a validation so small tells little, and that is said


def test_a_full_device_says_what_to_lower(
    trained_here: TrainedFolder, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")

    monkeypatch.setattr(trainer.Trainer, "step", full)
    code, _, said = here("train", trained_here.table, "--out", tmp_path / "new")
    assert code == 2
    assert "ran out of memory" in said
    assert "chunk=128" in said.rstrip("\n").split("\n")[-1]
    assert not (tmp_path / "new").exists()


def test_two_processes_train_one_model_and_the_first_writes_it(
    trained_here: TrainedFolder, tmp_path: Path
) -> None:
    entry = tmp_path / "entry.py"
    entry.write_text(
        "import retrieval.training.run as run, cli\n"
        "run.write_model = lambda out, prepared, *_, **__: out.mkdir() or prepared.base.bundle\n"
        "cli.app()\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [*launch, str(entry), "train", str(trained_here.table), "--out", str(tmp_path / "two")]
    options = ["--epochs", "1", "--device", "cpu", "--json", "--batch-size", "16"]
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 1  # one of the two printed
    assert done.stderr.count("epoch   1 of 1") == 1
    assert (tmp_path / "two").is_dir()
