"""Which tensors of a pretrained backbone may learn: the words a user writes, and what they mean in a network.

Imports torch. How a backbone and its head are trained together stands in finetune.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from indexer.errors import ConfigError, TrainingError
from indexer.types import Modality
from retrieval.models.starter.backbones import BertLayer, Lite0, MiniLM, SoundNet

RANK = 8  # of LoRA's matrices where the user names none
_LORA = re.compile(r"lora(\d+)?")


class UnfreezeKind(StrEnum):
    """How much of a backbone learns."""

    BLOCKS = "blocks"  # the last few, as they are
    ALL = "all"  # everything, batch norm's statistics too
    LORA = "lora"  # low-rank additions to its matrices (Hu et al. 2021, arXiv:2106.09685)


@dataclass(frozen=True, slots=True)
class Unfreeze:
    """What one backbone learns."""

    kind: UnfreezeKind
    blocks: int = 0  # for `blocks`: how many, counted from the output
    rank: int = RANK  # for `lora`

    @property
    def alpha(self) -> int:
        """LoRA's additions are scaled by alpha / rank; twice the rank is usual."""
        return 2 * self.rank

    def __str__(self) -> str:
        return {
            UnfreezeKind.BLOCKS: str(self.blocks),
            UnfreezeKind.ALL: "all",
            UnfreezeKind.LORA: f"lora{self.rank}",
        }[self.kind]


def parse_unfreeze(text: str) -> dict[Modality, Unfreeze]:
    """What `image:2,text:lora,audio:all` asks for, by modality; an empty text asks for nothing.

    After the colon: a number of blocks, `all`, `lora`, or `lora` with a rank (`lora16`). ConfigError.
    """
    found: dict[Modality, Unfreeze] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, how = (piece.strip().lower() for piece in part.partition(":"))
        if name not in set(Modality) or not colon:
            raise _bad(part, f"expected one of {', '.join(Modality)}, a colon, and what to unfreeze")
        if Modality(name) in found:
            raise _bad(part, f"{name} is named twice")
        found[Modality(name)] = _parse_one(part, how)
    return found


def _parse_one(part: str, how: str) -> Unfreeze:
    if how == "all":
        return Unfreeze(UnfreezeKind.ALL)
    if how.isascii() and how.isdigit() and int(how) > 0:
        return Unfreeze(UnfreezeKind.BLOCKS, blocks=int(how))
    if (match := _LORA.fullmatch(how)) and match[1] is None:
        return Unfreeze(UnfreezeKind.LORA)
    if match and 1 <= int(match[1]) <= 1024:
        return Unfreeze(UnfreezeKind.LORA, rank=int(match[1]))
    raise _bad(part, f"{how!r} is neither a number of blocks (1 or more), nor all, lora or lora16")


def _bad(part: str, why: str) -> ConfigError:
    return ConfigError(f"cannot unfreeze {part!r}: {why}", hint="for example: --unfreeze image:2,text:lora")


def tunable(backbone: nn.Module, unfreeze: Unfreeze, *, seed: int = 0) -> list[nn.Parameter]:
    """Freeze `backbone` but for what is asked for, in place, and give that: the parameters that will learn.

    LoRA puts its matrices into the backbone, drawn from `seed` and changing no output yet; `merged` takes
    them out again. TrainingError for more blocks than there are, or a network of unknown make; ConfigError
    where LoRA's library is missing.
    """
    backbone.requires_grad_(False)
    net = _network(backbone)
    stem, blocks = _parts(net)
    if unfreeze.kind is UnfreezeKind.LORA:
        return _add_lora(backbone, net, unfreeze, seed)
    if unfreeze.blocks > len(blocks):
        raise TrainingError(
            f"{type(net).__name__} has {len(blocks)} blocks, {unfreeze.blocks} were to be unfrozen",
            hint=f"ask for {len(blocks)} at most, or for all",
        )
    if unfreeze.kind is UnfreezeKind.ALL:
        chosen = [*stem, *(part for block in blocks for part in block)]
    else:
        chosen = [part for block in blocks[-unfreeze.blocks :] for part in block]
    for part in chosen:
        part.requires_grad_(True)
    return [parameter for part in chosen for parameter in part.parameters()]


def _network(backbone: nn.Module) -> nn.Module:
    """The known network in a backbone, which may wrap it."""
    known = (Lite0, MiniLM, SoundNet)
    for module in backbone.modules():
        if isinstance(module, known) or (hasattr(module, "conv_head") and hasattr(module, "blocks")):
            return module
    raise TrainingError(
        f"a backbone of type {type(backbone).__name__} cannot be unfrozen: its blocks are not known",
        hint="leave it out of --unfreeze; its head is trained all the same",
    )


def _parts(net: nn.Module) -> tuple[list[nn.Module], list[list[nn.Module]]]:
    """What comes before the blocks, and the blocks from input to output. Without classifiers, which no
    feature depends on. What comes after the last block counts as part of it.
    """
    if isinstance(net, MiniLM):
        return [net.words, net.places, net.kinds, net.norm], [[layer] for layer in net.body]
    if isinstance(net, SoundNet):
        return [], [[block] for block in net.body]
    timm: Any = net.net if isinstance(net, Lite0) else net  # EfficientNet: a block is one of its stages
    blocks: list[list[nn.Module]] = [[stage] for stage in timm.blocks]
    blocks[-1] += [timm.conv_head, timm.bn2]
    return [timm.conv_stem, timm.bn1], blocks


def _add_lora(backbone: nn.Module, net: nn.Module, unfreeze: Unfreeze, seed: int) -> list[nn.Parameter]:
    if find_spec("peft") is None:
        raise ConfigError("LoRA needs the package peft", hint="uv pip install 'triptych[finetune]'")
    from peft import LoraConfig, inject_adapter_in_model

    names = {id(module): name for name, module in backbone.named_modules()}
    targets = [names[id(module)] for module in _lora_targets(net)]
    config = LoraConfig(r=unfreeze.rank, lora_alpha=unfreeze.alpha, target_modules=targets, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone)
    return [parameter for parameter in backbone.parameters() if parameter.requires_grad]


def _lora_targets(net: nn.Module) -> Iterator[nn.Module]:
    """Queries and values of attention, as in the paper; elsewhere every convolution that mixes channels."""
    if isinstance(net, MiniLM):
        for layer in net.body:
            assert isinstance(layer, BertLayer)
            yield from (layer.query, layer.value)
        return
    for part in (part for block in _parts(net)[1] for part in block):
        yield from (m for m in part.modules() if isinstance(m, nn.Conv2d) and m.groups == 1)


def merged(backbone: nn.Module) -> nn.Module:
    """`backbone` with LoRA's additions added into its own matrices, in place; without any, as it is.

    Tensor names are then those of the pretrained network again.
    """
    if not any("lora_" in name for name, _ in backbone.named_parameters()):
        return backbone
    from peft.tuners.lora import LoraLayer

    layers = [(name, module) for name, module in backbone.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(backbone.get_submodule(parent), last, layer.get_base_layer())
    for module in backbone.modules():
        if hasattr(module, "peft_config"):
            del module.peft_config
    return backbone


def describe(unfreeze: Mapping[Modality, Unfreeze]) -> str:
    """The words that `parse_unfreeze` reads back."""
    return ",".join(f"{modality}:{one}" for modality, one in unfreeze.items())
