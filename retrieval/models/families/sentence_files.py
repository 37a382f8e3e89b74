"""A sentence-transformers folder as files: its modules, what is refused before a library sees it, its hashes.

Reads configuration only and imports no library; networks are loaded in sentence_network.py.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from indexer.errors import ModelError
from indexer.fsio import sha256_file
from retrieval.models.bundle import WeightRef, link_or_copy

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
LIBRARY = "sentence_transformers."  # where module classes may come from without the user's leave
# By class name, since the library moved them between releases: whether a module has weights.
KINDS = {
    "Transformer": True,
    "CLIPModel": True,
    "StaticEmbedding": True,
    "Dense": True,
    "LayerNorm": True,
    "WeightedLayerPooling": True,
    "Pooling": False,
    "Normalize": False,
    "Dropout": False,
    "Router": False,
    "Asym": False,
}
ROUTERS = ("Router", "Asym")
BACKBONES = ("Transformer", "CLIPModel")
READ = (".json", ".txt", ".safetensors", ".model", ".jinja")  # suffixes of what the library gets to see
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
WEIGHTS = "model.safetensors"
DEPTH = 8  # of folders inside folders


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of modules.json, or of a router's own list."""

    kind: str  # class name
    path: str  # folder below the model's, '/'-separated; "" is the model's own

    @property
    def weighty(self) -> bool:
        return KINDS.get(self.kind, False)


def read_json(path: Path) -> Any:
    """What a configuration file holds; {} where there is none. ModelError where it cannot be read."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} cannot be read: {error}", hint="download the model again") from error


def modules_of(folder: Path, *, trust_remote_code: bool = False) -> tuple[Module, ...]:
    """The model's modules, those inside routers included, in order.

    ModelError for one that is not the library's own, that no tower is made of, or that lies outside.
    """
    listed = read_json(folder / MODULES)
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed) or not listed:
        raise ModelError(
            f"{folder.name} has no list of modules in {MODULES}: it is no sentence-transformers model",
            hint="save it with SentenceTransformer.save_pretrained, or pull it by its name again",
        )
    entries = [(str(one.get("type", "")), str(one.get("path", ""))) for one in listed]
    found: list[Module] = []
    for named, path in entries:
        found += _module(folder, named, path, trust_remote_code=trust_remote_code, depth=0)
    return tuple(found)


def _module(folder: Path, named: str, path: str, *, trust_remote_code: bool, depth: int) -> Iterator[Module]:
    kind = named.rpartition(".")[2]
    if not named.startswith(LIBRARY):
        if not trust_remote_code:
            raise ModelError(
                f"the model's module {named!r} is code of its own, not part of sentence-transformers",
                hint="read that code first; --trust-remote-code then lets it run",
            )
    elif kind not in KINDS:
        raise ModelError(
            f"the model's module {kind!r} is not one that a tower is made of; known: {', '.join(KINDS)}",
            hint="pull a model that is made of those",
        )
    if _leaves(path) or depth > DEPTH:
        raise ModelError(f"the model names a folder outside its own: {path!r}", hint="do not use this model")
    yield Module(kind, path)
    if kind in ROUTERS:
        inside = folder / path
        config = read_json(inside / "router_config.json") or read_json(inside / "config.json")
        types = config.get("types", {}) if isinstance(config, dict) else {}
        for name, module_type in types.items():
            below = str(PurePosixPath(path, str(name)))
            yield from _module(
                folder, str(module_type), below, trust_remote_code=trust_remote_code, depth=depth + 1
            )


def _leaves(path: str) -> bool:
    windows = PureWindowsPath(path)
    return bool(windows.anchor) or ".." in windows.parts or "\0" in path


def check(folder: Path, *, trust_remote_code: bool = False) -> tuple[Module, ...]:
    """The modules, after all was refused that names and configuration give away. ModelError."""
    modules = modules_of(folder, trust_remote_code=trust_remote_code)
    settings = read_json(folder / SETTINGS)
    kind = settings.get("model_type", "SentenceTransformer") if isinstance(settings, dict) else None
    if kind != "SentenceTransformer":
        raise ModelError(
            f"the model is a {kind}, which does not give one vector a text",
            hint="pull a SentenceTransformer",
        )
    for module in modules:
        if module.weighty:
            _check_weights(folder, module)
        if module.kind in BACKBONES:
            _check_backbone(folder / module.path)
    return modules


def _check_weights(folder: Path, module: Module) -> None:
    inside = folder / module.path
    index = inside / f"{WEIGHTS}.index.json"
    if module.kind in BACKBONES and index.is_file():
        shards = read_json(index).get("weight_map", {}).values()
        strange = [one for one in shards if Path(one).name != one or not (inside / one).is_file()]
        if strange:
            raise ModelError(f"the model's weights are to lie in {strange[0]!r}, which is not there")
        return
    if (inside / WEIGHTS).is_file():
        return
    wanted = str(PurePosixPath(module.path, WEIGHTS))
    pickled = sorted(path.name for path in inside.glob("*") if path.suffix in PICKLED)
    if pickled:
        raise ModelError(
            f"the weights of {module.kind} are in {pickled[0]} only, and reading that file can run any code",
            hint=f"ask its authors for {wanted}, or pull a revision that has it",
        )
    raise ModelError(
        f"the weights of {module.kind} are missing: no {wanted}", hint="download the model again"
    )


def _check_backbone(inside: Path) -> None:
    if (inside / "adapter_config.json").is_file():
        raise ModelError(
            "the model is an adapter of another model, whose weights are not in its folder",
            hint="merge it with peft's merge_and_unload, save that, and pull the folder: dir:PATH",
        )
    for path in sorted(inside.glob("sentence_*_config.json")):
        config = read_json(path)
        for name in ("tokenizer_name_or_path", "processor_name"):
            if isinstance(config, dict) and config.get(name):
                raise ModelError(
                    f"the model's tokenizer is another model's: {config[name]!r}",
                    hint="save the model with its tokenizer in one folder, and pull that: dir:PATH",
                )


@contextlib.contextmanager
def shown(folder: Path, *, trust_remote_code: bool = False) -> Iterator[Path]:
    """A folder for the library that lacks everything but configuration, tokenizers and safetensors.

    So no weights that are pickles can be read, whatever the library falls back to. Code is there only with
    `trust_remote_code`.
    """
    suffixes = (*READ, ".py") if trust_remote_code else READ
    work = Path(tempfile.mkdtemp(prefix="sentence-"))
    try:
        for path in sorted(folder.rglob("*")):
            below = path.relative_to(folder)
            if path.suffix in suffixes and path.is_file() and len(below.parts) <= DEPTH:
                target = work / below
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    target.symlink_to(path.resolve())
                except OSError:  # Windows, without the right to make one
                    link_or_copy(path, target)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def references(folder: Path, modules: tuple[Module, ...], *, name: str, text: bool) -> tuple[WeightRef, ...]:
    """Every file that the vectors hang on: weights, the modules' configuration, with `text` the tokenizer's.

    What the preprocessing says already, and versions of libraries, are not among them.
    """
    places = sorted({folder, *(folder / module.path for module in modules)})
    files = [path for place in places for path in sorted(place.glob("*")) if _counts(path, text=text)]
    return tuple(
        WeightRef(
            name=path.relative_to(folder).as_posix(),
            sha256=sha256_file(path),
            licence="",  # the model card's, which whoever fetched the folder has read
            source=name,
            package="",
        )
        for path in dict.fromkeys(files)
    )


def _counts(path: Path, *, text: bool) -> bool:
    if path.suffix == ".safetensors" or path.name in (MODULES, "config.json", "router_config.json"):
        return path.is_file()
    if path.name.startswith("sentence_") and path.name.endswith("_config.json"):
        return True
    tokenizer = path.suffix in (".model", ".txt") or path.name in _TOKENIZER
    return text and tokenizer and path.is_file()


_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
