"""Without a network: files that the user copied by hand, and which ones to copy where.

What a folder must hold stands in folders.py and allowed.py; nothing here asks a network.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from indexer.errors import ModelError
from retrieval.config import cache_dir
from retrieval.models.families.allowed import (
    OPENCLIP_CONFIG,
    OPENCLIP_TEXT_CONFIG,
    OPENCLIP_WEIGHTS,
    PICKLES,
    TOKENIZER_FILES,
    WEIGHTS,
    card_licence,
)
from retrieval.models.families.folders import allow_list
from retrieval.models.families.hub import MAIN, HubUnreachable
from retrieval.models.families.names import Part
from retrieval.models.families.sources import Agree, Source, Wanted, text_config


def from_copies(
    part: Part,
    wanted: Wanted,
    *,
    into: Path,
    trust_remote_code: bool,
    agree: Agree | None,
    error: HubUnreachable,
) -> Source:
    """What the user copied by hand of a part that cannot be downloaded.

    ModelError says which files to copy where, and what is wrong with those that are there.
    """
    place, revision, trouble = _place(part), part.revision or MAIN, ""
    try:
        _prepare_place(place, wanted)
    except OSError as unwritable:
        trouble = f"; {place} cannot be made: {unwritable.strerror or unwritable}"
    if has_copies(part):
        licence = card_licence(place)
        if agree:
            agree(licence)
        try:
            shutil.rmtree(into)  # what was linked before the hub was out of reach
            into.mkdir()
            allow_list(place, into, part.family, trust_remote_code=trust_remote_code, weights=wanted.weights)
            return Source(into, part.family, licence, copied=f"{wanted.repo}@{revision}")
        except ModelError as lacking:
            trouble = f"; what is in {place} is not enough: {lacking.message}"
    raise ModelError(
        f"{error.message}{trouble}",
        hint=f"{error.hint}; or on a machine with a network download {_offline_files(part, wanted)} from "
        f"https://huggingface.co/{wanted.repo}/tree/{revision}, copy them into {place} here, and run the "
        "same command again",
    ) from error


def has_copies(part: Part) -> bool:
    """Whether the user has copied anything for a part."""
    place = _place(part)
    return place.is_dir() and any(path.name != OPENCLIP_CONFIG for path in place.iterdir())


def _place(part: Part) -> Path:
    """The folder that copies for a part go to."""
    return cache_dir() / "offline" / part.text.replace(":", "-").replace("/", "-").replace("@", "-")


def _prepare_place(place: Path, wanted: Wanted) -> None:
    """The folder that copies go to, with the configuration that only the installed open_clip has."""
    place.mkdir(parents=True, exist_ok=True)
    if wanted.config is not None and not (place / OPENCLIP_CONFIG).exists():
        text = json.dumps(wanted.config, indent=2)
        (place / OPENCLIP_CONFIG).write_text(text + "\n", encoding="utf-8")


def _offline_files(part: Part, wanted: Wanted) -> str:
    """The files that a folder needs, as a sentence's object."""
    if part.family == "openclip":
        stem = wanted.weights.rpartition(".")[0]
        said = f"{stem}.safetensors" if stem else OPENCLIP_WEIGHTS[0]
        if wanted.config is None:
            return f"{OPENCLIP_CONFIG}, {said} and, where the configuration names one, the tokenizer's files"
        text = text_config(wanted.config)
        tokenizer = text.get("hf_tokenizer_name")
        files = f"{said} ({OPENCLIP_CONFIG} is there already)"
        if tokenizer:
            files += f", those of {', '.join(TOKENIZER_FILES)} and config.json that {tokenizer} has,"
        if network := text.get("hf_model_name"):
            files += f" as {OPENCLIP_TEXT_CONFIG} the config.json of {network}"
        return files
    if part.family == "clap":
        rest = ", ".join(TOKENIZER_FILES)
        return f"config.json, preprocessor_config.json, {WEIGHTS} and those of {rest} it has"
    return (
        "modules.json, every other .json, .txt, .model and .safetensors file beside it and in the folders "
        f"that modules.json names (no {', '.join(PICKLES[:3])})"
    )
