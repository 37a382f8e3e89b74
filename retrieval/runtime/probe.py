"""How many rows at once pay: doubled until the device is full, or until more of them gain nothing.

Knows no library: what measures is handed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST = 16  # rows
LAST = 2048  # rows; above, memory is all that grows
GAIN = 1.05  # a doubling that makes a row less than this much cheaper is not worth its memory
SECONDS = 6.0  # after which no larger size is tried


def rows_worth(
    seconds: Callable[[int], float | None],
    *,
    first: int = FIRST,
    last: int = LAST,
    gain: float = GAIN,
    patience: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """The rows that are worth computing at once, from `first` doubled up to `last`.

    `seconds` tells how long so many rows took, or None where they do not fit; then the half is taken too
    where it was the best, since a full device has no room for what else a run holds. One doubling without
    a gain may be an accident of tiles; after two nothing larger is tried.
    """
    best, rate, idle, size, start = first, 0.0, 0, first, clock()
    while size <= last:
        took = seconds(size)
        if took is None:
            return max(1, min(best, size // 4))
        if size / max(took, 1e-9) > gain * rate:
            best, rate, idle = size, size / max(took, 1e-9), 0
        else:
            idle += 1
        if idle == 2 or clock() - start > patience:
            break
        size *= 2
    return best
