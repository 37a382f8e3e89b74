"""The space with backbones inside: what learns, what stays, and what a checkpoint holds."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from indexer.errors import TrainingError
from indexer.types import Modality
from retrieval.encoders.image import Fit, ImagePreparer
from retrieval.models.backbones import BACKBONES
from retrieval.training.finetune import TunedSpace, collate, parse_unfreeze, tuned_space
from retrieval.training.gradcache import backward_in_chunks
from retrieval.training.heads import HeadOptions, make_head
from retrieval.training.space import SharedSpace
from tests.media import photographs

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO
NAMES = {one.modality: name for name, one in BACKBONES.items()}
CAPTIONS = ["an astronaut in a white suit", "a cup of coffee", "a cat's face", "a rocket on its pad"]
Inputs = dict[Modality, tuple[Tensor, ...]]


@cache
def pristine(modality: Modality) -> nn.Module:
    return BACKBONES[NAMES[modality]].load()


def tuned(text: str, *, dim: int = 16) -> TunedSpace:
    heads = {
        modality: make_head(HeadOptions(), BACKBONES[NAMES[modality]].width, dim, seed=number)
        for number, modality in enumerate((IMAGE, TEXT))
    }
    unfreeze = parse_unfreeze(text)
    backbones = {modality: copy.deepcopy(pristine(modality)) for modality in unfreeze}
    return tuned_space(SharedSpace(heads, dims=[dim, 8]), backbones, unfreeze, seed=1)


@pytest.fixture(scope="module")
def batch() -> Inputs:
    small = ImagePreparer(size=64, fit=Fit.LETTERBOX)  # the network takes any size, and small ones are quick
    pictures = [small.tensor(rgb) for rgb in list(photographs().values())[:4]]
    pictures[1] = np.concatenate([pictures[1], pictures[1][:, :, ::-1]])  # one of two views
    texts = [BACKBONES[NAMES[TEXT]].preparer().tensor(one) for one in CAPTIONS]
    return {IMAGE: collate(IMAGE, pictures), TEXT: collate(TEXT, texts)}


def contrast(space: TunedSpace, vectors: dict[Modality, Tensor]) -> Tensor:
    scores = space.scale * vectors[IMAGE] @ vectors[TEXT].T
    return nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def loss_of(space: TunedSpace, batch: Inputs) -> Tensor:
    return contrast(space, {modality: space.encode(modality, inputs) for modality, inputs in batch.items()})


def test_a_few_steps_lower_the_loss_and_leave_what_is_frozen(batch: Inputs) -> None:
    space = tuned("image:1,text:lora4").train()
    learning = {name for name, value in space.named_parameters() if value.requires_grad}
    before = {name: value.clone() for name, value in space.state_dict(keep_vars=False).items()}
    frozen = {n: v.detach().clone() for n, v in space.named_parameters() if n not in learning}
    buffers = {n: v.clone() for n, v in space.named_buffers()}
    optimizer = torch.optim.AdamW(space.parameter_groups(lr=3e-3, weight_decay=0.01))
    losses = []
    for _ in range(4):
        loss = loss_of(space, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    now = dict(space.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert all(torch.equal(value, buffers[name]) for name, value in space.named_buffers())
    moved = {name for name in learning if not torch.equal(now[name].detach(), before[name])}
    assert moved >= {name for name in learning if name != "bias"}


def test_the_state_holds_what_may_change_and_gives_the_same_vectors(batch: Inputs) -> None:
    space = tuned("image:1,text:lora4").eval()
    with torch.no_grad():
        for value in space.parameters():
            if value.requires_grad:
                value.add_(0.01)
    state = {name: value.clone() for name, value in space.state_dict().items()}
    learning = {name for name, value in space.named_parameters() if value.requires_grad}
    assert set(state) == learning
    assert sum(value.numel() for value in state.values()) < 2_000_000
    again = tuned("image:1,text:lora4").eval()
    assert again.load_state_dict(state).missing_keys == []
    with torch.no_grad():
        for modality, inputs in batch.items():
            assert torch.equal(again.encode(modality, inputs), space.encode(modality, inputs))
    with pytest.raises(RuntimeError, match="log_scale"):
        again.load_state_dict({name: value for name, value in state.items() if name != "log_scale"})


def test_batch_norm_learns_only_where_everything_does(batch: Inputs) -> None:
    changed = {}
    for text in ("image:1", "image:all"):
        space = tuned(text).train()
        before = {name: value.clone() for name, value in space.named_buffers()}
        space.encode(IMAGE, batch[IMAGE])
        changed[text] = [n for n, value in space.named_buffers() if not torch.equal(value, before[n])]
        assert {f"{name}" for name in changed[text]} <= set(space.state_dict())
        assert not any(module.training for module in space.eval().modules())
    assert changed["image:1"] == []
    assert any("running_var" in name for name in changed["image:all"])


def test_gradient_caching_gives_the_plain_gradients(batch: Inputs) -> None:
    space = tuned("image:1,text:lora4").train()
    loss = loss_of(space, batch)
    loss.backward()
    plain = {n: v.grad.clone() for n, v in space.named_parameters() if v.grad is not None}
    space.zero_grad()
    cached = backward_in_chunks(batch, space.encode, lambda vectors: contrast(space, dict(vectors)), chunk=3)
    assert float(cached) == pytest.approx(float(loss.detach()), rel=1e-5)
    found = {n: v.grad for n, v in space.named_parameters() if v.grad is not None}
    assert set(found) == set(plain)
    for name, value in plain.items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-5 * float(value.abs().max()) + 1e-9), (
            name
        )


def test_groups_hold_every_learning_tensor_once() -> None:
    space = tuned("image:1,text:lora4")
    groups = space.parameter_groups(lr=1e-3, weight_decay=0.1)
    ids = [id(value) for group in groups for value in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(value) for value in space.parameters() if value.requires_grad}
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {
        "heads": (1e-3, 0.1),
        "heads, no decay": (1e-3, 0.0),
        "backbones": (pytest.approx(5e-5), 0.1),
        "backbones, no decay": (pytest.approx(5e-5), 0.0),
    }
    assert all(v.ndim > 1 for group in groups if group["weight_decay"] for v in group["params"])
    backbone = {id(value) for value in space.backbones.parameters()}
    assert all((id(v) in backbone) is (g["lr"] < 1e-3) for g in groups for v in g["params"])


def test_a_frozen_modality_takes_features(batch: Inputs) -> None:
    space = tuned("image:1").eval()
    features = torch.randn(3, 384, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(space.encode(TEXT, features), space.space[0].encode(TEXT, features))
        short = space.encode(TEXT, features, dim=8)
    assert short.shape == (3, 8)
    assert torch.allclose(short.norm(dim=1), torch.ones(3))
    with pytest.raises(TrainingError, match="features are expected"):
        space.encode(TEXT, batch[TEXT])
    with pytest.raises(TrainingError, match="media are expected"):
        space.encode(IMAGE, torch.zeros(2, 1280))


def test_a_modality_that_is_not_trained_cannot_be_unfrozen() -> None:
    with pytest.raises(TrainingError, match="no audio head") as caught:
        tuned("audio:1")
    assert "--unfreeze" in (caught.value.hint or "")


def test_the_result_is_a_copy_with_lora_merged(batch: Inputs) -> None:
    space = tuned("text:lora4").eval()
    with torch.no_grad():
        for value in space.backbones.parameters():
            if value.requires_grad:
                value.add_(0.02)
        expected = space.encode(TEXT, batch[TEXT])
    heads, backbones = space.result()
    assert set(backbones[TEXT].state_dict()) == set(pristine(TEXT).state_dict())
    assert any("lora_" in name for name, _ in space.named_parameters())  # the space itself goes on
    with torch.no_grad():
        found = heads.encode(TEXT, backbones[TEXT](*batch[TEXT]))
        untouched = heads.encode(TEXT, pristine(TEXT)(*batch[TEXT]))
        next(heads.heads[TEXT.value].parameters()).zero_()
        still = space.encode(TEXT, batch[TEXT])
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(untouched, expected, atol=1e-2)
    assert torch.equal(still, expected)
