"""The pairs of an index: what items give, and what has gone since."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.build import BuildOptions, update
from indexer.errors import ManifestError
from indexer.fsio import hash_bytes
from indexer.types import Modality
from retrieval.training.from_index import index_pairs
from retrieval.training.types import Split
from tests.retrieval.training.sources import picture_bytes, put, put_table, sound_bytes
from tests.toy import toy_encoders


def index(folder: Path, *sources: Path) -> Path:
    update(
        folder / "index", list(sources), encoders=toy_encoders(), options=BuildOptions(model="toy", workers=1)
    )
    return folder / "index"


def test_captions_and_rows_of_several_media(tmp_path: Path) -> None:
    media = tmp_path / "media"
    put(media / "crow.png", picture_bytes())
    put(media / "crow.txt", "a crow\n")
    put(media / "copy.png", picture_bytes())
    put(media / "copy.txt", "a crow again")
    put(media / "alone.png", picture_bytes((0, 0, 255)))
    put(media / "broken.png", "no picture")
    put(media / "broken.txt", "its caption")
    put(tmp_path / "table" / "owl.png", picture_bytes((0, 255, 0)))
    put(tmp_path / "table" / "owl.wav", sound_bytes())
    row = {"image": "owl.png", "audio": "owl.wav", "text": "an owl"}
    extra = {"label": "bird", "split": "test", "weight": "2"}
    other = {
        "audio": str(tmp_path / "table/owl.wav"),
        "text": "its call",
        "split": "elsewhere",
        "weight": "x",
    }
    table = put_table(tmp_path / "table" / "x.jsonl", [row | extra, other])
    pairs = index_pairs(index(tmp_path, media, table))
    by_text = {row.texts: row for row in pairs.rows}
    assert set(by_text) == {("a crow",), ("a crow again",), ("an owl",), ("its call",)}
    crow, copy, owl, call = (
        by_text[key] for key in [("a crow",), ("a crow again",), ("an owl",), ("its call",)]
    )
    assert crow.image == str(media / "crow.png")
    assert crow.group == copy.group == hash_bytes(picture_bytes()).hex()
    assert crow.id != copy.id
    assert crow.said_at == "crow.png"
    assert call.said_at == f"x.jsonl, {tmp_path}/table/owl.wav"  # its key is a hash
    assert owl.modalities == tuple(Modality)
    assert (owl.image, owl.audio) == (str(tmp_path / "table/owl.png"), str(tmp_path / "table/owl.wav"))
    assert (owl.label, owl.split, owl.weight) == ("bird", Split.TEST, 2.0)
    assert (call.split, call.weight, call.audio) == (None, 1.0, str(tmp_path / "table/owl.wav"))
    assert [note.partition(",")[0] for note in pairs.notes] == ["split 'elsewhere'", "weight 'x'"]


def test_files_that_have_gone_are_problems(tmp_path: Path) -> None:
    media = tmp_path / "media"
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))):
        put(media / f"{name}.png", picture_bytes(colour))
        put(media / f"{name}.txt", f"picture {name}")
    made = index(tmp_path, media)
    (media / "a.png").unlink()
    (media / "b.txt").unlink()
    pairs = index_pairs(made)
    assert [row.texts for row in pairs.rows] == [("picture c",)]
    assert [where for where, _ in pairs.problems] == ["a.png", "b.png", "b.png"]


def test_an_index_without_pairs(tmp_path: Path) -> None:
    put(tmp_path / "media" / "a.png", picture_bytes())
    with pytest.raises(ManifestError, match="none of the 1 items"):
        index_pairs(index(tmp_path, tmp_path / "media"))
