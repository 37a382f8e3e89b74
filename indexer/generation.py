"""A generation: the manifest that names roots, item table, parts and tombstones, as data and as JSON.

Only the manifest and the pointer to it are read and written here; the files that it names are not opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer import derived
from indexer.errors import IndexCorrupt, IndexNotFound
from indexer.schema import SCHEMA_VERSION, migrate
from indexer.types import Modality

CURRENT = "CURRENT"
TOKEN = re.compile(r"[0-9a-f]{16}")  # ids of parts, item tables, tombstones, codebooks
SPACE = re.compile(r"[0-9A-Za-z_-]{1,64}")
GENERATION = re.compile(r"\d{6,}")
PRECISION = "f32"  # of vectors of which nothing else is said
WORD = re.compile(r"[0-9A-Za-z_.-]{1,32}")
VERIFY_HINT = "`triptych verify` lists what is wrong; to mend it, delete the index's folder and index again"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What a file must be before anything reads it."""

    size: int  # bytes
    sha256: str  # 64 hex digits


@dataclass(frozen=True, slots=True)
class Root:
    """Where items come from: a folder, a manifest's file, or a single media file."""

    id: str
    path: str  # absolute; undecodable bytes as os.fsdecode leaves them
    kind: str  # "folder", "manifest" or "file"
    options: Mapping[str, Any] = field(default_factory=dict)  # JSON values

    @property
    def base(self) -> str:
        """The folder that member paths are relative to."""
        return self.path if self.kind == "folder" else os.path.dirname(self.path)  # noqa: PTH120


@dataclass(frozen=True, slots=True)
class Space:
    """What makes vectors comparable, and the model that a query needs."""

    model: str
    dim: int


@dataclass(frozen=True, slots=True)
class Part:
    """An immutable set of segments of one space."""

    id: str
    space_id: str
    counts: Mapping[Modality, int]  # segments by modality, tombstoned ones included
    dead: Mapping[Modality, int]  # how many of them are tombstoned
    kinds: Mapping[Modality, str]  # "flat" or "ivf": the search structure of each modality
    files: Mapping[str, StoredFile]  # by name inside the part's folder
    precisions: Mapping[Modality, tuple[str, ...]] = field(default_factory=dict)  # what vectors were made in

    def precisions_of(self, modality: Modality) -> tuple[str, ...]:
        """What the vectors of a modality were computed in, sorted; several after a merge."""
        return self.precisions.get(modality, (PRECISION,))

    @property
    def rows(self) -> int:
        return sum(self.counts.values())

    @property
    def dead_rows(self) -> int:
        return sum(self.dead.values())

    def offset(self, modality: Modality) -> int:
        """The segment row that vector row 0 of a modality belongs to."""
        names = list(Modality)
        return sum(self.counts.get(name, 0) for name in names[: names.index(modality)])

    @property
    def folder(self) -> str:
        return f"parts/{self.id}"


@dataclass(frozen=True, slots=True)
class Generation:
    """One state of an index. Never changes once written."""

    number: int
    parent: int | None
    created: float  # seconds since 1970
    program: str  # version that wrote it
    roots: tuple[Root, ...]
    spaces: Mapping[str, Space]
    items_file: str  # relative to the index
    item_count: int
    parts: tuple[Part, ...]
    tombstones_file: str | None  # None: no segment is tombstoned
    codebooks: Mapping[str, str]  # "space/modality" -> file
    files: Mapping[
        str, StoredFile
    ]  # item table, tombstones, codebooks, derived, by path relative to the index
    oldest: int  # no generation before this number may be kept: it names rows that were to go
    derived: Mapping[str, str] = field(default_factory=dict)  # key, as derived.key_of makes them -> file

    @property
    def name(self) -> str:
        return f"{self.number:06d}"

    @property
    def counts(self) -> dict[Modality, int]:
        """Segments that a search can find, by modality; over all spaces."""
        return self.counts_of(None)

    def counts_of(self, space_id: str | None) -> dict[Modality, int]:
        """The same of one space; None: of all."""
        totals = dict.fromkeys(Modality, 0)
        for part in self.parts:
            for modality, count in part.counts.items() if space_id in (None, part.space_id) else ():
                totals[modality] += count - part.dead.get(modality, 0)
        return totals

    def precisions_of(self, modality: Modality) -> tuple[str, ...]:
        """What the vectors of a modality were computed in, over all parts, sorted."""
        parts = (part for part in self.parts if part.counts.get(modality))
        return tuple(sorted({word for part in parts for word in part.precisions_of(modality)}))

    @property
    def all_files(self) -> dict[str, StoredFile]:
        """Every file that belongs to it, by path relative to the index; its own manifest not included."""
        found = dict(self.files)
        for part in self.parts:
            found |= {f"{part.folder}/{name}": file for name, file in part.files.items()}
        return found


def vector_name(space_id: str, modality: Modality) -> str:
    return f"{space_id}/{modality}.f16"


def structure_name(space_id: str, modality: Modality) -> str:
    return f"{space_id}/{modality}.faiss"


def to_json(generation: Generation) -> bytes:
    """The manifest as it is stored. `checksum` covers all other fields; its rule holds for every version."""
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "number": generation.number,
        "parent": generation.parent,
        "created": generation.created,
        "oldest": generation.oldest,
        "program": generation.program,
        "roots": [
            {"id": root.id, "path": root.path, "kind": root.kind, "options": dict(root.options)}
            for root in generation.roots
        ],
        "spaces": {key: {"model": space.model, "dim": space.dim} for key, space in generation.spaces.items()},
        "items": {"file": generation.items_file, "count": generation.item_count},
        "parts": [_part_json(part) for part in generation.parts],
        "tombstones": generation.tombstones_file,
        "codebooks": dict(generation.codebooks),
        "derived": dict(generation.derived),
        "counts": {modality.value: count for modality, count in generation.counts.items()},
        "files": _files_json(generation.files),
    }
    return json.dumps(document | {"checksum": checksum(document)}, indent=1).encode() + b"\n"


def checksum(document: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its checksum, in JSON with sorted keys and no spaces."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _files_json(files: Mapping[str, StoredFile]) -> dict[str, Any]:
    return {name: {"size": file.size, "sha256": file.sha256} for name, file in files.items()}


def _part_json(part: Part) -> dict[str, Any]:
    return {
        "id": part.id,
        "space": part.space_id,
        "counts": {modality.value: count for modality, count in part.counts.items()},
        "dead": {modality.value: count for modality, count in part.dead.items()},
        "structures": {modality.value: kind for modality, kind in part.kinds.items()},
        "precisions": {modality.value: list(part.precisions_of(modality)) for modality in part.counts},
        "files": _files_json(part.files),
    }


def from_json(data: bytes, *, name: str) -> Generation:
    """The manifest, checked: its checksum, its version, and that every path in it stays inside the index.

    Raises IndexCorrupt or IndexTooNew.
    """
    try:
        document = json.loads(data)
        claimed = document.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexCorrupt(f"generations/{name}.json is not a manifest: {error}", hint=VERIFY_HINT) from error
    if claimed != checksum(document):
        raise IndexCorrupt(f"generations/{name}.json does not match its checksum", hint=VERIFY_HINT)
    try:
        return _from_document(migrate(document))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexCorrupt(f"generations/{name}.json lacks or garbles {error}", hint=VERIFY_HINT) from error


def _from_document(document: dict[str, Any]) -> Generation:
    generation = Generation(
        number=int(document["number"]),
        parent=document["parent"],
        created=float(document["created"]),
        program=str(document["program"]),
        roots=tuple(Root(r["id"], r["path"], r["kind"], r["options"]) for r in document["roots"]),
        spaces={_space(key): Space(str(s["model"]), int(s["dim"])) for key, s in document["spaces"].items()},
        items_file=_inside(document["items"]["file"], "items", ".parquet"),
        item_count=int(document["items"]["count"]),
        parts=tuple(_part(part) for part in document["parts"]),
        tombstones_file=document["tombstones"] and _inside(document["tombstones"], "tombstones", ".bin"),
        codebooks={key: _inside(file, "codebooks", ".faiss") for key, file in document["codebooks"].items()},
        files=_stored(document["files"]),
        oldest=int(document["oldest"]),
        derived={_key(key): _inside(file, "derived", ".bin") for key, file in document["derived"].items()},
    )
    named = {generation.items_file, *generation.codebooks.values(), *generation.derived.values()}
    if generation.tombstones_file:
        named.add(generation.tombstones_file)
    if named != set(generation.files):
        raise ValueError("the list of files")
    if not {part.space_id for part in generation.parts} <= set(generation.spaces):
        raise ValueError("the spaces of the parts")
    return generation


def _part(document: dict[str, Any]) -> Part:
    if not TOKEN.fullmatch(document["id"]):
        raise ValueError(f"part {document['id']!r}")
    space_id = _space(document["space"])
    part = Part(
        document["id"],
        space_id,
        {Modality(key): int(count) for key, count in document["counts"].items()},
        {Modality(key): int(count) for key, count in document["dead"].items()},
        {Modality(key): str(kind) for key, kind in document["structures"].items()},
        _stored(document["files"]),
        {Modality(key): _words(words) for key, words in document["precisions"].items()},
    )
    expected = {"segments.parquet"}
    for modality in part.counts:
        expected |= {vector_name(space_id, modality), structure_name(space_id, modality)}
    if set(part.files) not in (expected, expected | {"facts.parquet"}):
        raise ValueError(f"the files of part {part.id}")
    if not set(part.kinds) == set(part.precisions) == set(part.counts):
        raise ValueError(f"the modalities of part {part.id}")
    return part


def _stored(files: Mapping[str, Any]) -> dict[str, StoredFile]:
    return {name: StoredFile(int(file["size"]), str(file["sha256"])) for name, file in files.items()}


def _words(words: list[str]) -> tuple[str, ...]:
    if not words or not all(WORD.fullmatch(word) for word in words):
        raise ValueError(f"precisions {words!r}")
    return tuple(words)


def _key(key: str) -> str:
    if not derived.KEY.fullmatch(key):
        raise ValueError(f"key {key!r}")
    return key


def _space(space_id: str) -> str:
    if not SPACE.fullmatch(space_id):
        raise ValueError(f"space {space_id!r}")
    return space_id


def _inside(path: str, folder: str, suffix: str) -> str:
    """`path` if it is <folder>/<token><suffix>: an index comes from outside and must not name other files."""
    top, _, name = path.partition("/")
    if top != folder or not name.endswith(suffix) or not TOKEN.fullmatch(name.removesuffix(suffix)):
        raise ValueError(f"path {path!r}")
    return path


def read_current(index_dir: Path) -> Generation:
    """The generation that CURRENT names; raises IndexNotFound where there is no index."""
    try:
        name = (index_dir / CURRENT).read_text("ascii").strip()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IndexNotFound(f"no index at {index_dir}", hint="make one with `triptych index DIR`") from error
    except UnicodeDecodeError as error:
        raise IndexCorrupt("CURRENT is not a generation's name", hint=VERIFY_HINT) from error
    return read_generation(index_dir, name)


def read_generation(index_dir: Path, name: str) -> Generation:
    """The generation of that name, such as `000007`; FileNotFoundError if it was pruned meanwhile."""
    if not GENERATION.fullmatch(name):
        raise IndexCorrupt(f"CURRENT names {name!r}, which is not a generation", hint=VERIFY_HINT)
    generation = from_json((index_dir / "generations" / f"{name}.json").read_bytes(), name=name)
    if generation.name != name:
        raise IndexCorrupt(f"generations/{name}.json is generation {generation.name}", hint=VERIFY_HINT)
    return generation
