"""From a part of a name to a folder in its library's own layout, which holds allow-listed files only.

The hub's side stands in hub.py, what a part means there in sources.py, which files count in allowed.py, what
the folder means in the families' modules; folders.py and copies.py do without the hub. Nothing here reads
weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import ModelError
from retrieval.config import cache_dir
from retrieval.models.bundle import link_or_copy
from retrieval.models.families.allowed import (
    OPENCLIP_CONFIG,
    OPENCLIP_TEXT_CONFIG,
    choose,
    read_json,
    tokenizer_files,
)
from retrieval.models.families.copies import from_copies, has_copies
from retrieval.models.families.folders import from_folder
from retrieval.models.families.hub import Hub, HubUnreachable, Repository
from retrieval.models.families.names import Part
from retrieval.models.families.sources import Agree, Origin, Source, Wanted, placed, text_config, wanted_of

Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]


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
        return from_folder(part, into, trust_remote_code, agree)
    say = progress or (lambda _step, _share: None)
    hub = _hub(part, token, say)
    if part.arch:
        say("reading which models open_clip knows", 0.0)
    wanted = wanted_of(part)
    try:
        return _from_hub(
            part,
            wanted,
            hub=hub,
            into=into,
            progress=say,
            trust_remote_code=trust_remote_code,
            agree=agree,
        )
    except HubUnreachable as error:
        return from_copies(
            part, wanted, into=into, trust_remote_code=trust_remote_code, agree=agree, error=error
        )


def _hub(part: Part, token: str | None, say: Progress) -> Hub:
    """The hub, asked whether it answers before anything that takes long.

    HubUnreachable where it does not and nothing is on this machine: which files a tag of open_clip's means
    only open_clip knows, whose import takes longer than a user without a network should wait.
    """
    say("looking for the model", 0.0)
    hub = Hub.from_environment(token)
    if not hub.offline:
        say(f"asking {hub.host}", 0.0)
        hub = hub.reached()
    if hub.down and part.arch and not has_copies(part) and not hub.may_hold():
        raise HubUnreachable(
            hub.down,
            hint=f"{hub.remedy}; with HF_HUB_OFFLINE=1 the same command says which files to copy here",
        )
    return hub


def _from_hub(
    part: Part,
    wanted: Wanted,
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
    files = [_File(repository, name, placed(part.family, name)) for name in names]
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


def _openclip_config(repository: Repository, wanted: Wanted) -> Mapping[str, Any]:
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


def _text_files(hub: Hub, repository: Repository, config: Mapping[str, Any]) -> list[_File]:
    """Files of the tokenizer that open_clip would fetch by name, and of the text network's configuration.

    A folder is read alone, so they must lie in it. Without such a name open_clip's own tokenizer is meant,
    and tokenizer files that a repository has all the same are not used.
    """
    text = text_config(config)
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
            raise HubUnreachable(
                f"only some files of {repository.where} are on this machine", hint=repository.hub.remedy
            ) from error
        if error.hint and "refs/pr/N" in error.hint and (revision := repository.conversion()):
            name = part.text.partition("@")[0]
            raise ModelError(
                error.message, hint=f"the hub's conversion bot proposes safetensors: {name}@{revision}"
            ) from error
        raise
