"""A trained space as a bundle: its vectors equal torch's, and its space follows from its tensors."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from indexer.errors import ModelError, TrainingError
from indexer.types import Modality, Preparer
from retrieval.models import trained
from retrieval.models.backbones import BACKBONES, backbone_of
from retrieval.models.bundle import Bundle, ModelSpec, write_bundle
from retrieval.models.model import Model
from retrieval.models.starter.spec import starter_spec
from retrieval.models.starter.weights import MINILM_TOKENIZER, locate
from retrieval.models.trained import (
    TrainedModel,
    check_out,
    encode_media,
    load_backbone,
    load_heads,
    write_trained,
)
from retrieval.training.finetune import collate, parse_unfreeze, tuned_space
from retrieval.training.heads import HeadKind, HeadOptions, make_head
from retrieval.training.space import SharedSpace
from tests.media import photographs, sounds

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO
NAMES = {one.modality: name for name, one in BACKBONES.items()}
TEXTS = ["a cat", "a rocket on its launch pad, seen from afar, before it starts", "coffee"]
Samples = dict[Modality, list[np.ndarray]]


@cache
def pristine(modality: Modality) -> nn.Module:
    return BACKBONES[NAMES[modality]].load()


@cache
def samples() -> Samples:
    prepare = {modality: BACKBONES[name].preparer().tensor for modality, name in NAMES.items()}
    return {
        IMAGE: [prepare[IMAGE](rgb) for rgb in list(photographs().values())[:3]],
        TEXT: [prepare[TEXT](text) for text in TEXTS],
        AUDIO: [prepare[AUDIO](sounds()[name]) for name in ("chirp", "bell", "short")],
    }


def space_of(*modalities: Modality, dims: tuple[int, ...] = (384,), seed: int = 0) -> SharedSpace:
    kinds = {IMAGE: HeadKind.RESIDUAL, TEXT: HeadKind.LINEAR, AUDIO: HeadKind.MLP}
    heads = {
        modality: make_head(
            HeadOptions(kind=kinds[modality], hidden=32), BACKBONES[NAMES[modality]].width, dims[0], seed=seed
        )
        for modality in modalities
    }
    return SharedSpace(heads, dims=dims).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The starter's spec and tokenizer, with files that no runtime can open for graphs."""

    def fill(work: Path) -> ModelSpec:
        shutil.copyfile(locate(MINILM_TOKENIZER), work / "tokenizer.json")
        towers = []
        for tower in starter_spec().towers:
            graph = f"{tower.modality.value}.onnx"
            (work / graph).write_text(f"the base's {graph}")
            (work / f"{graph}.data").write_text("and its weights")
            towers.append(replace(tower, graph=graph))
        return replace(starter_spec(), towers=tuple(towers))

    return write_bundle(tmp_path_factory.mktemp("base") / "starter", fill)


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that are written in no time and that no runtime can open."""

    def stand_in(network: nn.Module, path: Path, preparer: Preparer, *, head: nn.Module) -> None:
        assert not network.training
        assert not head.training
        path.write_text("a graph")

    monkeypatch.setattr(trained, "export_tower", stand_in)


def model(base: Bundle, *modalities: Modality, **changes: Any) -> TrainedModel:
    made = TrainedModel("birds", base, space_of(*(modalities or (IMAGE, TEXT))))
    return replace(made, **changes)


def test_vectors_of_real_media_equal_torchs(base: Bundle, tmp_path: Path) -> None:
    """Fine-tune two backbones for a step, export all three towers, compare them with training's own path."""
    space = space_of(*Modality, dims=(64, 16))
    unfreeze = parse_unfreeze("image:1,text:lora4")
    tuned = tuned_space(space, {m: copy.deepcopy(pristine(m)) for m in unfreeze}, unfreeze).train()
    optimizer = torch.optim.AdamW(tuned.parameter_groups(lr=0.01, weight_decay=0.0))
    inputs = {modality: collate(modality, samples()[modality]) for modality in unfreeze}
    small = {**inputs, IMAGE: (inputs[IMAGE][0][:, :, ::3, ::3], inputs[IMAGE][1])}  # quick to learn from

    def step() -> Tensor:
        vectors = [tuned.encode(modality, small[modality]) for modality in unfreeze]
        loss = nn.functional.cross_entropy(10 * vectors[0] @ vectors[1].T, torch.arange(3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    losses = [float(step()) for _ in range(4)]
    assert losses[-1] < 0.8 * losses[0]
    heads, backbones = tuned.result()
    made = TrainedModel(
        "birds", base, heads, modules=backbones, provenance={"seed": 3}, samples=samples(), from_base=False
    )
    opened = Model(write_trained(tmp_path / "models" / "birds", made))
    tuned.eval()
    for modality in Modality:
        found = opened.tower(modality).encode(samples()[modality])
        with torch.no_grad():
            if modality is AUDIO:
                whole = nn.ModuleList([pristine(AUDIO), space.heads[AUDIO.value]])
                expected = encode_media(*whole, AUDIO, samples()[AUDIO])
            else:
                expected = tuned.encode(modality, inputs[modality]).numpy()
        assert np.abs(found - expected).max() < 1e-4
        assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    _wrong_pixels_are_noticed(opened, backbones[IMAGE], heads)
    _the_spec_says_what_was_done(opened, base)
    _it_can_be_loaded_again(opened, heads, backbones)


def _wrong_pixels_are_noticed(opened: Model, network: nn.Module, heads: SharedSpace) -> None:
    wrong = [np.ascontiguousarray(views[..., ::-1]) for views in samples()[IMAGE]]
    tower = opened.bundle.spec.tower(IMAGE)
    assert tower is not None
    expected = encode_media(network, heads.heads[IMAGE.value], IMAGE, samples()[IMAGE])
    assert trained.compare(opened.path, tower, samples()[IMAGE], lambda: expected) < 1e-4
    with pytest.raises(ModelError, match="image tower's vectors of the samples differ"):
        trained.compare(opened.path, tower, wrong, lambda: expected)


def _the_spec_says_what_was_done(opened: Model, base: Bundle) -> None:
    spec = opened.bundle.spec
    assert opened.bundle.verify() == []
    assert spec.dims == (64, 16)
    assert spec.space_id != base.spec.space_id
    assert spec.provenance["seed"] == 3
    assert spec.provenance["fine-tuned"] == ["image", "text"]
    assert spec.provenance["base"] == {"name": "starter", "space_id": base.spec.space_id}
    image, text, audio = (spec.tower(modality) for modality in Modality)
    assert image
    assert text
    assert audio
    assert "fine-tuned from efficientnet-lite0" in image.weights[0].source
    assert image.weights[0].licence == "Apache-2.0"
    assert image.weights[0].sha256 != BACKBONES["efficientnet-lite0"].weights[0].sha256
    assert text.weights[1] == BACKBONES["all-MiniLM-L6-v2"].weights[1]  # the tokenizer is as it was
    assert audio.weights == BACKBONES["aisfx-x-sequential-ce"].weights
    assert [tower.preprocessing for tower in (image, text, audio)] == [
        base.spec.tower(modality).preprocessing  # type: ignore[union-attr]
        for modality in Modality
    ]
    assert (opened.path / "image-tuned.safetensors").stat().st_size < 6e6  # what changed, not the network
    assert not (opened.path / "audio-tuned.safetensors").exists()


def _it_can_be_loaded_again(
    opened: Model, heads: SharedSpace, backbones: Mapping[Modality, nn.Module]
) -> None:
    again = load_heads(opened.bundle)
    for name, value in heads.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    for modality in Modality:
        wanted = backbones.get(modality, pristine(modality)).state_dict()
        found = load_backbone(opened.bundle, modality).state_dict()
        assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.usefixtures("no_export")
def test_the_space_follows_from_the_tensors(base: Bundle, tmp_path: Path) -> None:
    def space_id(name: str, made: TrainedModel) -> str:
        return write_trained(tmp_path / name, made).spec.space_id

    first = space_id("first", model(base, TEXT))
    assert space_id("again", model(base, TEXT, space=space_of(TEXT))) == first
    assert space_id("renamed", model(base, TEXT, name="owls", provenance={"seed": 2})) == first
    assert space_id("other head", model(base, TEXT, space=space_of(TEXT, seed=1))) != first
    scaled = space_of(TEXT)
    with torch.no_grad():
        scaled.log_scale.add_(1.0)  # read by losses only
    assert space_id("other scale", model(base, TEXT, space=scaled)) == first
    network = copy.deepcopy(pristine(TEXT))
    assert space_id("not changed", model(base, TEXT, modules={TEXT: network})) == first
    with torch.no_grad():
        next(network.parameters())[0, 0] += 1e-3
    assert space_id("fine-tuned", model(base, TEXT, modules={TEXT: network})) != first


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize(
    ("dims", "from_base", "kept"),
    [((384,), True, True), ((384,), False, False), ((128,), True, False), ((384, 64), True, False)],
)
def test_an_untrained_tower_stays_only_in_the_bases_space(
    base: Bundle, tmp_path: Path, dims: tuple[int, ...], from_base: bool, kept: bool
) -> None:
    space = space_of(IMAGE, TEXT, dims=dims)
    bundle = write_trained(tmp_path / "out", model(base, space=space, from_base=from_base))
    assert (AUDIO in bundle.spec.modalities) is kept
    assert bundle.spec.provenance["kept from the base"] == (["audio"] if kept else [])
    assert bundle.spec.provenance["left out"] == ([] if kept else ["audio"])
    assert (bundle.folder / "audio.onnx").exists() is kept
    if kept:
        assert bundle.spec.tower(AUDIO) == base.spec.tower(AUDIO)
        assert (bundle.folder / "audio.onnx").read_text() == "the base's audio.onnx"
        assert (bundle.folder / "audio.onnx.data").is_file()


@pytest.mark.usefixtures("no_export")
def test_a_fine_tuned_backbone_is_served_from_its_model(base: Bundle, tmp_path: Path) -> None:
    network = copy.deepcopy(pristine(TEXT))
    with torch.no_grad():
        next(network.parameters()).mul_(1.5)
    bundle = write_trained(tmp_path / "tuned", model(base, TEXT, modules={TEXT: network}))
    tower = bundle.spec.tower(TEXT)
    assert tower is not None
    with pytest.raises(ModelError, match="fine-tuned"):
        backbone_of(tower)
    found = backbone_of(tower, bundle)
    assert found.fingerprint != BACKBONES[NAMES[TEXT]].fingerprint  # its features have a cache of their own
    state = found.load().state_dict()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


@pytest.mark.usefixtures("no_export")
def test_a_trained_base_hands_on_the_heads_of_kept_towers(base: Bundle, tmp_path: Path) -> None:
    first = write_trained(tmp_path / "first", model(base, *Modality))
    second = write_trained(tmp_path / "second", model(first, IMAGE, from_base=True))
    heads = load_heads(second)
    assert heads.modalities == tuple(Modality)
    old = load_heads(first)
    for modality in (TEXT, AUDIO):
        for name, value in old.heads[modality.value].state_dict().items():
            assert torch.equal(heads.heads[modality.value].state_dict()[name], value)
    assert second.spec.tower(AUDIO) == first.spec.tower(AUDIO)


@pytest.mark.usefixtures("no_export")
def test_a_head_that_is_not_the_graphs_is_refused(base: Bundle, tmp_path: Path) -> None:
    first = write_trained(tmp_path / "first", model(base))
    other = write_trained(tmp_path / "other", model(base, space=space_of(IMAGE, TEXT, seed=9)))
    for name in ("heads.json", "heads.safetensors"):
        shutil.copyfile(other.folder / name, first.folder / name)
    with pytest.raises(ModelError, match="head beside the model birds"):
        load_heads(first)


@pytest.mark.usefixtures("no_export")
def test_nothing_of_the_user_is_touched(base: Bundle, tmp_path: Path) -> None:
    for name in (".old-photos", ".building-site"):
        (tmp_path / name).mkdir()
    (tmp_path / "out").mkdir()  # empty: fine
    write_trained(tmp_path / "out", model(base))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".building-site", ".old-photos", "out"]
    with pytest.raises(TrainingError, match="not empty") as caught:
        write_trained(tmp_path / "out", model(base))
    assert "--out" in (caught.value.hint or "")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TrainingError, match="not a folder"):
        check_out(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_export_leaves_nothing(
    base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ModelError("differs")

    monkeypatch.setattr(trained, "export_tower", fails)
    with pytest.raises(ModelError, match="differs"):
        write_trained(tmp_path / "deep" / "out", model(base))
    assert list((tmp_path / "deep").iterdir()) == []


Breaks = Callable[[TrainedModel], TrainedModel]


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"name": "starter"}, TrainingError, "cannot be called"),
        ({"name": "a/b"}, TrainingError, "cannot be called"),
        ({"provenance": {"loss": float("nan")}}, TrainingError, "provenance"),
        ({"extra": {"../elsewhere": b""}}, TrainingError, "another file called"),
        ({"extra": {"text.onnx": b""}}, TrainingError, "another file called"),
        ({"modules": {TEXT: nn.Linear(2, 2)}}, ModelError, "other tensors than all-MiniLM"),
    ],
)
@pytest.mark.usefixtures("no_export")
def test_what_cannot_be_written_is_refused(
    base: Bundle, tmp_path: Path, change: dict[str, Any], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        write_trained(tmp_path / "out", model(base, TEXT, **change))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_export")
def test_the_spec_is_readable_json(base: Bundle, tmp_path: Path) -> None:
    bundle = write_trained(tmp_path / "out", model(base, extra={"split.parquet": b"rows"}))
    assert (bundle.folder / "split.parquet").read_bytes() == b"rows"
    assert bundle.spec.files["split.parquet"].size == 4
    said = json.loads((bundle.folder / "model.json").read_text())
    assert set(said["files"]) >= {"heads.json", "heads.safetensors", "tokenizer.json", "text.onnx"}
    assert said["provenance"]["versions"]["torch"] == torch.__version__.split("+")[0]
