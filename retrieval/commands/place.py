"""Which index a command reads, and which modalities: flags and what they mean, shared by commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """What --in names; all of them where there is no such flag. ConfigError for what names none."""
    if argument is None:
        return ()
    names = [name.strip().lower() for name in argument.split(",") if name.strip()]
    try:
        found = tuple(dict.fromkeys(Modality(name) for name in names))
    except ValueError:
        found = ()
    if not found:
        raise ConfigError(f"--in is {argument!r}", hint=f"it takes one or more of {','.join(Modality)}")
    return found


def say_absent(counts: Mapping[Modality, int], wanted: Sequence[Modality]) -> None:
    """One line where an index, of so many segments each, has some of the modalities wanted and lacks others.

    An index that has none of them is an error, which the search raises.
    """
    absent = [modality for modality in wanted if not counts.get(modality, 0)]
    present = [modality for modality in wanted if counts.get(modality, 0)]
    if absent and present:
        say(f"the index has no {' and no '.join(absent)}: only {' and '.join(present)} is searched")


def say_build(_step: str, share: float) -> None:
    """One line where a search must first build the starter."""
    if share == 0:
        say("building the starter model, once (under a minute)")
