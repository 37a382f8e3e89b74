"""Which index a command reads, and which modalities: flags and what they mean, shared by commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from indexer.errors import ConfigError
from indexer.types import Modality
from retrieval.commands.talk import say
from retrieval.config import Settings

IndexFlag = Annotated[Path | None, typer.Option("--index", help="The index, or a folder that holds one.")]


def chosen_index(named: Path | None, settings: Settings) -> Path:
    """The index to read, said on stderr unless it was named."""
    from retrieval.places import for_reading

    choice = for_reading(named, settings.index)
    if named is None:
        say(f"index {choice.path} ({choice.why})")
    return choice.path


def modalities(argument: str | None) -> tuple[Modality, ...]:
    """What --in names. ConfigError for what is none."""
    names = [name.strip().lower() for name in (argument or "").split(",") if name.strip()]
    try:
        return tuple(dict.fromkeys(Modality(name) for name in names))
    except ValueError:
        raise ConfigError(
            f"--in is {argument!r}", hint=f"it takes one or more of {','.join(Modality)}"
        ) from None


def say_build(_step: str, share: float) -> None:
    """One line where a search must first build the starter."""
    if share == 0:
        say("building the starter model, once (under a minute)")
