"""Which tensors of a pretrained backbone may learn: the words a user writes, and what they mean in a network.

Imports torch. How a backbone and its head are trained together stands in finetune.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from indexer.errors import ConfigError, TrainingError
from indexer.types import Modality
from retrieval.models.starter.backbones import MiniLM, SoundNet

RANK = 8  # of LoRA's matrices where the user names none
_LORA = re.compile(r"lora(\d+)?")
AFTER = re.compile(r"(^|[._])(proj|projection|ln_post|ln_final|norm_head|pooler|head)([._]|$)")
QUERY_OR_VALUE = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v", "qkv")


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
    parts = _parts(backbone)
    if unfreeze.kind is UnfreezeKind.LORA:
        return _add_lora(backbone, unfreeze, seed)
    if unfreeze.blocks > len(parts.blocks):
        raise TrainingError(
            f"the network has {len(parts.blocks)} blocks, {unfreeze.blocks} were to be unfrozen",
            hint=f"ask for {len(parts.blocks)} at most, or for all",
        )
    if unfreeze.kind is UnfreezeKind.ALL:
        chosen = [*parts.stem, *(one for block in parts.blocks for one in block)]
    else:
        chosen = [one for block in parts.blocks[-unfreeze.blocks :] for one in block]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


@dataclass(frozen=True, slots=True)
class _Parts:
    """A network's parameters: before its blocks, and block by block from input to output.

    What comes after the last block counts as part of it. Classifiers, which no feature depends on, are left
    out.
    """

    stem: list[nn.Parameter]
    blocks: list[list[nn.Parameter]]


def _parts(backbone: nn.Module) -> _Parts:
    """TrainingError for a network in which no row of like blocks is found."""
    for module in backbone.modules():
        if isinstance(module, MiniLM):
            return _of([module.words, module.places, module.kinds, module.norm], module.body)
        if isinstance(module, SoundNet):
            return _of([], module.body)
        timm: Any = module
        if hasattr(module, "conv_head") and hasattr(module, "blocks"):  # EfficientNet: a block is a stage
            parts = _of([timm.conv_stem, timm.bn1], timm.blocks)
            parts.blocks[-1].extend([*timm.conv_head.parameters(), *timm.bn2.parameters()])
            return parts
    return _found_parts(backbone)


def _of(stem: Iterable[nn.Module], blocks: Iterable[nn.Module]) -> _Parts:
    return _Parts(
        [one for part in stem for one in part.parameters()], [[*block.parameters()] for block in blocks]
    )


def _found_parts(backbone: nn.Module) -> _Parts:
    """The parts of a network whose make is not known: its blocks are the largest row of modules of one class,
    and what was made after them, or projects into the space, comes after them.
    """
    row = _blocks_of(backbone)
    inside = {id(one) for one in row.parameters()}
    blocks = [[*block.parameters()] for block in row.children()]
    stem: list[nn.Parameter] = []
    passed = False
    for name, parameter in backbone.named_parameters():
        if id(parameter) in inside:
            passed = True
        elif passed or AFTER.search(name):
            blocks[-1].append(parameter)
        else:
            stem.append(parameter)
    return _Parts(stem, blocks)


def _blocks_of(backbone: nn.Module) -> nn.Module:
    """The module whose children are a network's blocks. TrainingError where there is none."""
    rows = [
        module
        for module in backbone.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len(module) > 1
        and len({type(child) for child in module}) == 1
    ]
    if not rows:
        raise TrainingError(
            f"a backbone of type {type(backbone).__name__} cannot be unfrozen: its blocks are not known",
            hint="leave it out of --unfreeze; its head is trained all the same",
        )
    return max(rows, key=lambda row: sum(one.numel() for one in row.parameters()))


def _add_lora(backbone: nn.Module, unfreeze: Unfreeze, seed: int) -> list[nn.Parameter]:
    if find_spec("peft") is None:
        raise ConfigError("LoRA needs the package peft", hint="uv pip install 'triptych[finetune]'")
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=unfreeze.rank, lora_alpha=unfreeze.alpha, target_modules=_lora_targets(backbone), bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone)
    return [parameter for parameter in backbone.parameters() if parameter.requires_grad]


def _lora_targets(backbone: nn.Module) -> list[str]:
    """The names of queries and values of attention, as in the paper; of attention that keeps both in one
    matrix of its own, the block's other matrices; of convolutional networks, the convolutions that mix
    channels. All of them inside blocks.
    """
    inside = {id(one) for block in _parts(backbone).blocks for one in block}
    found = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and id(module.weight) in inside
    ]
    attention = [name for name, _ in found if name.rpartition(".")[2] in QUERY_OR_VALUE]
    if attention:
        return attention
    # torch's own attention reads its last matrix without calling it: nothing can be added there.
    fused = {
        f"{name}.out_proj" for name, m in backbone.named_modules() if isinstance(m, nn.MultiheadAttention)
    }
    linear = [name for name, module in found if isinstance(module, nn.Linear) and name not in fused]
    convolutions = [name for name, m in found if isinstance(m, nn.Conv2d) and m.groups == 1]
    return linear if len(linear) > len(convolutions) else convolutions


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
