"""Backbones that learn together with their heads: the space that the trainer sees, and what it leaves behind.

Imports torch. Which tensors learn stands in unfreeze.py, where decoded media come from in media.py. The
trainer itself knows nothing of backbones: a TunedSpace is a SharedSpace whose `encode` takes media, too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from indexer.errors import TrainingError
from indexer.types import Modality
from retrieval.training.heads import unit_rows
from retrieval.training.media import MediaSource, collate, media_of
from retrieval.training.source import Inputs
from retrieval.training.space import SharedSpace
from retrieval.training.unfreeze import Unfreeze, UnfreezeKind, merged, parse_unfreeze, tunable

__all__ = [
    "BACKBONE_LR",
    "MediaSource",
    "TunedSpace",
    "Unfreeze",
    "UnfreezeKind",
    "collate",
    "features_of",
    "media_of",
    "parse_unfreeze",
    "tunable",
    "tuned_space",
]

BACKBONE_LR = 0.05  # a backbone's learning rate as a share of the heads'


class TunedSpace(SharedSpace):
    """A space whose `encode` takes media for the modalities of `backbones`, and features for the others.

    Heads, scale and bias are those of `space`, not copies. Batch norm keeps its pretrained statistics, also
    in training mode, unless the whole backbone was unfrozen (`all`): then it learns them from the batches,
    which wants large ones, and gradient caching makes each chunk a batch of its own. The state dict holds
    what may change, not what the published weights hold already.
    """

    def __init__(
        self,
        space: SharedSpace,
        backbones: Mapping[Modality, nn.Module],
        unfreeze: Mapping[Modality, Unfreeze],
        *,
        backbone_lr: float = BACKBONE_LR,
    ) -> None:
        nn.Module.__init__(self)
        self.dims = space.dims
        self.heads, self.log_scale, self.bias = space.heads, space.log_scale, space.bias
        self.space = (space,)  # in a tuple, so that torch does not count its tensors twice
        self.unfreeze = dict(unfreeze)
        self.backbone_lr = backbone_lr
        self.backbones = nn.ModuleDict({modality.value: net for modality, net in backbones.items()})
        if Modality.IMAGE.value in self.backbones:
            # Pixels come with their channels last: so convolutions need no transposed copy.
            self.backbones[Modality.IMAGE.value].to(memory_format=torch.channels_last)
        self._fixed = frozenset(self._fixed_names())
        self.register_state_dict_post_hook(_drop_fixed)
        self.register_load_state_dict_pre_hook(_add_fixed)
        self.train(space.training)

    def encode(self, modality: Modality, features: Inputs, *, dim: int | None = None) -> Tensor:
        """Unit vectors (n, dim) of what a MediaSource gives for n contents, moved to this space's device."""
        if modality.value not in self.backbones:
            if not isinstance(features, Tensor):
                raise TrainingError(
                    f"the {modality} backbone is frozen: its features are expected, not media"
                )
            return super().encode(modality, features.to(self.log_scale.device, non_blocking=True), dim=dim)
        if isinstance(features, Tensor):
            raise TrainingError(f"the {modality} backbone is trained: media are expected, not features")
        device = self.log_scale.device
        inputs = tuple(one.to(device, non_blocking=True) for one in features)
        return super().encode(
            modality, features_of(self.backbones[modality.value], modality, inputs), dim=dim
        )

    def train(self, mode: bool = True) -> TunedSpace:
        super().train(mode)
        for name, backbone in self.backbones.items():
            how = self.unfreeze.get(Modality(name))
            backbone.train(mode and how is not None and how.kind is UnfreezeKind.ALL)
        return self

    def parameter_groups(self, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """An optimizer's groups: heads at `lr`, backbones at their share of it, each with and without decay.

        Biases, norms, and the loss's scale and bias do not decay. `lr_share` is what a schedule multiplies
        its rate with for the group.
        """
        groups = []
        for name, share, inside in (("heads", 1.0, False), ("backbones", self.backbone_lr, True)):
            learning = [
                parameter
                for path, parameter in self.named_parameters()
                if parameter.requires_grad and path.startswith("backbones.") is inside
            ]
            for decays in (True, False):
                chosen = [parameter for parameter in learning if (parameter.ndim > 1) is decays]
                if chosen:
                    groups.append(
                        {
                            "name": f"{name}{'' if decays else ', no decay'}",
                            "params": chosen,
                            "lr": lr * share,
                            "lr_share": share,
                            "weight_decay": weight_decay if decays else 0.0,
                        }
                    )
        return groups

    def result(self) -> tuple[SharedSpace, dict[Modality, nn.Module]]:
        """Copies for export: heads without backbones, and backbones with LoRA merged; CPU, eval mode."""
        backbones = {
            Modality(name): merged(copy.deepcopy(net)).cpu().eval().requires_grad_(False)
            for name, net in self.backbones.items()
        }
        return copy.deepcopy(self.space[0]).cpu().eval(), backbones

    def _fixed_names(self) -> list[str]:
        """Tensors of backbones that never change: frozen parameters, and buffers unless all is unfrozen."""
        moving = {
            name
            for name, parameter in self.named_parameters(remove_duplicate=False)
            if parameter.requires_grad
        }
        whole = tuple(
            f"backbones.{modality.value}."
            for modality, how in self.unfreeze.items()
            if how.kind is UnfreezeKind.ALL
        )
        return [
            name
            for name in nn.Module.state_dict(self, keep_vars=True)
            if name.startswith("backbones.") and name not in moving and not (whole and name.startswith(whole))
        ]


def _drop_fixed(space: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    assert isinstance(space, TunedSpace)
    for name in space._fixed:
        state.pop(prefix + name, None)


def _add_fixed(space: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    """What `_drop_fixed` took out stays as it is."""
    assert isinstance(space, TunedSpace)
    tensors = dict(space.named_parameters()) | dict(space.named_buffers())
    for name in space._fixed:
        state.setdefault(prefix + name, tensors[name].detach())


def tuned_space(
    space: SharedSpace,
    backbones: Mapping[Modality, nn.Module],
    unfreeze: Mapping[Modality, Unfreeze],
    *,
    seed: int = 0,
    backbone_lr: float = BACKBONE_LR,
) -> TunedSpace:
    """Unfreeze what is asked for in `backbones`, in place, and join them with the space's heads.

    TrainingError for a modality without a head or a backbone, or more blocks than there are.
    """
    for number, (modality, how) in enumerate(unfreeze.items()):
        if modality not in backbones or modality not in space.modalities:
            raise TrainingError(
                f"the {modality} backbone cannot be unfrozen: the data train no {modality} head",
                hint=f"leave {modality} out of --unfreeze, or give rows with it",
            )
        tunable(backbones[modality], how, seed=seed + number)
    chosen = {modality: backbones[modality] for modality in unfreeze}
    return TunedSpace(space, chosen, unfreeze, backbone_lr=backbone_lr)


def features_of(backbone: nn.Module, modality: Modality, inputs: Sequence[Tensor]) -> Tensor:
    """Features (n, width) float32 of a batch as `collate` makes it; views averaged by their weights."""
    if modality is Modality.TEXT:
        found: Tensor = backbone(*inputs).float()
        # Under autocast a unit mean comes back a little shorter or longer than one.
        return unit_rows(found)
    views, weights = inputs
    real = weights > 0
    each = backbone(views[real]).float()
    # Not index_add, whose order of additions changes from run to run on a GPU.
    spread = each.new_zeros((*weights.shape, each.shape[1]))
    spread[real] = each
    return (spread * weights[:, :, None]).sum(1)
