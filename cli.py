"""The `triptych` command: parse, wire, call, print. No logic; libraries raise, only commands print.

Groups of commands stand in retrieval/commands/.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.errors import QuerySyntaxError, TrainingStopped, TriptychError
from retrieval.commands.calibrate import calibrate
from retrieval.commands.concepts import concepts_app
from retrieval.commands.duplicates import duplicates
from retrieval.commands.explain import explain
from retrieval.commands.models import models_app
from retrieval.commands.place import IndexFlag, chosen_index
from retrieval.commands.schema import schema
from retrieval.commands.search import search
from retrieval.commands.talk import (
    DimFlag,
    JsonFlag,
    ModelFlag,
    print_json,
    print_version,
    say,
    stderr_console,
)
from retrieval.commands.training import evaluate, train
from retrieval.config import load_settings

HELP = """Search your own pictures, sounds and texts by one another, offline.

\b
  triptych index ~/Media
  triptych search "a singing bird" --in image
  triptych search ./cow.jpg --in text
  triptych search ./bark.ogg --in image,text
"""

INTERRUPTED = 130  # what typer exits with on ctrl-C
PIPE_CLOSED = 141  # what a shell tells of a program that wrote to nobody: 128 and SIGPIPE


class App(typer.Typer):
    """Typer with one table from errors to exit codes. TRIPTYCH_DEBUG=1 shows tracebacks instead."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # A stream that the caller closed is None: data has nowhere to go, and talk would go to stdout.
        sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - open until the process ends
        sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        streams, code = (sys.stdout, sys.stderr), None
        try:
            code = self._code(*args, **kwargs)
            for stream in streams:  # here, not when Python ends: it would tell of a closed pipe at length
                stream.flush()
            if sys.stdout is not streams[0]:  # typer met a closed pipe
                code = PIPE_CLOSED
        except BrokenPipeError:
            code = PIPE_CLOSED
            _write_nowhere(*streams)
        except OSError as error:  # a full disk
            if code != 2:
                _explain(error.strerror or str(error), None)
            code = 2
            _write_nowhere(*streams)
        sys.exit(code)

    def _code(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; how the program is to end."""
        try:
            return super().__call__(*args, **kwargs)
        except TrainingStopped as stop:
            _explain(stop.message, stop.hint, kind="")
            return INTERRUPTED
        except QuerySyntaxError as error:
            _explain(error.message, error.hint, shown=error.shown)
        except TriptychError as error:
            _explain(error.message, error.hint)
        except OSError as error:
            name = f": {os.fsdecode(error.filename)}" if error.filename else ""
            _explain(f"{error.strerror or error}{name}", None)
        except SystemExit as end:
            if end.code == INTERRUPTED:
                say("stopped; what was finished is kept, and the same command goes on from there")
            return end.code
        return 2


def _write_nowhere(*streams: Any) -> None:
    """What is still in the buffers cannot be written: it goes nowhere, without a word when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            os.dup2(nowhere, stream.fileno())


def _explain(message: str, hint: str | None, *, kind: str = "error: ", shown: Sequence[str] = ()) -> None:
    """One line that says what is wrong, then what it is wrong with where that helps, then what to do."""
    if os.environ.get("TRIPTYCH_DEBUG") == "1":
        raise
    from retrieval.render.escape import printable

    lines = [*shown, *([hint] if hint else [])]
    say("\n  ".join([f"{kind}{printable(message)}", *map(printable, lines)]))


app = App(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """What stands before a command. The program's own help is HELP."""


app.command(epilog='Example: triptych search "a singing bird" --in image -k 5')(search)


@app.command(epilog="Example: triptych index ~/Media ~/Sounds --index ~/my.triptych")
def index(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Folders, or manifests (.parquet .csv .jsonl).")
    ] = None,
    index: IndexFlag = None,
    model: ModelFlag = None,
    dim: DimFlag = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Allow deleting more than a fifth of a root.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 2 if any file gave nothing.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Decode processes.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.1, help="Seconds that one file may take.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    runtime: Annotated[str | None, typer.Option(help="auto, onnx, openvino or torch.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, f32, bf16, int8, or fp16 on a GPU.")] = None,
    gpu: Annotated[
        bool | None,
        typer.Option(
            "--gpu/--no-gpu", help="Train search structures on a GPU; by default where there is one."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Index folders or manifests, or bring an index up to date (without SOURCES: everything it covers)."""
    from retrieval.indexing import place_for, update_index
    from retrieval.render.progress import UpdateProgress, build_progress
    from retrieval.render.report import update_json, update_lines

    placed = {"device": device, "runtime": runtime, "precision": precision}
    settings = load_settings().with_flags(workers=workers, timeout_s=timeout, **placed)
    console = stderr_console()
    place = place_for(sources or [], index, settings)
    with build_progress(console) as on_build, UpdateProgress(console) as on_event:
        report = update_index(
            place,
            sources or [],
            settings=settings,
            model=model,
            dim=dim,
            prune=prune,
            gpu=gpu,
            on_event=on_event,
            on_build=on_build,
        )
    if as_json:
        print_json(update_json(report))
    else:
        for line in update_lines(report, place):
            say(line)
    raise typer.Exit(2 if strict and (report.failures or report.failed_before) else 0)


@app.command(epilog="Example: triptych info --failures")
def info(
    index: IndexFlag = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="List files that gave nothing, and why.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """What an index covers: roots, counts by modality, space, parts, size, generations."""
    from retrieval.render.report import failure_lines, failures_json, info_json, info_lines

    chosen = chosen_index(index, load_settings())
    if failures:
        if as_json:
            print_json(failures_json(chosen))
        else:
            for line in failure_lines(chosen):
                print(line)
    elif as_json:
        print_json(info_json(chosen))
    else:
        print("\n".join(info_lines(chosen)))


@app.command(epilog="Example: triptych verify --index ~/Media")
def verify(index: IndexFlag = None, as_json: JsonFlag = False) -> None:
    """Check every file of an index: counts, checksums, orphans. Exits 2 and says what is wrong."""
    from indexer.verify import verify as check
    from retrieval.render.report import verify_json, verify_lines

    report = check(chosen_index(index, load_settings()))
    if as_json:
        print_json(verify_json(report))
    else:
        print("\n".join(verify_lines(report)))
    raise typer.Exit(2 if report.problems else 0)


@app.command(epilog="Example: triptych forget ~/Media/private")
def forget(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders whose rows are removed for good.")],
    index: IndexFlag = None,
) -> None:
    """Remove files from an index physically: rows, texts and vectors. Leaves the files alone."""
    from retrieval.indexing import forget as remove

    count = remove(chosen_index(index, load_settings()), paths)
    if count:
        from retrieval.query import session

        session.forget()  # the last search may tell of them
    say(f"forgot {count} item{'s' * (count != 1)}")
    if count:
        say("`triptych index` works out anew what was dropped with them: probabilities, near-duplicates")
    if count and any(path.exists() for path in paths):
        say("files that are still there come back with the next update; .triptychignore keeps them out")
    raise typer.Exit(0 if count else 1)


@app.command(epilog='Example: triptych embed "a red hat" ./hat.png --out hats.npy')
def embed(
    inputs: Annotated[list[str], typer.Argument(help="As a search's query; - reads one a line from stdin.")],
    out: Annotated[Path, typer.Option(help="A .npy (with a .jsonl beside it) or a .parquet.")],
    model: ModelFlag = None,
    segments: Annotated[bool, typer.Option("--segments", help="A row a segment, not an input.")] = False,
) -> None:
    """Vectors of any texts, pictures and sounds; a row of NaN where an input cannot be read."""
    from retrieval.embedding import check_out, embed_inputs, write_rows
    from retrieval.models.registry import load_model
    from retrieval.render.escape import printable
    from retrieval.render.progress import build_progress

    check_out(out)
    lines = map(os.fsdecode, sys.stdin.buffer) if inputs == ["-"] else inputs
    names = [line.rstrip("\r\n") for line in lines]
    with build_progress(stderr_console()) as progress:
        bundle = load_model(model or load_settings().model, progress=progress)
    rows = list(embed_inputs(names, bundle.tower, dim=bundle.dim, segments=segments))
    write_rows(rows, out, dim=bundle.dim, space_id=bundle.space_id)
    failed = [row for row in rows if row.error]
    for row in failed:
        say(printable(f"input {row.input} ({row.label}): {row.error}"))
    nothing = f", {len(failed)} of them NaN" if failed else ""
    say(printable(f"{len(rows)} rows of {bundle.dim} dimensions{nothing}: {out}"))


app.command(epilog='Example: triptych explain "a red hat" ./hat.png --png heat.png')(explain)
app.command(epilog="Example: triptych schema --index ~/Pictures")(schema)
app.command(epilog="Example: triptych duplicates --in image --paths")(duplicates)
app.command(epilog="Example: triptych calibrate --index ~/Pictures")(calibrate)
app.add_typer(concepts_app, name="concept")
app.add_typer(models_app, name="models")
app.command(epilog="Example: triptych train pairs.parquet --out models/birds --head mlp --epochs 50")(train)
app.command("eval", epilog="Example: triptych eval pairs.parquet --split test --model models/birds")(evaluate)


if __name__ == "__main__":  # as launchers of several processes start it: `-m cli`
    app()
