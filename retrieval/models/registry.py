"""Which model a name or a space means: bundles in the user's cache, or a folder that the user names.

What an index says of its model is a space_id, and is never taken for a path. Opening a tower touches its own
graph only; nothing here imports torch unless the starter must be built.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import ModelError, ModelNotFound
from indexer.types import Modality
from retrieval.home import expanded
from retrieval.models.bundle import SPEC, Bundle, ModelSpec, write_bundle
from retrieval.models.cache import (
    bundles,
    keep,
    load_bundle,
    models_dir,
    place_of,
    plain_name,
    same_content,
    swapping,
)
from retrieval.models.families.names import is_family_name
from retrieval.models.model import Model, dim_meant, is_space

STARTER = "starter"
Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]


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
    aliases: tuple[str, ...] = ()  # its other names
    licences: tuple[tuple[Modality, str], ...] = ()  # of each tower's weights; "": not stated
    earlier: bool = False  # a starter of an earlier version, kept for the indexes made with it

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it is found by, the first one first."""
        return (self.name, *self.aliases)


def list_models() -> list[ModelInfo]:
    """Every bundle in the cache, and the starter where it is not built yet; by name, today's first."""
    found = [_info(bundle) for bundle in bundles()]
    if not any(info.space_id == _starter_space() for info in found):
        spec = _starter_spec()
        found.append(ModelInfo(spec.name, spec.space_id, spec.dim, (), None, 0, licences=_licences(spec)))
    return sorted(found, key=lambda info: (info.name, info.earlier, info.space_id))


def load_model(
    name: str = STARTER, *, dim: int | None = None, progress: Progress | None = None, threads: int = 0
) -> Model:
    """The model that a user means by a name, a space_id or a folder; the starter is built where need be.

    A folder is meant where the name has a path separator, or is that of a folder with a model in it; the
    model is then kept in the cache too. `dim` takes one of its nested dimensions. `progress` hears of the
    build's steps. ModelNotFound says what exists, ConfigError which dimensions.
    """
    if names_folder(name):
        model = Model(keep_model(expanded(name).absolute()), threads)
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
        cut = None if name == STARTER else dim_meant(bundle.spec, name)
        return Model(bundle, threads, cut)
    return find_model(name, called=called, threads=threads)


def names_folder(name: str) -> bool:
    """Whether a user's word for a model is a folder's."""
    separators = {os.sep, os.altsep or os.sep}
    if is_family_name(name):
        return False
    if any(separator in name for separator in separators):
        return True
    return name != STARTER and os.path.isfile(expanded(name) / SPEC)  # noqa: PTH113 - never raises


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

    Its checksums, and where its graphs read weights from, are checked the first time. ModelNotFound where
    there is none, ModelError where it is damaged, reaches out of its folder or cannot be kept.
    """
    bundle = _bundle_in(folder)
    if bundle.spec.space_id != _starter_space():
        return keep(bundle, _check_graphs)
    # What the cache has under that space is built here, from pinned weights.
    kept = load_bundle(place_of(bundle.spec.space_id))
    return kept if kept and same_content(kept.spec, bundle.spec) else bundle


def _check_graphs(bundle: Bundle) -> None:
    """ModelError where a graph reads tensors from a file that is not among the bundle's own."""
    from retrieval.models.families.allowed import check_external_data

    for tower in bundle.spec.towers:
        graphs = [name for name in (tower.graph, tower.quantised) if name]
        # OpenVINO's own format cannot name a file: it is given the one beside it.
        for graph in [name for name in graphs if not name.endswith(".xml")]:
            for name in check_external_data(bundle.path(graph), bundle.folder):
                if name not in bundle.spec.files:
                    raise ModelError(f"{graph} reads its weights from {name!r}, not one of the model's files")


def means_starter(name: str) -> bool:
    """Whether a name or space_id is the starter's of this version, which `load_model` can build."""
    return name == STARTER or dim_meant(_starter_spec(), name) is not None


def find_model(name: str, *, called: str | None = None, threads: int = 0) -> Model:
    """A model by name or space_id from the cache, a nested space's too; builds nothing, takes no path.

    `called` is the name that an index has for the space, for the message. ModelNotFound says what exists;
    ModelError says what is wrong with a bundle that is there but damaged, or of a later version.
    """
    found = _find(name, threads)
    if found is None and models_dir().is_dir():
        with suppress(OSError), swapping():  # perhaps it is being replaced at this moment
            found = _find(name, threads)
    if found is not None:
        return found
    space = _starter_space() if name == STARTER else name
    if is_space(space) and place_of(space).is_dir():
        bundle = Bundle.load(place_of(space))  # says what is wrong with it
        if bundle.spec.space_id.startswith(space):
            return Model(bundle, threads)
    raise _not_found(name, called)


def model_spec(name: str = STARTER) -> dict[str, Any]:
    """What the `model.json` of a model says, named as for `load_model`. ModelNotFound."""
    if names_folder(name):
        return _bundle_in(expanded(name).absolute()).spec.to_json()
    return find_model(name).bundle.spec.to_json()


def build_starter(*, progress: Progress | None = None, force: bool = False) -> Bundle:
    """The starter's bundle: the one in the cache where it is whole and up to date, else built now.

    Two processes do not both build: the second waits and takes what the first made.
    """
    from retrieval.models.starter.build import fill_starter, is_outdated

    space = _starter_space()
    folder = place_of(space)

    def current() -> Bundle | None:
        bundle = None if force else load_bundle(folder)
        return bundle if bundle and bundle.spec.space_id == space and not is_outdated(bundle.spec) else None

    say = progress or (lambda _step, _share: None)
    if bundle := current():
        return bundle
    try:
        with swapping("starter"):  # its own lock: nobody who looks for another model waits for it
            bundle = current() or write_bundle(folder, lambda work: fill_starter(work, say), lock=swapping)
    except OSError as error:
        raise ModelError(
            f"the starter model cannot be written to {folder}: {error.strerror or error}",
            hint="free 150 MB there, or set TRIPTYCH_HOME to another folder",
        ) from error
    say("ready", 1.0)
    return bundle


def _find(name: str, threads: int) -> Model | None:
    """The one model of a name, a space, or the beginning of a space. ModelNotFound where several are."""
    known = list(bundles())
    name = plain_name(name)
    if name == STARTER:
        # Bundles of earlier versions stay for the indexes made with them, but the name means today's.
        name = _starter_space()
    named = [Model(bundle, threads) for bundle in known if name in bundle.spec.names]
    found = named or [
        Model(bundle, threads, cut) for bundle in known if (cut := dim_meant(bundle.spec, name)) is not None
    ]
    if len(found) > 1:
        raise ModelNotFound(
            f"{name} could be {len(found)} models in the cache, of the spaces "
            f"{', '.join(sorted(model.space_id[:12] for model in found))}",
            hint="name one by its space: --model " + min(model.space_id for model in found)[:12],
        )
    return found[0] if found else None


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
    if is_family_name(name):
        return f"bring it: triptych models pull {name}"
    if called:
        return "bring that model into the cache, or index the files again under another --index"
    if near := _alike(name):
        return f"did you mean {near} ? Else choose one of those, or name the folder of a model"
    return "choose one of those, or name the folder of a model"


def _alike(name: str) -> str | None:
    """The name in the cache that looks most like a word."""
    from difflib import get_close_matches

    known = [one for info in list_models() for one in info.names]
    return next(iter(get_close_matches(name, known, n=1)), None)


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
        aliases=spec.names[1:],
        licences=_licences(spec),
        earlier=spec.name == STARTER and spec.space_id != _starter_space(),
    )


def _licences(spec: ModelSpec) -> tuple[tuple[Modality, str], ...]:
    return tuple((tower.modality, tower.licence) for tower in spec.towers)
