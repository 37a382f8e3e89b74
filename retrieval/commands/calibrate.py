"""`triptych calibrate`: probabilities fitted again, on an index's own captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.commands.place import IndexFlag, chosen_index
from retrieval.commands.talk import say
from retrieval.config import load_settings

if TYPE_CHECKING:
    from retrieval.query.scores.calibrate import Calibration

DryRun = Annotated[bool, typer.Option("--dry-run", help="Fit and print, change nothing.")]
Forget = Annotated[bool, typer.Option("--forget", help="Go back to the model's own calibration.")]


def calibrate_index(index: Path) -> Calibration:
    """A calibration fitted on an index's own pairs. QueryError where there are too few."""
    from indexer.errors import QueryError
    from indexer.snapshot import Snapshot
    from retrieval.query.scores.calibrate import Calibration
    from retrieval.query.scores.calibration_fit import FEWEST, fitted
    from retrieval.query.scores.calibration_pairs import answers_of

    with Snapshot.open(index) as snapshot:
        found = fitted(answers_of(snapshot))
        if not found.lines:
            raise QueryError(
                f"the index has too few pairs: fewer than {FEWEST} are found among the best hits",
                hint="index more files with captions, or go on with the model's own calibration",
            )
        return Calibration(found.lines, {**found.said, "generation": snapshot.generation.number})


def keep_calibration(index: Path, found: Calibration | None) -> None:
    """Write it into the index as a commit of its own; None takes the index's own away."""
    from indexer.derived import telling
    from indexer.deriving import Kept, derive
    from retrieval.query.scores.calibrate import KEY

    derive(index, [Kept(KEY, b"" if found is None else telling((), found.to_json()))])


def calibrate(index: IndexFlag = None, dry_run: DryRun = False, forget: Forget = False) -> None:
    """Fit the probabilities of hits again, on the index's own pictures and sounds with captions.

    They are kept in the index; the files and the model stay as they are.
    """
    run_calibrate(chosen_index(index, load_settings()), dry_run=dry_run, forget=forget)


def run_calibrate(index: Path, *, dry_run: bool = False, forget: bool = False) -> Calibration | None:
    """What the command does: fit, keep, say what came of it. The calibration, None where it was forgotten."""
    if forget:
        if not dry_run:
            keep_calibration(index, None)
        say(f"the model's own calibration {'would be' if dry_run else 'is'} used again")
        return None
    found = calibrate_index(index)
    if not dry_run:
        keep_calibration(index, found)
    for line in calibration_lines(found):
        say(line)
    say("nothing was changed" if dry_run else "kept in the index; --forget takes it away")
    return found


def calibration_lines(found: Calibration) -> list[str]:
    """What a calibration was fitted on, a line a pair of modalities, and the pairs that had too little."""
    lines = []
    for (query, modality), line in sorted(found.lines.items()):
        told = found.said["fitted on"][f"{query}/{modality}"]
        lines.append(
            f"{query} to {modality}: {told['relevant']} right among {told['shown']} shown; "
            f"a list is shown where its best hit has {100 * line.cut:.0f} % or more"
        )
    for pair, told in sorted(found.said.get("too few", {}).items()):
        lines.append(
            f"{pair.replace('/', ' to ')}: only {told['relevant']} right among {told['shown']} shown,"
            " too few; the model's own is used"
        )
    return lines
