"""`triptych duplicates`: groups of files that are the same or nearly the same, for people and for pipes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.commands.place import IndexFlag, chosen_index, modalities
from retrieval.commands.talk import JsonFlag, print_json, say
from retrieval.config import load_settings

if TYPE_CHECKING:
    from retrieval.query.duplicates import DuplicateFile, DuplicateGroup


def duplicates(
    within: Annotated[str | None, typer.Option("--in", help="Modalities: image,text,audio.")] = None,
    index: IndexFlag = None,
    as_json: JsonFlag = False,
    paths: Annotated[
        bool, typer.Option("--paths", help="Print bare paths: all but the best of each group.")
    ] = False,
    nul: Annotated[bool, typer.Option("-0", help="The same, each ended by a NUL.")] = False,
) -> None:
    """List files that are the same or nearly the same, the best of each group first.

    The best has the most pixels or is the longest, then is the largest file. No file is read or changed.
    Exits 0 with groups, 1 without.
    """
    from indexer.snapshot import Snapshot
    from indexer.twins import Twins
    from retrieval.query.duplicates import duplicate_groups
    from retrieval.render.data import pick_format

    pick_format({"json": as_json, "paths": paths, "nul": nul})
    wanted = modalities(within)
    with Snapshot.open(chosen_index(index, load_settings())) as snapshot:
        twins = Twins.open(snapshot)
        groups = duplicate_groups(snapshot, twins, modalities=wanted)
    if twins is None:
        say("only exact copies: near-duplicates were not looked for yet; run `triptych index` once")
    if as_json:
        print_json([_group_json(group) for group in groups])
    elif paths or nul:
        end = b"\0" if nul else b"\n"
        rest = [file for group in groups for file in group.files[1:]]
        sys.stdout.buffer.write(b"".join(os.fsencode(file.path) + end for file in rest))
    elif groups:
        print("\n\n".join("\n".join(_lines(group)) for group in groups))
        say(_summary(groups))
    else:
        say("no duplicates")
    raise typer.Exit(0 if groups else 1)


def _group_json(group: DuplicateGroup) -> dict[str, Any]:
    from retrieval.render.data import path_fields

    return {
        "modality": group.modality.value,
        "exact": group.exact,
        "files": [
            {
                **path_fields(file.path),
                "size": file.size,
                "width": file.width,
                "height": file.height,
                "seconds": file.seconds,
                "content": file.content_hash.hex(),
                "item": file.item_id,
            }
            for file in group.files
        ],
    }


def _lines(group: DuplicateGroup) -> list[str]:
    """A heading, and a line a file: what it is, how large, where."""
    from retrieval.render.escape import near

    heading = f"{len(group.files)} {'copies' if group.exact else 'alike'} ({group.modality})"
    cells = [(_extent(file), _bytes(file.size), near(file.path)) for file in group.files]
    widths = [max(len(row[column]) for row in cells) for column in (0, 1)]
    return [heading, *(f"  {a:>{widths[0]}}  {b:>{widths[1]}}  {path}" for a, b, path in cells)]


def _summary(groups: Sequence[DuplicateGroup]) -> str:
    """How much there is beside the best of each group."""
    rest = [file for group in groups for file in group.files[1:]]
    many = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    files = "1 file" if len(rest) == 1 else f"{len(rest)} files"
    return f"{many}; beside the best of each {files}, {_bytes(sum(file.size for file in rest))}"


def _extent(file: DuplicateFile) -> str:
    from retrieval.types import clock

    if file.width and file.height:
        return f"{file.width}x{file.height}"
    return clock(file.seconds) if file.seconds else "-"


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
