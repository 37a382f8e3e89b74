"""How a user names a pretrained model: `openclip:ARCH/TAG`, `st:NAME`, `clap:NAME`, `dir:PATH`, `A+B`.

Reads words only: nothing here asks a network or imports a model library, so that a search may import it.
`check_openclip` does, when a download is about to begin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from indexer.errors import ConfigError
from retrieval.home import expanded

PREFIXES = ("openclip", "st", "clap", "dir")
_HUB, _LOCAL = "hf-hub:", "local-dir:"  # open_clip's own words for where an architecture comes from
_CONFIG = "open_clip_config.json"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,199}", re.ASCII)
_SHOWN = 6  # names of an architecture's weights in a hint, at most
_ARCHS = 5  # architectures like a misspelt one that are looked through for its weights
_EXAMPLES = "openclip:ViT-B-32/laion2b_s34b_b79k, st:ORG/NAME, clap:ORG/NAME or dir:PATH"


@dataclass(frozen=True, slots=True)
class Part:
    """One model of a name. Of repo, arch and path exactly one is set."""

    text: str  # as written, the prefix in lower case, a folder's path absolute
    family: str  # one of PREFIXES; `dir` where the folder says itself which library's it is
    repo: str = ""  # ORG/NAME on the hub
    arch: str = ""  # an architecture of open_clip's, its `/` as `-`
    tag: str = ""  # which weights of that architecture, as open_clip writes tags; "": none named
    path: Path | None = None  # a folder of the user's
    revision: str = ""  # branch, tag, commit or refs/pr/N; "": the default branch

    @property
    def local(self) -> bool:
        """Whether it is a folder of the user's, so that nothing is downloaded."""
        return self.path is not None


@dataclass(frozen=True, slots=True)
class ModelName:
    """What a user asked for: one model, or two to be joined."""

    parts: tuple[Part, ...] = field(default=())

    @property
    def text(self) -> str:
        """The name of the model in the cache, where the user gives no other."""
        return "+".join(part.text for part in self.parts)

    @property
    def joined(self) -> bool:
        return len(self.parts) == 2


def is_family_name(name: str) -> bool:
    """Whether a user's word for a model names a family's, and so is no path."""
    return name.partition(":")[0] in PREFIXES and ":" in name


def parse(text: str) -> ModelName:
    """Read a name. ConfigError says what is wrong with it and which names there are."""
    pieces = _split(text.strip())
    if len(pieces) > 2:
        raise ConfigError(
            f"{text!r} joins {len(pieces)} models, and two can be joined",
            hint="one of pictures and texts, one of sounds and texts: openclip:ARCH/TAG+clap:ORG/NAME",
        )
    return ModelName(tuple(_part(piece) for piece in pieces))


def _split(text: str) -> list[str]:
    """Cut at each `+` that a prefix follows; any other `+` is the path's, or an error that is told later."""
    pieces = re.split(r"\+(?=\s*[A-Za-z-]{1,20}:)", text)
    last = pieces[-1]
    if "+" in last and not _is_path(last.partition(":")[2]) and not last.lower().startswith("dir:"):
        head, _, tail = last.partition("+")
        raise ConfigError(
            f"what follows the + in {text!r} has no family: {tail!r}" if tail else f"nothing follows {head}+",
            hint=f"name each model with its family: {head}+clap:{tail or 'ORG/NAME'}",
        )
    return pieces


def _part(text: str) -> Part:
    prefix, colon, rest = text.strip().partition(":")
    family = prefix.strip().lower()
    if not colon or family not in PREFIXES:
        raise ConfigError(f"{text!r} names no model family", hint=_family_hint(text, family, bool(colon)))
    rest = rest.strip()
    if not rest:
        raise ConfigError(f"nothing follows {family}:", hint=f"write {_EXAMPLES}")
    text = f"{family}:{rest}"
    if family == "dir":
        return _local_part(family, rest)
    if rest.startswith(_LOCAL):
        rest = rest.removeprefix(_LOCAL)
        if family != "openclip" or not rest:
            raise ConfigError(f"{text!r} names no folder", hint="write dir:PATH")
        return _local_part(family, rest)
    if _is_path(rest) or (family == "openclip" and (Path(rest) / _CONFIG).is_file()):
        return _local_part(family, rest)
    return _hub_part(text, family, rest)


def _local_part(family: str, rest: str) -> Part:
    """A part that is a folder; named so that it means the same from every other folder."""
    try:
        path = expanded(rest).resolve()
    except (RuntimeError, OSError, ValueError) as error:  # no such user, links in a circle, a zero byte
        raise ConfigError(f"{rest!r} names no folder: {error}") from error
    return Part(f"{family}:{path}", family, path=path)


def _hub_part(text: str, family: str, rest: str) -> Part:
    """A part whose files are on the hub."""
    rest, at, revision = rest.partition("@")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
        raise ConfigError(
            f"{revision!r} in {text!r} is no revision",
            hint="write @ and a branch, a tag, a commit, or refs/pr/N",
        )
    if family == "openclip" and not rest.startswith(_HUB):
        arch, slash, tag = rest.rpartition("/")
        arch, tag = (arch, tag) if slash else (tag, "")
        tag = tag.lower().replace("-", "_")
        return Part(text, family, arch=arch.replace("/", "-"), tag=tag, revision=revision)
    repo = rest.removeprefix(_HUB)
    if family == "st" and "/" not in repo:
        repo = f"sentence-transformers/{repo}"  # the library's own models go by their short name
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ConfigError(f"{repo!r} in {text!r} is no model of the hub", hint=_repo_hint(family, repo))
    return Part(text, family, repo=repo, revision=revision)


def _is_path(rest: str) -> bool:
    return rest in (".", "..") or rest.startswith(("/", "./", "../", "~"))


def _family_hint(text: str, family: str, colon: bool) -> str:
    from difflib import get_close_matches

    near = get_close_matches(family, PREFIXES, n=2, cutoff=0.5) if colon else []
    rest = text.partition(":")[2].strip()
    # A family that is known to have a model of that name goes alone: the other may have none.
    if names := _known(near, rest) or [f"{one}:{rest}" for one in near]:
        return f"did you mean {' or '.join(names)} ?"
    return f"write {_EXAMPLES}"


def _known(families: list[str], rest: str) -> list[str]:
    """Names out of the recommended ones' families and repositories, or architectures, that fit a word."""
    from retrieval.models.families.catalogue import CATALOGUE

    heads = {row.name.partition("/")[0] for row in CATALOGUE}
    return [name for one in families if (name := f"{one}:{rest}").partition("/")[0] in heads]


def _repo_hint(family: str, repo: str) -> str:
    if "huggingface.co/" in repo:
        found = "/".join(repo.partition("huggingface.co/")[2].split("/")[:2])
        return f"leave the address out: {family}:{found}"
    return f"write {family}:ORG/NAME, as in the address https://huggingface.co/ORG/NAME"


def check_openclip(part: Part) -> None:
    """ConfigError unless open_clip has the architecture and the weights of a part that names them.

    Imports open_clip, which takes seconds: for a download only.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    archs = open_clip.list_models()
    if part.arch not in archs:
        raise ConfigError(f"open_clip has no architecture {part.arch!r}", hint=_arch_hint(part, archs))
    tags = open_clip.list_pretrained_tags_by_model(part.arch)
    if not part.tag or not get_pretrained_cfg(part.arch, part.tag):
        said = f"open_clip has no weights {part.tag!r} of {part.arch}"
        near = _near(part.tag, tags)
        raise ConfigError(
            said if part.tag else f"{part.text!r} does not say which weights",
            hint=f"did you mean openclip:{part.arch}/{near[0]} ?"
            if near
            else f"it has {_some(part.arch, tags)}",
        )


def _some(arch: str, tags: list[str]) -> str:
    """The names of an architecture's weights, recommended ones first, and how many are not shown."""
    from retrieval.models.families.catalogue import CATALOGUE

    names, rows = [f"openclip:{arch}/{tag}" for tag in tags], {row.name for row in CATALOGUE}
    names.sort(key=lambda name: name not in rows)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more or "none"


def _arch_hint(part: Part, archs: list[str]) -> str:
    """Names that exist as a whole: of the architectures like it one with such weights, else the first's."""
    import open_clip

    if near := _near(part.arch, archs, most=_ARCHS):
        for arch in near if part.tag else ():
            if part.tag in open_clip.list_pretrained_tags_by_model(arch):
                return f"did you mean openclip:{arch}/{part.tag} ?"
        tags = open_clip.list_pretrained_tags_by_model(near[0])
        if part.tag and (tag := _near(part.tag, tags)):
            return f"did you mean openclip:{near[0]}/{tag[0]} ?"
        return f"did you mean {near[0]} ? It has {_some(near[0], tags)}"
    if _REPO.fullmatch(f"{part.arch}/{part.tag}"):
        return f"a repository of the hub is named openclip:hf-hub:{part.text.partition(':')[2]}"
    return "`triptych models list --available` shows some"


def _near(word: str, words: list[str], *, most: int = 1) -> list[str]:
    """Those of `words` that look most like a word, letters' case aside, the likest first."""
    from difflib import get_close_matches

    lower = {one.lower(): one for one in words}
    return [lower[one] for one in get_close_matches(word.lower(), lower, n=most, cutoff=0.6)]
