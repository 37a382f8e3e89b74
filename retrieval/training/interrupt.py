"""Ctrl-C during training: the first asks to stop after the step, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopOnInterrupt:
    """While entered, the first SIGINT raises `asked` and puts the earlier handler back.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._earlier: Any = None
        self._installed = False

    def __enter__(self) -> StopOnInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._earlier = signal.signal(signal.SIGINT, self._stop)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        if self._installed:
            # None: the earlier handler was not set from Python and cannot be put back by it.
            signal.signal(signal.SIGINT, signal.SIG_DFL if self._earlier is None else self._earlier)
            self._installed = False
