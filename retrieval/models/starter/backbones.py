"""The starter model's three backbones as torch modules, with their pretrained weights.

Imports torch: only building a bundle, fitting heads and tests may import this. What the files are and how
they are verified stands in `weights.py`. Each module takes exactly the tensors that the preparers of
`retrieval/encoders/` make, so that normalisation of pixels is part of the graph.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from indexer.errors import ModelError
from retrieval.models.starter.weights import AISFX, LITE0, MINILM, WEIGHTS, WeightFile, locate, verified

__all__ = [
    "AISFX",
    "LITE0",
    "MINILM",
    "WEIGHTS",
    "BertLayer",
    "Lite0",
    "MiniLM",
    "SoundNet",
    "WeightFile",
    "load_aisfx",
    "load_lite0",
    "load_minilm",
    "locate",
    "verified",
]

Weights = Mapping[str, Tensor]
Net = TypeVar("Net", bound=nn.Module)


class BertLayer(nn.Module):
    """One post-norm transformer layer of BERT (Devlin et al. 2018, arXiv:1810.04805)."""

    def __init__(self, width: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.mix = nn.Linear(width, width)
        self.mix_norm = nn.LayerNorm(width, eps=eps)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.out_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Tokens (n, tokens, width) and an additive attention bias (n, 1, 1, tokens)."""
        batch, tokens, width = x.shape
        shape = (batch, tokens, self.heads, width // self.heads)
        query = self.query(x).view(shape).transpose(1, 2)
        key = self.key(x).view(shape).transpose(1, 2)
        value = self.value(x).view(shape).transpose(1, 2)
        scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5
        mixed = (scores + bias).softmax(-1) @ value
        x = self.mix_norm(x + self.mix(mixed.transpose(1, 2).reshape(batch, tokens, width)))
        return self.out_norm(x + self.down(F.gelu(self.up(x))))


class MiniLM(nn.Module):
    """The six-layer BERT encoder of all-MiniLM-L6-v2: ids and mask (n, tokens) -> hidden (n, tokens, 384)."""

    width, layers, heads, inner, eps = 384, 6, 12, 1536, 1e-12
    vocabulary, positions = 30522, 512

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(self.vocabulary, self.width)
        self.places = nn.Embedding(self.positions, self.width)
        self.kinds = nn.Embedding(2, self.width)  # of which a single text uses the first
        self.norm = nn.LayerNorm(self.width, eps=self.eps)
        self.body = nn.ModuleList(
            BertLayer(self.width, self.heads, self.inner, self.eps) for _ in range(self.layers)
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        kind = torch.zeros_like(input_ids)
        x = self.norm(self.words(input_ids) + self.places(place) + self.kinds(kind))
        # A finite bias: a row without any token must not become NaN.
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
        for layer in self.body:
            x = layer(x, bias)
        return x


class Lite0(nn.Module):
    """EfficientNet-Lite0: uint8 RGB (n, 224, 224, 3) -> features (n, 1280) and ImageNet logits (n, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        # timm's mean and standard deviation for these weights are both 0.5 of the range.
        x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        features = self.net.forward_head(self.net.forward_features(x), pre_logits=True)
        return features, self.net.classifier(features)


class _DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU, then max pooling."""

    def __init__(self, inputs: int, outputs: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return F.max_pool2d(x, self.pool) if self.pool > 1 else x


class SoundNet(nn.Module):
    """The embedding network of Ma and Lerch 2022: spectra (n, 100 frames, 96 mels) -> features (n, 512).

    `classifiers`, where asked for, are the nine classifiers it was trained through, one a sound library;
    which class an output stands for was not published.
    """

    def __init__(self, classes: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _DoubleConv(1, 64, 2), _DoubleConv(64, 128, 2), _DoubleConv(128, 256, 2), _DoubleConv(256, 512, 1)
        )
        self.classifiers = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, count)
                )
                for name, count in (classes or {}).items()
            }
        )

    def forward(self, spectra: Tensor) -> Tensor:
        return self.body(spectra[:, None]).mean(dim=3).amax(dim=2)

    def class_logits(self, features: Tensor) -> dict[str, Tensor]:
        """Logits of every training library's classifier, by library."""
        return {name: net(features) for name, net in self.classifiers.items()}


def load_minilm() -> MiniLM:
    """MiniLM with its weights, in eval mode. WeightsMissing, or ModelError where the hash differs."""
    from safetensors.torch import load_file

    names = {
        "embeddings.word_embeddings": "words",
        "embeddings.position_embeddings": "places",
        "embeddings.token_type_embeddings": "kinds",
        "embeddings.LayerNorm": "norm",
    }
    parts = {
        "attention.self.query": "query",
        "attention.self.key": "key",
        "attention.self.value": "value",
        "attention.output.dense": "mix",
        "attention.output.LayerNorm": "mix_norm",
        "intermediate.dense": "up",
        "output.dense": "down",
        "output.LayerNorm": "out_norm",
    }
    for layer in range(MiniLM.layers):
        names |= {f"encoder.layer.{layer}.{theirs}": f"body.{layer}.{ours}" for theirs, ours in parts.items()}
    state = {}
    for key, value in load_file(verified(MINILM)).items():
        module, _, kind = key.rpartition(".")
        if module in names:  # left out: the pooler, and the list of position numbers
            state[f"{names[module]}.{kind}"] = value
    return _filled(MiniLM(), state, MINILM)


def load_lite0() -> Lite0:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode.

    The file names its tensors differently from timm but in the same order, so they are matched by position
    and every shape is compared.
    """
    model = Lite0()
    theirs = {
        k: v for k, v in _torch_load(verified(LITE0), []).items() if not k.endswith("num_batches_tracked")
    }
    ours = {k: v for k, v in model.net.state_dict().items() if not k.endswith("num_batches_tracked")}
    if [v.shape for v in theirs.values()] != [v.shape for v in ours.values()]:
        raise ModelError(
            f"the tensors of {LITE0.name} do not match timm's tf_efficientnet_lite0",
            hint="install the timm version that requirements.lock names",
        )
    return _filled(model, {f"net.{k}": v for k, v in zip(ours, theirs.values(), strict=True)}, LITE0)


def load_aisfx(*, with_classifiers: bool = False) -> SoundNet:
    """The sound network with its weights, in eval mode; WeightsMissing where `aisfx` is not installed."""
    # The checkpoint counts classes in NumPy scalars; these are what one is rebuilt from, and nothing else.
    rebuild = np.int64(0).__reduce__()[0]  # whose module NumPy 2 renamed
    allowed = [(rebuild, "numpy.core.multiarray.scalar"), np.dtype, type(np.dtype("i8"))]
    state, classes = _torch_load(verified(AISFX), allowed)
    by_index = sorted((int(index), name, int(count)) for name, (index, count) in classes.items())
    model = SoundNet({name: count for _, name, count in by_index} if with_classifiers else None)
    renamed = {}
    for key, value in state.items():
        if key.startswith("embedding_net.conv_block"):
            block, rest = key.removeprefix("embedding_net.conv_block").split(".", 1)
            renamed[f"body.{int(block) - 1}.{rest}"] = value
        elif with_classifiers:
            _, index, rest = key.split(".", 2)
            renamed[f"classifiers.{by_index[int(index)][1]}.{rest}"] = value
    return _filled(model, renamed, AISFX)


def _torch_load(path: Path, allowed: list[Any]) -> Any:
    """A checkpoint, unpickled with weights_only and an allow-list. `path` must have been verified."""
    with torch.serialization.safe_globals(allowed):
        return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)


def _filled(model: Net, state: Weights, weight: WeightFile) -> Net:
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ModelError(
            f"{weight.name} has unexpected tensors: missing {missing[:3]}, left over {unexpected[:3]}",
            hint=f"install the package again: {weight.install}",
        )
    return model.eval().requires_grad_(False)
