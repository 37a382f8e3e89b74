"""`triptych models pull`: from a name to a bundle in the cache.

Each step stands elsewhere: names.py, catalogue.py (licences), download.py, build.py, join.py. Nothing here
asks a network itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from indexer.errors import ConfigError
from indexer.types import Modality
from retrieval.config import cache_dir
from retrieval.models.bundle import SPEC, Bundle, ModelSpec
from retrieval.models.cache import check_free, holders, models_dir, rename, unwritable
from retrieval.models.families.catalogue import agree
from retrieval.models.families.names import ModelName, Part, is_family_name, parse
from retrieval.models.registry import STARTER, keep_model, names_folder
from retrieval.models.work import staging

Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]
_DOWNLOAD_SHARE = 0.6  # of the bar, of one part


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

    `called` is the name that it gets, else `name` itself; a bundle that is there keeps its others. With
    `force` it is made again, and takes its names from any other model. `A+B` becomes three bundles: each
    part's and the joined one. ConfigError says what is wrong with a name, whose it is already, or that a
    licence has to be accepted; ModelError why a model cannot be had.
    """
    if name == STARTER:
        raise ConfigError(
            "the starter comes with triptych and is not pulled",
            hint="build it: triptych models build starter",
        )
    wanted = parse(name)
    _check_called(called)
    if not force:
        _check_free(wanted, called)
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

    bundle, _report = join(first, second, name=called or wanted.text, progress=joining)
    return rename(bundle, called, pulled=wanted.text)


def _is_audio(bundle: Bundle) -> bool:
    return Modality.AUDIO in bundle.spec.modalities


def _listed(bundle: Bundle) -> str:
    return f"{bundle.spec.name} ({', '.join(bundle.spec.modalities)})"


def _pull_part(part: Part, called: str | None, options: _Options, say: Progress) -> Bundle:
    if part.path is not None and (part.path / SPEC).is_file():
        if part.family != "dir":
            raise ConfigError(f"{part.path} is a bundle already", hint=f"write dir:{part.path}")
        return _named(keep_model(part.path), called)
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

    try:
        with staging() as folder:
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
    except OSError as error:
        raise unwritable(f"the model {part.text}", cache_dir(), error) from error
    forget_downloads(source)
    return _named(bundle, called)


def _in_cache(name: str) -> Bundle | None:
    """A bundle that was made of a name with that revision, or is called so."""
    return next(iter(holders(name)), None)


def _named(bundle: Bundle, called: str | None) -> Bundle:
    """The same bundle, whose first name is the one that the user gives it now."""
    if called is None or called == bundle.spec.name:
        return bundle
    if bundle.folder.parent != models_dir() or bundle.spec.name == STARTER:
        raise ConfigError("the starter has its own name", hint=f"leave out --name, and use --model {STARTER}")
    return rename(bundle, called)


def _check_free(wanted: ModelName, called: str | None) -> None:
    """ConfigError where the name that a model would get belongs to another one in the cache."""
    spaces, names = set(), [called] if called else []
    if not wanted.joined and (path := wanted.parts[0].path) and (path / SPEC).is_file():
        spec = Bundle.load(path).spec
        spaces, names = {spec.space_id}, names or [spec.name]

    def same(spec: ModelSpec) -> bool:
        return wanted.text in spec.names or spec.space_id in spaces

    for name in names:
        check_free(name, same, hint="choose another --name, or take it from that model with --force")


def _check_called(called: str | None) -> None:
    """ConfigError for a name that would be taken for something else when the model is asked for by it."""
    if called is None or is_family_name(called):
        return
    if not called.strip() or called == STARTER or names_folder(called) or called.isdigit():
        raise ConfigError(
            f"a model cannot be called {called!r}",
            hint="choose another --name: one without slashes, that is neither a folder's nor 'starter'",
        )
