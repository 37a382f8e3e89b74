"""What `--unfreeze` asks for, and that gradients reach exactly that."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from indexer.errors import ConfigError, TrainingError
from indexer.types import Modality
from retrieval.models.backbones import BACKBONES
from retrieval.training import unfreeze
from retrieval.training.unfreeze import Unfreeze, UnfreezeKind, merged, parse_unfreeze, tunable

BLOCKS, ALL, LORA = UnfreezeKind.BLOCKS, UnfreezeKind.ALL, UnfreezeKind.LORA


@cache
def pristine(modality: Modality) -> nn.Module:
    return next(one for one in BACKBONES.values() if one.modality is modality).load()


def fresh(modality: Modality) -> nn.Module:
    return copy.deepcopy(pristine(modality))


def some_inputs(modality: Modality) -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(3)
    if modality is Modality.TEXT:
        ids = torch.randint(1000, 5000, (3, 6), generator=source)
        return ids, torch.ones_like(ids)
    if modality is Modality.IMAGE:
        return (torch.randint(0, 256, (2, 224, 224, 3), generator=source, dtype=torch.uint8),)
    return (torch.rand(2, 100, 96, generator=source) / 2,)


def reached(modality: Modality, network: nn.Module) -> set[str]:
    """Names of the tensors that a gradient gets to."""
    features = network(*some_inputs(modality))
    (features * torch.randn(features.shape, generator=torch.Generator().manual_seed(4))).sum().backward()
    return {name for name, value in network.named_parameters() if value.grad is not None}


def test_a_list_is_parsed() -> None:
    assert parse_unfreeze("image:2, TEXT:lora ,audio:all") == {
        Modality.IMAGE: Unfreeze(BLOCKS, blocks=2),
        Modality.TEXT: Unfreeze(LORA, rank=8),
        Modality.AUDIO: Unfreeze(ALL),
    }
    assert parse_unfreeze("text:lora16")[Modality.TEXT].rank == 16
    assert parse_unfreeze("") == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image", "a colon"),
        ("video:2", "expected one of image, text, audio"),
        ("image:2,image:3", "named twice"),
        ("image:0", "1 or more"),
        ("image:-1", "1 or more"),
        ("text:lora0", "lora16"),
        ("text:half", "neither a number"),
        ("text:²", "neither a number"),
    ],
)
def test_a_bad_list_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_unfreeze(text)
    assert "--unfreeze" in (caught.value.hint or "")


CASES: list[tuple[Modality, str, Callable[[str], bool]]] = [
    (Modality.TEXT, "text:2", lambda name: name.startswith(("network.body.4.", "network.body.5."))),
    (Modality.TEXT, "text:all", lambda name: True),
    (
        Modality.IMAGE,
        "image:1",
        lambda name: name.startswith(("network.net.blocks.6.", "network.net.conv_head.", "network.net.bn2.")),
    ),
    (Modality.IMAGE, "image:all", lambda name: True),
    (Modality.AUDIO, "audio:1", lambda name: name.startswith("body.3.")),
    (Modality.AUDIO, "audio:all", lambda name: True),
]


@pytest.mark.parametrize(("modality", "text", "wanted"), CASES, ids=[case[1] for case in CASES])
def test_gradients_reach_what_was_asked_for(
    modality: Modality, text: str, wanted: Callable[[str], bool]
) -> None:
    network = fresh(modality)
    learning = tunable(network, parse_unfreeze(text)[modality])
    names = {name for name, _ in network.named_parameters() if wanted(name)}
    assert names
    assert reached(modality, network) == names
    assert {id(one) for one in learning} == {id(v) for n, v in network.named_parameters() if n in names}


@pytest.mark.parametrize("modality", list(Modality))
def test_lora_starts_at_the_pretrained_network_and_merges_into_it(modality: Modality) -> None:
    network, inputs = fresh(modality), some_inputs(modality)
    before = network(*inputs).detach()
    names = set(network.state_dict())
    learning = tunable(network, Unfreeze(LORA, rank=4), seed=1)
    assert torch.equal(network(*inputs).detach(), before)
    assert all("lora_" in name for name in reached(modality, network))
    assert len(reached(modality, network)) == len(learning) > 0
    with torch.no_grad():
        for one in learning:
            one.add_(0.02 * torch.randn(one.shape, generator=torch.Generator().manual_seed(5)))
    moved = network(*inputs).detach()
    alone = merged(network)
    assert set(alone.state_dict()) == names
    worth = float((moved - before).abs().max())
    assert worth > 1e-3
    assert float((alone(*inputs) - moved).detach().abs().max()) < 1e-3 * worth
    again = merged(alone)  # nothing left to merge
    assert again is alone


def test_lora_is_drawn_from_its_seed_alone() -> None:
    torch.manual_seed(11)
    first = [one.detach().clone() for one in tunable(fresh(Modality.TEXT), Unfreeze(LORA), seed=1)]
    drawn = torch.rand(1)
    second = tunable(fresh(Modality.TEXT), Unfreeze(LORA), seed=1)
    other = tunable(fresh(Modality.TEXT), Unfreeze(LORA), seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    torch.manual_seed(11)
    assert torch.equal(torch.rand(1), drawn)  # the global state was left alone


def test_more_blocks_than_there_are() -> None:
    with pytest.raises(TrainingError, match="the network has 6 blocks, 7") as caught:
        tunable(fresh(Modality.TEXT), Unfreeze(BLOCKS, blocks=7))
    assert "6 at most" in (caught.value.hint or "")


def test_a_network_without_blocks_learns_whole_or_not_at_all() -> None:
    network = nn.Sequential(nn.Embedding(3, 2))
    with pytest.raises(TrainingError, match="of type Sequential cannot be unfrozen: it has no row"):
        tunable(network, Unfreeze(BLOCKS, blocks=1))
    with pytest.raises(TrainingError, match="LoRA finds no matrix"):
        tunable(network, Unfreeze(LORA))
    learning = tunable(network, Unfreeze(ALL))
    assert [one.shape for one in learning] == [(3, 2)]
    assert learning[0].requires_grad


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfreeze, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="peft") as caught:
        tunable(fresh(Modality.TEXT), Unfreeze(LORA))
    assert "finetune" in (caught.value.hint or "")
