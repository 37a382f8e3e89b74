"""What a part of a name means on the hub, and where the files of a folder came from.

Nothing here asks a network; what is done with it stands in download.py, folders.py and copies.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import ModelError
from retrieval.models.bundle import NOT_SAID
from retrieval.models.families.allowed import OPENCLIP_WEIGHTS
from retrieval.models.families.names import Part, check_openclip

Agree = Callable[[str], None]  # hears a licence before anything large is downloaded, and may raise
_TAG_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode", "fill_color", "size", "mode")


@dataclass(frozen=True, slots=True)
class Origin:
    """A repository that files came from."""

    repo: str
    commit: str


@dataclass(frozen=True, slots=True)
class Source:
    """A folder in its library's own layout, and where its files came from."""

    folder: Path
    family: str
    licence: str  # as its card says; "": not said
    origins: tuple[Origin, ...] = ()  # the model's first, then its tokenizer's; none of a local folder
    copied: str = ""  # the repository and revision that the user copied by hand, as the advice said

    def provenance(self) -> dict[str, Any]:
        """For model.json."""
        said: dict[str, Any] = {
            "licence": self.licence or NOT_SAID,
            "repositories": [{"repo": one.repo, "commit": one.commit} for one in self.origins],
        }
        return said | ({"copied by hand from": self.copied} if self.copied else {})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a part means on the hub."""

    repo: str
    weights: str = ""  # the file that open_clip names for a tag
    config: Mapping[str, Any] | None = None  # open_clip_config.json, where the repository has none


def wanted_of(part: Part) -> Wanted:
    """The repository of a part; of an architecture and a tag what open_clip's own table says of them."""
    if part.repo:
        return Wanted(part.repo)
    check_openclip(part)
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    tag = get_pretrained_cfg(part.arch, part.tag)
    repo, _, weights = str(tag.get("hf_hub", "")).rpartition("/")
    if not repo:
        raise ModelError(
            f"{part.text} can only be had from {tag.get('url') or 'nowhere'}, a pickle that can run a "
            "stranger's code while it is read",
            hint="take other weights of that architecture, or convert them to safetensors yourself and use "
            "dir:PATH",
        )
    model = deepcopy(open_clip.get_model_config(part.arch))
    if tag.get("quick_gelu"):
        model["quick_gelu"] = True  # the weights were trained so, whatever the architecture's name says
    preprocessing = {name: tag[name] for name in _TAG_PREPROCESSING if name in tag}
    return Wanted(repo, weights, {"model_cfg": model, "preprocess_cfg": preprocessing})


def text_config(config: Any) -> Mapping[str, Any]:
    model = config.get("model_cfg", {}) if isinstance(config, dict) else {}
    text = model.get("text_cfg", {}) if isinstance(model, dict) else {}
    return text if isinstance(text, dict) else {}


def placed(family: str, name: str) -> str:
    """Where a file of a repository goes: open_clip finds weights in a folder by few names only."""
    if family == "openclip" and name.endswith(".safetensors") and name not in OPENCLIP_WEIGHTS:
        return OPENCLIP_WEIGHTS[0]
    return name
