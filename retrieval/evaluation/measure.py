"""The whole of `triptych eval`: what a user names -> rows and vectors -> an evaluation and its report.

What is measured stands in metrics.py, how rows are encoded in encode.py. Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError, TrainingError
from retrieval.config import Settings, cache_dir
from retrieval.evaluation.encode import EncodedRows, OnEvent, encode_rows
from retrieval.evaluation.index import evaluate_index
from retrieval.evaluation.report import About, to_json, write_html
from retrieval.evaluation.run import Comparison, Evaluation, compare, evaluate
from retrieval.evaluation.run import Settings as Measures
from retrieval.home import expanded
from retrieval.models.model import Model
from retrieval.models.registry import load_model
from retrieval.places import INDEX_NAME
from retrieval.training.manifest import read_pairs
from retrieval.training.split_file import SPLIT_FILE, read_split
from retrieval.training.splits import assign_splits
from retrieval.training.types import PairSet, Row, Split

ALL = "all"
PROBLEMS_SHOWN = 5
OnBuild = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class EvalJob:
    """What the user asked for."""

    source: str  # what `train` reads, or an index
    split: str | None = None  # or `all`; None: test, and all of an index
    model: str | None = None
    dim: int | None = None  # of a model trained nested
    compare: str | None = None  # another model
    by_label: bool = False  # relevant is what has the query's label
    html: Path | None = None  # where to write a report with plots


@dataclass(frozen=True, slots=True, eq=False)
class EvalResult:
    """What was measured."""

    evaluation: Evaluation
    comparison: Comparison | None
    encoded: EncodedRows
    about: About
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return to_json(self.evaluation, self.about, encoded=self.encoded, comparison=self.comparison)


def measure(
    job: EvalJob, *, settings: Settings, on_build: OnBuild | None = None, on_event: OnEvent | None = None
) -> EvalResult:
    """Measure a model on rows, or an index by its own vectors, and write the report where one is asked for.

    ConfigError for options that do not go together, ManifestError and TrainingError for rows that cannot be
    measured, ModelNotFound.
    """
    if job.html is not None:
        _check_html(expanded(job.html).absolute())
    index = _index_of(expanded(job.source))
    if index is not None:
        result = _measure_index(job, index)
    else:
        result = _measure_rows(job, settings, on_build, on_event)
    result = replace(result, notes=(*result.notes, *map("warning: {}".format, result.evaluation.cautions)))
    if job.html is not None:
        write_html(
            expanded(job.html),
            result.encoded,
            result.evaluation,
            result.about,
            comparison=result.comparison,
        )
    return result


def _check_html(page: Path) -> None:
    """Refuse a page that could not be written before anything is measured."""
    if page.is_dir():
        raise ConfigError(f"--html {page} is a folder", hint=f"name a file: --html {page / 'report.html'}")
    if not page.parent.is_dir():
        raise ConfigError(f"the folder of --html {page} does not exist", hint="create it first")


def _index_of(path: Path) -> Path | None:
    """The index that a path is, or that its folder holds; None for rows."""
    return next((place for place in (path, path / INDEX_NAME) if (place / "CURRENT").is_file()), None)


def _measure_index(job: EvalJob, index: Path) -> EvalResult:
    from indexer.generation import read_current

    split = None if job.split == ALL else job.split
    flags = {"--model": job.model, "--compare": job.compare, "--dim": job.dim, "--split": split}
    for flag, value in flags.items():
        if value is not None:
            raise ConfigError(
                f"{flag} with an index, all of whose own vectors are measured",
                hint="to measure a model on files or a split of them, name their folder or manifest",
            )
    encoded = evaluate_index(index)
    space_id, space = next(iter(read_current(index).spaces.items()))
    about = About(model=space.model, space_id=space_id, source=job.source)
    measures = Measures(by_label=job.by_label)
    return EvalResult(evaluate(encoded.vectors, encoded.examples, measures), None, encoded, about)


def _measure_rows(
    job: EvalJob, settings: Settings, on_build: OnBuild | None, on_event: OnEvent | None
) -> EvalResult:
    def load(name: str, dim: int | None = None) -> Model:
        return load_model(name, progress=on_build, threads=settings.threads, dim=dim)

    model = load(job.model or settings.model, job.dim)
    other = load(job.compare) if job.compare is not None else None
    pairs = read_pairs(job.source, cache=cache_dir())
    name = job.split or Split.TEST.value
    rows, notes = _rows_of(pairs, name, [one for one in (model, other) if one is not None])
    measures = Measures(by_label=job.by_label)
    encoded = encode_rows(model, rows, workers=settings.workers, on_event=on_event)
    evaluation = evaluate(encoded.vectors, encoded.examples, measures)
    comparison = None
    if other is not None:
        second = encode_rows(other, rows, workers=settings.workers)
        comparison = compare(evaluation, evaluate(second.vectors, second.examples, measures))
    about = About(
        model=model.name,
        space_id=model.space_id,
        source=job.source,
        digest=pairs.digest,
        split=None if name == ALL else name,
        against=other.name if other is not None else None,
    )
    return EvalResult(evaluation, comparison, encoded, about, (*_problems(pairs), *pairs.notes, *notes))


def _problems(pairs: PairSet) -> list[str]:
    """What of the rows is not measured, the first few by name."""
    lines = [f"{where}: {why}" for where, why in pairs.problems[:PROBLEMS_SHOWN]]
    if len(pairs.problems) > PROBLEMS_SHOWN:
        lines.append(f"... {len(pairs.problems)} rows left out or cut in all")
    return lines


def _rows_of(pairs: PairSet, name: str, models: list[Model]) -> tuple[list[Row], list[str]]:
    """The rows of a split; those that a model was trained on are never among validation or test rows.

    A model that was trained on these rows, or on half of them, says which split each is of; rows that no
    model knows are split by the hash of their group.
    """
    try:
        split = None if name == ALL else Split(name)
    except ValueError:
        raise ConfigError(f"--split is {name!r}", hint=f"it takes one of {', '.join(Split)}, {ALL}") from None
    rows = list(pairs.rows)
    records = {model.name: record for model in models if (record := _record(model, pairs))}
    if split is None:
        seen = [f"{model} was trained on some of these rows: its numbers flatter it" for model in records]
        return rows, seen
    try:
        splits = assign_splits(rows)
    except TrainingError as error:  # what training may change, a measurement need not
        hint = f"measure all of them: --split {ALL}; or {error.hint}"
        raise TrainingError(error.message, hint=hint) from error
    chosen = {row: own for own, numbers in splits.items() for row in numbers.tolist()}
    for record in reversed(records.values()):  # so that the first model's word is the last
        chosen |= record
    wanted = [row for row, own in sorted(chosen.items()) if own is split]
    by = f", as {' and '.join(records)} split them" if records else ""
    notes = [f"{len(wanted)} {split} rows of {len(rows)}{by}"]
    if split is not Split.TRAIN:
        clean = [
            row for row in wanted if all(record.get(row) is not Split.TRAIN for record in records.values())
        ]
        if len(clean) < len(wanted):
            notes.append(
                f"{len(wanted) - len(clean)} of them left out: one of the models was trained on them"
            )
        wanted = clean
    if not wanted:
        raise TrainingError(
            f"no row of {pairs.source} is in the {split} split",
            hint=f"choose another --split, or --split {ALL}",
        )
    return [rows[row] for row in wanted], notes


def _record(model: Model, pairs: PairSet) -> dict[int, Split]:
    """The split of each row, by number, that the model's training recorded; {} where its rows were others."""
    path = model.path / SPLIT_FILE
    if not path.is_file():
        return {}
    found = {
        row: split for split, numbers in read_split(path, pairs.rows).items() for row in numbers.tolist()
    }
    same = _data_of(model) == pairs.digest or 2 * len(found) >= len(pairs.rows)
    return found if same else {}


def _data_of(model: Model) -> str | None:
    """The digest of the rows that a model was trained on."""
    data = model.bundle.spec.provenance.get("data")
    return data.get("digest") if isinstance(data, dict) else None
