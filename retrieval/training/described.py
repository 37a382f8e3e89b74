"""Heads that can say what they are: any head that a space holds, to JSON and back.

Imports torch. The tensors travel apart, as safetensors: a description makes an unfilled head whose
`load_state_dict` takes them. Descriptions are data from a file, so only the kinds below are ever made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from indexer.errors import ConfigError, ModelError, TrainingError
from retrieval.training.heads import Head, HeadOptions, OnBase, description_of, make_head, unit_rows

DEEPEST = 32  # heads inside heads: each training on top of a trained model adds two


class Prefix(nn.Module):
    """A head's first `dim` numbers at unit length: (n, width) -> (n, dim)."""

    def __init__(self, head: nn.Module, dim: int) -> None:
        super().__init__()
        self.head, self.dim = head, dim

    def forward(self, features: Tensor) -> Tensor:
        return unit_rows(self.head(features)[:, : self.dim])

    def describe(self) -> dict[str, Any]:
        return {"kind": "prefix", "head": description_of(self.head), "dim": self.dim}


class AsTheyAre(nn.Module):
    """Features that lie in the space already, (n, dim) -> (n, dim)."""

    def forward(self, features: Tensor) -> Tensor:
        return features

    def describe(self) -> dict[str, Any]:
        return {"kind": "features"}


class Chain(nn.Module):
    """Heads one after another, each on what the one before gives: (n, width) -> (n, dim)."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        if not parts:
            raise TrainingError("a chain needs a head")
        self.parts = nn.ModuleList(parts)
        for name, part in (("width", parts[0]), ("dim", parts[-1])):
            if hasattr(part, name):
                setattr(self, name, getattr(part, name))

    def forward(self, features: Tensor) -> Tensor:
        for part in self.parts:
            features = part(features)
        return features

    def describe(self) -> dict[str, Any]:
        return {"kind": "chain", "parts": [description_of(part) for part in self.parts]}


def head_from_description(description: Mapping[str, Any], *, depth: int = 0) -> nn.Module:
    """An unfilled head of that description: `load_state_dict` gives it its numbers. ModelError."""
    if not isinstance(description, Mapping) or depth > DEEPEST:
        raise ModelError("a head's description is no table, or holds itself", hint="train the heads again")
    try:
        return _made(description, depth)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError, TrainingError) as error:
        known = ", ".join(field.name for field in fields(HeadOptions))
        raise ModelError(
            f"a head's description cannot be used: {error}", hint=f"a head's options are {known}"
        ) from error


def _made(description: Mapping[str, Any], depth: int) -> nn.Module:
    kind = description.get("kind")
    if kind == "head":
        options = HeadOptions(**description["options"])
        return make_head(options, int(description["width"]), int(description["dim"]), seed=0)
    if kind == "on-base":
        head = _made(description["head"], depth)
        if not isinstance(head, Head):
            raise TypeError("what lies on a base is no head of its own")
        return OnBase(head_from_description(description["base"], depth=depth + 1), head)
    if kind == "prefix":
        return Prefix(head_from_description(description["head"], depth=depth + 1), int(description["dim"]))
    if kind == "chain":
        return Chain([head_from_description(part, depth=depth + 1) for part in description["parts"]])
    if kind == "features":
        return AsTheyAre()
    from retrieval.models.starter.heads import AUDIO_BASE, IMAGE_BASE, BaseHead

    if kind in (IMAGE_BASE, AUDIO_BASE):
        return BaseHead.from_description(description)
    raise ModelError(
        f"unknown kind of head {kind!r}, expected head, on-base, prefix, chain, features, "
        f"{IMAGE_BASE} or {AUDIO_BASE}",
        hint="the file comes from a later version, or is damaged",
    )
