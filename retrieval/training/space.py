"""The shared space: one head a modality, and the scale and bias that a loss reads similarities with.

Imports torch. A space is written as safetensors with a JSON description beside it, never as a pickle. What a
head is stands in heads.py; how a space becomes a model that `triptych index` uses, in retrieval/models.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from indexer.errors import ConfigError, ModelError, TrainingError
from indexer.types import Modality
from retrieval.training.described import head_from_description
from retrieval.training.heads import description_of, unit_rows

FORMAT = "triptych-space/1"
NAME = "heads"  # of both files in a folder: heads.safetensors and heads.json
MAX_SCALE = 100.0  # as CLIP bounds it (arXiv:2103.00020): larger ones make training unstable


class SharedSpace(nn.Module):
    """Heads by modality, with a learned scale exp(log_scale) <= 100 and bias (SigLIP's; others leave it).

    `dims` are the Matryoshka dimensions, descending; the first is the space's own. A prefix of a vector,
    made unit again, is the vector of a smaller space (Kusupati et al. 2022, arXiv:2205.13147). ModelError for
    a head that could not be saved: better here than after training.
    """

    def __init__(
        self,
        heads: Mapping[Modality, nn.Module],
        *,
        dims: Sequence[int],
        scale: float = 1.0 / 0.07,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.dims = _checked_dims(dims)
        if not heads:
            raise TrainingError("a space needs the head of at least one modality")
        for modality, head in heads.items():
            description_of(head)
            if getattr(head, "dim", self.dim) != self.dim:
                raise TrainingError(f"the {modality} head gives {head.dim} numbers, the space has {self.dim}")
        if not 0.0 < scale <= MAX_SCALE:
            raise ConfigError(f"the scale is {scale}, expected more than 0 and at most {MAX_SCALE:g}")
        order = [modality for modality in Modality if modality in heads]
        self.heads = nn.ModuleDict({modality.value: heads[modality] for modality in order})
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    @property
    def dim(self) -> int:
        return self.dims[0]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(Modality(name) for name in self.heads)

    @property
    def scale(self) -> Tensor:
        """exp(log_scale), at most 100, a scalar; its gradient passes through the bound, so it can return."""
        bounded = self.log_scale.clamp(max=math.log(MAX_SCALE))
        return (self.log_scale + (bounded - self.log_scale).detach()).exp()

    @torch.no_grad()
    def bound_scale(self) -> None:
        """Bring log_scale itself below its bound; called after an optimizer's step."""
        self.log_scale.clamp_(max=math.log(MAX_SCALE))

    def encode(self, modality: Modality, features: Tensor, *, dim: int | None = None) -> Tensor:
        """Unit vectors (n, dim) float32 of features (n, width); a zero stays zero. TrainingError.

        A smaller `dim` of `dims` takes the prefix and makes it unit again.
        """
        if modality.value not in self.heads:
            known = ", ".join(self.heads)
            raise TrainingError(f"the space has no head for {modality}, only for {known}")
        if dim is not None and dim not in self.dims:
            raise TrainingError(f"the space has the dimensions {self.dims}, not {dim}")
        found = self.heads[modality.value](features).float()
        return unit_rows(found if dim is None else found[:, :dim])

    def forward(self, features: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Unit vectors of each modality that is given."""
        return {modality: self.encode(modality, rows) for modality, rows in features.items()}

    def describe(self) -> dict[str, Any]:
        """What `from_description` needs beside the tensors, as JSON. ModelError."""
        heads = {name: description_of(head) for name, head in self.heads.items()}
        return {"format": FORMAT, "dims": list(self.dims), "heads": heads}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> SharedSpace:
        """An unfilled space: `load_state_dict` gives it its numbers. ModelError."""
        if description.get("format") != FORMAT:
            raise ModelError(
                f"a space of format {description.get('format')!r}, expected {FORMAT!r}",
                hint="it was written by a later version, or is damaged",
            )
        try:
            heads = {Modality(n): head_from_description(head) for n, head in description["heads"].items()}
            return cls(heads, dims=[int(dim) for dim in description["dims"]])
        except (KeyError, TypeError, ValueError, AttributeError, TrainingError, ConfigError) as error:
            raise ModelError(f"the description of a space cannot be used: {error}") from error


def save_space(space: SharedSpace, path: Path) -> tuple[Path, Path]:
    """Write a space's tensors and description; returns both paths.

    `path` is a folder, which gets heads.safetensors and heads.json, or a name ending in .safetensors. The
    description goes last and holds the tensors' SHA-256, so that a half-written pair is noticed.
    """
    from safetensors.torch import save

    from indexer.fsio import write_atomic

    tensors, description = _paths(path)
    tensors.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in space.state_dict().items()}
    data = save(state, metadata={"format": FORMAT})
    whole = space.describe() | {"sha256": hashlib.sha256(data).hexdigest()}
    write_atomic(tensors, data)
    write_atomic(description, (json.dumps(whole, indent=2, sort_keys=True) + "\n").encode())
    return tensors, description


def load_space(path: Path) -> SharedSpace:
    """The space that `save_space` wrote, in eval mode. ModelError for files that are not it."""
    from safetensors.torch import load

    tensors, description = _paths(path)
    try:
        data, whole = tensors.read_bytes(), json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"the heads {path} cannot be read: {error}", hint="train them again") from error
    if not isinstance(whole, dict) or whole.get("sha256") != hashlib.sha256(data).hexdigest():
        raise ModelError(f"{tensors.name} is not what {description.name} describes", hint="train them again")
    space = SharedSpace.from_description(whole)
    try:
        space.load_state_dict(load(data))
    except Exception as error:  # safetensors raises its own type, torch a RuntimeError
        raise ModelError(f"the tensors of {tensors.name} do not fit: {error}") from error
    return space.eval()


def _paths(path: Path) -> tuple[Path, Path]:
    tensors = path if path.suffix == ".safetensors" else path / f"{NAME}.safetensors"
    return tensors, tensors.with_suffix(".json")


def _checked_dims(dims: Sequence[int]) -> tuple[int, ...]:
    found = tuple(int(dim) for dim in dims)
    falling = all(first > second for first, second in itertools.pairwise(found))
    if not found or not falling or found[-1] < 1:
        raise ConfigError(
            f"the dimensions are {list(found)}, expected whole numbers from the largest down, each once"
        )
    return found
