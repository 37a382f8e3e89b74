"""Gradients in chunks equal the plain ones, with dropout, modalities and the loss's own parameters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from indexer.errors import ConfigError, TrainingError
from indexer.types import Modality
from retrieval.training.gradcache import Inputs, backward_in_chunks
from retrieval.training.losses import LossKind, LossOptions, Negatives, Pair, make_loss
from retrieval.training.losses.pair import unit

ITEMS = {Modality.IMAGE: 11, Modality.TEXT: 11, Modality.AUDIO: 7}


class Space(nn.Module):
    """A small head a modality, with dropout, and a loss over every kind of pair."""

    def __init__(self, *, dropout: float, options: LossOptions) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.heads = nn.ModuleDict(
                {
                    modality.value: nn.Sequential(
                        nn.Linear(6, 9), nn.GELU(), nn.Dropout(dropout), nn.Linear(9, 4)
                    )
                    for modality in ITEMS
                }
            )
        self.log_scale = nn.Parameter(torch.tensor(1.5))
        self.bias = nn.Parameter(torch.tensor(-2.0))
        self.options = options
        self.encoded: list[int] = []

    def encode(self, modality: Modality, inputs: Inputs) -> Tensor:
        first = inputs if isinstance(inputs, Tensor) else inputs[0] * inputs[1]
        self.encoded.append(len(first))
        return unit(self.heads[modality.value](first))

    def loss(self, vectors: Mapping[Modality, Tensor]) -> Tensor:
        loss = make_loss(self.options, generator=torch.Generator().manual_seed(3))
        image, text, audio = (vectors[modality] for modality in ITEMS)
        return self.one(loss, image, text) + 0.5 * self.one(loss, text, audio)

    def one(self, loss: Any, a: Tensor, b: Tensor) -> Tensor:
        eye = torch.eye(len(a), len(b), dtype=torch.bool)
        return loss(Pair(a=a, b=b, positive=eye, scale=self.log_scale.exp(), bias=self.bias))

    def gradients(self) -> dict[str, Tensor]:
        return {name: value.grad for name, value in self.named_parameters() if value.grad is not None}


def make_inputs(dtype: torch.dtype = torch.float64) -> dict[Modality, Inputs]:
    draw = torch.Generator().manual_seed(1)
    found: dict[Modality, Inputs] = {
        modality: torch.randn(count, 6, generator=draw, dtype=dtype) for modality, count in ITEMS.items()
    }
    text = found[Modality.TEXT]
    assert isinstance(text, Tensor)
    found[Modality.TEXT] = (text, (text > 0).to(dtype))  # as ids and mask
    return found


def plainly(
    space: Space, inputs: Mapping[Modality, Inputs], chunk: int, autocast: Any = nullcontext
) -> Tensor:
    """The same numbers drawn in the same order, with one graph over everything."""

    def part(whole: Inputs, start: int) -> Inputs:
        if isinstance(whole, Tensor):
            return whole[start : start + chunk]
        return tuple(one[start : start + chunk] for one in whole)

    with autocast():
        vectors = {
            modality: torch.cat(
                [space.encode(modality, part(whole, start)) for start in range(0, ITEMS[modality], chunk)]
            )
            for modality, whole in inputs.items()
        }
        loss = space.loss(vectors)
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(
    "options",
    [
        LossOptions(),
        LossOptions(LossKind.SIGMOID),
        LossOptions(LossKind.SUPCON),
        LossOptions(LossKind.TRIPLET, negatives=Negatives.RANDOM),
    ],
    ids=lambda options: options.kind,
)
def test_equals_plain_gradients(options: LossOptions, dropout: float, chunk: int) -> None:
    space, other = (Space(dropout=dropout, options=options).double() for _ in range(2))
    inputs = make_inputs()
    torch.manual_seed(9)
    wanted = plainly(other, inputs, chunk)
    drawn_after = torch.rand(3)
    torch.manual_seed(9)
    found = backward_in_chunks(inputs, space.encode, space.loss, chunk=chunk)
    assert torch.equal(torch.rand(3), drawn_after)
    assert max(space.encoded) <= chunk
    assert not found.requires_grad
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert space.gradients().keys() == other.gradients().keys()
    assert len(space.gradients()) >= 12
    for name, gradient in space.gradients().items():
        torch.testing.assert_close(gradient, other.gradients()[name], rtol=1e-10, atol=1e-10)


def test_the_losss_own_parameters_learn() -> None:
    space = Space(dropout=0.0, options=LossOptions(LossKind.SIGMOID)).double()
    backward_in_chunks(make_inputs(), space.encode, space.loss, chunk=3)
    for parameter in (space.log_scale, space.bias):
        assert parameter.grad is not None
        assert parameter.grad.abs() > 1e-6


def test_gradients_add_up_over_calls_and_follow_the_scaled_loss() -> None:
    once, twice = (Space(dropout=0.0, options=LossOptions()).double() for _ in range(2))
    loss = backward_in_chunks(make_inputs(), once.encode, once.loss, chunk=4)
    for factor in (2.0, 0.5):
        found = backward_in_chunks(
            make_inputs(),
            twice.encode,
            twice.loss,
            chunk=4,
            backward=lambda value, factor=factor: (value * factor).backward(),
        )
        assert found == loss
    for name, gradient in once.gradients().items():
        torch.testing.assert_close(twice.gradients()[name], 2.5 * gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outer", [False, True], ids=["given", "around"])
def test_mixed_precision(outer: bool) -> None:
    def half() -> AbstractContextManager[object]:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    space, other = (Space(dropout=0.3, options=LossOptions()) for _ in range(2))
    inputs = make_inputs(torch.float32)
    torch.manual_seed(9)
    wanted = plainly(other, inputs, 4, half)
    torch.manual_seed(9)
    with half() if outer else nullcontext():
        found = backward_in_chunks(
            inputs, space.encode, space.loss, chunk=4, autocast=nullcontext if outer else half
        )
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    for name, gradient in other.gradients().items():
        # bfloat16 sums of chunks are rounded one by one, so only about as close as it resolves
        scale = gradient.abs().max().item()
        torch.testing.assert_close(space.gradients()[name], gradient, rtol=0.02, atol=0.02 * scale)


def test_frozen_heads_and_modalities_out_of_the_loss() -> None:
    space = Space(dropout=0.0, options=LossOptions()).double()
    for parameter in space.heads["image"].parameters():
        parameter.requires_grad_(False)

    def loss(vectors: Mapping[Modality, Tensor]) -> Tensor:
        return space.one(make_loss(space.options), vectors[Modality.IMAGE], vectors[Modality.TEXT])

    backward_in_chunks(make_inputs(), space.encode, loss, chunk=4)
    assert {name.split(".")[1] for name in space.gradients() if name.startswith("heads")} == {"text"}


def test_bad_input() -> None:
    space = Space(dropout=0.0, options=LossOptions()).double()
    with pytest.raises(ConfigError, match="chunk of gradient caching is 0"):
        backward_in_chunks(make_inputs(), space.encode, space.loss, chunk=0)
    with pytest.raises(TrainingError, match="nothing to encode"):
        backward_in_chunks({Modality.TEXT: torch.zeros(0, 6)}, space.encode, space.loss, chunk=2)
    uneven = {Modality.TEXT: (torch.zeros(3, 6), torch.zeros(2, 6))}
    with pytest.raises(TrainingError, match=r"the tensors of text have \[2, 3\] items"):
        backward_in_chunks(uneven, space.encode, space.loss, chunk=2)
