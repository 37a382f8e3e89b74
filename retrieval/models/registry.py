"""Which model a name or a space means: bundles in the user's cache, never a path.

Opening a tower touches its own graph only; nothing here imports torch unless the starter must be built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from indexer.errors import ModelError, ModelNotFound, WeightsMissing
from indexer.types import Modality, Preparer
from retrieval.config import cache_dir
from retrieval.encoders.tower import Tower
from retrieval.models.bundle import Bundle, TowerSpec, write_bundle
from retrieval.runtime.protocol import Runtime, available_threads

STARTER = "starter"
SHORTEST_SPACE = 8  # hex digits of a space_id that are enough to name it
Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]


@dataclass(frozen=True)
class Model:
    """An opened bundle. Towers and their graphs load when they are first needed."""

    bundle: Bundle
    threads: int = 0  # that encode; 0: one a core

    @property
    def name(self) -> str:
        return self.bundle.spec.name

    @property
    def path(self) -> Path:
        return self.bundle.folder

    @property
    def space_id(self) -> str:
        return self.bundle.spec.space_id

    @property
    def dim(self) -> int:
        return self.bundle.spec.dim

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return self.bundle.spec.modalities

    @cached_property
    def _towers(self) -> dict[Modality, Tower]:
        return {}

    def tower(self, modality: Modality) -> Tower:
        """The tower of a modality, the same one each time; WeightsMissing where it was not built."""
        if modality not in self._towers:
            spec = self.bundle.spec.tower(modality)
            if spec is None or spec.graph is None:
                line = spec.missing if spec else None
                raise WeightsMissing(
                    f"the model {self.name} has no {modality} tower, only {', '.join(self.modalities)}",
                    hint=f"{line} && triptych models build" if line else None,
                )
            self._towers[modality] = self._open(spec, spec.graph)
        return self._towers[modality]

    def _open(self, spec: TowerSpec, graph: str) -> Tower:
        path = self.bundle.path(graph)
        prepack = spec.modality is not Modality.TEXT

        def open_runtime() -> Runtime:
            from retrieval.runtime.onnx import OnnxRuntime

            return OnnxRuntime.open(path, threads=1, prepack=prepack)

        return Tower(
            _preparer(spec, self.bundle),
            open_runtime,
            space_id=self.space_id,
            dim=spec.dim,
            batch_size=spec.batch_size,
            group=spec.group,
            threads=self.threads or available_threads(),
        )


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A line of `triptych models list`."""

    name: str
    space_id: str
    dim: int
    modalities: tuple[Modality, ...]  # those that can be encoded
    path: Path | None  # None: known, but not built yet
    size: int  # bytes on disk
    missing: tuple[str, ...] = ()  # a tower that is not there, with the line that brings it


def list_models() -> list[ModelInfo]:
    """Every bundle in the cache, and the starter where it is not built yet; by name, then space."""
    found = [_info(bundle) for bundle in _bundles()]
    if not any(info.space_id == _starter_space() for info in found):
        from retrieval.models.starter.spec import starter_spec

        spec = starter_spec()
        found.append(ModelInfo(spec.name, spec.space_id, spec.dim, (), None, 0))
    return sorted(found, key=lambda info: (info.name, info.space_id))


def load_model(name: str = STARTER, *, progress: Progress | None = None, threads: int = 0) -> Model:
    """A model by name or space_id; the starter is built where it is not in the cache, or is outdated.

    `progress` hears of the build's steps. ModelNotFound says what exists.
    """
    if means_starter(name):
        return Model(build_starter(progress=progress), threads)
    return find_model(name, threads=threads)


def means_starter(name: str) -> bool:
    """Whether a name or space_id is the starter's of this version, which `load_model` can build."""
    return name == STARTER or (_is_space(name) and _starter_space().startswith(name))


def find_model(name: str, *, called: str | None = None, threads: int = 0) -> Model:
    """A model by name or space_id from the cache; builds nothing.

    `called` is the name that an index has for the space, for the message. ModelNotFound says what exists;
    ModelError says what is wrong with a bundle that is there but damaged, or of a later version.
    """
    bundle = _find(name)
    if bundle is None and _folder().is_dir():
        with _lock():  # perhaps it is being built, or replaced, at this moment
            bundle = _find(name)
    if bundle is None:
        space = _starter_space() if name == STARTER else name
        if _is_space(space) and (_folder() / space[:16]).is_dir():
            bundle = Bundle.load(_folder() / space[:16])  # says what is wrong with it
        if bundle is None or not bundle.spec.space_id.startswith(space):
            raise _not_found(name, called)
    return Model(bundle, threads)


def model_spec(name: str = STARTER) -> dict[str, Any]:
    """What a model's `model.json` says. ModelNotFound as `find_model`."""
    return find_model(name).bundle.spec.to_json()


def build_starter(*, progress: Progress | None = None, force: bool = False) -> Bundle:
    """The starter's bundle: the one in the cache where it is whole and up to date, else built now.

    Two processes do not both build: the second waits and takes what the first made.
    """
    from retrieval.models.starter.build import fill_starter, is_outdated

    space = _starter_space()
    folder = _folder() / space[:16]

    def current() -> Bundle | None:
        bundle = None if force else _load(folder)
        return bundle if bundle and bundle.spec.space_id == space and not is_outdated(bundle.spec) else None

    say = progress or (lambda _step, _share: None)
    if bundle := current():
        return bundle
    try:
        with _lock():
            bundle = current() or write_bundle(folder, lambda work: fill_starter(work, say))
    except OSError as error:
        raise ModelError(
            f"the starter model cannot be written to {folder}: {error.strerror or error}",
            hint="free 150 MB there, or set TRIPTYCH_HOME to another folder",
        ) from error
    say("ready", 1.0)
    return bundle


def _folder() -> Path:
    return cache_dir() / "models"


def _lock() -> AbstractContextManager[Any]:
    """Held while the cache changes."""
    from filelock import FileLock

    _folder().mkdir(parents=True, exist_ok=True)
    return FileLock(_folder() / "build.lock")


def _load(folder: Path) -> Bundle | None:
    """A bundle, or None where there is none or it is damaged, so that it is built again."""
    try:
        return Bundle.load(folder)
    except ModelError:
        return None


def _bundles() -> Iterator[Bundle]:
    if _folder().is_dir():
        for folder in sorted(_folder().iterdir()):
            if folder.is_dir() and not folder.name.startswith(".") and (bundle := _load(folder)):
                yield bundle


def _find(name: str) -> Bundle | None:
    matches = [b for b in _bundles() if name in (b.spec.name, b.spec.space_id)]
    if not matches and _is_space(name):
        matches = [b for b in _bundles() if b.spec.space_id.startswith(name)]
    if name == STARTER:
        # Bundles of earlier versions stay for the indexes made with them, but the name means today's.
        matches = [b for b in matches if b.spec.space_id == _starter_space()]
    return matches[0] if len(matches) == 1 else None


def _not_found(name: str, called: str | None) -> ModelNotFound:
    if means_starter(name):
        name, called = _starter_space(), STARTER  # earlier ones may be there
    shown = f"{called} (space {name[:12]})" if called and called != name else name
    known = [f"{info.name} ({info.space_id[:12]})" for info in list_models() if info.path]
    return ModelNotFound(
        f"no model {shown} in the cache, which has {', '.join(known) or 'none'}",
        hint=_not_found_hint(name, called),
    )


def _not_found_hint(name: str, called: str | None) -> str:
    """What to do. An index's own space (`called`) is not served by another model: that one is refused."""
    if means_starter(name):
        return "build it: triptych models build starter"
    if called:
        return "bring that model into the cache, or index the files again under another --index"
    return "choose one of those with --model"


def _is_space(name: str) -> bool:
    return len(name) >= SHORTEST_SPACE and all(digit in "0123456789abcdef" for digit in name)


def _starter_space() -> str:
    from retrieval.models.starter.spec import starter_spec

    return starter_spec().space_id


def _info(bundle: Bundle) -> ModelInfo:
    spec = bundle.spec
    return ModelInfo(
        name=spec.name,
        space_id=spec.space_id,
        dim=spec.dim,
        modalities=spec.modalities,
        path=bundle.folder,
        size=sum(entry.size for entry in spec.files.values()),
        missing=tuple(f"{tower.modality}: {tower.missing}" for tower in spec.towers if tower.missing),
    )


def _preparer(spec: TowerSpec, bundle: Bundle) -> Preparer:
    """The preparer that a tower's spec describes."""
    if spec.modality is Modality.IMAGE:
        from retrieval.encoders.image import ImagePreparer

        return ImagePreparer.from_description(spec.preprocessing)
    if spec.modality is Modality.AUDIO:
        from retrieval.encoders.audio import AudioPreparer

        return AudioPreparer.from_description(
            spec.preprocessing, window_s=spec.window["window_s"], hop_s=spec.window["hop_s"]
        )
    from retrieval.encoders.text import TextPreparer

    return TextPreparer.from_description(spec.preprocessing, tokenizer=str(bundle.path("tokenizer.json")))
