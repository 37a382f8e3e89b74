"""`triptych index`: which model and which place, then the indexer's update, then the registry."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from indexer.build import update
from indexer.derived import Derivation
from indexer.errors import ConfigError, ModelNotFound
from indexer.generation import Generation, read_current
from indexer.report import BuildOptions, OnEvent, UpdateReport, Warned
from retrieval import places
from retrieval.config import Settings, data_dir
from retrieval.home import expanded
from retrieval.models.model import Model
from retrieval.models.registry import load_model, load_space
from retrieval.runtime.choose import Placement


def place_for(sources: Sequence[Path], named: Path | None, settings: Settings) -> Path:
    """The index to write: the named one, else in the first source; without sources the one to be read."""
    if sources:
        return places.for_writing([expanded(source).absolute() for source in sources], named)
    return places.for_reading(named, settings.index).path


def update_index(
    index: Path,
    sources: Sequence[Path],
    *,
    settings: Settings,
    model: str | None = None,
    dim: int | None = None,
    prune: bool = False,
    gpu: bool | None = None,
    on_event: OnEvent | None = None,
    on_build: Callable[[str, float], None] | None = None,
) -> UpdateReport:
    """Bring an index up to date with sources, or without any with all of its roots, and register it.

    `model` and `dim`, one of its nested dimensions, are what the user asked for, if anything; an index that
    exists keeps its own. A registry that cannot be written is a warning, said and in the report: by then the
    index is committed.
    """
    existing = read_current(index) if (index / "CURRENT").exists() else None
    if not sources:
        if existing is None:
            raise ConfigError("nothing to index", hint="name a folder: triptych index DIR")
        sources = [Path(root.path) for root in existing.roots]
    placement = Placement(settings.device, settings.runtime, settings.precision)
    noted: list[Warned] = []

    def note(line: str) -> None:
        if all(line != one.message for one in noted):  # once, however many towers say it
            noted.append(Warned(line))
            if on_event is not None:
                on_event(noted[-1])

    found = _model_for(existing, model, dim, settings=settings, on_build=on_build)
    towers = found.for_indexing(placement, note=note)
    for choice in towers.choices().values():
        if choice.note:
            note(choice.note)
    report = update(
        index,
        [expanded(source) for source in sources],
        encoders={modality: towers.tower(modality) for modality in towers.modalities},
        options=BuildOptions(
            model=towers.name,
            prune=prune,
            workers=settings.workers,
            timeout_s=settings.timeout_s,
            memory_mb=settings.memory_mb,
            gpu=gpu,
            derivations=derivations(found),
        ),
        on_event=on_event,
    )
    warned = _register(index)
    if warned is not None:
        noted.append(warned)
        if on_event is not None:
            on_event(warned)
    return replace(report, warnings=(*report.warnings, *noted))


def derivations(model: Model) -> tuple[Derivation, ...]:
    """What is worked out of every index, beside its vectors: word lists, scores at large, near-duplicates."""
    from indexer.twins import TwinsDerivation
    from indexer.words import WordLists
    from retrieval.query.scores.background import derivation

    return WordLists(), derivation(model), TwinsDerivation()


def forget(index: Path, paths: Sequence[Path]) -> int:
    """How many items went, see `indexer.forget.forget`; the words of those that stay are listed anew."""
    from indexer.build import forget as remove
    from indexer.deriving import derive
    from indexer.words import WordLists

    count = remove(index, paths)
    if count:
        derive(index, [WordLists()])
    return count


def _register(index: Path) -> Warned | None:
    """Note the index in the user's registry; what to say where that fails."""
    try:
        places.register(index, [Path(root.path) for root in read_current(index).roots])
    except ConfigError as error:
        reason, hint = error.message, error.hint
    except OSError as error:
        file = os.fsdecode(error.filename or "") or str(data_dir())
        reason = f"{file}: {(error.strerror or str(error)).lower()}"
        hint = "make that folder writable, or set TRIPTYCH_HOME to one that is, and run this again"
    else:
        return None
    return Warned(
        f"the index is complete, but the list of your indexes could not be written: {reason}",
        f"{hint}; until then name the index: --index {shlex.quote(str(index))}",
    )


def _model_for(
    existing: Generation | None,
    asked: str | None,
    dim: int | None,
    *,
    settings: Settings,
    on_build: Callable[[str, float], None] | None,
) -> Model:
    """The model asked for, else the index's own, else the setting's; likewise its dimension."""
    if existing is None or not existing.spaces:
        return load_model(asked or settings.model, dim=dim, threads=settings.threads, progress=on_build)
    space_id, space = next(iter(existing.spaces.items()))
    if asked is not None:
        model = load_model(asked, dim=dim, threads=settings.threads, progress=on_build)
        return model if dim else model.in_space(space_id)
    try:
        model = load_space(space_id, threads=settings.threads, progress=on_build)
    except ModelNotFound:
        raise ModelNotFound(
            f"the index was made with {space.model} (space {space_id[:12]}), which is not here",
            hint="bring that model into the cache, or index the files again under another --index",
        ) from None
    return model if dim is None else model.with_dim(dim)
