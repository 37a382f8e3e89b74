"""How commands speak: talk goes to stderr, stdout is data. Nothing here knows a command."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ModelFlag = Annotated[
    str | None, typer.Option("--model", help="A name or space id from `triptych models list`.")
]
DimFlag = Annotated[
    int | None, typer.Option("--dim", help="Use only the first dimensions of a model trained nested.")
]


def stderr_console() -> Any:
    """Where talk and progress go."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False)


def say(line: str) -> None:
    """A line of talk."""
    print(line, file=sys.stderr)


def print_json(value: object) -> None:
    """Data for a program."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_version(asked: bool) -> None:
    """The program, its version and the Python that runs it, on one line; the program ends with it."""
    if not asked:
        return
    import platform
    from importlib.metadata import version

    print(f"triptych {version('triptych')} (Python {platform.python_version()})")
    raise typer.Exit
