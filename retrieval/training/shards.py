"""WebDataset shards: tar files of samples, unpacked once into the cache and read from there.

A sample is the members that share a name up to the first dot: 0001.jpg, 0001.txt, 0001.json. Only plain tar
files on this machine are opened, with tarfile; nothing in one is ever run, unpickled or fetched. Refused are
links, devices, names that lead out of the folder, sparse members, pickles by their name, and NumPy arrays
that hold one.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from indexer.errors import ManifestError, MediaError, TrainingError
from indexer.fsio import fsync_dir, hash_bytes
from indexer.manifest import as_text, well_formed
from indexer.media.kinds import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from indexer.media.text import MAX_BYTES as TEXT_BYTES
from indexer.media.text import decode_text
from retrieval.training.rows import RowCollector, Said, is_none, parse_split
from retrieval.training.types import PairSet

MEDIA_BYTES = 1 << 30  # of one picture or sound
MAX_SHARDS = 100_000  # that a pattern may stand for
BLOCK = tarfile.BLOCKSIZE
READ = 1 << 20
FORMAT = 1  # of what is unpacked; counts changes of it
ROWS = "rows.json"
PICKLED = frozenset(
    [".pyd", ".pkl", ".pickle", ".pck", ".pth", ".pt", ".ckpt", ".joblib", ".dill", ".cloudpickle"]
)
_OBJECTS = re.compile(rb"\|O")  # NumPy's type of Python objects, as an array's header writes it
_TEXTS = frozenset([".txt", ".text", ".caption"])
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(name: str) -> bool:
    """Whether a name stands for several shards: shards-{000..012}.tar, {a,b}.tar."""
    return any(".." in match or "," in match for match in _BRACES.findall(name))


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for, in order. ManifestError for one that cannot be understood."""
    pieces: list[list[str]] = []
    at = 0
    for match in _BRACES.finditer(pattern):
        pieces += [[pattern[at : match.start()]], _choices(match[1], pattern)]
        at = match.end()
    pieces.append([pattern[at:]])
    count = 1
    for piece in pieces:
        count *= len(piece)
    if count > MAX_SHARDS:
        raise ManifestError(f"{pattern} stands for {count} shards, at most {MAX_SHARDS} are read")
    return ["".join(parts) for parts in itertools.product(*pieces)]


def _choices(inside: str, pattern: str) -> list[str]:
    if match := _RANGE.fullmatch(inside):
        first, last = int(match[1]), int(match[2])
        if first > last or last - first >= MAX_SHARDS:
            raise ManifestError(f"{pattern}: {{{inside}}} is no range", hint="write it as {000..012}")
        width = len(match[1]) if match[1].startswith("0") else 0
        return [f"{number:0{width}d}" for number in range(first, last + 1)]
    if "," in inside and ".." not in inside:
        return inside.split(",")
    raise ManifestError(f"{pattern}: {{{inside}}} cannot be understood", hint="write {000..012} or {a,b}")


def shards_in(folder: Path) -> list[Path]:
    """The tar files that lie in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".tar" and path.is_file())


def read_shards(name: str, *, cache: Path) -> PairSet:
    """The samples of one tar file, of a pattern's or of a folder's; media are unpacked below `cache`/shards.

    A sample's fields: one picture (.jpg, .png, .webp ...), one sound (.wav, .flac, .ogg, .mp3 ...), texts
    (.txt, .caption), .cls (a label), .json ("caption", "captions" or "text", "label", "group", "split").
    Others are not used. A row's id is its shard's name and its key. Raises ManifestError for a shard that is
    missing, broken off or refused, TrainingError where the cache cannot be written.
    """
    shards = _shards(name)
    folder = Path(os.path.abspath(cache)) / "shards"  # noqa: PTH100 - links stay as they are
    collector = RowCollector(name, str(folder))
    top = os.path.commonpath([str(shard.parent) for shard in shards])
    unused: set[str] = set()
    for shard in shards:
        unpacked = _unpacked(shard, folder)
        called = os.path.relpath(shard.with_suffix(""), top)
        for sample in unpacked["samples"]:
            _add(collector, shard, called, sample)
        for where, why in unpacked["problems"]:
            collector.problem(f"{shard.name}, {where}", why)
        unused |= set(unpacked["unused"])
    if unused:
        collector.notes.append(f"members not used: {', '.join(sorted(unused))}")
    return collector.finish(what="samples")


def _shards(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return [Path(os.path.realpath(shard)) for shard in shards_in(path)]
    names = [name] if path.exists() else expand(name)
    missing = [one for one in names if not Path(one).is_file()]
    if missing:
        raise ManifestError(
            f"{len(missing)} of {len(names)} shards of {name} are not there; the first is {missing[0]}",
            hint="correct the range in braces, or bring the missing files",
        )
    return [Path(os.path.realpath(one)) for one in names]


def _add(collector: RowCollector, shard: Path, called: str, sample: Mapping[str, Any]) -> None:
    try:
        split = parse_split(sample["split"])
    except ValueError as error:
        raise ManifestError(f"{shard}, {sample['key']}.json: {error}", hint="pack the shard anew") from None
    collector.add(
        Said(
            f"{shard.name}, {sample['key']}",
            image=sample["image"],
            texts=tuple(sample["texts"]),
            audio=sample["audio"],
            key=f"{called}/{sample['key']}",
            label=sample["label"],
            group=sample["group"],
            split=split,
        )
    )


# One shard: unpacked beside, then renamed, so that a folder that is there is whole


def _unpacked(shard: Path, folder: Path) -> dict[str, Any]:
    """What a shard holds, from the cache or unpacked into it now."""
    status = shard.stat()
    said = f"{FORMAT} {shard} {status.st_size} {status.st_mtime_ns}"
    target = folder / hash_bytes(said.encode("utf-8", "surrogateescape")).hex()
    try:
        return json.loads((target / ROWS).read_bytes())
    except (OSError, ValueError):
        pass
    beside = folder / f".{target.name}.{secrets.token_hex(6)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < status.st_size:
            raise TrainingError(
                f"{shard} has {status.st_size >> 20} MB to unpack, {folder} has room for {free >> 20} MB",
                hint="free space there, or set TRIPTYCH_HOME to another folder",
            )
        beside.mkdir()
        found = _Unpacking(shard, beside, target.name).run()
        (beside / ROWS).write_text(json.dumps(found))
        shutil.rmtree(target, ignore_errors=True)  # one without its rows
        try:
            beside.rename(target)
        except OSError:
            if not (target / ROWS).exists():  # else another run was faster, with the same result
                raise
        fsync_dir(folder)
    except OSError as error:
        raise TrainingError(
            f"{shard} cannot be unpacked into {folder}: {error.strerror or error}",
            hint="free space there, or set TRIPTYCH_HOME to another folder",
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return found


@dataclass(slots=True)
class _Sample:
    """What is known of one sample; `fields` are the endings that it had."""

    key: str
    image: str | None = None
    audio: str | None = None
    texts: dict[str, None] = field(default_factory=dict)
    label: str | None = None
    group: str | None = None
    split: str | None = None
    fields: set[str] = field(default_factory=set)

    def said(self) -> dict[str, Any]:
        texts: dict[str, str] = {}  # a caption is often both in the .txt and the .json, with other blanks
        for text in self.texts:
            texts.setdefault(" ".join(text.split()), text)
        return {
            "key": self.key,
            "image": self.image,
            "audio": self.audio,
            "texts": list(texts.values()),
            "label": self.label,
            "group": self.group,
            "split": self.split,
        }


class _Unpacking:
    """One pass over a shard."""

    def __init__(self, shard: Path, target: Path, called: str) -> None:
        self.shard = shard
        self.target = target
        self.called = called  # the folder's name once it is whole
        self.samples: dict[str, _Sample] = {}
        self.problems: list[tuple[str, str]] = []
        self.unused: set[str] = set()
        self.count = 0

    def run(self) -> dict[str, Any]:
        try:
            with tarfile.open(self.shard, "r:") as tar:
                for member in tar:
                    self._member(tar, member)
                end = tar.offset
        except (tarfile.TarError, EOFError, UnicodeError) as error:
            raise ManifestError(
                f"{self.shard} is no whole tar file: {error}",
                hint="bring it again; compressed ones (.tar.gz) must be unpacked to .tar first",
            ) from error
        _check_end(self.shard, end)
        return {
            "samples": [sample.said() for sample in self.samples.values()],
            "problems": self.problems,
            "unused": sorted(self.unused),
        }

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\0" in member.name:
            raise self._refused(member, "its name leads out of the folder")
        if member.isdir():
            return
        if not member.isreg() or member.issparse():
            raise self._refused(member, "links, devices and sparse files are not read")
        if path.suffix.lower() in PICKLED:
            raise self._refused(member, "a pickle can run anything, so none is read")
        if path.name.startswith(".") or "." not in path.name:
            return
        stem, _, ending = path.name.partition(".")
        key = well_formed(str(path.with_name(stem)))
        file = tar.extractfile(member)
        assert file is not None, "a regular file"
        self._field(key, f".{ending.lower()}", member, file)

    def _field(self, key: str, ending: str, member: tarfile.TarInfo, file: IO[bytes]) -> None:
        if ending == ".npy" and _OBJECTS.search(file.read(READ)):
            raise self._refused(member, "its array holds Python objects, which is a pickle; none is read")
        media = "image" if ending in IMAGE_SUFFIXES else "audio" if ending in AUDIO_SUFFIXES else None
        known = media or ending in _TEXTS or ending in (".cls", ".json")
        if not known:
            self.unused.add(ending)
            return
        sample = self.samples.setdefault(key, _Sample(key))
        if ending in sample.fields or (media and getattr(sample, media)):
            raise self._refused(member, f"the sample {key!r} has two such members")
        limit = MEDIA_BYTES if media else TEXT_BYTES
        if member.size > limit:
            self.problems.append((member.name, f"{member.size} bytes, at most {limit} are read"))
            return
        sample.fields.add(ending)
        if media:
            setattr(sample, media, self._store(ending, file))
            return
        data = file.read()
        try:
            self._read(sample, ending, data)
        except (MediaError, ValueError, RecursionError) as error:
            self.problems.append((member.name, str(error)))

    def _store(self, ending: str, file: IO[bytes]) -> str:
        """Write a medium; its path below the folder of all shards."""
        name = f"{self.count:08d}{ending}"
        self.count += 1
        with open(self.target / name, "wb") as out:
            shutil.copyfileobj(file, out, READ)
        return f"{self.called}/{name}"

    def _read(self, sample: _Sample, ending: str, data: bytes) -> None:
        if ending == ".json":
            _take_json(sample, json.loads(data.decode("utf-8-sig")))
        elif ending == ".cls":
            sample.label = sample.label or decode_text(data).strip()
        else:
            sample.texts[decode_text(data).strip()] = None

    def _refused(self, member: tarfile.TarInfo, why: str) -> ManifestError:
        return ManifestError(
            f"{self.shard}: {member.name!r} is refused: {why}", hint="pack the shard anew without it"
        )


def _take_json(sample: _Sample, said: Any) -> None:
    if not isinstance(said, dict):
        raise ValueError(f"a JSON object was expected, {type(said).__name__} came")
    for name in ("caption", "text", "captions", "texts"):
        value = said.get(name)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.strip():
                sample.texts[well_formed(text.strip())] = None
    for name in ("label", "group", "split"):
        if not is_none(said.get(name)):
            setattr(sample, name, well_formed(as_text(said[name])).strip())


def _check_end(shard: Path, end: int) -> None:
    """ManifestError for a file that lacks a tar's end, two blocks of zeros, or has data behind it.

    tarfile takes a file that breaks off between two members, or a broken header, for the end.
    """
    with shard.open("rb") as file:
        file.seek(end)
        rest = file.read(2 * BLOCK)
        if len(rest) < BLOCK or any(rest):
            raise ManifestError(
                f"{shard} is broken off or damaged after {end} bytes: a tar file's end is missing",
                hint="bring it again",
            )
        while block := file.read(READ):
            if any(block):
                raise ManifestError(
                    f"{shard} has data behind its end, at {file.tell()} bytes or before",
                    hint="tar files cannot be joined end to end: give them as several shards",
                )
