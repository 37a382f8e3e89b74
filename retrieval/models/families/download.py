"""From a part of a name to a folder in its library's own layout, which holds allow-listed files only.

The hub's side stands in hub.py, which files count in allowed.py, what the folder means in the families'
modules. Nothing here reads weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError, ModelError
from retrieval.config import cache_dir
from retrieval.models.bundle import link_or_copy
from retrieval.models.families.allowed import (
    OPENCLIP_CONFIG,
    OPENCLIP_TEXT_CONFIG,
    OPENCLIP_WEIGHTS,
    PICKLES,
    TOKENIZER_FILES,
    WEIGHTS,
    Folder,
    card_licence,
    choose,
    read_json,
    tokenizer_files,
)
from retrieval.models.families.hub import MAIN, Hub, HubUnreachable, Repository
from retrieval.models.families.names import Part, check_openclip

Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]
Agree = Callable[[str], None]  # hears a licence before anything large is downloaded, and may raise
_TAG_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode", "fill_color", "size", "mode")
_FOLDER_HINT = (
    f"an open_clip folder has {OPENCLIP_CONFIG}, one of sentence-transformers modules.json, one of CLAP a "
    "config.json of a ClapModel, a bundle model.json"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """A repository that files came from."""

    repo: str
    commit: str


@dataclass(frozen=True, slots=True)
class Source:
    """A folder in its library's own layout, and where its files came from."""

    folder: Path
    family: str
    licence: str  # as its card says; "": not said
    origins: tuple[Origin, ...] = ()  # the model's first, then its tokenizer's; none of a local folder
    copied: str = ""  # the repository and revision that the user copied by hand, as the advice said

    def provenance(self) -> dict[str, Any]:
        """For model.json."""
        said: dict[str, Any] = {
            "licence": self.licence or "not said",
            "repositories": [{"repo": one.repo, "commit": one.commit} for one in self.origins],
        }
        return said | ({"copied by hand from": self.copied} if self.copied else {})


@dataclass(frozen=True, slots=True)
class _File:
    """A file that is brought, and where it goes in the folder."""

    owner: Repository
    name: str
    target: str

    @property
    def missing(self) -> int:
        return self.owner.missing(self.name)

    @property
    def size(self) -> int:
        return self.owner.files[self.name].size


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a part means on the hub."""

    repo: str
    weights: str = ""  # the file that open_clip names for a tag
    config: Mapping[str, Any] | None = None  # open_clip_config.json, where the repository has none


def fetch(
    part: Part,
    into: Path,
    *,
    progress: Progress | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    agree: Agree | None = None,
) -> Source:
    """Bring a part's files into the empty folder `into`: downloaded and checked, or copied from a folder.

    `agree` hears the licence, "" where none is said, before anything large moves. ModelError says what is
    missing or refused, and without a network which files to copy where, from where they are taken the next
    time; ConfigError what is wrong with the name.
    """
    if part.path is not None:
        return _from_folder(part, into, trust_remote_code, agree)
    wanted = _wanted(part)
    hub = Hub.from_environment(token)
    try:
        return _from_hub(
            part,
            wanted,
            hub=hub,
            into=into,
            progress=progress or (lambda _step, _share: None),
            trust_remote_code=trust_remote_code,
            agree=agree,
        )
    except HubUnreachable as error:
        return _from_copies(
            part, wanted, into=into, trust_remote_code=trust_remote_code, agree=agree, error=error
        )


def _from_hub(
    part: Part,
    wanted: _Wanted,
    *,
    hub: Hub,
    into: Path,
    progress: Progress,
    trust_remote_code: bool,
    agree: Agree | None,
) -> Source:
    """What a part means, downloaded. HubUnreachable where the hub is, and its client's cache has not all."""
    repository = hub.open(wanted.repo, part.revision)
    if agree:
        agree(repository.licence)
    with _conversions(part, repository):
        names = choose(part.family, repository, weights=wanted.weights, trust_remote_code=trust_remote_code)
    files = [_File(repository, name, _placed(part.family, name)) for name in names]
    config = None
    if part.family == "openclip":
        config = _openclip_config(repository, wanted)
        files += _text_files(hub, repository, config)
    _bring(files, into, progress)
    if config is not None and not (into / OPENCLIP_CONFIG).exists():
        (into / OPENCLIP_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    origins = dict.fromkeys(Origin(file.owner.repo, file.owner.commit) for file in files)
    return Source(into, part.family, repository.licence, tuple(origins))


def forget_downloads(source: Source) -> None:
    """Delete the kept downloads of what is in a bundle now; the bundle's files are links to it."""
    for origin in source.origins:
        place = cache_dir() / "downloads" / origin.repo.replace("/", "--") / origin.commit
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            place.with_name(f"{origin.commit}.lock").unlink()
            place.parent.rmdir()  # unless another revision is there


def allow_list(
    folder: Path, into: Path, family: str, *, trust_remote_code: bool = False, weights: str = ""
) -> list[str]:
    """Copy a local model's allow-listed files into the empty folder `into`; their names.

    Copies, not links: a program that trains in that folder may write its weights again in place. Pickles
    beside safetensors stay behind; ModelError where there is nothing else.
    """
    listing = Folder(folder)
    names = choose(family, listing, weights=weights, trust_remote_code=trust_remote_code)
    if family == "openclip":
        if OPENCLIP_CONFIG not in names:
            raise ModelError(f"{folder} has no {OPENCLIP_CONFIG}", hint=_FOLDER_HINT)
        text = _text_config(read_json(listing, OPENCLIP_CONFIG))
        if text.get("hf_tokenizer_name"):
            names += tokenizer_files(listing)
        if text.get("hf_model_name"):
            names += [name for name in (OPENCLIP_TEXT_CONFIG, "config.json") if name in listing.files]
    for name in dict.fromkeys(names):
        target = into / _placed(family, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(listing.locate(name), target)
    return sorted(set(names))


def _from_folder(part: Part, into: Path, trust_remote_code: bool, agree: Agree | None) -> Source:
    folder = part.path or Path()
    if not folder.is_dir():
        raise ConfigError(f"{part.text!r} names no folder: {folder} is not there")
    family = part.family
    if family == "dir":
        from retrieval.models.families.family import family_of

        found = family_of(folder)
        if found is None:
            raise ModelError(f"{folder} is in no layout that is known", hint=_FOLDER_HINT)
        family = found
    licence = card_licence(folder)
    if agree:
        agree(licence)
    allow_list(folder, into, family, trust_remote_code=trust_remote_code)
    return Source(into, family, licence)


def _wanted(part: Part) -> _Wanted:
    """The repository of a part; of an architecture and a tag what open_clip's own table says of them."""
    if part.repo:
        return _Wanted(part.repo)
    check_openclip(part)
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    tag = get_pretrained_cfg(part.arch, part.tag)
    repo, _, weights = str(tag.get("hf_hub", "")).rpartition("/")
    if not repo:
        raise ModelError(
            f"{part.text} can only be had from {tag.get('url') or 'nowhere'}, a pickle that can run a "
            "stranger's code while it is read",
            hint="take other weights of that architecture, or convert them to safetensors yourself and use "
            "dir:PATH",
        )
    model = deepcopy(open_clip.get_model_config(part.arch))
    if tag.get("quick_gelu"):
        model["quick_gelu"] = True  # the weights were trained so, whatever the architecture's name says
    preprocessing = {name: tag[name] for name in _TAG_PREPROCESSING if name in tag}
    return _Wanted(repo, weights, {"model_cfg": model, "preprocess_cfg": preprocessing})


def _openclip_config(repository: Repository, wanted: _Wanted) -> Mapping[str, Any]:
    """The repository's own configuration; where it has none, what open_clip would make of the tag."""
    if OPENCLIP_CONFIG in repository.files:
        config = read_json(repository, OPENCLIP_CONFIG)
        if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
            raise ModelError(f"{OPENCLIP_CONFIG} of {repository.where} describes no model")
        return config
    if wanted.config is None:
        raise ModelError(
            f"{repository.where} has no {OPENCLIP_CONFIG}",
            hint="it may be a model of another library: try st:ORG/NAME, or openclip:ARCH/TAG",
        )
    return wanted.config


def _text_config(config: Any) -> Mapping[str, Any]:
    model = config.get("model_cfg", {}) if isinstance(config, dict) else {}
    text = model.get("text_cfg", {}) if isinstance(model, dict) else {}
    return text if isinstance(text, dict) else {}


def _placed(family: str, name: str) -> str:
    """Where a file of a repository goes: open_clip finds weights in a folder by few names only."""
    if family == "openclip" and name.endswith(".safetensors") and name not in OPENCLIP_WEIGHTS:
        return OPENCLIP_WEIGHTS[0]
    return name


def _text_files(hub: Hub, repository: Repository, config: Mapping[str, Any]) -> list[_File]:
    """Files of the tokenizer that open_clip would fetch by name, and of the text network's configuration.

    A folder is read alone, so they must lie in it. Without such a name open_clip's own tokenizer is meant,
    and tokenizer files that a repository has all the same are not used.
    """
    text = _text_config(config)
    files: list[_File] = []
    if tokenizer := str(text.get("hf_tokenizer_name") or ""):
        owner = repository if tokenizer == repository.repo else hub.open(tokenizer)
        files = [_File(owner, name, name) for name in tokenizer_files(owner)]
    if network := str(text.get("hf_model_name") or ""):
        owner = repository if network == repository.repo else hub.open(network)
        if "config.json" not in owner.files:
            raise ModelError(f"{owner.where}, the text network of {repository.where}, has no config.json")
        files.append(_File(owner, "config.json", OPENCLIP_TEXT_CONFIG))
    return files


def _bring(files: Sequence[_File], into: Path, progress: Progress) -> None:
    """Download what is missing, and link all of it into a folder."""
    total = sum(file.missing for file in files)
    _check_space(total, sum(file.size for file in files))
    done = shown = 0
    for file in files:
        step = f"downloading {file.name}" if file.missing else f"checking {file.name}"

        def heard(count: int, step: str = step) -> None:
            nonlocal done, shown
            done += count
            if not count or done - shown >= total / 200 or done >= total:
                shown = done
                progress(step, min(max(done / total, 0.0), 1.0) if total else 1.0)

        heard(0)  # the step's name, before its first bytes
        link_or_copy(file.owner.bring(file.name, heard), into / file.target)


def _check_space(download: int, model: int) -> None:
    """ModelError unless the disk has room for the download and for graphs as large as the model."""
    place = cache_dir()
    place.mkdir(parents=True, exist_ok=True)
    need, free = download + model, shutil.disk_usage(place).free
    if need > free:
        raise ModelError(
            f"the model needs {need / 1e6:,.0f} MB in {place}, {download / 1e6:,.0f} of them to be "
            f"downloaded; {free / 1e6:,.0f} are free",
            hint="free some, or set TRIPTYCH_HOME to a folder on another disk",
        )


@contextmanager
def _conversions(part: Part, repository: Repository) -> Iterator[None]:
    """Where only pickles are there, say at which revision the hub's converter proposes safetensors."""
    try:
        yield
    except ModelError as error:
        if repository.held:
            raise HubUnreachable(f"only some files of {repository.where} are on this machine") from error
        if error.hint and "refs/pr/N" in error.hint and (revision := repository.conversion()):
            name = part.text.partition("@")[0]
            raise ModelError(
                error.message, hint=f"the hub's conversion bot proposes safetensors: {name}@{revision}"
            ) from error
        raise


def _from_copies(
    part: Part,
    wanted: _Wanted,
    *,
    into: Path,
    trust_remote_code: bool,
    agree: Agree | None,
    error: HubUnreachable,
) -> Source:
    """What the user copied by hand of a part that cannot be downloaded.

    ModelError says which files to copy where, and what is wrong with those that are there.
    """
    place = cache_dir() / "offline" / part.text.replace(":", "-").replace("/", "-").replace("@", "-")
    revision, trouble = part.revision or MAIN, ""
    try:
        _prepare_place(place, wanted)
    except OSError as unwritable:
        trouble = f"; {place} cannot be made: {unwritable.strerror or unwritable}"
    if place.is_dir() and any(path.name != OPENCLIP_CONFIG for path in place.iterdir()):
        licence = card_licence(place)
        if agree:
            agree(licence)
        try:
            shutil.rmtree(into)  # what was linked before the hub was out of reach
            into.mkdir()
            allow_list(place, into, part.family, trust_remote_code=trust_remote_code, weights=wanted.weights)
            return Source(into, part.family, licence, copied=f"{wanted.repo}@{revision}")
        except ModelError as lacking:
            trouble = f"; what is there already is not enough: {lacking.message}"
    raise ModelError(
        f"{error.message}. On a machine with a network download {_offline_files(part, wanted)} from "
        f"https://huggingface.co/{wanted.repo}/tree/{revision} and copy them into {place}{trouble}",
        hint="then run the same command again",
    ) from error


def _prepare_place(place: Path, wanted: _Wanted) -> None:
    """The folder that copies go to, with the configuration that only the installed open_clip has."""
    place.mkdir(parents=True, exist_ok=True)
    if wanted.config is not None and not (place / OPENCLIP_CONFIG).exists():
        text = json.dumps(wanted.config, indent=2)
        (place / OPENCLIP_CONFIG).write_text(text + "\n", encoding="utf-8")


def _offline_files(part: Part, wanted: _Wanted) -> str:
    """The files that a folder needs, as a sentence's object."""
    if part.family == "openclip":
        stem = wanted.weights.rpartition(".")[0]
        said = f"{stem}.safetensors" if stem else OPENCLIP_WEIGHTS[0]
        if wanted.config is None:
            return f"{OPENCLIP_CONFIG}, {said} and, where the configuration names one, the tokenizer's files"
        text = _text_config(wanted.config)
        tokenizer = text.get("hf_tokenizer_name")
        files = f"{said} ({OPENCLIP_CONFIG} is there already)"
        if tokenizer:
            files += f", those of {', '.join(TOKENIZER_FILES)} and config.json that {tokenizer} has,"
        if network := text.get("hf_model_name"):
            files += f" as {OPENCLIP_TEXT_CONFIG} the config.json of {network}"
        return files
    if part.family == "clap":
        rest = ", ".join(TOKENIZER_FILES)
        return f"config.json, preprocessor_config.json, {WEIGHTS} and those of {rest} it has"
    return (
        "modules.json, every other .json, .txt, .model and .safetensors file beside it and in the folders "
        f"that modules.json names (no {', '.join(PICKLES[:3])})"
    )
