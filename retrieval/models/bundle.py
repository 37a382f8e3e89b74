"""A model on disk: what `model.json` says, what a space is, and how a bundle is written and read.

A bundle is a folder: `model.json`, one ONNX graph a tower with its weights beside it, tokenizer files.
Nothing here builds a tower or imports a runtime.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from indexer.errors import ModelError
from indexer.fsio import fsync_dir, fsync_file, sha256_file, write_atomic
from indexer.types import Modality
from retrieval.models.work import Locked, work_folder

SCHEMA = 2  # of model.json; 2 added families and files in folders; a bundle with a later one is refused
SPEC = "model.json"
NOT_SAID = "not said"  # the licence of weights whose repository states none
BUILDING, OLD = ".building-", ".old-"  # prefixes of folders that are no bundle


@dataclass(frozen=True, slots=True)
class WeightRef:
    """A source file of weights: what it is, not where it lies."""

    name: str
    sha256: str
    licence: str
    source: str
    package: str

    @property
    def is_tokenizer(self) -> bool:
        """Whether it is no weights, but configuration, a vocabulary or a table of merges."""
        return self.name.endswith(("-tokenizer", ".json", ".txt", ".txt.gz", ".model"))


@dataclass(frozen=True, slots=True)
class HeadRef:
    """The trained layers between backbone and space."""

    name: str
    sha256: str  # over the tensors, not over the file


@dataclass(frozen=True, slots=True)
class TowerSpec:
    """One tower. Named even where it could not be built, since the space does not depend on that."""

    modality: Modality
    backbone: str
    weights: tuple[WeightRef, ...]
    head: HeadRef | None
    preprocessing: Mapping[str, Any]  # what the preparer's `describe` returns
    dim: int
    window: Mapping[str, float]  # how media are cut into segments
    batch_size: int  # segments that one call of `encode` handles best
    group: int  # texts, or views, that one call of the graph sees
    precision: str = "f32"
    graph: str | None = None  # file name; None where the tower was not built, or runs in torch only
    missing: str | None = None  # where it was not built: the line that installs its weights
    family: str = ""  # the library that its network comes from, see families/; "": one of BACKBONES
    source: str = ""  # a family's: the bundle's folder with the library's own files
    tokenizer: str = "tokenizer.json"  # file name; of texts
    quantised: str = ""  # file name of its int8 graph; "" where there is none
    width: int = 0  # of a family's embedding, where a head makes another dimension of it; 0: `dim`

    @property
    def usable(self) -> bool:
        """Whether it can encode: by its graph, or by its library."""
        return bool(self.graph or self.family)

    @property
    def licence(self) -> str:
        """Of its weights, not of the files that texts are cut into tokens with; "" where none is stated."""
        stated = [weight.licence for weight in self.weights if not weight.is_tokenizer]
        return ", ".join(dict.fromkeys(one for one in stated if one and one != NOT_SAID))


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file of the bundle."""

    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What `model.json` holds."""

    name: str
    towers: tuple[TowerSpec, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)  # versions and date of the build
    files: Mapping[str, FileRef] = field(default_factory=dict)
    nested: tuple[int, ...] = ()  # smaller dimensions that the first so many coordinates serve as
    aliases: tuple[str, ...] = ()  # what it is called too; the space does not hang on them

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it is found by: its first, the others, and the one that it was pulled by."""
        pulled = self.provenance.get("pulled")
        return tuple(dict.fromkeys((self.name, *self.aliases, *((str(pulled),) if pulled else ()))))

    def called(self, *names: str) -> ModelSpec:
        """The same with these names, the first one first."""
        first, *others = dict.fromkeys(names)
        return replace(self, name=first, aliases=tuple(others))

    @property
    def dims(self) -> tuple[int, ...]:
        """Every dimension that an index can be made with, the full one first."""
        return (self.dim, *sorted({dim for dim in self.nested if dim < self.dim}, reverse=True))

    def space_of(self, dim: int) -> str:
        """The space_id of the vectors cut to `dim`: derived from the full one's, and found by it again."""
        if dim == self.dim:
            return self.space_id
        return hashlib.sha256(canonical_json([self.space_id, dim])).hexdigest()

    @property
    def dim(self) -> int:
        return self.towers[0].dim

    @property
    def space_id(self) -> str:
        """SHA-256, 64 hex digits, over the hashes of the source weights, the head tensors, the canonical
        preprocessing and the dimension, of all towers.
        """
        towers = [
            {
                "modality": tower.modality.value,
                "weights": [weight.sha256 for weight in tower.weights],
                "head": tower.head.sha256 if tower.head else None,
                "preprocessing": dict(tower.preprocessing),
                "dim": tower.dim,
            }
            for tower in sorted(self.towers, key=lambda tower: tower.modality.value)
        ]
        return hashlib.sha256(canonical_json(towers)).hexdigest()

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those whose tower was built."""
        return tuple(m for m in Modality if any(t.usable and t.modality is m for t in self.towers))

    def tower(self, modality: Modality) -> TowerSpec | None:
        return next((tower for tower in self.towers if tower.modality is modality), None)

    def to_json(self) -> dict[str, Any]:
        """As `model.json` has it."""
        return {"schema": SCHEMA, "space_id": self.space_id, "dim": self.dim, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelSpec:
        """ModelError for a later schema, a missing field, or a space_id that the rest does not give."""
        if not isinstance(data.get("schema"), int) or data["schema"] > SCHEMA:
            raise ModelError(
                f"the model's schema is {data.get('schema')!r}, this version reads up to {SCHEMA}",
                hint="update triptych, or build the model again: triptych models build",
            )
        try:
            spec = cls(
                name=data["name"],
                towers=tuple(_tower(tower) for tower in data["towers"]),
                provenance=data["provenance"],
                files={name: FileRef(**entry) for name, entry in data["files"].items()},
                nested=_nested(data.get("nested", ())),
                aliases=tuple(map(str, data.get("aliases", ()))),
            )
            same = spec.space_id == data["space_id"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelError(f"the model's spec lacks or misstates {error}") from error
        if not same:
            raise ModelError("the model's space_id does not follow from its weights and preprocessing")
        return spec


def _tower(data: Mapping[str, Any]) -> TowerSpec:
    parsed = {
        "modality": Modality(data["modality"]),
        "weights": tuple(WeightRef(**weight) for weight in data["weights"]),
        "head": HeadRef(**data["head"]) if data["head"] else None,
    }
    return TowerSpec(**{**data, **parsed})


def _nested(dims: Any) -> tuple[int, ...]:
    wrong = [dim for dim in dims if type(dim) is not int or dim < 1]
    if wrong:
        raise ValueError(f"a nested dimension: {wrong[0]!r}")
    return tuple(dims)


def canonical_json(value: Any) -> bytes:
    """The same bytes for the same value everywhere: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model's folder and its spec."""

    folder: Path
    spec: ModelSpec

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Read the spec and compare file sizes, not checksums. ModelError names what is wrong."""
        try:
            data = json.loads((folder / SPEC).read_bytes())
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder / SPEC} cannot be read: {error}", hint=_REBUILD) from error
        if not isinstance(data, dict):
            raise ModelError(f"{folder / SPEC} holds no object", hint=_REBUILD)
        bundle = cls(folder, ModelSpec.from_json(data))
        for name, entry in bundle.spec.files.items():
            path = bundle.path(name)
            if not path.is_file() or path.stat().st_size != entry.size:
                raise ModelError(f"{path} is missing or has the wrong size", hint=_REBUILD)
        return bundle

    def path(self, name: str) -> Path:
        """A file or folder of the bundle; ModelError for a name that leads out of it."""
        parts = name.split("/")
        if "\\" in name or ":" in name or not all(part.strip(". ") for part in parts):
            raise ModelError(f"the model names a file outside its folder: {name!r}")
        return self.folder.joinpath(*parts)

    def verify(self) -> list[str]:
        """Read every file; what is wrong, a line each."""
        return [
            f"{name}: checksum differs"
            for name, entry in self.spec.files.items()
            if sha256_file(self.path(name)) != entry.sha256
        ]


_REBUILD = "build the model again: triptych models build"


def write_bundle(
    folder: Path,
    fill: Callable[[Path], ModelSpec],
    *,
    sweep: bool = True,
    lock: Locked = nullcontext,
    settle: Callable[[ModelSpec], ModelSpec] = lambda spec: spec,
) -> Bundle:
    """Build beside, then rename: readers see the old bundle, or the new one, or for a moment none.

    `fill` writes files into an empty folder and returns their spec; checksums are added here. `lock` is held
    while the folders change places, and not while `fill` works; under it `settle` has the last word on names
    and provenance. With `sweep` leftovers of builds that died are removed; beside a folder of the user's,
    where not everything is ours, they are left.
    """
    with work_folder(folder.parent, BUILDING, lock=lock, sweep=sweep) as work:
        spec = _seal(work, fill(work))
        with lock():
            if sweep:
                _put_back(folder.parent)
            write_spec(work, settle(spec))
            _swap(work, folder)
    return Bundle.load(folder)


def keep_bundle(
    bundle: Bundle,
    folder: Path,
    *,
    check: Callable[[Bundle], None] = lambda _bundle: None,
    lock: Locked = nullcontext,
    settle: Callable[[ModelSpec], ModelSpec] = lambda spec: spec,
) -> Bundle:
    """A copy of a bundle from elsewhere, as hard links where the file system allows, at `folder`.

    Every checksum is compared first, ModelError says which differs; then `check` may refuse it. All or
    nothing, `lock` and `settle` as in `write_bundle`.
    """
    problems = [f"{name} is not among its files" for name in _needed(bundle.spec) - set(bundle.spec.files)]
    if problems := sorted(problems) + bundle.verify():
        raise ModelError(f"{bundle.folder}: {'; '.join(problems)}", hint="copy or make that model again")
    check(bundle)

    def fill(work: Path) -> ModelSpec:
        for name in bundle.spec.files:
            link_or_copy(bundle.path(name), work / name)
        return bundle.spec

    return write_bundle(folder, fill, lock=lock, settle=settle)


def _needed(spec: ModelSpec) -> set[str]:
    """The files that its towers name: their graphs, and what texts are cut into tokens with."""
    graphs = {graph for tower in spec.towers for graph in (tower.graph, tower.quantised) if graph}
    graphs |= {f"{graph}.data" for graph in graphs if graph.endswith(".xml")}  # where OpenVINO keeps weights
    return graphs | {t.tokenizer for t in spec.towers if t.usable and t.modality is Modality.TEXT}


def link_or_copy(source: Path, target: Path) -> None:
    """The same file at `target`, whose folder is made: a hard link where the file system allows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source.resolve())
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _seal(work: Path, spec: ModelSpec) -> ModelSpec:
    """The spec with every file's checksum; the files are made durable."""
    found = sorted(path for path in work.rglob("*") if path.is_file() and path != work / SPEC)
    files = {
        path.relative_to(work).as_posix(): FileRef(sha256_file(path), path.stat().st_size) for path in found
    }
    for path in found:
        fsync_file(path)
    for folder in (path for path in work.rglob("*") if path.is_dir()):
        fsync_dir(folder)
    return replace(spec, files=files)


def write_spec(folder: Path, spec: ModelSpec) -> None:
    """Write a bundle's `model.json`: a reader sees the old one or the new one."""
    text = json.dumps(spec.to_json(), indent=2, sort_keys=True)
    write_atomic(folder / SPEC, (text + "\n").encode("utf-8"))


def _put_back(parent: Path) -> None:
    """What a process that died between two renames had set aside; the rest of it is removed."""
    for left in parent.glob(f"{OLD}*"):
        for kept in left.iterdir():
            if not (parent / kept.name).exists():
                kept.rename(parent / kept.name)
        shutil.rmtree(left, ignore_errors=True)


def _swap(work: Path, folder: Path) -> None:
    old = None
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=OLD, dir=folder.parent))
        folder.rename(old / folder.name)  # a process that has it open keeps its mapped files
    work.rename(folder)
    fsync_dir(folder.parent)
    if old:
        with contextlib.suppress(OSError):
            shutil.rmtree(old)
