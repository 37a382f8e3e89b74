"""`triptych search --batch` and `--gpu` through the real entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import indexed, media, run

__all__ = ["indexed", "media"]  # fixtures
pytestmark = pytest.mark.starter
LINES = ["French cooking", "ocean", "railway", "", "a red square"]


def test_a_batch_answers_as_single_searches_do(indexed: Path) -> None:
    stdin = "".join(f"{line}\n" for line in LINES).encode()
    done = run("search", "--batch", "-", "-k", "3", stdin=stdin, cwd=indexed)
    assert done.returncode == 2, done.stderr.decode()
    assert b"1 line could not be answered" in done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["query"] for answer in answers] == LINES
    assert "empty" in answers[3]["error"]
    assert "hits" not in answers[3]
    for answer in (answers[0], answers[4]):
        alone = json.loads(run("search", answer["query"], "-k", "3", "--json", cwd=indexed).stdout)["hits"]
        assert [hit["score"] for hit in answer["hits"]] == pytest.approx(
            [hit["score"] for hit in alone], abs=2e-6
        )
        assert [hit | {"score": 0} for hit in answer["hits"]] == [hit | {"score": 0} for hit in alone]


def test_a_file_of_queries_and_no_gpu(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    file = indexed.parent / "queries.txt"
    file.write_text("railway\nocean")
    done = run("search", "--batch", file, "--gpu", "--in", "text", "--jsonl", cwd=indexed)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().count("no GPU for the search") == (sys.platform == "linux")
    first = [json.loads(line)["hits"][0] for line in done.stdout.splitlines()]
    assert [Path(hit["path"]).name for hit in first] == ["train.md", "sea.jpg"]
    file.write_text("")
    assert run("search", "--batch", file, cwd=indexed).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["search"], "nothing to search for"),
        (["search", "x", "--gpu"], "--batch FILE"),
        (["search", "x", "--batch", "-"], "give one of them"),
        (["search", "--batch", "-", "--csv"], "JSON lines only"),
        (["search", "--batch", "none.txt"], "none.txt"),
    ],
)
def test_flags_that_do_not_go_together(indexed: Path, arguments: list[str], part: str) -> None:
    done = run(*arguments, cwd=indexed)
    assert done.returncode == 2
    assert part in done.stderr.decode()
    assert done.stdout == b""


def test_a_batch_on_the_cpu_loads_no_torch(indexed: Path) -> None:
    code = (
        "import sys, cli\n"
        "sys.argv = ['triptych', 'search', '--batch', '-', '--in', 'text']\n"
        "try: cli.app()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'timm', 'transformers', 'open_clip', 'faiss', 'openvino'}\n"
        "print(*heavy & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b"soup\n",
        capture_output=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TRIPTYCH_INDEX": str(indexed)},
        check=True,
    )
    assert done.stderr.decode().splitlines()[-1] == ""
    assert len(done.stdout.splitlines()) == 1


def test_index_says_once_that_there_is_no_gpu(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run("index", media, "--gpu")
    assert done.returncode == 0
    assert done.stderr.decode().count("no GPU for the search structures") == 1
    assert b"no GPU" not in run("index", media, "--no-gpu").stderr
