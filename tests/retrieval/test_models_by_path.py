"""Models that a user names by a folder, and nested dimensions: what is found, kept and refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.errors import ConfigError, ModelError, ModelNotFound, SpaceMismatch
from indexer.types import Modality
from retrieval.config import Settings, cache_dir
from retrieval.encoders.tower import first_units
from retrieval.indexing import update_index
from retrieval.models import cache, registry
from retrieval.models.bundle import SPEC, Bundle, HeadRef, ModelSpec, canonical_json, write_bundle
from retrieval.models.model import Model
from retrieval.models.registry import find_model, list_models, load_model, load_space
from retrieval.models.starter.spec import starter_spec
from retrieval.query.searcher import Searcher


def graph(producer: str, *, weights: str | None = None) -> bytes:
    """An ONNX graph that computes nothing, and reads a tensor from the file `weights`."""
    import onnx

    tensors = []
    if weights is not None:
        tensor = onnx.TensorProto(name="w", dims=[1], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=weights)
        tensors.append(tensor)
    made = onnx.helper.make_graph([], "none", [], [], initializer=tensors)
    return onnx.helper.make_model(made, producer_name=producer).SerializeToString()


def made(
    folder: Path, *, name: str = "birds", seed: str = "a", nested: tuple[int, ...] = (128, 64)
) -> Bundle:
    """A small bundle of its own space; its one graph cannot be opened."""

    def fill(work: Path) -> ModelSpec:
        (work / "text.onnx").write_bytes(graph(seed))
        (work / "tokenizer.json").write_bytes(b"{}")
        (work / "heads.safetensors").write_bytes(b"heads")
        text = starter_spec().towers[1]
        head = HeadRef("birds-text", hashlib.sha256(seed.encode()).hexdigest())
        tower = replace(text, head=head, graph="text.onnx")
        return ModelSpec(name, (tower,), nested=nested)

    return write_bundle(folder, fill)


def test_a_folder_is_a_model_and_is_kept(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = made(tmp_path / "models" / "birds")
    monkeypatch.chdir(tmp_path / "models")
    for name in (str(bundle.folder), "birds", "./birds", "../models/birds"):
        model = load_model(name)
        assert model.space_id == bundle.spec.space_id
        assert model.path == cache_dir() / "models" / bundle.spec.space_id[:16]
        assert model.bundle.spec == bundle.spec
    assert [info.name for info in list_models() if info.path] == ["birds"]
    for file in ("text.onnx", "heads.safetensors"):
        assert (model.path / file).samefile(bundle.folder / file)  # no second copy of the weights
    shutil.rmtree(bundle.folder)
    assert find_model(bundle.spec.space_id).bundle.verify() == []
    monkeypatch.chdir(tmp_path)
    assert load_model("birds").path == model.path


def test_where_no_link_can_be_made_it_is_copied(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = made(tmp_path / "birds")

    def refused(_self: Path, _target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    model = load_model(str(bundle.folder))
    assert not (model.path / "text.onnx").samefile(bundle.folder / "text.onnx")
    assert (model.path / "text.onnx").read_bytes() == graph("a")


def test_a_model_that_was_made_again_replaces_the_kept_one(home: Path, tmp_path: Path) -> None:
    old = load_model(str(made(tmp_path / "birds", nested=()).folder))
    new = load_model(str(made(tmp_path / "birds", nested=(64,)).folder))
    assert old.path == new.path
    assert find_model("birds").bundle.spec.nested == (64,)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("../secret", "secret"),
        ("/etc/hostname", "hostname"),
        ("gone.data", "not there"),
        (SPEC, "not one of the model's files"),
    ],
)
def test_a_graph_reads_no_other_file(home: Path, tmp_path: Path, weights: str, words: str) -> None:
    (tmp_path / "secret").write_bytes(b"words")

    def fill(work: Path) -> ModelSpec:
        (work / "text.onnx").write_bytes(graph("a", weights=weights))
        (work / "tokenizer.json").write_bytes(b"{}")
        return ModelSpec("birds", (replace(starter_spec().towers[1], graph="text.onnx"),))

    bundle = write_bundle(tmp_path / "birds", fill)
    with pytest.raises(ModelError, match=words):
        load_model(str(bundle.folder))
    assert not [info for info in list_models() if info.path]


def test_an_int8_graph_of_the_kept_model_stays(home: Path, tmp_path: Path) -> None:
    bundle = made(tmp_path / "birds")
    kept = load_model(str(bundle.folder)).bundle

    def fill(work: Path) -> ModelSpec:
        for name in kept.spec.files:
            shutil.copyfile(kept.path(name), work / name)
        (work / "small.onnx").write_bytes(graph("small"))
        tower = replace(kept.spec.towers[0], quantised="small.onnx")
        return replace(kept.spec, towers=(tower,), provenance={"int8": {"calibrated": 20}})

    cache.store(kept.spec.space_id, fill)
    assert load_model(str(bundle.folder)).bundle.spec.towers[0].quantised == "small.onnx"


def test_damage_is_told_before_it_is_kept(home: Path, tmp_path: Path) -> None:
    bundle = made(tmp_path / "birds")
    (bundle.folder / "text.onnx").write_bytes(graph("b"))
    with pytest.raises(ModelError, match=r"text\.onnx: checksum differs"):
        load_model(str(bundle.folder))
    (bundle.folder / "text.onnx").write_bytes(b"short")
    with pytest.raises(ModelError, match="wrong size"):
        load_model(str(bundle.folder))
    spec = json.loads((bundle.folder / SPEC).read_text())
    (bundle.folder / SPEC).write_text(json.dumps(spec | {"files": {}}))
    with pytest.raises(ModelError, match=r"text\.onnx is not among its files"):
        load_model(str(bundle.folder))
    (bundle.folder / SPEC).write_text(json.dumps(spec | {"space_id": "0" * 64}))
    with pytest.raises(ModelError, match="does not follow"):
        load_model(str(bundle.folder))
    for name in (str(tmp_path), "./nothing", "no/where"):
        with pytest.raises(ModelNotFound, match="holds no model"):
            load_model(name)
    assert [info.path for info in list_models()] == [None]


def test_a_bundle_without_a_file_that_a_tower_names_is_not_kept(home: Path, tmp_path: Path) -> None:
    def fill(work: Path) -> ModelSpec:
        for name in ("text.onnx", "small.xml"):
            (work / name).write_bytes(graph("a"))
        tower = replace(starter_spec().towers[1], head=None, graph="text.onnx", quantised="small.xml")
        return ModelSpec("birds", (tower,))

    bundle = write_bundle(tmp_path / "birds", fill)
    with pytest.raises(ModelError, match=r"small\.xml\.data is not among .*tokenizer\.json is not among"):
        load_model(str(bundle.folder))


def test_names_of_a_kept_model_stay_and_others_are_added(home: Path, tmp_path: Path) -> None:
    kept = load_model(str(made(tmp_path / "birds").folder))
    cache.rename(kept.bundle, "mine")
    load_model(str(made(tmp_path / "again", name="fowl").folder))
    (info,) = [info for info in list_models() if info.path]
    assert info.names == ("mine", "birds", "fowl")
    for name in info.names:
        assert find_model(name).bundle.verify() == []
    made_again = load_model(str(made(tmp_path / "third", name="fowl", nested=()).folder))
    assert made_again.bundle.spec.nested == ()
    assert made_again.bundle.spec.names == info.names


def test_a_name_goes_over_to_the_model_that_is_called_so(home: Path, tmp_path: Path) -> None:
    one, two = (load_model(str(made(tmp_path / seed, seed=seed).folder)) for seed in "ab")
    cache.rename(two.bundle, "birds")
    assert find_model("birds").path == two.path
    assert find_model(one.space_id[:12]).name == one.space_id[:16]
    assert load_model(str(tmp_path / "a")).path == one.path
    assert find_model("birds").path == two.path
    three = load_model(str(made(tmp_path / "c", seed="c").folder))
    cache.rename(three.bundle, "mine")  # and not "birds", which is another's here
    assert find_model("birds").path == two.path
    assert find_model("mine").path == three.path


def test_what_an_index_says_is_never_a_path(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = made(tmp_path / "birds")
    monkeypatch.chdir(tmp_path)
    bundle.folder.rename("deadbeef")
    for name in ("deadbeef", "./deadbeef", str(tmp_path / "deadbeef")):
        for find in (find_model, load_space):
            with pytest.raises(ModelNotFound):
                find(name)
    assert not (cache_dir() / "models").exists() or not list((cache_dir() / "models").glob("*/"))


def test_the_starter_is_not_replaced_by_a_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder may claim the starter's space; what the cache has under it stays what was built here."""

    def fill(work: Path) -> ModelSpec:
        (work / "text.onnx").write_bytes(graph("other"))
        spec = starter_spec()
        towers = tuple(
            replace(t, graph="text.onnx") if t.modality is Modality.TEXT else t for t in spec.towers
        )
        return replace(spec, towers=towers)

    claims = write_bundle(tmp_path / "starter", fill)
    monkeypatch.chdir(tmp_path)
    assert load_model("./starter").path == claims.folder
    with pytest.raises(ModelNotFound):
        find_model("starter")
    assert registry.names_folder("starter") is False


def test_two_of_one_name_are_told_apart_by_space(home: Path, tmp_path: Path) -> None:
    one, two = (load_model(str(made(tmp_path / seed, seed=seed).folder)) for seed in "ab")
    with pytest.raises(ModelNotFound, match="could be 2 models") as caught:
        find_model("birds")
    assert one.space_id[:12] in caught.value.message
    assert two.space_id[:12] in caught.value.message
    assert min(one.space_id, two.space_id)[:12] in (caught.value.hint or "")
    assert find_model(two.space_id[:12]).path == two.path


def test_nested_dimensions_have_spaces_of_their_own(home: Path, tmp_path: Path) -> None:
    bundle = made(tmp_path / "birds")
    spec = bundle.spec
    assert spec.dims == (384, 128, 64)
    model = load_model(str(bundle.folder), dim=128)
    assert model.dim == 128
    assert model.space_id == hashlib.sha256(canonical_json([spec.space_id, 128])).hexdigest()
    tower = model.tower(Modality.TEXT)
    assert (tower.dim, tower.space_id, tower.nested) == (128, model.space_id, True)
    assert len({spec.space_of(dim) for dim in spec.dims}) == 3
    for name in (model.space_id, model.space_id[:12]):
        again = find_model(name)
        assert (again.dim, again.space_id) == (128, model.space_id)
    assert load_model("birds", dim=384).space_id == spec.space_id
    assert again.with_dim(64).space_id == spec.space_of(64)
    assert again.in_space(spec.space_id).dim == 384
    assert again.in_space("0" * 64) is again
    with pytest.raises(ConfigError, match="no 100 dimensions") as caught:
        load_model("birds", dim=100)
    assert caught.value.hint == "it has 384, 128, 64"


def test_old_specs_have_no_nested_dimensions(home: Path, tmp_path: Path) -> None:
    bundle = made(tmp_path / "birds", nested=())
    data = json.loads((bundle.folder / SPEC).read_text())
    del data["nested"]
    assert ModelSpec.from_json(data) == bundle.spec
    assert ModelSpec.from_json(data | {"nested": [64]}).space_id == bundle.spec.space_id
    for wrong in ([0], ["64"], [-1], 64, [1.5], [True]):
        with pytest.raises(ModelError, match="lacks or misstates"):
            ModelSpec.from_json(data | {"nested": wrong})


def test_first_coordinates_are_made_unit() -> None:
    vectors = np.array([[3, 4, 12], [0, 0, 1]], np.float32)
    assert first_units(vectors, 2).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


@pytest.mark.starter
def test_an_index_of_nested_dimensions(
    starter: Model, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made, updated and searched by its own space; the vectors are the full ones' beginnings."""
    folder = tmp_path / "nested"
    shutil.copytree(starter.path, folder, copy_function=shutil.copyfile)
    data = json.loads((folder / SPEC).read_text())
    # Without the heads in its spec it is a model of its own, with the starter's graphs.
    spec = replace(ModelSpec.from_json(data), name="nested", nested=(64,))
    spec = replace(spec, towers=tuple(replace(t, head=None) for t in spec.towers))
    (folder / SPEC).write_text(json.dumps(spec.to_json()))
    notes = tmp_path / "notes"
    notes.mkdir()
    texts = ["a red boat", "a green hill", "thunder and rain"]
    for number, text in enumerate(texts):
        (notes / f"{number}.txt").write_text(text)
    index, settings = notes / ".triptych", Settings(workers=1, threads=2)

    def update(**options: Any) -> None:
        update_index(index, [notes], settings=settings, **options)

    with pytest.raises(ConfigError, match="no 100 dimensions"):
        update(model=str(folder), dim=100)
    update(model=str(folder), dim=64)
    shutil.rmtree(folder)
    (notes / "3.txt").write_text("a black cat")
    update()  # keeps the index's model and dimension
    with Searcher.open(index, threads=2) as searcher:
        assert searcher.snapshot.space_id == spec.space_of(64)
        assert searcher.model.dim == 64
        hits = searcher.search("a cat", k=2).hits
        assert Path(hits[0].path).name == "3.txt"
        full = find_model("nested").tower(Modality.TEXT)
        vectors = first_units(
            full.encode([full.preparer.tensor(text) for text in ("a cat", "a black cat")]), 64
        )
        assert hits[0].score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-3)
    with Searcher.open(index, model="nested", threads=2) as searcher:
        assert searcher.model.dim == 64  # the named model, in the index's dimension
    update(model="nested")
    with pytest.raises(SpaceMismatch):
        update(dim=384)
    with pytest.raises(SpaceMismatch):
        Searcher.open(index, model=str(made(tmp_path / "other").folder))
