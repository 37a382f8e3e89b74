"""The whole of `triptych train`: rows -> splits -> features -> a trained space -> a model on disk.

What can be refused is refused before features are computed. What each step does stands in its own module;
nothing here computes, shows or prints. Beside the model's folder lies `<out>.run` with checkpoints and logs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import TrainingStopped
from indexer.types import FloatArray, Modality
from retrieval.config import Settings, cache_dir
from retrieval.training.duplicates import group_near
from retrieval.training.events import TrainEvent
from retrieval.training.features import (
    Collected,
    FeatureEvent,
    FeatureProgress,
    FeatureWarning,
    collect_features,
)
from retrieval.training.finish import write_model
from retrieval.training.launch import is_first, one_at_a_time
from retrieval.training.options import Device, TrainOptions, load_options, options_from, parse_overrides
from retrieval.training.preflight import (
    check_request,
    check_rows,
    check_start,
    check_unfreeze,
    checked_places,
    luck_note,
)
from retrieval.training.splits import assign_splits, find_leaks
from retrieval.training.types import Examples, Ints, PairKind, PairSet, Row, Split

if TYPE_CHECKING:
    from torch import nn

    from retrieval.models.bundle import Bundle
    from retrieval.models.model import Model
    from retrieval.training.finetune import MediaSource, TunedSpace
    from retrieval.training.source import Source
    from retrieval.training.space import SharedSpace
    from retrieval.training.trainer import TrainingData, TrainResult
    from retrieval.training.unfreeze import Unfreeze

FAILURES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence that the user should read."""

    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """What is being done, and how much of it is done, in [0, 1]; None: unknown."""

    text: str
    share: float | None = None


Event = Note | Step | FeatureProgress | TrainEvent
OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class TrainJob:
    """What the user asked for."""

    out: Path | None  # folder of the new model
    source: str | None = None  # a table, a folder, captions or shards; see manifest.read_pairs
    from_index: Path | None = None  # or an index whose pairs are used
    base: str = "starter"  # model whose backbones are used, and whose space training begins at
    options: TrainOptions = field(default_factory=TrainOptions)
    unfreeze: str = ""  # backbones that are trained too, such as image:2,text:lora
    tune: int = 0  # trials on the validation rows before the run
    teacher: str | None = None  # a stronger model whose similarities are learned from
    resume: bool = False
    allow_leaks: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TrainReport:
    """What came of it."""

    bundle: Bundle
    result: TrainResult
    rows: Mapping[Split, int]
    pairs: Mapping[PairKind, int]  # among the training rows
    failures: tuple[tuple[str, str], ...]  # media that could not be used, and why
    options: TrainOptions
    run_folder: Path


def read_options(file: Path | None, overrides: Sequence[str]) -> TrainOptions:
    """Defaults, then the file, then `key=value` settings. ConfigError."""
    base = load_options(file) if file is not None else TrainOptions()
    return parse_overrides(overrides, base)


def train_model(job: TrainJob, *, settings: Settings, on_event: OnEvent) -> TrainReport | None:
    """Train, write the model to `job.out`, and say what came of it; None in all processes but the first.

    ConfigError, ManifestError, TrainingError or LeakageRefused before hours are spent; TrainingStopped after
    ctrl-C, with a checkpoint that `resume` goes on from.
    """
    from retrieval.training.distributed import joined

    first = is_first()
    on_event = on_event if first else (lambda _event: None)
    out, run_folder = checked_places(job)
    asked = check_request(job)
    on_event(Step("reading the rows"))
    pairs = _read(job)
    _say_problems(pairs, on_event)
    check_rows(pairs, job.options)
    check_start(job.options, pairs)
    on_event(Step("loading the base model"))
    base = _base(job.base, settings)
    job = replace(job, options=job.options.in_space(base.dim))
    check_unfreeze(asked, pairs.rows, base)
    if job.teacher is not None:
        _base(job.teacher, settings)
    with one_at_a_time(cache_dir()):
        collected = _collect(pairs, base, settings, on_event)
    rows = [pairs.rows[number] for number in collected.kept]
    splits = _split(job, rows, collected, on_event)
    prepared = Prepared(job, base, rows, collected, splits, run_folder)
    with joined(cpu=job.options.device is Device.CPU):
        trained = _fit(prepared, settings, on_event)
    if not first:
        return None
    on_event(Step("writing the model"))
    bundle = write_model(
        out,
        prepared,
        trained,
        pairs,
        workers=settings.workers,
        progress=lambda text, share: on_event(Step(text, share)),
    )
    return TrainReport(
        bundle=bundle,
        result=trained.result,
        rows={split: len(numbers) for split, numbers in splits.items()},
        pairs=prepared.part(Split.TRAIN).pair_counts(),
        failures=(*pairs.problems, *collected.failures),
        options=trained.options,
        run_folder=run_folder,
    )


def _read(job: TrainJob) -> PairSet:
    from retrieval.training.from_index import index_pairs
    from retrieval.training.manifest import read_pairs, require_trainable

    if job.from_index is not None:
        from retrieval.places import for_reading

        pairs = index_pairs(for_reading(job.from_index, None).path)
    else:
        pairs = read_pairs(str(job.source), cache=cache_dir())
    require_trainable(pairs)
    return pairs


def _say_problems(pairs: PairSet, on_event: OnEvent) -> None:
    for line in pairs.notes:
        on_event(Note(line))
    _say_some("rows left out or cut", pairs.problems, on_event)


def _say_some(what: str, failures: Sequence[tuple[str, str]], on_event: OnEvent) -> None:
    for where, why in failures[:FAILURES_SHOWN]:
        on_event(Note(f"{where}: {why}"))
    if len(failures) > FAILURES_SHOWN:
        on_event(Note(f"... {len(failures)} {what} in all"))


def _base(name: str, settings: Settings) -> Model:
    from retrieval.models.registry import load_model

    return load_model(name, threads=settings.threads)


def _collect(pairs: PairSet, base: Model, settings: Settings, on_event: OnEvent) -> Collected:
    """Features of everything that rows name and the base has a backbone for."""
    from retrieval.models.backbones import backbone_of

    def tell(event: FeatureEvent) -> None:
        on_event(Note(event.message) if isinstance(event, FeatureWarning) else event)

    wanted = {modality for row in pairs.rows for modality in row.modalities}
    towers = {m: base.bundle.spec.tower(m) for m in Modality if m in wanted}
    for modality in (m for m, tower in towers.items() if tower is None):
        on_event(Note(f"the base model {base.name} has no {modality} tower: {modality} is not used"))
    collected = collect_features(
        pairs.rows,
        {
            modality: backbone_of(tower, base.bundle)
            for modality, tower in towers.items()
            if tower is not None
        },
        cache=cache_dir() / "features",
        workers=settings.workers or None,
        threads=settings.threads,
        timeout_s=settings.timeout_s,
        on_event=tell,
    )
    _say_some("media or rows left out", collected.failures, on_event)
    return collected


def _split(job: TrainJob, rows: Sequence[Row], collected: Collected, on_event: OnEvent) -> dict[Split, Ints]:
    """Row numbers by split; rows alike lie on one side, or LeakageRefused."""
    alike = group_near(collected.features, collected.examples.contents)
    for line in alike.notes:
        on_event(Note(line))
    splits = assign_splits(
        rows, validation=job.options.validation, test=job.options.test, groups=alike.numbers
    )
    leaks = find_leaks(rows, collected.examples, collected.features, splits)
    leaks.refuse(allowed=job.allow_leaks)
    for line in leaks.lines():
        on_event(Note(line))
    counts = ", ".join(f"{len(numbers)} {split}" for split, numbers in splits.items())
    on_event(Note(f"rows: {counts}"))
    if note := luck_note(collected.examples.take(splits[Split.VALIDATION]), job.options):
        on_event(Note(note))
    return splits


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Everything that training starts from."""

    job: TrainJob
    base: Model
    rows: Sequence[Row]
    collected: Collected
    splits: Mapping[Split, Ints]
    run_folder: Path

    def part(self, split: Split) -> Examples:
        return self.collected.examples.take(self.splits.get(split, np.zeros(0, np.int64)))


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What training leaves behind."""

    space: SharedSpace
    modules: Mapping[Modality, nn.Module]  # fine-tuned backbones
    result: TrainResult
    options: TrainOptions
    trials: Sequence[Mapping[str, Any]]


def _fit(prepared: Prepared, settings: Settings, on_event: OnEvent) -> Trained:
    """Heads, or heads and backbones, trained to their best on validation."""
    from retrieval.training.finetune import TunedSpace, parse_unfreeze
    from retrieval.training.known_base import known_base
    from retrieval.training.trainer import FeatureSource, TrainingData, train

    job = prepared.job
    features = prepared.collected.features
    data = TrainingData(
        prepared.part(Split.TRAIN), prepared.part(Split.VALIDATION), _teacher(prepared, settings, on_event)
    )
    options = job.options
    trials: Sequence[Mapping[str, Any]] = ()
    if job.tune and job.resume:
        options = _resumed_options(prepared)
    elif job.tune:
        options, trials = _tuned(prepared, data, on_event)
    space = _start(prepared, options)
    asked = parse_unfreeze(job.unfreeze)
    with known_base(space, features, media=frozenset(asked)) as known, ExitStack() as stack:
        learner: SharedSpace = space
        source: Source = FeatureSource(known)
        if asked:
            learner, source = stack.enter_context(_unfrozen(prepared, space, asked, source, settings))
        folder = prepared.run_folder
        result = train(learner, source, data, options, folder, on_event=on_event, resume=job.resume)
    heads, modules = learner.result() if isinstance(learner, TunedSpace) else (space, {})
    return Trained(heads, modules, result, options, trials)


def _teacher(prepared: Prepared, settings: Settings, on_event: OnEvent) -> dict[Modality, FloatArray]:
    """The teacher's vectors of each content; nothing where none was asked for."""
    from retrieval.training.teacher import teacher_vectors

    if prepared.job.teacher is None:
        return {}
    model = _base(prepared.job.teacher, settings)
    on_event(Step(f"vectors of the teacher {model.name}"))
    return teacher_vectors(model, prepared.rows, prepared.collected, workers=settings.workers)


def _start(prepared: Prepared, options: TrainOptions) -> SharedSpace:
    """The untrained space that options ask for."""
    from retrieval.models.backbones import base_head
    from retrieval.training.start import make_space

    features = prepared.collected.features
    used = [m for m in features if len(features[m])]
    heads = {m: head for m in used if (head := base_head(prepared.base, m)) is not None}
    widths = {m: features[m].shape[1] for m in used}
    return make_space(options, widths, heads, features, prepared.part(Split.TRAIN))


def _resumed_options(prepared: Prepared) -> TrainOptions:
    """What an earlier search chose, as the run that was stopped has it."""
    from retrieval.training.checkpoint import latest_checkpoint

    _, found = latest_checkpoint(prepared.run_folder / "checkpoints")
    return options_from(found.facts["options"])


def _tuned(
    prepared: Prepared, data: TrainingData, on_event: OnEvent
) -> tuple[TrainOptions, Sequence[Mapping[str, Any]]]:
    """The best options of several trials on heads, judged by validation."""
    from retrieval.training.known_base import known_base
    from retrieval.training.trainer import FeatureSource, train
    from retrieval.training.tune import Trial, tune

    features = prepared.collected.features

    def objective(options: TrainOptions, _number: int) -> float | None:
        space = _start(prepared, options)
        with (
            TemporaryDirectory(prefix="triptych-trial-") as folder,
            known_base(space, features, media=frozenset()) as known,
        ):
            return train(space, FeatureSource(known), data, options, Path(folder)).best

    def tell(trial: Trial) -> None:
        found = trial.failure if trial.recall is None else f"validation recall {trial.recall:.3f}"
        on_event(Note(f"trial {trial.number + 1} of {prepared.job.tune}: {found}"))

    on_event(Step("trying options"))
    try:
        found = tune(prepared.job.tune, prepared.job.options, objective, on_trial=tell)
    except TrainingStopped:
        raise TrainingStopped(
            "stopped while options were tried; nothing of it is kept", hint="give the same command again"
        ) from None
    trials = [{"options": trial.options.to_json(), "recall": trial.recall} for trial in found.trials]
    return found.best, trials


@contextmanager
def _unfrozen(
    prepared: Prepared,
    space: SharedSpace,
    asked: Mapping[Modality, Unfreeze],
    frozen: Source,
    settings: Settings,
) -> Iterator[tuple[TunedSpace, MediaSource]]:
    """A space whose backbones learn, and the source of their media."""
    from retrieval.models.backbones import backbone_of
    from retrieval.training.finetune import MediaSource, media_of, tuned_space
    from retrieval.training.placement import placed

    options = prepared.job.options
    towers = {m: prepared.base.bundle.spec.tower(m) for m in asked}
    bundle = prepared.base.bundle
    backbones = {m: backbone_of(tower, bundle) for m, tower in towers.items() if tower is not None}
    tuned = tuned_space(space, {m: b.load() for m, b in backbones.items()}, asked, seed=options.seed)
    source = MediaSource(
        media_of(prepared.rows, prepared.collected, list(asked)),
        {m: b.preparer() for m, b in backbones.items()},
        frozen,
        workers=options.workers or settings.workers,
        pin=placed(options).device.type == "cuda",
    )
    with source:
        yield tuned, source
