"""What `~` stands for at the beginning of a path that a user wrote. Opens nothing, prints nothing."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """A path with the user's folder for its `~`; as it is where `~` and a word name no user. Never raises."""
    try:
        return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises at `~100 birds`, reads ./~ as ~
    except ValueError:  # a NUL, or what is no text: no user is called so
        return Path(path)
