"""Bundles on disk: what a space depends on, what is refused, and that writing is all or nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import ModelError
from indexer.types import Modality
from retrieval.models.bundle import SPEC, Bundle, ModelSpec, write_bundle
from retrieval.models.starter.spec import head_hash, starter_spec


def filled(folder: Path, *, text: bytes = b"graph") -> Bundle:
    """A bundle of the starter's spec with one stand-in graph."""

    def fill(work: Path) -> ModelSpec:
        (work / "text.onnx").write_bytes(text)
        return with_tower(starter_spec(), Modality.TEXT, graph="text.onnx")

    return write_bundle(folder, fill)


def with_tower(spec: ModelSpec, modality: Modality, **changes: Any) -> ModelSpec:
    towers = tuple(replace(t, **changes) if t.modality is modality else t for t in spec.towers)
    return replace(spec, towers=towers)


def test_a_bundle_reads_back_as_written(tmp_path: Path) -> None:
    bundle = filled(tmp_path / "models" / "one")
    again = Bundle.load(bundle.folder)
    assert again.spec == bundle.spec
    assert again.spec.modalities == (Modality.TEXT,)
    assert again.spec.space_id == starter_spec().space_id
    assert again.verify() == []
    assert sorted(path.name for path in bundle.folder.parent.iterdir()) == ["one"]


def test_the_space_depends_on_what_changes_vectors_only() -> None:
    spec = starter_spec()
    same = [
        replace(spec, name="other", provenance={"built": "yesterday"}),
        with_tower(spec, Modality.TEXT, graph="text.onnx"),
        with_tower(spec, Modality.AUDIO, missing="uv pip install"),
        with_tower(spec, Modality.AUDIO, window={"window_s": 5.0, "hop_s": 5.0}),
        with_tower(spec, Modality.IMAGE, batch_size=1),
        replace(spec, towers=spec.towers[::-1]),
    ]
    assert {one.space_id for one in same} == {spec.space_id}
    image, text = spec.tower(Modality.IMAGE), spec.tower(Modality.TEXT)
    assert image
    assert image.head
    assert text
    other = [
        with_tower(spec, Modality.IMAGE, head=replace(image.head, sha256="0" * 64)),
        with_tower(spec, Modality.IMAGE, head=None),
        with_tower(spec, Modality.IMAGE, preprocessing={**image.preprocessing, "size": 240}),
        with_tower(spec, Modality.TEXT, weights=text.weights[:1]),
        with_tower(spec, Modality.TEXT, dim=512),
    ]
    assert len({spec.space_id, *(one.space_id for one in other)}) == len(other) + 1


def test_a_head_is_hashed_by_its_tensors(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    def write(name: str, value: float, **metadata: str) -> str:
        path = tmp_path / name
        tensors = {"a": np.full((2, 3), value, np.float32), "b": np.arange(4, dtype=np.float16)}
        save_file(tensors, path, metadata={"format": "triptych-head/1", "top": "10", **metadata})
        return head_hash(path)

    first = write("one", 1.0)
    assert write("two", 1.0, fitted="later") == first
    assert write("three", 1.5) != first
    assert write("four", 1.0, top="11") != first
    (tmp_path / "five").write_bytes(b"\x05")
    with pytest.raises(ModelError, match="five"):
        head_hash(tmp_path / "five")


def edited(bundle: Bundle, **changes: Any) -> None:
    path = bundle.folder / SPEC
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 3}, "schema is 3"),
        ({"schema": "one"}, "schema is 'one'"),
        ({"space_id": "0" * 64}, "space_id does not follow"),
        ({"towers": []}, "space_id does not follow"),
        ({"towers": None}, "lacks or misstates"),
        ({"towers": [{"modality": "smell"}]}, "lacks or misstates"),
        ({"files": {"../../passwd": {"sha256": "", "size": 1}}}, "outside its folder"),
        ({"files": {"text.onnx": {"sha256": "", "size": 6}}}, "wrong size"),
        ({"files": {"gone.onnx": {"sha256": "", "size": 6}}}, "missing"),
    ],
)
def test_a_wrong_spec_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    bundle = filled(tmp_path / "one")
    edited(bundle, **changes)
    with pytest.raises(ModelError, match=words):
        Bundle.load(bundle.folder)


def test_no_spec_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        Bundle.load(tmp_path)
    for content in (b"{", b"[]", b"\xff"):
        (tmp_path / SPEC).write_bytes(content)
        with pytest.raises(ModelError):
            Bundle.load(tmp_path)


def test_verify_reads_the_bytes(tmp_path: Path) -> None:
    bundle = filled(tmp_path / "one")
    (bundle.folder / "text.onnx").write_bytes(b"grAph")
    assert Bundle.load(bundle.folder).verify() == ["text.onnx: checksum differs"]


def test_a_failed_build_leaves_the_old_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "one"
    filled(folder, text=b"first")

    def fail(work: Path) -> ModelSpec:
        (work / "text.onnx").write_bytes(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_bundle(folder, fail)
    assert (folder / "text.onnx").read_bytes() == b"first"
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_a_new_build_replaces_the_old_and_clears_leftovers(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "one"
    filled(folder, text=b"first")
    (folder.parent / ".building-dead").mkdir()
    (folder.parent / ".building-dead" / "text.onnx").write_bytes(b"half")
    with (folder / "text.onnx").open("rb") as open_before:
        filled(folder, text=b"second")
        assert open_before.read() == b"first"
    assert (folder / "text.onnx").read_bytes() == b"second"
    assert [path.name for path in folder.parent.iterdir()] == ["one"]
