"""Which library a folder or a tower is of."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from indexer.errors import ModelError
from retrieval.models.families.types import Family

FAMILIES = {"openclip": "openclip", "st": "sentence", "clap": "clap"}  # prefix of a name -> module here


def family(name: str) -> Family:
    """The family of a prefix. ModelError for one that this version does not know."""
    if name not in FAMILIES:
        raise ModelError(
            f"the model is of the family {name!r}, this version knows {', '.join(FAMILIES)}",
            hint="update triptych",
        )
    return cast(Family, import_module(f"retrieval.models.families.{FAMILIES[name]}"))


def family_of(folder: Path) -> str | None:
    """The prefix of the family whose layout a folder has, or None."""
    return next((name for name in FAMILIES if family(name).matches(folder)), None)
