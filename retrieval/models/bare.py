"""The starter's networks cut in two: what comes before the trained head, and the head itself.

Torch modules with pretrained weights; which of them a model uses stands in backbones.py, which imports no
torch. Nothing here exports, trains or caches.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.models.export import unit_mean
from retrieval.models.starter.backbones import (
    Lite0,
    MiniLM,
    load_aisfx,
    load_lite0,
    load_minilm,
)
from retrieval.models.starter.heads import BaseHead, load_audio_head, load_image_head


class PictureFeatures(nn.Module):
    """EfficientNet-Lite0 before its classifier: uint8 RGB (n, 224, 224, 3) -> features (n, 1280)."""

    def __init__(self, network: Lite0) -> None:
        super().__init__()
        network.net.reset_classifier(0)
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network(pixels)[0]
        return features


class TextFeatures(nn.Module):
    """MiniLM's pooled output: ids and mask (n, tokens) -> unit vectors (n, 384)."""

    def __init__(self, network: MiniLM) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return unit_mean(self.network(input_ids, attention_mask), attention_mask)


class UnitVectors(nn.Module):
    """A network's vectors at unit length: whatever it takes -> (n, width)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.normalize(self.network(*inputs), dim=1)


def picture_features() -> nn.Module:
    """Lite0 without its classifier, frozen, in eval mode. WeightsMissing, ModelError."""
    return PictureFeatures(load_lite0()).eval()


def text_features() -> nn.Module:
    """MiniLM with its pooling, frozen, in eval mode. WeightsMissing, ModelError."""
    return TextFeatures(load_minilm()).eval()


def sound_features() -> nn.Module:
    """The sound network, frozen, in eval mode: spectra (n, 100, 96) -> features (n, 512)."""
    return load_aisfx()


def starter_picture_head() -> BaseHead:
    """The shipped image head behind Lite0's own classifier, frozen, in eval mode."""
    return BaseHead(load_image_head(), load_lite0().net.classifier).eval().requires_grad_(False)


def starter_sound_head() -> BaseHead:
    """The shipped audio head, frozen, in eval mode."""
    return BaseHead(load_audio_head()).eval().requires_grad_(False)
