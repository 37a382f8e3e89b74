"""The stamps' recipe on a small made-up tree: what becomes a row, and what each column holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import debian_packages
import pyarrow.parquet as pq
import pytest
import tuxpaint_stamps as recipe

CAPTION = "A frog.\nde.utf8=Ein Frosch.\nca@valencia.utf8=Una granota.\nfr.utf8=\nno code here\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package as dpkg unpacks it, with one stamp of each kind."""
    files = {
        "animals/frog.png": "png",
        "animals/frog.txt": CAPTION,
        "animals/frog.ogg": "effect",
        "animals/frog_desc.ogg": "spoken",
        "animals/frog_desc_de.ogg": "spoken",
        "animals/frog.dat": "noflip",
        "animals/frog_mirror.png": "png",  # a picture without a caption
        "food/pear.png": "png",
        "food/pear.svg": "svg",
        "food/pear.txt": "A pear.\r\nde.utf8=Eine Birne.\r\n",
        "food/pear.wav": "effect",
        "food/blank.svg": "svg",
        "food/blank.txt": "\nde.utf8=Nichts.\n",
        "symbols/numbers/7.svg": "svg",
        "symbols/numbers/7.txt": "Seven.",
        "symbols/numbers/7_de.ogg": "spoken numeral",
        "symbols/numbers/7_desc_pt_BR.wav": "spoken",
        "seasonal/gift.txt": "A gift.",  # a caption without a picture
        "seasonal/gift.ogg": "effect",
    }
    root = tmp_path / "out" / recipe.BELOW
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8", newline="")
    return tmp_path / "out"


def test_rows_pair_pictures_with_captions_effects_and_speech(tree: Path) -> None:
    rows, counts = recipe.find_stamps(tree / recipe.BELOW, tree)
    below = recipe.BELOW.as_posix()
    by_id = {row.id: row for row in rows}
    assert [row.id for row in rows] == ["animals/frog", "food/pear", "symbols/numbers/7"]

    frog = by_id["animals/frog"]
    assert frog.text == "A frog."
    assert frog.image == f"{below}/animals/frog.png"
    assert frog.audio == f"{below}/animals/frog.ogg"
    assert frog.spoken == [f"{below}/animals/frog_desc.ogg", f"{below}/animals/frog_desc_de.ogg"]
    assert frog.label == "animals"
    assert frog.captions == {"de": "Ein Frosch.", "ca@valencia": "Una granota."}

    assert by_id["food/pear"].image.endswith("pear.svg")  # as in Tux Paint, the SVG before the PNG
    assert by_id["food/pear"].audio == f"{below}/food/pear.wav"
    assert by_id["food/pear"].captions == {"de": "Eine Birne."}

    seven = by_id["symbols/numbers/7"]
    assert seven.audio is None  # a spoken numeral is no sound effect
    assert seven.spoken == [f"{below}/symbols/numbers/7_desc_pt_BR.wav"]
    assert seven.label == "symbols/numbers"

    assert dict(counts) == {
        "pictures": 5,
        "without a caption": 2,
        "pairs": 3,
        "effects": 2,
        "spoken captions": 3,
    }


def test_manifest_holds_the_rows_with_paths_that_exist(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(debian_packages, "refresh_lists", lambda *_, **__: pytest.fail("went to the network"))
    manifest = recipe.build(tree)
    rows = pq.read_table(manifest).to_pylist()
    assert [row["id"] for row in rows] == ["animals/frog", "food/pear", "symbols/numbers/7"]
    assert rows[0]["captions"] == [("ca@valencia", "Una granota."), ("de", "Ein Frosch.")]
    assert rows[2]["audio"] is None
    for row in rows:
        for name in [row["image"], row["audio"], *row["spoken"]]:
            assert name is None or (tree / name).is_file()
    assert "3 pairs" in capsys.readouterr().err

    before = manifest.stat().st_mtime_ns
    recipe.build(tree)
    assert manifest.stat().st_mtime_ns == before
    assert "there already" in capsys.readouterr().err


def test_without_apt_it_says_what_to_do_and_exits_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert recipe.main(["--out", str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert "make demo MEDIA=DIR" in captured.err
    assert "apt-get" in captured.err
    assert captured.out == ""


def test_an_interrupted_unpacking_leaves_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dpkg failing half way must not look like an unpacked package to the next run."""
    monkeypatch.setattr(debian_packages, "require_tools", lambda: None)
    monkeypatch.setattr(debian_packages, "refresh_lists", lambda *_, **__: None)
    archive = tmp_path / "thing.deb"
    archive.write_bytes(b"not a package")
    monkeypatch.setattr(debian_packages, "_download", lambda *_: archive)

    def half(command: list[str], *, cwd: Path, doing: str) -> None:
        Path(command[-1]).mkdir()
        (Path(command[-1]) / "half").write_text("")
        raise debian_packages.RecipeError(doing)

    monkeypatch.setattr(debian_packages, "_run", half)
    with pytest.raises(debian_packages.RecipeError, match="unpack thing"):
        debian_packages.unpack(["thing"], tmp_path / "out", cache=tmp_path)
    assert not (tmp_path / "out" / "thing").exists()
    assert archive.exists()  # so that the download is not lost
