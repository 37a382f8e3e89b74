"""The whole of `triptych eval`: what a user names -> rows and vectors -> an evaluation and its report.

What is measured stands in metrics.py, how rows are encoded in encode.py. Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError, TrainingError
from retrieval.config import Settings, cache_dir
from retrieval.evaluation.encode import EncodedRows, OnEvent, encode_rows
from retrieval.evaluation.index import evaluate_index
from retrieval.evaluation.report import About, to_json, write_html
from retrieval.evaluation.run import Comparison, Evaluation, compare, evaluate
from retrieval.evaluation.run import Settings as Measures
from retrieval.models.registry import Model, load_model
from retrieval.places import INDEX_NAME
from retrieval.training.manifest import read_pairs
from retrieval.training.split_file import SPLIT_FILE, read_split
from retrieval.training.splits import assign_splits
from retrieval.training.types import Ints, PairSet, Row, Split

ALL = "all"
OnBuild = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class EvalJob:
    """What the user asked for."""

    source: str  # what `train` reads, or an index
    split: str = Split.TEST.value  # or `all`
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
    if job.html is not None and not job.html.expanduser().absolute().parent.is_dir():
        raise ConfigError(f"the folder of --html {job.html} does not exist", hint="create it first")
    index = _index_of(Path(job.source).expanduser())
    if index is not None:
        result = _measure_index(job, index)
    else:
        result = _measure_rows(job, settings, on_build, on_event)
    if job.html is not None:
        write_html(
            job.html.expanduser(),
            result.encoded,
            result.evaluation,
            result.about,
            comparison=result.comparison,
        )
    return result


def _index_of(path: Path) -> Path | None:
    """The index that a path is, or that its folder holds; None for rows."""
    return next((place for place in (path, path / INDEX_NAME) if (place / "CURRENT").is_file()), None)


def _measure_index(job: EvalJob, index: Path) -> EvalResult:
    from indexer.generation import read_current

    for flag, value in (("--model", job.model), ("--compare", job.compare), ("--dim", job.dim)):
        if value is not None:
            raise ConfigError(
                f"{flag} with an index, whose own vectors are measured",
                hint="to measure a model on the files, name their folder or manifest",
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
    rows, notes = _rows_of(pairs, job.split, [one for one in (model, other) if one is not None])
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
        split=None if job.split == ALL else job.split,
        against=other.name if other is not None else None,
    )
    return EvalResult(evaluation, comparison, encoded, about, (*pairs.notes, *notes))


def _rows_of(pairs: PairSet, name: str, models: list[Model]) -> tuple[list[Row], list[str]]:
    """The rows of a split. A model that was trained on the same rows says which it held out."""
    try:
        split = None if name == ALL else Split(name)
    except ValueError:
        raise ConfigError(f"--split is {name!r}", hint=f"it takes one of {', '.join(Split)}, {ALL}") from None
    rows = list(pairs.rows)
    trained = next((model for model in models if _data_of(model) == pairs.digest), None)
    if split is None:
        flattered = "was trained on some of these rows: its numbers flatter it"
        return rows, [f"{trained.name} {flattered}"] if trained is not None else []
    found: dict[Split, Ints]
    if trained is not None and (trained.path / SPLIT_FILE).is_file():
        found = read_split(trained.path / SPLIT_FILE, rows)
        notes = [f"{len(found[split])} {split} rows, as {trained.name} was trained"]
    else:
        found = assign_splits(rows)
        notes = [f"{len(found[split])} {split} rows of {len(rows)}"]
    if not len(found[split]):
        raise TrainingError(
            f"no row of {pairs.source} is in the {split} split",
            hint=f"choose another --split, or --split {ALL}",
        )
    return [rows[number] for number in found[split]], notes


def _data_of(model: Model) -> str | None:
    """The digest of the rows that a model was trained on."""
    data = model.bundle.spec.provenance.get("data")
    return data.get("digest") if isinstance(data, dict) else None
