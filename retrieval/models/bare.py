"""The starter's networks cut in two: what comes before the trained head, and the head itself.

Torch modules with pretrained weights; which of them a model uses stands in backbones.py, which imports no
torch. Nothing here exports, trains or caches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from indexer.types import Modality
from retrieval.models.export import unit_mean
from retrieval.models.starter.backbones import (
    Lite0,
    MiniLM,
    load_aisfx,
    load_lite0,
    load_minilm,
)
from retrieval.models.starter.heads import ImageHead, load_audio_head, load_image_head

if TYPE_CHECKING:
    from retrieval.training.space import SharedSpace


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


class PictureHead(nn.Module):
    """The starter's image head on features alone, (n, 1280) -> unit vectors (n, 384).

    The classifier is linear, so that the logits of averaged features are the averaged logits.
    """

    def __init__(self, classifier: nn.Module, head: ImageHead) -> None:
        super().__init__()
        self.classifier = classifier
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        vectors: Tensor = self.head(features, self.classifier(features))
        return vectors


class NestedHead(nn.Module):
    """A head's first `dim` coordinates, made unit vectors again: (n, width) -> (n, dim)."""

    def __init__(self, head: nn.Module, dim: int) -> None:
        super().__init__()
        self.head = head
        self.dim = dim

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.head(features)[:, : self.dim], dim=1)


class SpaceHead(nn.Module):
    """A trained space seen from one modality: features (n, width) -> unit vectors (n, dim)."""

    def __init__(self, space: SharedSpace, modality: Modality) -> None:
        super().__init__()
        self.space = space
        self.modality = modality

    def forward(self, features: Tensor) -> Tensor:
        return self.space.encode(self.modality, features)


def picture_features() -> nn.Module:
    """Lite0 without its classifier, frozen, in eval mode. WeightsMissing, ModelError."""
    return PictureFeatures(load_lite0()).eval()


def text_features() -> nn.Module:
    """MiniLM with its pooling, frozen, in eval mode. WeightsMissing, ModelError."""
    return TextFeatures(load_minilm()).eval()


def sound_features() -> nn.Module:
    """The sound network, frozen, in eval mode: spectra (n, 100, 96) -> features (n, 512)."""
    return load_aisfx()


def starter_picture_head() -> nn.Module:
    """The shipped image head behind Lite0's own classifier, frozen, in eval mode."""
    return PictureHead(load_lite0().net.classifier, load_image_head()).eval()


def starter_sound_head() -> nn.Module:
    """The shipped audio head, frozen, in eval mode."""
    return load_audio_head()
