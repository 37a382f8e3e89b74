"""Libraries kept from talking while they are at work for us; what is wrong comes back as an exception."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_only(*names: str) -> Iterator[None]:
    """Without these loggers' warnings and other lines below errors."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def silent() -> Iterator[None]:
    """Without any library's log lines below errors, and without warnings."""
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


@contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' progress bars, which sentence-transformers shows too."""
    from transformers.utils import logging as talk

    shown = talk.is_progress_bar_enabled()
    try:
        talk.disable_progress_bar()
        yield
    finally:
        if shown:
            talk.enable_progress_bar()
