"""What vectors were computed in is kept with them, through updates and merges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from indexer.build import BuildOptions, update
from indexer.errors import IndexCorrupt
from indexer.generation import checksum, read_current
from indexer.merge import TIER_PARTS
from indexer.types import Encoder, Modality
from retrieval.render.report import info_json, info_lines
from tests.toy import ToyEncoder

OPTIONS = BuildOptions(model="toy", workers=1)


def encoders(precision: str) -> dict[Modality, Encoder]:
    return {Modality.TEXT: ToyEncoder(Modality.TEXT, precision=precision)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


def add(tree: Path, index: Path, name: str, precision: str) -> None:
    (tree / f"{name}.txt").write_text(f"{name} words")
    update(index, [tree], encoders=encoders(precision), options=OPTIONS)


def computed_in(index: Path) -> str:
    return next(line for line in info_lines(index) if line.startswith("computed in")).split(maxsplit=2)[2]


def test_each_part_says_its_own_and_info_says_all(tree: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    add(tree, index, "one", "f32")
    assert computed_in(index) == "f32"
    add(tree, index, "two", "bf16")
    found = [part.precisions for part in read_current(index).parts]
    assert found == [{Modality.TEXT: ("f32",)}, {Modality.TEXT: ("bf16",)}]
    assert computed_in(index) == "bf16 and f32"
    assert info_json(index)["precisions"] == {"text": ["bf16", "f32"]}


def test_a_merge_keeps_what_its_living_vectors_were_computed_in(tree: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    add(tree, index, "gone", "int8")
    (tree / "gone.txt").unlink()
    for number in range(TIER_PARTS):
        add(tree, index, f"file{number}", "bf16" if number % 2 else "f32")
    (part,) = read_current(index).parts
    assert part.rows == TIER_PARTS
    assert part.precisions == {Modality.TEXT: ("bf16", "f32")}


def test_an_index_of_version_1_reads_as_f32(tree: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    add(tree, index, "one", "bf16")
    rewrite(index, version=1)
    assert read_current(index).precisions_of(Modality.TEXT) == ("f32",)
    add(tree, index, "two", "bf16")
    assert read_current(index).precisions_of(Modality.TEXT) == ("bf16", "f32")


@pytest.mark.parametrize("words", [[], ["a b"], ["x" * 33]])
def test_a_manifest_that_garbles_them_is_refused(words: list[str], tree: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    add(tree, index, "one", "f32")
    rewrite(index, precisions={"text": words})
    with pytest.raises(IndexCorrupt, match="precisions"):
        read_current(index)


def rewrite(
    index: Path, *, version: int | None = None, precisions: dict[str, list[str]] | None = None
) -> None:
    """The current manifest as an earlier version wrote it, or with other words; its checksum is right."""
    path = index / "generations" / f"{read_current(index).name}.json"
    document = json.loads(path.read_bytes())
    del document["checksum"]
    for part in document["parts"]:
        del part["precisions"]
        if precisions is not None:
            part["precisions"] = precisions
    document["schema_version"] = version or document["schema_version"]
    path.write_text(json.dumps(document | {"checksum": checksum(document)}))
