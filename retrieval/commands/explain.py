"""`triptych explain`: why a file is a hit for a query, as numbers, heat maps and marked words."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.errors import ConfigError
from retrieval.commands.place import IndexFlag, chosen_index, modalities, say_build
from retrieval.commands.talk import JsonFlag, ModelFlag, print_json, say
from retrieval.commands.terms import AddFlag, JsonQueryFlag, NotFlag, WeightFlag, expression_of
from retrieval.config import load_settings
from retrieval.render.escape import printable

if TYPE_CHECKING:
    from retrieval.query.explain.types import Explanation
    from retrieval.types import Request


def explain(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[QUERY]... TARGET",
            help="A query as `search` takes it, then what to explain: a file, an item's id or the number of a"
            " hit of the last search; TARGET alone is explained by the last search's own query.",
        ),
    ],
    add: AddFlag = None,
    no: NotFlag = None,
    weight: WeightFlag = None,
    json_query: JsonQueryFlag = None,
    within: Annotated[
        str | None, typer.Option("--in", help="Modalities that the search is in: image,text,audio.")
    ] = None,
    hubness: Annotated[
        bool | None, typer.Option("--hubness/--no-hubness", help="Take off what is near everything.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Draw the heat of the term that matches best into this file.")
    ] = None,
    index: IndexFlag = None,
    model: ModelFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Why something is a hit: each stage's numbers, and the regions, seconds, bands and words behind them.

    Red adds to the score, blue takes away; without colours darker shades add more. Marked words add most.
    """
    from retrieval.query.explain.explain import explain as explained
    from retrieval.query.searcher import Searcher
    from retrieval.render.drawing import check_folder
    from retrieval.types import Request

    if png is not None:
        check_folder(png)  # before a hundred passes, not after them
    *asked, target = arguments
    settings = load_settings()
    if asked or add or no or json_query:
        request = Request(
            expression=expression_of(asked, add or [], no or [], weight or [], json_query),
            modalities=modalities(within),
            hubness=hubness,
        )
    else:
        index, request = _last(index, within, hubness)
    place = chosen_index(index, settings)
    with Searcher.open(place, model=model, threads=settings.threads, on_build=say_build) as searcher:
        found = explained(searcher, request, target)
    _show(found, png, as_json=as_json)


def _last(index: Path | None, within: str | None, hubness: bool | None) -> tuple[Path, Request]:
    """The last search's index and request, with what the flags change of it."""
    from retrieval.query.session import repeated

    request, place = repeated()
    return index or place, replace(
        request,
        modalities=modalities(within) or request.modalities,
        hubness=request.hubness if hubness is None else hubness,
    )


def _show(found: Explanation, png: Path | None, *, as_json: bool) -> None:
    from retrieval.render.heat import explanation_json, explanation_lines

    fault: ConfigError | None = None
    if png is not None:  # drawn first: who reads the lines may close the pipe after the first few
        try:
            _draw(found, png)
        except ConfigError as error:
            fault = error
    if as_json:
        print_json(explanation_json(found))
    else:
        print("\n".join(explanation_lines(found, colour=_colours())))
    if fault is not None:
        raise fault


def _draw(found: Explanation, png: Path) -> None:
    """The heat of the term that matches best, as a picture."""
    from retrieval.render.drawing import write_png

    best = found.best
    if best.heat is None:
        raise ConfigError("there is nothing to draw", hint=found.note)
    write_png(best.heat, png, f'"{best.label}": cosine {best.cosine:.3f}')
    say(printable(f"heat of {best.label}: {png}"))


def _colours() -> bool:
    """Whether stdout is a terminal that shows colours, and nobody asked for none (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
