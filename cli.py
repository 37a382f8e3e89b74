"""The `triptych` command: parse, wire, call, print."""

import typer

app = typer.Typer()
