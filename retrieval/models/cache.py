"""The cache of models: where bundles lie, how one is put there, and what it is called.

One space is one bundle, which keeps every name that it was given; in the cache a name that a user gives
belongs to one bundle. Opening a model stands in registry.py, what a bundle is in bundle.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError, ModelError
from retrieval.config import cache_dir
from retrieval.models.bundle import SPEC, Bundle, ModelSpec, keep_bundle, write_bundle, write_spec
from retrieval.models.families.names import is_family_name, parse


def models_dir() -> Path:
    """The folder of the bundles."""
    return cache_dir() / "models"


def place_of(space_id: str) -> Path:
    """Where the bundle of a space lies, or would."""
    return models_dir() / space_id[:16]


def swapping(name: str = "build") -> AbstractContextManager[Any]:
    """Held while the cache changes, for a moment; under another name a lock of that name's own."""
    from filelock import FileLock

    models_dir().mkdir(parents=True, exist_ok=True)
    return FileLock(models_dir() / f"{name}.lock")


def load_bundle(folder: Path) -> Bundle | None:
    """A bundle, or None where there is none or it is damaged."""
    try:
        return Bundle.load(folder)
    except ModelError:
        return None


def bundles() -> Iterator[Bundle]:
    """Every whole bundle in the cache, by space."""
    if models_dir().is_dir():
        for folder in sorted(models_dir().iterdir()):
            if folder.is_dir() and not folder.name.startswith(".") and (bundle := load_bundle(folder)):
                yield bundle


def plain_name(name: str) -> str:
    """A name as bundles have it: a family's with its prefix in lower case and its folder absolute."""
    try:
        return parse(name).text if is_family_name(name) else name
    except ConfigError:
        return name


def holders(name: str) -> list[Bundle]:
    """The bundles in the cache that a name belongs to."""
    return [bundle for bundle in bundles() if name in bundle.spec.names]


def check_free(name: str, same: Callable[[ModelSpec], bool] = lambda _spec: False, *, hint: str) -> None:
    """ConfigError where a name belongs to another model of the cache than those that are the `same`."""
    for holder in holders(name):
        if not same(holder.spec):
            space = holder.spec.space_id[:12]
            raise ConfigError(
                f"the name {name!r} belongs to another model already, of the space {space}",
                hint=hint,
            )


def store(space_id: str, fill: Callable[[Path], ModelSpec]) -> Bundle:
    """Write a bundle of that space into the cache: `fill` writes its files and returns its spec.

    The names of a bundle that it replaces stay in front. A name that is new to it is taken from whichever
    bundle had it; `check_free` says before whether there is one. ModelError where it cannot be written.
    """
    place = place_of(space_id)

    def settle(spec: ModelSpec) -> ModelSpec:
        own = _names_in(place)
        _take(set(spec.names) - set(own), place)
        return spec.called(*own, *spec.names)

    try:
        return write_bundle(place, fill, lock=swapping, settle=settle)
    except OSError as error:
        raise unwritable("the model", place, error) from error


def keep(bundle: Bundle, check: Callable[[Bundle], None]) -> Bundle:
    """A bundle from elsewhere, in the cache, as `keep_bundle`; names are taken from no other bundle."""
    place = place_of(bundle.spec.space_id)
    kept = load_bundle(place)
    try:
        if kept and same_content(kept.spec, bundle.spec):  # perhaps with an int8 graph made here
            new = [name for name in bundle.spec.names if name not in kept.spec.names and not holders(name)]
            return _rewritten(place, lambda spec: spec.called(*spec.names, *new)) if new else kept
        return keep_bundle(
            bundle,
            place,
            check=check,
            lock=swapping,
            settle=lambda spec: spec.called(*_names_in(place), *spec.names),
        )
    except OSError as error:
        raise unwritable(f"the model {bundle.spec.name}", place, error) from error


def rename(bundle: Bundle, called: str | None, *, pulled: str = "") -> Bundle:
    """A bundle of the cache with one name more, `called`, as its first; it keeps the others.

    `pulled` becomes the name that it is found by when it is pulled again. Both are taken from whichever
    bundle had them. ModelError where that cannot be written.
    """
    claimed = tuple(name for name in (called, pulled) if name)
    note = {"pulled": pulled} if pulled else {}

    def change(spec: ModelSpec) -> ModelSpec:
        _take(claimed, bundle.folder)
        others = {name for one in bundles() if one.folder != bundle.folder for name in one.spec.names}
        spec = _without(spec, others)  # a copy brings its names along, and they may be another's here
        names = (*claimed[:1], *spec.names) if called else (*spec.names, *claimed)
        return replace(spec.called(*names), provenance={**spec.provenance, **note})

    try:
        return _rewritten(bundle.folder, change)
    except OSError as error:
        raise unwritable(f"the model {bundle.spec.name}", bundle.folder, error) from error


def unwritable(what: str, place: Path, error: OSError) -> ModelError:
    """That something cannot be written into the cache, and what to do."""
    return ModelError(
        f"{what} cannot be written to {place}: {error.strerror or error}",
        hint="free space there, or set TRIPTYCH_HOME to another folder",
    )


def same_content(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether two specs differ in nothing but names and what `models quantize` adds."""
    return _content(one) == _content(other)


def _rewritten(folder: Path, change: Callable[[ModelSpec], ModelSpec]) -> Bundle:
    """A bundle with another `model.json`, beside the same files."""
    with swapping():
        bundle = Bundle.load(folder)
        if (spec := change(bundle.spec)) != bundle.spec:
            write_spec(folder, spec)
    return Bundle(folder, spec)


def _take(names: Collection[str], but: Path) -> None:
    """Take names away from every bundle except the one in `but`; they keep their others."""
    for bundle in bundles():
        spec = bundle.spec
        if bundle.folder == but or not set(names) & set(spec.names):
            continue
        write_spec(bundle.folder, _without(spec, names))


def _without(spec: ModelSpec, names: Collection[str]) -> ModelSpec:
    """The spec with its names but these; called as its space where none is left."""
    left = [name for name in spec.names if name not in names] or [spec.space_id[:16]]
    said = dict(spec.provenance)
    if said.get("pulled") in names:
        said["pulled before"] = said.pop("pulled")
    return replace(spec.called(*left), provenance=said)


def _names_in(folder: Path) -> tuple[str, ...]:
    """The names of the bundle in a folder, damaged or not; none where it has none."""
    try:
        return ModelSpec.from_json(json.loads((folder / SPEC).read_bytes())).names
    except (OSError, ValueError, AttributeError, ModelError):
        return ()


def _content(spec: ModelSpec) -> ModelSpec:
    """The spec without its names and without what `models quantize` adds."""
    graphs = {tower.quantised for tower in spec.towers} - {""}
    return replace(
        spec,
        name="",
        aliases=(),
        towers=tuple(replace(tower, quantised="") for tower in spec.towers),
        provenance={
            key: value
            for key, value in spec.provenance.items()
            if key not in ("int8", "pulled", "pulled before")
        },
        files={name: entry for name, entry in spec.files.items() if name.removesuffix(".data") not in graphs},
    )
