"""Which tensors of a pretrained backbone may learn: the words a user writes, and what they mean in a network.

Imports torch. How a backbone and its head are trained together stands in finetune.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from itertools import zip_longest

import torch
from torch import nn

from indexer.errors import ConfigError, TrainingError
from indexer.types import Modality

RANK = 8  # of LoRA's matrices where the user names none
_LORA = re.compile(r"lora(\d+)?")
# What a module or parameter beside the blocks is, by its name.
NUMBERED = re.compile(r"(layer|stage|block)s?_?\d+")  # blocks that are no list, such as a ResNet's
BEFORE = re.compile(r"embed|relative|batch_norm")  # of inputs, wherever it was made
AFTER = re.compile(r"(^|_)(proj|projection|ln_post|ln_final|norm_head|pooler|head)(_|$)")
UNUSED = re.compile(r"classifiers?$")
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
    them out again. TrainingError for more blocks than there are, or no matrix that LoRA could add to;
    ConfigError where LoRA's library is missing.
    """
    backbone.requires_grad_(False)
    if unfreeze.kind is UnfreezeKind.LORA:
        return _add_lora(backbone, unfreeze, seed)
    parts = _parts(backbone)
    if unfreeze.blocks and not parts.blocks:
        raise TrainingError(
            f"the last {unfreeze.blocks} blocks of a network of type {type(backbone).__name__} cannot be "
            "unfrozen: it has no row of like blocks",
            hint="ask for all, or leave it out of --unfreeze; its head is trained all the same",
        )
    if unfreeze.blocks > len(parts.blocks):
        raise TrainingError(
            f"the network has {len(parts.blocks)} blocks, {unfreeze.blocks} were to be unfrozen",
            hint=f"ask for {len(parts.blocks)} at most, or for all",
        )
    if unfreeze.kind is UnfreezeKind.ALL:
        chosen = [*parts.stem, *(one for block in parts.blocks for one in block), *parts.after]
    else:
        chosen = [*(one for block in parts.blocks[-unfreeze.blocks :] for one in block), *parts.after]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


@dataclass(frozen=True, slots=True)
class _Parts:
    """A network's parameters from input to output; without blocks everything is `stem`.

    Classifiers, which no feature depends on, are left out.
    """

    stem: list[nn.Parameter]
    blocks: list[list[nn.Parameter]]
    after: list[nn.Parameter]  # they learn with the last block


def _parts(backbone: nn.Module) -> _Parts:
    """A network's blocks are its largest row of like modules; what was made after them, or by its name
    projects into the space, comes after them, unless its name says that it reads inputs.
    """
    path, row = _row_of(backbone)
    blocks = [[*block.parameters()] for block in row]
    inside = {id(one) for block in blocks for one in block}
    stem: list[nn.Parameter] = []
    after: list[nn.Parameter] = []
    passed = False
    for name, parameter in backbone.named_parameters():
        first = _beside(name, path)
        if id(parameter) in inside:
            passed = True
        elif UNUSED.search(first):
            continue
        elif blocks and not BEFORE.search(first) and (passed or AFTER.search(first)):
            after.append(parameter)
        else:
            stem.append(parameter)
    return _Parts(stem, blocks, after)


def _row_of(backbone: nn.Module) -> tuple[str, list[nn.Module]]:
    """The modules that are a network's blocks, and the path of the first; an empty list where none are."""
    found: tuple[str, list[nn.Module]] = ("", [])
    most = 0
    for path, module in backbone.named_modules():
        children = dict(module.named_children())
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            children = {name: child for name, child in children.items() if NUMBERED.fullmatch(name)}
        size = sum(one.numel() for child in children.values() for one in child.parameters())
        if len(children) > 1 and len({type(child) for child in children.values()}) == 1 and size > most:
            most, found = size, (f"{path}.{next(iter(children))}".lstrip("."), [*children.values()])
    return found


def _beside(name: str, path: str) -> str:
    """The first word in a parameter's name where it parts from a module's path."""
    words, others = name.split("."), path.split(".")
    return next((word for word, other in zip_longest(words, others) if word and word != other), words[-1])


def _add_lora(backbone: nn.Module, unfreeze: Unfreeze, seed: int) -> list[nn.Parameter]:
    if find_spec("peft") is None:
        raise ConfigError("LoRA needs the package peft", hint="uv pip install 'triptych[finetune]'")
    from peft import LoraConfig, inject_adapter_in_model

    targets = _lora_targets(backbone)
    if not targets:
        raise TrainingError(
            f"LoRA finds no matrix in a network of type {type(backbone).__name__}", hint="ask for all instead"
        )
    config = LoraConfig(r=unfreeze.rank, lora_alpha=unfreeze.alpha, target_modules=targets, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone)
    return [parameter for parameter in backbone.parameters() if parameter.requires_grad]


def _lora_targets(backbone: nn.Module) -> list[str]:
    """The names of matrices that get an addition, block by block: queries and values of attention, as in the
    paper; in a block without them, or whose attention keeps them in one matrix that no module holds, its
    other matrices, or the convolutions that mix channels.
    """
    # torch's own attention reads its last matrix without calling it: nothing can be added there.
    fused = {
        f"{name}.out_proj" for name, m in backbone.named_modules() if isinstance(m, nn.MultiheadAttention)
    }
    layers = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name not in fused
    ]

    def within(parameters: Sequence[nn.Parameter]) -> list[tuple[str, nn.Module]]:
        inside = {id(one) for one in parameters}
        return [(name, module) for name, module in layers if id(module.weight) in inside]

    parts = _parts(backbone)
    blocks = [within(block) for block in parts.blocks or [parts.stem]]
    attention = [[name for name, _ in block if name.rpartition(".")[2] in QUERY_OR_VALUE] for block in blocks]
    blocks[-1] += within(parts.after)
    return [
        name for chosen, block in zip(attention, blocks, strict=True) for name in chosen or _mixing(block)
    ]


def _mixing(layers: Sequence[tuple[str, nn.Module]]) -> list[str]:
    """The names of one block's matrices, or of its convolutions that mix channels: whichever are more."""
    linear = [name for name, module in layers if isinstance(module, nn.Linear)]
    convolutions = [name for name, m in layers if isinstance(m, nn.Conv2d) and m.groups == 1]
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
