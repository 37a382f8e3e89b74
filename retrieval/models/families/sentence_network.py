"""A sentence-transformers model in memory: loaded by the library, taken apart into networks of plain tensors.

Imports torch; sentence.py imports this inside functions only. Knows nothing of bundles or of files' names.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from indexer.errors import ModelError
from indexer.types import Modality
from retrieval.models.quiet import errors_only, without_bars

OUTPUT = "sentence_embedding"
MASK = "attention_mask"
# What transformers' models of two modalities call their halves.
HALVES = {
    Modality.TEXT: ("text_model", "text_projection"),
    Modality.IMAGE: ("vision_model", "visual_projection"),
}


def open_model(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The library's SentenceTransformer of a folder, float32, on the CPU. ModelError says why it cannot be.

    Reads nothing from a network, and of weights only safetensors.
    """
    from sentence_transformers import SentenceTransformer

    try:
        talkers = ("sentence_transformers", "transformers")
        with errors_only(*talkers), without_bars(), warnings.catch_warnings(action="ignore"):
            model = SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
    except Exception as error:  # the library has no one type for what it cannot load
        reason = (str(error).splitlines() or [""])[0][:300]
        raise ModelError(
            f"sentence-transformers cannot load the model: {type(error).__name__}: {reason}",
            hint="download it again; where its code is its own, read that and pass --trust-remote-code",
        ) from error
    return model.float().eval().requires_grad_(False)


def steps_of(model: Any, task: str, modality: str) -> list[nn.Module]:
    """The modules that an input passes, in order, routers replaced by the route they choose. ModelError."""
    steps: list[nn.Module] = []
    for module in model:
        if hasattr(module, "sub_modules"):
            steps += module.sub_modules[_route(module, task, modality)]
        else:
            steps.append(module)
    return steps


def steps_of_both(model: Any, modality: str) -> list[nn.Module]:
    """The modules of documents, which must be those of queries: a tower has one network. ModelError."""
    documents, queries = (steps_of(model, task, modality) for task in ("document", "query"))
    if [id(step) for step in documents] != [id(step) for step in queries]:
        raise ModelError(
            f"the model has one network for queries and another for documents ({modality})",
            hint="pull a model with one network for both",
        )
    return documents


def _route(router: Any, task: str, modality: str) -> str:
    """As the library documents its order of priority."""
    mapped = router.route_mappings
    for key in ((task, modality), (task, None), (None, modality), (None, None)):
        if key in mapped:
            return str(mapped[key])
    for name in (task, modality, router.default_route):
        if name and name in router.sub_modules:
            return str(name)
    raise ModelError(
        f"the model has no route for a {task} of {modality}; it has {', '.join(router.sub_modules)}",
        hint="pull a model whose routes are named after tasks or modalities",
    )


@dataclass(frozen=True, slots=True)
class Prompts:
    """How many tokens at the beginning of a text its prompt is, where those are left out of pooling.

    Documents and queries have prompts of different lengths: the token at `place` tells which a text begins
    with, `query_id` standing for the query's.
    """

    document: int  # tokens, the special ones before the prompt included
    query: int
    place: int = 0
    query_id: int = -1


class TextNetwork(nn.Module):
    """Ids and mask, both int64 (n, tokens), padded at the end -> embeddings (n, dim), not normalised here.

    Whatever id the padding has, the model sees its own, since some count positions by it.
    """

    def __init__(
        self, steps: Sequence[nn.Module], *, dim: int | None, pad_id: int, prompts: Prompts | None
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_exportable(step) for step in steps)
        self.dim = dim
        self.pad_id = pad_id
        self.prompts = prompts

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids = torch.where(attention_mask > 0, input_ids, self.pad_id)
        features: dict[str, Any] = {"input_ids": ids, MASK: attention_mask, "modality": "text"}
        for step in self.steps:
            if self.prompts is not None and hasattr(step, "include_prompt"):
                features[MASK] = attention_mask * self._behind_prompt(input_ids, self.prompts)
            features = step(features)
        return _first(features[OUTPUT], self.dim)

    @staticmethod
    def _behind_prompt(ids: Tensor, prompts: Prompts) -> Tensor:
        """One where a token is behind the prompt, (n, tokens)."""
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        is_query = ids[:, prompts.place : prompts.place + 1] == prompts.query_id
        lengths = torch.where(is_query, prompts.query, prompts.document)
        return (positions >= lengths).to(ids.dtype)


class ImageNetwork(nn.Module):
    """Views, uint8 RGB (n, height, width, 3) -> embeddings (n, dim), not normalised here."""

    def __init__(
        self, steps: Sequence[nn.Module], *, dim: int | None, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.dim = dim
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean))[None, :, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(list(std))[None, :, None, None], persistent=False)

    def forward(self, views: Tensor) -> Tensor:
        return self.embed(self.normalised(views))

    def normalised(self, views: Tensor) -> Tensor:
        """Pixels as the library's processor gives them, float32 (n, 3, height, width)."""
        pixels = views.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0
        return (pixels - self.mean) / self.std

    def embed(self, pixels: Tensor) -> Tensor:
        features: dict[str, Any] = {"pixel_values": pixels, "modality": "image"}
        for step in self.steps:
            features = step(features)
        return _first(features[OUTPUT], self.dim)


def drop_other_half(network: nn.Module, modality: Modality) -> None:
    """Take the other modality's half out of modules that hold both: no vector of this one depends on it."""
    for module in [*network.modules()]:
        if not all(hasattr(module, names[0]) for names in HALVES.values()):
            continue
        for name in (name for half, names in HALVES.items() if half is not modality for name in names):
            if hasattr(module, name):
                delattr(module, name)


class TokenMean(nn.Module):
    """The library's StaticEmbedding over a mask in place of offsets: the mean of the tokens' rows.

    A text without a token gives zeros, as there.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float(), requires_grad=False)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        mask = features[MASK][:, :, None].to(self.weight.dtype)
        total = (F.embedding(features["input_ids"], self.weight) * mask).sum(1)
        features[OUTPUT] = total / mask.sum(1).clamp_min(1.0)
        return features


def _first(vectors: Tensor, dim: int | None) -> Tensor:
    """The coordinates that the model's own settings keep."""
    return vectors if dim is None else vectors[:, :dim]


def _exportable(step: nn.Module) -> nn.Module:
    if type(step).__name__ != "StaticEmbedding":
        return step
    bag: Any = step.embedding
    return TokenMean(bag.weight)
