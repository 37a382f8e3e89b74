"""`triptych models pull`: from a name to a bundle in the cache.

Each step stands elsewhere: names.py, catalogue.py (licences), download.py, build.py, join.py. Nothing here
asks a network itself.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError, ModelError
from indexer.types import Modality
from retrieval.config import cache_dir
from retrieval.models.bundle import SPEC, Bundle, ModelSpec, link_or_copy
from retrieval.models.families.catalogue import agree
from retrieval.models.families.names import ModelName, Part, is_family_name, parse
from retrieval.models.registry import STARTER, keep_model, list_models, names_folder, store

Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]
_DOWNLOAD_SHARE = 0.6  # of the bar, of one part
_STALE_S = 24 * 3600.0  # a staging folder that is older was left by a run that died


@dataclass(frozen=True, slots=True)
class _Options:
    accept_licence: bool
    trust_remote_code: bool
    force: bool
    token: str | None


def pull(
    name: str,
    *,
    called: str | None = None,
    accept_licence: bool = False,
    trust_remote_code: bool = False,
    force: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """The bundle of a name, in the cache: downloaded, checked and exported, or as it lies there already.

    `called` is the name that it gets, else `name` itself. With `force` it is made again. `A+B` becomes three
    bundles: each part's and the joined one. ConfigError says what is wrong with the name, or that a licence
    has to be accepted; ModelError why a model cannot be had.
    """
    wanted = parse(name)
    _check_called(called)
    options = _Options(accept_licence, trust_remote_code, force, token)
    say = progress or (lambda _step, _share: None)
    if not wanted.joined:
        return _pull_part(wanted.parts[0], called, options, say)
    if not force and (found := _in_cache(wanted.text)):
        return _named(found, called)
    return _pull_joined(wanted, called, options, say)


def _pull_joined(wanted: ModelName, called: str | None, options: _Options, say: Progress) -> Bundle:
    """Both parts, each a bundle of its own, then their towers in one space."""
    from retrieval.models.join import join

    bundles = []
    for number, part in enumerate(wanted.parts):

        def heard(step: str, share: float, number: int = number, part: Part = part) -> None:
            say(f"{part.text}: {step}", (number + share) / 3)

        bundles.append(_pull_part(part, None, options, heard))
    first, second = sorted(bundles, key=_is_audio)
    if not _is_audio(second) or _is_audio(first):
        raise ConfigError(
            f"{wanted.text!r} joins {_listed(bundles[0])} with {_listed(bundles[1])}",
            hint="join a model of pictures and texts with one of sounds and texts",
        )

    def joining(step: str, share: float) -> None:
        say(step, (2 + share) / 3)

    # It is named afterwards, since a name of families has slashes, and a joined model's own cannot.
    bundle, _report = join(first, second, name="joined", progress=joining)
    return _named(bundle, called or wanted.text, pulled=wanted.text)


def _is_audio(bundle: Bundle) -> bool:
    return Modality.AUDIO in bundle.spec.modalities


def _listed(bundle: Bundle) -> str:
    return f"{bundle.spec.name} ({', '.join(bundle.spec.modalities)})"


def _pull_part(part: Part, called: str | None, options: _Options, say: Progress) -> Bundle:
    if part.path is not None and (part.path / SPEC).is_file():
        if part.family != "dir":
            raise ConfigError(f"{part.path} is a bundle already", hint=f"write dir:{part.path}")
        return _named(keep_model(part.path.expanduser().absolute()), called)
    if not part.local and not options.force and (found := _in_cache(part.text)):
        say("in the cache already", 1.0)
        return _named(found, called)
    return _make(part, called, options, say)


def _make(part: Part, called: str | None, options: _Options, say: Progress) -> Bundle:
    from retrieval.models.families.build import write_family
    from retrieval.models.families.download import fetch, forget_downloads

    def allowed(licence: str) -> None:
        agree(part, licence, accepted=options.accept_licence)

    def fetching(step: str, share: float) -> None:
        say(step, share * _DOWNLOAD_SHARE)

    def building(step: str, share: float) -> None:
        say(step, _DOWNLOAD_SHARE + share * (1 - _DOWNLOAD_SHARE))

    with _staging() as folder:
        source = fetch(
            part,
            folder,
            progress=fetching,
            token=options.token,
            trust_remote_code=options.trust_remote_code,
            agree=allowed,
        )
        licence = agree(part, source.licence, accepted=options.accept_licence)
        source = replace(source, licence=licence)
        provenance: dict[str, Any] = source.provenance()
        if options.trust_remote_code:
            provenance["trust_remote_code"] = True
        bundle = write_family(
            part.text,
            source.family,
            folder,
            called=called,
            provenance=provenance,
            trust_remote_code=options.trust_remote_code,
            progress=building,
        )
    forget_downloads(source)
    return bundle


def _in_cache(pulled: str) -> Bundle | None:
    """The bundle that was made of a name with that revision, whatever it is called."""
    for info in list_models():
        if info.path is None:
            continue
        try:
            bundle = Bundle.load(info.path)
        except ModelError:
            continue  # being replaced at this moment
        if bundle.spec.provenance.get("pulled") == pulled:
            return bundle
    return None


def _named(bundle: Bundle, called: str | None, *, pulled: str = "") -> Bundle:
    """The same bundle under the name that the user gives it now. Its space, and so its place, stays.

    `pulled` is kept too, by which a later pull finds it.
    """
    provenance = {**bundle.spec.provenance, **({"pulled": pulled} if pulled else {})}
    spec = replace(bundle.spec, name=called or bundle.spec.name, provenance=provenance)
    if spec == bundle.spec:
        return bundle

    def fill(work: Path) -> ModelSpec:
        for file in bundle.spec.files:
            link_or_copy(bundle.path(file), work / file)
        return spec

    return store(spec.space_id, fill)


def _check_called(called: str | None) -> None:
    """ConfigError for a name that would be taken for something else when the model is asked for by it."""
    if called is None or is_family_name(called):
        return
    if not called.strip() or called == STARTER or names_folder(called) or called.isdigit():
        raise ConfigError(
            f"a model cannot be called {called!r}",
            hint="choose another --name: one without slashes, that is neither a folder's nor 'starter'",
        )


@contextmanager
def _staging() -> Iterator[Path]:
    """An empty folder beside the bundles, so that files are linked into them; removed afterwards."""
    place = cache_dir() / "staging"
    place.mkdir(parents=True, exist_ok=True)
    for left in place.iterdir():
        if time.time() - left.stat().st_mtime > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)
