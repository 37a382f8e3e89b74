"""How a preparer is written down in a model's spec, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from indexer.errors import ModelError


def fields_of(description: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The description without its kind; ModelError where the kind is not the one this code computes."""
    found = description.get("kind")
    if found != kind:
        raise ModelError(
            f"the model's preprocessing is {found!r}, this version computes {kind!r}",
            hint="build the model again: triptych models build",
        )
    return {name: value for name, value in description.items() if name != "kind"}
