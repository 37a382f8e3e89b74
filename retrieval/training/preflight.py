"""What a training run is refused for before anything is computed, so that no hour is lost to a typing error.

Knows what the user asked for and what the rows say, never features. What only training itself can find out
stands in trainer.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.errors import ConfigError, TrainingError
from indexer.types import Modality
from retrieval.home import expanded
from retrieval.training.options import Start, TrainOptions
from retrieval.training.types import Examples, PairSet, Row, Split

if TYPE_CHECKING:
    from retrieval.models.model import Model
    from retrieval.training.run import TrainJob
    from retrieval.training.unfreeze import Unfreeze

LUCK = 0.2  # recall by chance from which a validation says little


def checked_places(job: TrainJob) -> tuple[Path, Path]:
    """The new model's folder and the run's; ConfigError or TrainingError where they cannot be used."""
    from retrieval.models.trained import check_name, check_out
    from retrieval.training.checkpoint import has_checkpoint

    if job.out is None:
        raise ConfigError("--out is missing", hint="name the new model's folder: --out models/NAME")
    if (job.source is None) == (job.from_index is None):
        raise ConfigError(
            "exactly one of SOURCE and --from-index is needed", hint="triptych train pairs.parquet --out DIR"
        )
    out = Path(os.path.abspath(expanded(job.out)))  # noqa: PTH100 - a name for `--out .` and `a/..`
    run_folder = out.with_name(f"{out.name}.run")
    check_name(out.name)
    check_out(out)
    _check_writable(out)
    begun = has_checkpoint(run_folder / "checkpoints")
    if job.resume and not begun:
        raise TrainingError(f"{run_folder} holds no checkpoint", hint="leave out --resume to begin anew")
    if begun and not job.resume:
        raise TrainingError(
            f"{run_folder} holds a run that was not finished",
            hint="go on with --resume, remove that folder, or choose another --out",
        )
    return out, run_folder


def _check_writable(out: Path) -> None:
    """TrainingError where the folders above `out` cannot be made or written to."""
    above = next(folder for folder in out.parents if os.path.lexists(folder))
    if not above.is_dir():
        raise TrainingError(f"{above} is not a folder", hint="choose another folder with --out")
    if not os.access(above, os.W_OK | os.X_OK):
        raise TrainingError(f"{above} cannot be written to", hint="choose another folder with --out")


def check_request(job: TrainJob) -> dict[Modality, Unfreeze]:
    """Options that do not go together or want what is not there; gives what --unfreeze asks for.

    ConfigError or TrainingError.
    """
    from retrieval.training.logs import check_wandb
    from retrieval.training.placement import placed
    from retrieval.training.tune import check_tune
    from retrieval.training.unfreeze import UnfreezeKind, parse_unfreeze

    options = job.options
    placed(options)
    asked = parse_unfreeze(job.unfreeze)
    if options.chunk and any(how.kind is UnfreezeKind.ALL for how in asked.values()):
        raise ConfigError(
            f"chunk={options.chunk} with --unfreeze {job.unfreeze}: batch norm would see chunks, not batches",
            hint="unfreeze the last blocks (image:2), or set chunk=0 and a smaller batch_size",
        )
    if job.tune:
        check_tune(job.tune)
    if options.wandb:
        check_wandb()
    if options.loss.uses_teacher and job.teacher is None:
        raise ConfigError("this loss learns from a teacher", hint="name a model: --teacher MODEL")
    if job.teacher is not None and not options.loss.uses_teacher:
        raise ConfigError(
            f"--teacher {job.teacher}, and the loss {options.loss.kind} learns nothing from it",
            hint="choose --loss distill, or mix it in: --set loss.distill_weight=0.5",
        )
    return asked


def check_rows(pairs: PairSet, options: TrainOptions) -> None:
    """TrainingError where the rows' own splits leave nothing to train on or to stop by."""
    rows = pairs.rows
    if all(row.split not in (None, Split.TRAIN) for row in rows):
        raise TrainingError(
            f"there are no training rows: the split column puts all {len(rows)} elsewhere",
            hint="correct the split column; rows that train say `train`, or nothing",
        )
    if options.patience and not options.validation and all(r.split is not Split.VALIDATION for r in rows):
        raise TrainingError(
            f"there are no validation rows, and patience={options.patience} stops by them",
            hint="give validation rows or a share (validation=0.1), or train all epochs: patience=0",
        )


def check_unfreeze(asked: Mapping[Modality, Unfreeze], rows: Sequence[Row], base: Model) -> None:
    """TrainingError or ModelError where a backbone cannot be unfrozen as asked; loads it to see."""
    from retrieval.models.backbones import backbone_of
    from retrieval.training.unfreeze import tunable

    for modality, how in asked.items():
        tower = base.bundle.spec.tower(modality)
        if tower is None or not any(modality in row.modalities for row in rows):
            where = (
                f"the base model {base.name} has no {modality} tower" if tower is None else "no row has it"
            )
            raise TrainingError(
                f"the {modality} backbone cannot be unfrozen: {where}",
                hint=f"leave {modality} out of --unfreeze",
            )
        tunable(backbone_of(tower, base.bundle).load(), how)


def luck_note(examples: Examples, options: TrainOptions) -> str | None:
    """A sentence where validation has so few rows that its recall is mostly chance; None where not."""
    k = options.metric_k
    fewest = min((int(count) for count in examples.pair_counts().values()), default=0)
    if not fewest or k / fewest <= LUCK:
        return None
    return (
        f"validation has only {fewest} pairs of a kind: R@{k} is {min(k / fewest, 1):.2f} there by chance, "
        "which tells epochs apart badly; set metric_k=1, or a larger validation share"
    )


def check_start(options: TrainOptions, pairs: PairSet) -> None:
    """ConfigError for a closed form that the rows' modalities do not allow."""
    if options.start not in (Start.BASE, Start.RANDOM) and not any(row.texts for row in pairs.rows):
        raise ConfigError(
            f"start={options.start} fits toward text vectors, and the rows have no text",
            hint="use start=base or start=random",
        )
