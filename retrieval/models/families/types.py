"""What a family of models offers. Imports no library: those stand in openclip.py, sentence.py and clap.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from indexer.types import Modality
from retrieval.models.bundle import TowerSpec

if TYPE_CHECKING:
    from torch import nn


class Family(Protocol):
    """One library's models, read from folders in the library's own layout. A module meets this.

    Networks are frozen, on the CPU, in float32 and eval mode, take a dynamic batch, and give embeddings
    (n, dim) that are not normalised: of pictures from uint8 RGB views (n, height, width, 3), scaled within;
    of sounds from float32 (n, frames, mels); of texts from (ids, mask), both int64 (n, tokens).

    A model that brings Python code of its own is refused with ModelError unless `trust_remote_code` says that
    the user has agreed to run it, at this moment: a file in a folder is no consent. Libraries that run none
    ignore it.
    """

    def matches(self, folder: Path) -> bool:
        """Whether the folder is in the library's layout; reads configuration only."""
        ...

    def describe(self, folder: Path, *, name: str, trust_remote_code: bool = False) -> tuple[TowerSpec, ...]:
        """A tower a modality, not exported yet; `name` is the model's, for its sources. ModelError."""
        ...

    def load(self, folder: Path, modality: Modality, *, trust_remote_code: bool = False) -> nn.Module:
        """A tower's network, through the library's own loading of safetensors. ModelError."""
        ...

    def notes(self, folder: Path) -> tuple[str, ...]:
        """What a user should know of how the model is used here, a sentence each."""
        ...

    def write_tokenizer(self, folder: Path, out: Path, *, trust_remote_code: bool = False) -> None:
        """A tokenizer.json that gives the library's ids; of families with texts."""
        ...
