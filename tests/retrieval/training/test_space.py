"""The shared space: unit vectors, nested dimensions, the scale's bound, and its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from indexer.errors import ConfigError, ModelError, TrainingError
from indexer.types import Modality
from retrieval.models.starter.heads import AudioHead, BaseHead, HeadShape
from retrieval.training.heads import HeadKind, HeadOptions, OnBase, make_head
from retrieval.training.space import SharedSpace, load_space, save_space

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO


def make_space(*, base: bool = False, dims: tuple[int, ...] = (384, 64, 16)) -> SharedSpace:
    dim = dims[0]
    heads: dict[Modality, nn.Module] = {
        TEXT: make_head(HeadOptions(HeadKind.IDENTITY), dim, dim, seed=0),
        IMAGE: make_head(HeadOptions(HeadKind.RESIDUAL, hidden=16), 12, dim, seed=1),
    }
    if base:
        sound = AudioHead(HeadShape(features=9, classes=5, top=2, classifier=(6,)))
        nn.init.normal_(sound.class_vectors)
        heads[AUDIO] = OnBase(BaseHead(sound), make_head(HeadOptions(), 9, dim, seed=2), gain=0.8)
    return SharedSpace(heads, dims=dims, scale=20.0, bias=-10.0)


@torch.no_grad()
def test_vectors_are_unit_and_prefixes_are_vectors_of_smaller_spaces() -> None:
    space = make_space()
    assert space.modalities == (IMAGE, TEXT)  # in Modality's order, whatever came first
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    whole = space.encode(IMAGE, x)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(whole, nn.functional.normalize(space.heads["image"](x), dim=1))
    small = space.encode(IMAGE, x, dim=16)
    torch.testing.assert_close(small, whole[:, :16] / whole[:, :16].norm(dim=1, keepdim=True))
    assert torch.equal(space.encode(TEXT, torch.zeros(2, 384)), torch.zeros(2, 384))
    found = space({IMAGE: x})
    assert list(found) == [IMAGE]
    assert torch.equal(found[IMAGE], whole)


def test_scale_is_bounded_and_comes_back() -> None:
    space = make_space()
    torch.testing.assert_close(space.scale, torch.tensor(20.0))
    with torch.no_grad():
        space.log_scale.fill_(math.log(250.0))
    torch.testing.assert_close(space.scale, torch.tensor(100.0))
    space.scale.backward()
    assert space.log_scale.grad is not None
    torch.testing.assert_close(space.log_scale.grad, torch.tensor(100.0))  # not stuck above the bound
    space.bound_scale()
    torch.testing.assert_close(space.log_scale.detach(), torch.tensor(math.log(100.0)))
    with torch.no_grad():
        space.log_scale.fill_(math.log(3.0))
    space.bound_scale()
    torch.testing.assert_close(space.scale, torch.tensor(3.0))


@torch.no_grad()
@pytest.mark.parametrize("named", [False, True])
def test_a_space_survives_its_files(tmp_path: Path, named: bool) -> None:
    space = make_space(base=True)
    for parameter in space.parameters():
        parameter.add_(0.01)
    where = tmp_path / ("other.safetensors" if named else "folder")
    tensors, description = save_space(space, where)
    assert [tensors.name, description.name] == (
        ["other.safetensors", "other.json"] if named else ["heads.safetensors", "heads.json"]
    )
    again = load_space(where)
    assert again.dims == space.dims
    assert again.describe() == space.describe()
    assert not again.training
    generator = torch.Generator().manual_seed(0)
    for modality, width in ((IMAGE, 12), (TEXT, 384), (AUDIO, 9)):
        x = torch.randn(3, width, generator=generator)
        assert torch.equal(again.encode(modality, x), space.eval().encode(modality, x))
    assert again.scale == space.scale
    assert again.bias == space.bias
    assert not any(parameter.requires_grad for parameter in again.heads["audio"].base.parameters())


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_space(tmp_path)
    tensors, description = save_space(make_space(dims=(384,)), tmp_path)
    original, whole = tensors.read_bytes(), json.loads(description.read_text())
    save_space(make_space(dims=(384, 8)), tmp_path / "other")
    tensors.write_bytes(original[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match=r"heads.safetensors is not what heads.json describes"):
        load_space(tmp_path)
    tensors.write_bytes(original)
    description.write_text(json.dumps(whole | {"format": "triptych-space/9"}))
    with pytest.raises(ModelError, match="'triptych-space/9', expected 'triptych-space/1'"):
        load_space(tmp_path)
    smaller = json.loads(json.dumps(whole))
    smaller["heads"]["image"]["width"] = 13
    description.write_text(json.dumps(smaller))
    with pytest.raises(ModelError, match="do not fit"):
        load_space(tmp_path)
    for broken in ({"heads": {"smell": {}}}, {"heads": {}}, {"dims": [3, 5]}, {"heads": 3}):
        description.write_text(json.dumps(whole | broken))
        with pytest.raises(ModelError):
            load_space(tmp_path)
    description.write_text("[]")
    with pytest.raises(ModelError, match="is not what"):
        load_space(tmp_path)


def test_what_cannot_be_a_space() -> None:
    head = make_head(HeadOptions(), 4, 8, seed=0)
    for dims in ((), (8, 8), (4, 8), (8, 0)):
        with pytest.raises(ConfigError, match="from the largest down"):
            SharedSpace({IMAGE: head}, dims=dims)
    with pytest.raises(TrainingError, match="gives 8 numbers, the space has 16"):
        SharedSpace({IMAGE: head}, dims=(16,))
    with pytest.raises(TrainingError, match="at least one"):
        SharedSpace({}, dims=(8,))
    with pytest.raises(ConfigError, match="at most 100"):
        SharedSpace({IMAGE: head}, dims=(8,), scale=101.0)
    with pytest.raises(ModelError, match="no description"):
        SharedSpace({IMAGE: nn.Tanh()}, dims=(8,))
    space = SharedSpace({IMAGE: head}, dims=(8, 4))
    with pytest.raises(TrainingError, match="no head for audio, only for image"):
        space.encode(AUDIO, torch.zeros(1, 4))
    with pytest.raises(TrainingError, match=r"\(8, 4\), not 6"):
        space.encode(IMAGE, torch.zeros(1, 4), dim=6)
