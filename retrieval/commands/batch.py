"""`triptych search --batch`: a query a line in, a JSON object a line out."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from retrieval.commands.talk import say

if TYPE_CHECKING:
    from retrieval.query.searcher import Searcher
    from retrieval.types import Request

BatchFlag = Annotated[
    Path | None,
    typer.Option(
        "--batch",
        metavar="FILE",
        help="Answer each line of FILE (- for stdin), one term whatever is in it or JSON as for --query-json,"
        " by a JSON object with its hits or an error. One term is compared with all vectors, also where a"
        " search goes through inverted lists; several are searched as without --batch, on the CPU.",
    ),
]
SearchGpuFlag = Annotated[
    bool | None,
    typer.Option("--gpu/--no-gpu", help="Search a batch on a GPU; by default where there is one."),
]


def open_batch(source: Path) -> AbstractContextManager[BinaryIO]:
    """The file of queries, or standard input. OSError where it cannot be read."""
    return nullcontext(sys.stdin.buffer) if str(source) == "-" else source.open("rb")


def search_batch(searcher: Searcher, file: BinaryIO, form: Request, *, gpu: bool | None, device: str) -> int:
    """Print what became of each line. The exit code: 0 with hits, 1 without, 2 where a line has an error."""
    from retrieval.query.batch import read_lines, search_lines
    from retrieval.render.data import answer_line

    hits = failed = 0
    empty = True
    for answer in search_lines(searcher, read_lines(file), form, gpu=gpu, device=device, note=say):
        empty = False
        hits += bool(answer.result and answer.result.hits)
        failed += answer.error is not None
        sys.stdout.buffer.write(answer_line(answer.line, answer.result, answer.error))
    if empty:
        say("there was no line to answer")
    if failed:
        lines = f"{failed} line{'s' * (failed != 1)}"
        say(f"{lines} could not be answered; `error` in the output says why")
    return 2 if failed else 0 if hits else 1
