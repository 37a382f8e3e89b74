"""A command's flags as one value: a dataclass whose fields are the flags. Knows no command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

F = TypeVar("F")


def takes(form: type[F]) -> Callable[[Callable[[F], None]], Callable[..., None]]:
    """Makes of a function of `form`, a dataclass, a command that has a flag for each of its fields.

    Fields are annotated as parameters of a command are: `Annotated[int, typer.Option(help=...)]`.
    """
    hints = get_type_hints(form, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(form)  # type: ignore[arg-type]
    ]

    def wrapped(function: Callable[[F], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**flags: Any) -> None:
            function(form(**flags))

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = hints
        return command

    return wrapped
