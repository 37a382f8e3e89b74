"""A model's allow-listed files out of a folder of the user's, whose layout says which library's it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from indexer.errors import ConfigError, ModelError
from retrieval.models.families.allowed import (
    OPENCLIP_CONFIG,
    OPENCLIP_TEXT_CONFIG,
    Folder,
    card_licence,
    choose,
    read_json,
    tokenizer_files,
)
from retrieval.models.families.names import Part
from retrieval.models.families.sources import Agree, Source, placed, text_config

_FOLDER_HINT = (
    f"an open_clip folder has {OPENCLIP_CONFIG}, one of sentence-transformers modules.json, one of CLAP a "
    "config.json of a ClapModel, a bundle model.json"
)


def from_folder(part: Part, into: Path, trust_remote_code: bool, agree: Agree | None) -> Source:
    folder = part.path or Path()
    if not folder.is_dir():
        raise ConfigError(f"{part.text!r} names no folder: {folder} is not there")
    family = part.family
    if family == "dir":
        from retrieval.models.families.family import family_of

        found = family_of(folder)
        if found is None:
            raise ModelError(f"{folder} is in no layout that is known", hint=_FOLDER_HINT)
        family = found
    licence = card_licence(folder)
    if agree:
        agree(licence)
    allow_list(folder, into, family, trust_remote_code=trust_remote_code)
    return Source(into, family, licence)


def allow_list(
    folder: Path, into: Path, family: str, *, trust_remote_code: bool = False, weights: str = ""
) -> list[str]:
    """Copy a local model's allow-listed files into the empty folder `into`; their names.

    Copies, not links: a program that trains in that folder may write its weights again in place. Pickles
    beside safetensors stay behind; ModelError where there is nothing else.
    """
    listing = Folder(folder)
    names = choose(family, listing, weights=weights, trust_remote_code=trust_remote_code)
    if family == "openclip":
        if OPENCLIP_CONFIG not in names:
            raise ModelError(f"{folder} has no {OPENCLIP_CONFIG}", hint=_FOLDER_HINT)
        text = text_config(read_json(listing, OPENCLIP_CONFIG))
        if text.get("hf_tokenizer_name"):
            names += tokenizer_files(listing)
        if text.get("hf_model_name"):
            names += [name for name in (OPENCLIP_TEXT_CONFIG, "config.json") if name in listing.files]
    for name in dict.fromkeys(names):
        target = into / placed(family, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(listing.locate(name), target)
    return sorted(set(names))
