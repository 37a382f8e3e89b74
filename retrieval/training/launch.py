"""Which of several launched processes this is, before they have found one another. Imports no torch.

What they do together stands in distributed.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def processes() -> int:
    """How many a launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process talks, and writes what only one may write."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Inside, this process is alone among those a launcher started on this machine.

    A lock in `folder`, not a barrier, whose time would run out while the first computes features for hours:
    the others then find them there.
    """
    if processes() == 1:
        yield
        return
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "launch.lock"):
        yield
