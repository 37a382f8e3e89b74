"""`triptych eval` through its entry point, on a model that the command line trained."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.test_train import Here, here, rows_of, write_table
from tests.conftest import TrainedFolder

__all__ = ["here"]  # the fixture
pytestmark = pytest.mark.starter


def test_the_rows_that_training_held_out_are_measured_and_compared(
    trained_here: TrainedFolder, tmp_path: Path
) -> None:
    """As a process, into a pipe: stdout is JSON and nothing else."""
    html = tmp_path / "report.html"
    triptych = Path(sys.executable).parent / "triptych"
    command = [triptych, "eval", trained_here.table, "--model", trained_here.model, "--compare", "starter"]
    done = subprocess.run(
        [*map(str, command), "--json", "--html", str(html)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    splits = json.loads((trained_here.model / "model.json").read_text())["provenance"]["data"]["splits"]
    assert found["rows"] == splits["test"]
    assert f"{splits['test']} test rows of 48, as photos split them" in done.stderr
    assert {way["from"] + way["to"] for way in found["directions"]} == {"imagetext", "textimage"}
    assert found["comparison"] is not None
    page = html.read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "http://" not in page.replace("http://www.w3.org/", "")  # nothing is fetched


def test_a_table_for_a_person_and_a_nested_dimension(trained_here: TrainedFolder, here: Here) -> None:
    code, out, said = here("eval", trained_here.table, "--model", trained_here.model, "--dim", "64")
    assert code == 0, said
    assert "image to text" in out
    assert "95 % interval" in out
    code, _, said = here("eval", trained_here.table, "--model", trained_here.model, "--dim", "65")
    assert code == 2
    assert "64" in said


def test_a_single_row_is_warned_of(trained_here: TrainedFolder, here: Here, tmp_path: Path) -> None:
    table = write_table(tmp_path / "one.csv", rows_of(trained_here.table)[:1])
    code, out, said = here("eval", table, "--split", "all", "--json")
    assert code == 0, said
    assert "warning: image to text, text to image: among 1 candidate every number is perfect" in said
    assert len(json.loads(out)["warnings"]) == 1
    code, _, said = here("eval", table)  # too few for a test split
    assert code == 2
    assert "measure all of them: --split all" in said


def test_rows_that_cannot_be_measured_are_named(
    trained_here: TrainedFolder, here: Here, tmp_path: Path
) -> None:
    rows = rows_of(trained_here.table)[:14]
    for row in rows[5:12]:
        row["image"] = "gone.png"
    code, _, said = here("eval", write_table(tmp_path / "rows.csv", rows), "--split", "all")
    assert code == 0, said
    assert "row 6: image 'gone.png': no such file" in said
    assert "row 11" not in said
    assert "... 7 rows left out or cut in all" in said


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["{table}", "--split", "nosuch"], "train, validation, test, all"),
        (["nowhere.csv"], "there is no nowhere.csv"),
        (["{table}", "--model", "none"], "no model none"),
        (["{table}", "--html", "no/such/report.html"], "does not exist"),
        (["{table}", "--by-label", "--split", "all"], "label"),
    ],
)
def test_an_error_is_short_and_says_what_to_do(
    trained_here: TrainedFolder, here: Here, arguments: list[str], part: str
) -> None:
    code, out, said = here("eval", *[one.format(table=trained_here.table) for one in arguments])
    assert (code, out) == (2, "")
    assert part in said
    assert "Traceback" not in said


def test_an_empty_split_is_named(trained_here: TrainedFolder, here: Here, tmp_path: Path) -> None:
    rows = [{**row, "split": "train"} for row in rows_of(trained_here.table)]
    code, _, said = here("eval", write_table(tmp_path / "rows.csv", rows))
    assert code == 2
    assert "is in the test split" in said
    assert "--split all" in said


def test_rows_that_a_model_saw_are_never_test_rows(trained_here: TrainedFolder, here: Here) -> None:
    """One row more, and the table's digest is another: what the model recorded still counts."""
    with trained_here.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    more = write_table(trained_here.table.with_name("more.csv"), [*rows, rows[0] | {"text": "one more"}])
    splits = pq.read_table(trained_here.model / "split.parquet")["split"].to_pylist()
    held_out = splits.count("test")
    code, out, said = here("eval", more, "--model", trained_here.model, "--json")
    assert code == 0, said
    assert held_out <= json.loads(out)["rows"] <= held_out + 1  # and the new row, perhaps
    assert "as photos split them" in said
    code, out, said = here("eval", more, "--model", trained_here.model, "--split", "all", "--json")
    assert code == 0, said
    assert "its numbers flatter it" in said
