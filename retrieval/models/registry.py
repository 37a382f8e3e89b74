"""Which model a name or a space means: bundles in the user's cache, or a folder that the user names.

What an index says of its model is a space_id, and is never taken for a path. Opening a tower touches its own
graph only; nothing here imports torch unless the starter must be built.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError, ModelError, ModelNotFound, WeightsMissing
from indexer.types import Modality
from retrieval.config import cache_dir
from retrieval.encoders.described import preparer_of
from retrieval.encoders.tower import Tower
from retrieval.models.bundle import SPEC, Bundle, ModelSpec, TowerSpec, keep_bundle, write_bundle
from retrieval.runtime.protocol import Runtime, available_threads

STARTER = "starter"
SHORTEST_SPACE = 8  # hex digits of a space_id that are enough to name it
Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]


@dataclass(frozen=True)
class Model:
    """An opened bundle, or a nested space of one. Towers and their graphs load when first needed."""

    bundle: Bundle
    threads: int = 0  # that encode; 0: one a core
    cut: int | None = None  # dimensions that are kept, one of the bundle's `dims`; None: all

    @property
    def name(self) -> str:
        return self.bundle.spec.name

    @property
    def path(self) -> Path:
        return self.bundle.folder

    @property
    def space_id(self) -> str:
        return self.bundle.spec.space_of(self.dim)

    @property
    def dim(self) -> int:
        return self.cut or self.bundle.spec.dim

    def with_dim(self, dim: int) -> Model:
        """The same model with so many dimensions; ConfigError says which there are."""
        dims = self.bundle.spec.dims
        if dim not in dims:
            raise ConfigError(
                f"the model {self.name} has no {dim} dimensions",
                hint=f"it has {', '.join(map(str, dims))}",
            )
        return replace(self, cut=None if dim == dims[0] else dim)

    def in_space(self, space_id: str) -> Model:
        """The same model with the dimension that a space is of; itself where it has no such space."""
        dim = _meant(self.bundle.spec, space_id)
        return self if dim is None else self.with_dim(dim)

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
            self._towers[modality] = open_tower(
                self.bundle,
                spec,
                space_id=self.space_id,
                threads=self.threads or available_threads(),
                dim=self.dim,
            )
        return self._towers[modality]


def open_tower(
    bundle: Bundle, spec: TowerSpec, *, space_id: str, threads: int, dim: int | None = None
) -> Tower:
    """A tower of a bundle whose graph was built; with `dim` it gives that many of its dimensions."""
    path = bundle.path(spec.graph or "")
    prepack = spec.modality is not Modality.TEXT

    def open_runtime() -> Runtime:
        from retrieval.runtime.onnx import OnnxRuntime

        return OnnxRuntime.open(path, threads=1, prepack=prepack)

    return Tower(
        preparer_of(
            spec.modality, spec.preprocessing, spec.window, tokenizer=str(bundle.path("tokenizer.json"))
        ),
        open_runtime,
        space_id=space_id,
        dim=dim or spec.dim,
        batch_size=spec.batch_size,
        group=spec.group,
        threads=threads,
        nested=dim is not None and dim < spec.dim,
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
        spec = _starter_spec()
        found.append(ModelInfo(spec.name, spec.space_id, spec.dim, (), None, 0))
    return sorted(found, key=lambda info: (info.name, info.space_id))


def load_model(
    name: str = STARTER, *, dim: int | None = None, progress: Progress | None = None, threads: int = 0
) -> Model:
    """The model that a user means by a name, a space_id or a folder; the starter is built where need be.

    A folder is meant where the name has a path separator, or is that of a folder with a model in it; the
    model is then kept in the cache too. `dim` takes one of its nested dimensions. `progress` hears of the
    build's steps. ModelNotFound says what exists, ConfigError which dimensions.
    """
    if names_folder(name):
        model = Model(keep_model(Path(name).expanduser().absolute()), threads)
    else:
        model = load_space(name, progress=progress, threads=threads)
    return model if dim is None else model.with_dim(dim)


def load_space(
    name: str, *, called: str | None = None, progress: Progress | None = None, threads: int = 0
) -> Model:
    """As `find_model`, and the starter is built where it is not in the cache, or is outdated.

    For what an index says of its model: never a path.
    """
    if means_starter(name):
        bundle = build_starter(progress=progress)
        cut = None if name == STARTER else _meant(bundle.spec, name)
        return Model(bundle, threads, cut)
    return find_model(name, called=called, threads=threads)


def names_folder(name: str) -> bool:
    """Whether a user's word for a model is a folder's."""
    separators = {os.sep, os.altsep or os.sep}
    if any(separator in name for separator in separators):
        return True
    return name != STARTER and os.path.isfile(Path(name).expanduser() / SPEC)  # noqa: PTH113 - never raises


def _bundle_in(folder: Path) -> Bundle:
    """The bundle in a folder. ModelNotFound where there is none."""
    if not (folder / SPEC).is_file():
        raise ModelNotFound(
            f"{folder} holds no model (no {SPEC})",
            hint="name a folder that `triptych train` wrote, or a model from `triptych models list`",
        )
    return Bundle.load(folder)


def keep_model(folder: Path) -> Bundle:
    """The bundle in a folder, kept in the cache so that an index made with it finds its space again.

    Its checksums are compared the first time. ModelNotFound where there is none, ModelError where it is
    damaged or cannot be kept.
    """
    bundle = _bundle_in(folder)
    place = _folder() / bundle.spec.space_id[:16]
    kept = _load(place)
    if kept and kept.spec == bundle.spec:
        return kept
    if bundle.spec.space_id == _starter_space():
        return bundle  # what the cache has under that space is built here, from pinned weights
    try:
        with _lock():
            return keep_bundle(bundle, place)
    except OSError as error:
        raise ModelError(
            f"the model {bundle.spec.name} cannot be kept in {place}: {error.strerror or error}",
            hint="free space there, or set TRIPTYCH_HOME to another folder",
        ) from error


def means_starter(name: str) -> bool:
    """Whether a name or space_id is the starter's of this version, which `load_model` can build."""
    return name == STARTER or _meant(_starter_spec(), name) is not None


def find_model(name: str, *, called: str | None = None, threads: int = 0) -> Model:
    """A model by name or space_id from the cache, a nested space's too; builds nothing, takes no path.

    `called` is the name that an index has for the space, for the message. ModelNotFound says what exists;
    ModelError says what is wrong with a bundle that is there but damaged, or of a later version.
    """
    found = _find(name, threads)
    if found is None and _folder().is_dir():
        with _lock():  # perhaps it is being built, or replaced, at this moment
            found = _find(name, threads)
    if found is not None:
        return found
    space = _starter_space() if name == STARTER else name
    if _is_space(space) and (_folder() / space[:16]).is_dir():
        bundle = Bundle.load(_folder() / space[:16])  # says what is wrong with it
        if bundle.spec.space_id.startswith(space):
            return Model(bundle, threads)
    raise _not_found(name, called)


def model_spec(name: str = STARTER) -> dict[str, Any]:
    """What the `model.json` of a model says, named as for `load_model`. ModelNotFound."""
    if names_folder(name):
        return _bundle_in(Path(name).expanduser().absolute()).spec.to_json()
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


def _find(name: str, threads: int) -> Model | None:
    """The one model of a name, a space, or the beginning of a space. ModelNotFound where several are."""
    bundles = list(_bundles())
    if name == STARTER:
        # Bundles of earlier versions stay for the indexes made with them, but the name means today's.
        name = _starter_space()
    named = [Model(bundle, threads) for bundle in bundles if bundle.spec.name == name]
    found = named or [
        Model(bundle, threads, cut) for bundle in bundles if (cut := _meant(bundle.spec, name)) is not None
    ]
    if len(found) > 1:
        raise ModelNotFound(
            f"{name} could be {len(found)} models in the cache, of the spaces "
            f"{', '.join(sorted(model.space_id[:12] for model in found))}",
            hint="name one by its space: --model " + min(model.space_id for model in found)[:12],
        )
    return found[0] if found else None


def _meant(spec: ModelSpec, space: str) -> int | None:
    """Which of a model's dimensions a space_id, or the beginning of one, is of; None: it is another's."""
    if not _is_space(space):
        return None
    return next((dim for dim in spec.dims if spec.space_of(dim).startswith(space)), None)


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
    return "choose one of those, or name the folder of a model"


def _is_space(name: str) -> bool:
    return len(name) >= SHORTEST_SPACE and all(digit in "0123456789abcdef" for digit in name)


def _starter_spec() -> ModelSpec:
    from retrieval.models.starter.spec import starter_spec

    return starter_spec()


def _starter_space() -> str:
    return _starter_spec().space_id


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
