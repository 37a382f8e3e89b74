"""The command line through its real entry point, as processes, on files that these tests make."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TRIPTYCH = Path(sys.executable).parent / "triptych"
pytestmark = pytest.mark.starter


def run(
    *arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(TRIPTYCH), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        check=False,
        timeout=120,
    )


def noise(path: Path, seconds: float) -> None:
    pcm = np.random.default_rng(0).normal(0, 4000, int(16000 * seconds)).astype("<i2")
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(pcm.tobytes())


@pytest.fixture
def media(tmp_path: Path, home_with_starter: Path) -> Path:
    """Five good items, one bad file."""
    folder = tmp_path / "media"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    Image.new("RGB", (64, 64), "navy").save(folder / "sea.jpg")
    (folder / "sea.txt").write_text("the deep blue sea")
    (folder / "soup.md").write_text("A recipe for onion soup with bread and cheese.")
    (folder / "train.md").write_text("Timetable of the night train to Vienna.")
    noise(folder / "rain.wav", 3)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a picture")
    return folder


@pytest.fixture
def indexed(media: Path) -> Path:
    done = run("index", media)
    assert done.returncode == 0, done.stderr.decode()
    return media


def test_index_counts_a_bad_file_and_goes_on(media: Path) -> None:
    done = run("index", media)
    assert (done.returncode, done.stdout) == (0, b"")
    said = done.stderr.decode()
    assert said.count("broken.jpg") == 1
    assert "6 added" in said
    assert "2 image, 3 text, 1 audio" in said
    assert run("index", media).returncode == 0
    assert run("index", media, "--strict").returncode == 2  # it failed before and did not change
    (media / "worse.jpg").write_bytes(b"")
    assert run("index", media, "--strict").returncode == 2
    failures = json.loads(run("info", "--failures", "--json", "--index", media).stdout)
    assert sorted(Path(row["path"]).name for row in failures) == ["broken.jpg", "worse.jpg"]


def test_words_find_texts_and_captions(indexed: Path) -> None:
    done = run("search", "French cooking", "--in", "text", "--json", cwd=indexed)
    assert done.returncode == 0, done.stderr.decode()
    hits = json.loads(done.stdout)["hits"]
    assert Path(hits[0]["path"]).name == "soup.md"
    assert b"it covers this folder" in done.stderr
    done = run("search", "ocean", "--in", "text", "-k", "1", "--jsonl", cwd=indexed)
    hit = json.loads(done.stdout)
    assert (Path(hit["path"]).name, hit["source"]) == ("sea.jpg", "caption")


def test_formats(indexed: Path) -> None:
    table = run("search", "railway", "--in", "text", "-k", "1", cwd=indexed).stdout.decode()
    assert "train.md" in table
    (row,) = csv.DictReader(
        io.StringIO(run("search", "railway", "-k", "1", "--csv", "--in", "text").stdout.decode())
    )
    assert row["path"].endswith("train.md")
    nul = run("search", "railway", "-k", "2", "-0").stdout
    assert nul.count(b"\0") == 2
    assert all(Path(os.fsdecode(path)).exists() for path in nul.split(b"\0")[:-1])


def test_pictures_and_sounds_as_queries(indexed: Path) -> None:
    hits = json.loads(run("search", indexed / "red.png", "--in", "image", "--json").stdout)["hits"]
    assert (Path(hits[0]["path"]).name, round(hits[0]["score"], 2)) == ("red.png", 1.0)
    hits = json.loads(run("search", "-", "--json", stdin=(indexed / "rain.wav").read_bytes()).stdout)["hits"]
    sounds = [hit for hit in hits if hit["modality"] == "audio"]
    assert (sounds[0]["start"], sounds[0]["end"], round(sounds[0]["score"], 2)) == (0.0, 3.0, 1.0)
    assert {hit["modality"] for hit in hits} == {"image", "text", "audio"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["search", "x", "--in", "smell"], "image,text,audio"),
        (["search", "./none.png"], "no file"),
        (["search", ""], "empty"),
        (["search", "x", "--index", "/nowhere"], "triptych index"),
        (["search", "x", "--model", "none"], "no model"),
        (["index", "/nowhere"], "not there"),
        (["embed", "x", "--out", "x.csv"], ".npy or .parquet"),
        (["models", "show", "none"], "no model"),
        (["search", "x", "--json", "--csv"], "choose one"),
    ],
)
def test_an_error_is_short_and_says_what_to_do(indexed: Path, arguments: list[str], part: str) -> None:
    done = run(*arguments, cwd=indexed)
    assert done.returncode == 2, done.stderr.decode()
    said = done.stderr.decode()
    assert part in said
    assert "Traceback" not in said
    assert done.stdout == b""


def test_no_index_says_how_to_make_one(home_with_starter: Path, tmp_path: Path) -> None:
    done = run("search", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert b"triptych index DIR" in done.stderr


def test_names_that_act_on_terminals_are_escaped(media: Path) -> None:
    for name in (b"new\nline.md", b"esc\x1b[31m[bold].md", b"bad\xff\xfe.md", b"quote\"'.md"):
        Path(os.fsdecode(os.fsencode(media) + b"/" + name)).write_text("the stormy weather of November")
    assert run("index", media).returncode == 0
    table = run("search", "bad weather", "--in", "text", "-k", "4", cwd=media).stdout
    assert b"\x1b" not in table
    for shown in (rb"new\nline.md", rb"esc\x1b[31m[bold].md", rb"bad\xff\xfe.md", b"quote\"'.md"):
        assert shown in table
    paths = run("search", "bad weather", "--in", "text", "-k", "4", "-0", cwd=media).stdout.split(b"\0")
    assert os.fsencode(media) + b"/bad\xff\xfe.md" in paths


def test_info_verify_forget(indexed: Path) -> None:
    facts = json.loads(run("info", "--json").stdout)
    assert (facts["items"], facts["failed"]) == (6, 1)
    assert facts["segments"] == {"image": 2, "text": 3, "audio": 1}
    assert "2 image, 3 text, 1 audio" in run("info").stdout.decode()
    assert run("verify").returncode == 0
    assert run("forget", indexed / "soup.md").returncode == 0
    hits = json.loads(run("search", "onion soup", "--json").stdout)["hits"]
    assert "soup.md" not in {Path(hit["path"]).name for hit in hits}
    parts = b"".join(file.read_bytes() for file in (indexed / ".triptych").rglob("*") if file.is_file())
    assert b"onion" not in parts
    assert run("verify").returncode == 0
    victim = next((indexed / ".triptych").rglob("text.f16"))
    raw = bytearray(victim.read_bytes())
    raw[5] ^= 0x40
    victim.write_bytes(raw)
    done = run("verify")
    assert done.returncode == 2
    assert b"text.f16" in done.stdout


def test_an_update_without_sources_covers_all_roots(indexed: Path) -> None:
    (indexed / "new.md").write_text("A letter about bees.")
    done = run("index")
    assert done.returncode == 0, done.stderr.decode()
    assert b"1 added" in done.stderr
    (indexed / "new.md").unlink()
    assert b"1 deleted" in run("index").stderr


def test_embed_keeps_rows_aligned(indexed: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.npy"
    done = run(
        "embed",
        "a red square",
        indexed / "red.png",
        indexed / "broken.jpg",
        indexed / "rain.wav",
        "--out",
        out,
    )
    assert done.returncode == 0, done.stderr.decode()
    vectors = np.load(out)
    assert vectors.shape == (4, 384)
    assert np.isnan(vectors[2]).all()
    assert np.linalg.norm(vectors[[0, 1, 3]], axis=1) == pytest.approx(1, abs=1e-5)
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["modality"] for row in rows] == ["text", "image", None, "audio"]
    assert rows[2]["error"]


def test_embed_lines_of_stdin_as_parquet(home_with_starter: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "rows.parquet"
    done = run("embed", "-", "--out", out, stdin=b"first line\nsecond line\n")
    assert done.returncode == 0, done.stderr.decode()
    assert pq.read_table(out)["label"].to_pylist() == ["first line", "second line"]
    long = tmp_path / "long.md"
    long.write_text("Words about many things. " * 400)
    assert run("embed", long, "a word", "--out", out, "--segments").returncode == 0
    inputs = pq.read_table(out)["input"].to_pylist()
    assert inputs.count(0) > 3
    assert inputs[-1] == 1


def test_embed_takes_names_that_are_not_utf8_and_shows_none_raw(
    indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    (indexed / "red.png").rename(os.fsdecode(os.fsencode(indexed) + b"/red\xff.png"))
    done = run("embed", "-", "--out", "rows.npy", stdin=b"./red\xff.png\n\x1b[31m.png\n", cwd=indexed)
    assert done.returncode == 0, done.stderr.decode()
    assert np.isnan(np.load(indexed / "rows.npy")).all(axis=1).tolist() == [False, True]
    assert b"2 rows of 384 dimensions, 1 of them NaN" in done.stderr
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize(("closed", "lines"), [(">&-", 0), ("2>&-", 1)])
def test_a_closed_stream_changes_neither_exit_code_nor_data(indexed: Path, closed: str, lines: int) -> None:
    line = f'"{TRIPTYCH}" search soup -k 1 --jsonl {closed}'
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=False, cwd=indexed, timeout=120)
    assert (done.returncode, done.stdout.count(b"\n")) == (0, lines)
    assert b"Traceback" not in done.stderr


def test_an_interrupted_command_says_so_and_exits_130() -> None:
    code = (
        "import sys, cli\ndef interrupt(*_): raise KeyboardInterrupt\n"
        "cli.chosen_index = interrupt\nsys.argv = ['triptych', 'info']\ncli.app()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=120)
    assert done.returncode == 130
    assert b"stopped" in done.stderr
    assert b"Traceback" not in done.stderr


def test_forget_says_that_files_still_there_come_back(indexed: Path) -> None:
    assert b".triptychignore" in run("forget", indexed / "soup.md").stderr


def test_a_text_search_loads_no_torch(indexed: Path) -> None:
    code = (
        "import sys, cli\nsys.argv = ['triptych', 'search', 'soup', '--json']\n"
        "try: cli.app()\nexcept SystemExit as e: assert e.code == 0, e.code\n"
        "heavy = {'torch', 'timm', 'transformers', 'sentence_transformers', 'open_clip', 'faiss', 'PIL'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_generated_pages_are_up_to_date() -> None:
    for name in (
        "make_cli_reference.py",
        "make_starter_tables.py",
        "make_model_tables.py",
        "make_query_tables.py",
    ):
        script = Path(__file__).parents[2] / "docs" / name
        assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0, name
