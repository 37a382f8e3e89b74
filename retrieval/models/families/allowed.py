"""Which files of a repository or a folder make a model, and which are never touched.

Reads configuration files only. Weights are safetensors; pickles are neither downloaded nor copied, and a name
that leads out of its folder is refused. Nothing here asks a network.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from indexer.errors import ConfigError, ModelError

OPENCLIP_CONFIG = "open_clip_config.json"
OPENCLIP_TEXT_CONFIG = "text_config/config.json"  # of a text tower of transformers, kept in the folder
OPENCLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
WEIGHTS, SHARDS, MODULES = "model.safetensors", "model.safetensors.index.json", "modules.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".npz", ".ot")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model"),
)
_PLAIN = (".json", ".txt", ".model")  # beside weights: configuration, vocabularies, sentencepiece
_KNOWN_MODULES = "sentence_transformers."  # where a module's class must come from
_CUSTOM_CODE = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a listing."""

    size: int  # bytes; 0 where the hub does not say
    sha256: str = ""  # of files in large-file storage
    blob: str = ""  # git's own hash of the others


class Listing(Protocol):
    """The files of a repository at one commit, or of a local folder."""

    @property
    def where(self) -> str:
        """For messages."""
        ...

    @property
    def files(self) -> Mapping[str, Entry]:
        """By '/'-separated name."""
        ...

    def read(self, name: str) -> bytes:
        """A small file's content."""
        ...


@dataclass(frozen=True)
class Folder:
    """A local folder. Links are followed only as far as `root`, which is the folder unless given."""

    path: Path
    root: Path | None = None

    @property
    def where(self) -> str:
        return str(self.path)

    @property
    def files(self) -> Mapping[str, Entry]:
        found = (path for path in sorted(self.path.rglob("*")) if path.is_file())
        return {path.relative_to(self.path).as_posix(): Entry(path.stat().st_size) for path in found}

    def read(self, name: str) -> bytes:
        return self.locate(name).read_bytes()

    def locate(self, name: str) -> Path:
        """The file itself, links resolved. ModelError where it lies outside."""
        path = (self.path / safe_name(name, self.where)).resolve()
        if not path.is_relative_to((self.root or self.path).resolve()):
            raise ModelError(
                f"{self.path / name} is a link that leads out of its folder",
                hint="copy what it points to into the folder",
            )
        return path


def safe_name(name: str, where: str) -> str:
    """A '/'-separated relative name, as given. ModelError for one that could lead out of its folder."""
    parts = name.split("/")
    plain = all(part.strip(". ") for part in parts) and not any(ord(letter) < 32 for letter in name)
    if not plain or "\\" in name or ":" in name or posixpath.normpath(name) != name:
        raise ModelError(
            f"{where} names a file that leads out of its folder: {name!r}",
            hint="the model is damaged, or not to be trusted: take another revision, or another model",
        )
    return name


def choose(family: str, listing: Listing, *, weights: str = "", trust_remote_code: bool = False) -> list[str]:
    """The files of a model that are downloaded or copied, in order; no pickle is among them.

    `weights` is the file that open_clip names for a tag, whatever its type. ModelError says what is missing
    and what to ask for.
    """
    for name in listing.files:
        safe_name(name, listing.where)
    if family == "openclip":
        chosen = _openclip(listing, weights)
    elif MODULES in listing.files and family != "clap":
        chosen = _sentence(listing, trust_remote_code)
    elif family == "st":
        raise ModelError(
            f"{listing.where} is no sentence-transformers model: it has no {MODULES}",
            hint="load it with sentence-transformers, save it, and name that folder: dir:PATH",
        )
    else:
        chosen = _in_folder(listing, "")
    if family != "openclip":
        _refuse_code(listing, chosen, trust_remote_code)
        if trust_remote_code:
            chosen += [name for name in listing.files if name.endswith(".py")]
    return sorted(set(chosen))


def tokenizer_files(listing: Listing, *, model_config: bool = True) -> list[str]:
    """Files of a tokenizer's repository; with the model's own configuration, which may name its class."""
    wanted = [*TOKENIZER_FILES, *(("config.json",) if model_config else ())]
    found = [name for name in wanted if name in listing.files]
    if not any(name in found for name in TOKENIZER_FILES):
        raise ModelError(f"{listing.where} has no tokenizer")
    return found


def read_json(listing: Listing, name: str) -> Any:
    """A configuration file. ModelError where it is none."""
    try:
        return json.loads(listing.read(name))
    except (ValueError, OSError) as error:
        raise ModelError(f"{name} of {listing.where} cannot be read: {error}") from error


def _openclip(listing: Listing, weights: str) -> list[str]:
    stem = weights.rpartition(".")[0]
    wanted = [name for name in (f"{stem}.safetensors" if stem else "", *OPENCLIP_WEIGHTS) if name]
    found = next((name for name in wanted if name in listing.files), None)
    if found is None:
        own = [name for name in _at(listing, "") if name.endswith(".safetensors")]
        if len(own) != 1 or OPENCLIP_CONFIG not in listing.files or "config.json" in listing.files:
            raise no_safetensors(listing, "", wanted[0])
        found = own[0]  # with a config.json beside, it would be in the layout of transformers
    return [found, *((OPENCLIP_CONFIG,) if OPENCLIP_CONFIG in listing.files else ())]


def _sentence(listing: Listing, trust_remote_code: bool) -> list[str]:
    """What `modules.json` names, a folder a module; nothing of the exports that lie beside them."""
    modules = read_json(listing, MODULES)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{MODULES} of {listing.where} is no list of modules")
    chosen = _in_folder(listing, "", need=False)
    for module in modules:
        kind, path = str(module.get("type", "")), str(module.get("path", ""))
        if not kind.startswith(_KNOWN_MODULES) and not trust_remote_code:
            raise _custom(listing, f"its module {kind!r} is no part of sentence-transformers")
        if path:
            safe_name(path, listing.where)
            folders = {name.rpartition("/")[0] for name in listing.files if name.startswith(f"{path}/")}
            for folder in sorted(folders):
                chosen += _in_folder(listing, folder, need=False)
    if not any(name.endswith(".safetensors") for name in chosen):
        raise no_safetensors(listing, "", WEIGHTS)
    return chosen


def _in_folder(listing: Listing, folder: str, *, need: bool = True) -> list[str]:
    """Configuration and weights that lie right in a folder. ModelError where weights are pickles only."""
    names = _at(listing, folder)
    prefix = f"{folder}/" if folder else ""
    plain = [name for name in names if name.endswith(_PLAIN) and not name.endswith(".index.json")]
    if prefix + WEIGHTS in names:
        return [*plain, prefix + WEIGHTS]
    if prefix + SHARDS in names:
        return [*plain, prefix + SHARDS, *_shards(listing, folder)]
    if need or any(name.endswith(PICKLES) and not _is_noise(name) for name in names):
        raise no_safetensors(listing, folder, WEIGHTS)
    return plain


def _shards(listing: Listing, folder: str) -> list[str]:
    """The files that an index of shards names: each in the index's own folder, and there."""
    prefix = f"{folder}/" if folder else ""
    index = read_json(listing, prefix + SHARDS)
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not named:
        raise ModelError(f"{prefix}{SHARDS} of {listing.where} names no files")
    shards = sorted({str(name) for name in named.values()})
    for name in shards:
        safe_name(name, listing.where)
        if "/" in name or not name.endswith(".safetensors"):
            raise ModelError(f"{prefix}{SHARDS} of {listing.where} names {name!r}, no safetensors beside it")
        if prefix + name not in listing.files:
            raise ModelError(f"{listing.where} lacks {prefix}{name}, which its index names")
    return [prefix + name for name in shards]


def _at(listing: Listing, folder: str) -> list[str]:
    return [name for name in listing.files if name.rpartition("/")[0] == folder]


def _is_noise(name: str) -> bool:
    """Pickles of a training run, that no model needs."""
    return name.rpartition("/")[2] in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def no_safetensors(listing: Listing, folder: str, wanted: str) -> ModelError:
    """That a folder has weights of no kind that is read, and the name of the file to ask for."""
    pickles = [name for name in _at(listing, folder) if name.endswith(PICKLES) and not _is_noise(name)]
    wanted = f"{folder}/{wanted}" if folder else wanted
    if not pickles:
        return ModelError(f"{listing.where} has no weights: {wanted} is missing")
    if isinstance(listing, Folder):
        hint = f"convert them where you trust them: load the model with its library, and save it as {wanted}"
    else:
        hint = (
            f"ask its authors for {wanted}; the hub's conversion bot may have proposed one already: look at "
            "the repository's pull requests and name that one with @refs/pr/N"
        )
    return ModelError(
        f"{listing.where} has its weights only as {', '.join(pickles)}, "
        "which can run a stranger's code while it is read and is never opened here",
        hint=hint,
    )


def _refuse_code(listing: Listing, chosen: Sequence[str], trust_remote_code: bool) -> None:
    """ModelError where a configuration names code of the repository's own, unless the user trusts it."""
    for name in chosen:
        if name.rpartition("/")[2] in _CUSTOM_CODE and not trust_remote_code:
            config = read_json(listing, name)
            if isinstance(config, dict) and config.get("auto_map"):
                raise _custom(listing, f"{name} names classes of the repository's own (auto_map)")


def _custom(listing: Listing, why: str) -> ConfigError:
    return ConfigError(
        f"{listing.where} runs its own Python code: {why}",
        hint="--trust-remote-code downloads that code and runs it with your rights: read it first",
    )


def card_licence(folder: Path) -> str:
    """The licence that a folder's README.md has in its front matter, or ""."""
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    if not lines or lines[0].strip() != "---":
        return ""
    said: dict[str, str] = {}
    for line in lines[1:200]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        said[key] = value.strip().strip("\"'")
    licence = said.get("license", "")
    return said.get("license_name", licence) if licence in ("", "other") else licence


def check_external_data(graph: Path, root: Path | None = None) -> frozenset[str]:
    """The files beside an ONNX graph that its tensors are read from, as '/'-separated names.

    ModelError for one that is absolute, leads out of `root` (the graph's own folder unless given) by its name
    or by a link, or is not there, and for a file that is no ONNX graph. Reads no tensor.
    """
    import onnx

    try:
        model = onnx.load(str(graph), load_external_data=False)
    except Exception as error:  # protobuf has no one type for what it cannot read
        raise ModelError(f"{graph} is no ONNX graph: {str(error)[:200]}") from error
    names = frozenset(_locations(model))
    beside = Folder(graph.parent, root or graph.parent)
    for name in names:
        if not beside.locate(name).is_file():
            raise ModelError(f"{graph} reads its weights from {name!r}, which is not there")
    return names


def _locations(message: Any) -> Iterator[str]:
    """Where the external tensors anywhere in a protobuf message lie, subgraphs and functions included."""
    from onnx import TensorProto

    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in [value] if hasattr(value, "ListFields") else value:
            if isinstance(one, TensorProto):
                if one.external_data or one.data_location == TensorProto.EXTERNAL:
                    yield next((pair.value for pair in one.external_data if pair.key == "location"), "")
            else:
                yield from _locations(one)
