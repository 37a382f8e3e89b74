"""What is on disk below a root: files of known kinds, ignore rules, captions beside media.

Nothing is opened here but folders and ignore files, and nothing is compared with an index: that is
diff.py's work. The rules, all of them:

- A file is taken when its name tells its modality (media/kinds.py) and it is a regular file or a link to
  one. Pipes, devices and sockets are skipped. Links to folders are not followed, so there are no loops.
- Names that begin with a dot are skipped, and so is the index itself wherever it lies.
- `.triptychignore` holds gitignore rules for its folder and below; a deeper file overrules a higher one,
  and what lies in an ignored folder cannot be brought back.
- A text file whose name is a picture's or sound's whole name plus `.txt`, `.md` or `.rst` (cow.jpg.txt), or
  else its stem plus one of these (cow.txt beside cow.jpg), is that medium's caption: the second member of
  its item, not an item. The endings are tried in that order. One text may caption a picture and a sound.
- A folder that cannot be listed, and a file that cannot be looked at, is unknown, never absent.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from indexer.errors import ConfigError
from indexer.fsio import hash_bytes
from indexer.media.kinds import modality_of
from indexer.types import Modality, Source

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".triptychignore"
CAPTION_SUFFIXES = (".txt", ".md", ".rst")
MANIFEST_SUFFIXES = (".parquet", ".csv", ".jsonl")

_NO_METADATA: Mapping[str, str] = {}
_Entry = tuple[str, Modality, int, int]  # name, modality, bytes, mtime_ns


class FoundMember(NamedTuple):
    """One medium as it lies on disk, or an inline text. A tuple, since there may be millions."""

    path: str | None  # relative to `Scan.base`, or absolute as a manifest gives it
    modality: Modality
    source: Source
    size: int  # bytes
    mtime_ns: int
    text: str | None = None  # inline text only
    content_hash: bytes | None = None  # known before reading for inline text only
    error: str | None = None  # why there is nothing to read, of a file that a manifest names


class FoundItem(NamedTuple):
    """One item as it lies on disk: a medium with its caption, or a manifest's row."""

    path: str  # of the first member, or the row's key
    members: tuple[FoundMember, ...]
    metadata: Mapping[str, str] = _NO_METADATA


@dataclass(frozen=True, slots=True)
class Scan:
    """A root as it was found. Items are sorted by path; the order does not depend on the file system."""

    root_id: str
    path: str  # the root's real path
    base: str  # the folder that member paths are relative to
    items: list[FoundItem] = field(default_factory=list)
    kind: str = "folder"  # or "manifest", or "file" for a single medium
    missing: bool = False  # the root itself is not there: everything below it is unknown
    unknown: frozenset[str] = frozenset()  # folders and files that could not be looked at; "" is the root
    problems: tuple[tuple[str, str], ...] = ()  # path or row, and why
    skipped: int = 0  # files of no known kind, pipes, devices, sockets
    empty: bool = False  # nothing at all lies in the folder, or no row in the manifest
    # of a manifest's rows whose files are not all there, by key: which row it is, and what it lacks
    away: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def root_id_of(path: str | os.PathLike[str]) -> str:
    """The id of a root, 32 hex digits: a hash of its real path."""
    return hash_bytes(os.fsencode(os.path.realpath(path))).hex()


def item_id_of(root_id: str, path: str) -> str:
    """The id of an item, 32 hex digits: a hash of its root's id and its relative path or row key."""
    return hash_bytes(root_id.encode() + b"\0" + path.encode("utf-8", "surrogateescape")).hex()


def is_manifest(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name says that it is a manifest."""
    return os.fspath(path).lower().endswith(MANIFEST_SUFFIXES)


def scan(root: Path, *, index_dir: Path | None = None) -> Scan:
    """What lies below a folder, or the one file that `root` names.

    A root that is not there gives a Scan with `missing` set. Raises ConfigError for a single file of no
    known kind.
    """
    real = os.path.realpath(root)
    try:
        status = os.stat(real)  # noqa: PTH116 - bytes-exact names stay str here
    except OSError as error:
        reason = "no such folder" if isinstance(error, FileNotFoundError) else _reason(error)
        return Scan(
            root_id_of(real),
            real,
            real,
            missing=True,
            unknown=frozenset({""}),
            problems=((real, f"{reason}: what the index knows of it is kept"),),
        )
    if not stat.S_ISDIR(status.st_mode):
        return _scan_file(real, status)
    return _Walk(real, os.path.realpath(index_dir) if index_dir else None).run()


def _scan_file(real: str, status: os.stat_result) -> Scan:
    base, name = str(Path(real).parent), Path(real).name
    modality = modality_of(name)
    if modality is None or not stat.S_ISREG(status.st_mode):
        raise ConfigError(
            f"{real!r} is not a picture, a sound or a text by its name",
            hint="name a folder, a media file, or a manifest that ends in .parquet, .csv or .jsonl",
        )
    files: list[_Entry] = [(name, modality, status.st_size, status.st_mtime_ns)]
    if modality is not Modality.TEXT:
        files += _captions_beside(base, name)
    items = [item for item in _pair("", files) if item.path == name]
    return Scan(root_id_of(real), real, base, items=items, kind="file")


def _captions_beside(base: str, name: str) -> list[_Entry]:
    found: list[_Entry] = []
    for stem in (name, _stem(name)):
        for suffix in CAPTION_SUFFIXES:
            try:
                status = os.stat(f"{base}/{stem}{suffix}")  # noqa: PTH116
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                found.append((stem + suffix, Modality.TEXT, status.st_size, status.st_mtime_ns))
    return found


class _Walk:
    """One walk of a folder tree, without recursion, so that depth is no matter."""

    def __init__(self, root: str, index_dir: str | None) -> None:
        self.root = root
        self.index_dir = index_dir
        self.items: list[FoundItem] = []
        self.unknown: dict[str, str] = {}  # relative path -> why
        self.skipped = 0
        self.empty = False

    def run(self) -> Scan:
        folders: list[tuple[str, _Rules]] = [("", ())]  # relative path ending in "/", rules above it
        while folders:
            prefix, rules = folders.pop()
            try:
                files, children, rules = self._list(prefix, rules)
            except OSError as error:
                if not (prefix and isinstance(error, FileNotFoundError)):  # else: removed since it was seen
                    self.unknown[prefix.rstrip("/")] = _reason(error)
                continue
            self.items += _pair(prefix, files)
            folders += [(f"{prefix}{name}/", rules) for name in children]
        self.items.sort(key=lambda item: item.path)
        return Scan(
            root_id_of(self.root),
            self.root,
            self.root,
            items=self.items,
            unknown=frozenset(self.unknown),
            problems=tuple(
                (f"{self.root}/{path}".rstrip("/"), f"{why}: what the index knows of it is kept")
                for path, why in sorted(self.unknown.items())
            ),
            skipped=self.skipped,
            empty=self.empty,
        )

    def _list(self, prefix: str, rules: _Rules) -> tuple[list[_Entry], list[str], _Rules]:
        """Files and folders of one folder that are to be taken, and the rules for what lies below."""
        files: list[_Entry] = []
        folders: list[str] = []
        folder = f"{self.root}/{prefix}" if prefix else self.root
        with os.scandir(folder) as listing:
            entries = list(listing)
        if not prefix:
            self.empty = not any(entry.name != ".triptych" for entry in entries)
        if any(entry.name == IGNORE_FILE for entry in entries):
            rules = (*rules, (len(prefix), _read_rules(folder)))
        ignored = _matcher(rules)
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            if entry.is_dir(follow_symlinks=False):
                if not (ignored and ignored(f"{prefix}{name}/")) and not self._is_index(prefix, name):
                    folders.append(name)
            elif (modality := modality_of(name)) is None:
                self.skipped += 1
            elif not (ignored and ignored(prefix + name)):
                self._take(entry, prefix, modality, files)
        return files, folders, rules

    def _is_index(self, prefix: str, name: str) -> bool:
        return self.index_dir is not None and f"{self.root}/{prefix}{name}" == self.index_dir

    def _take(self, entry: os.DirEntry[str], prefix: str, modality: Modality, files: list[_Entry]) -> None:
        try:
            status = entry.stat()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # vanished since, or a link to nothing
                self.skipped += 1
            else:
                self.unknown[prefix + entry.name] = _reason(error)
            return
        if stat.S_ISREG(status.st_mode):
            files.append((entry.name, modality, status.st_size, status.st_mtime_ns))
        else:
            self.skipped += 1


def _pair(prefix: str, files: Sequence[_Entry]) -> list[FoundItem]:
    """Items of one folder's files: captions joined to their media, all else alone."""
    texts = {entry[0]: entry for entry in files if entry[1] is Modality.TEXT}
    captions = _caption_names(texts) if texts and len(texts) < len(files) else {}
    used: set[str] = set()
    items: list[FoundItem] = []
    for name, modality, size, mtime_ns in files:
        if modality is Modality.TEXT:
            continue
        path = prefix + name
        member = FoundMember(path, modality, Source.FILE, size, mtime_ns)
        caption = captions.get(name) or captions.get(_stem(name)) if captions else None
        if caption is None:
            items.append(FoundItem(path, (member,)))
            continue
        used.add(caption)
        _, _, size, mtime_ns = texts[caption]
        beside = FoundMember(prefix + caption, Modality.TEXT, Source.CAPTION, size, mtime_ns)
        items.append(FoundItem(path, (member, beside)))
    for name, (_, modality, size, mtime_ns) in texts.items():
        if name not in used:
            path = prefix + name
            items.append(FoundItem(path, (FoundMember(path, modality, Source.FILE, size, mtime_ns),)))
    return items


def _caption_names(texts: Mapping[str, _Entry]) -> dict[str, str]:
    """What a text file may caption, by name without its ending, to the text file's name."""
    best: dict[str, tuple[int, str]] = {}
    for name in texts:
        stem, suffix = _stem(name), name[len(_stem(name)) :].lower()
        if suffix in CAPTION_SUFFIXES:
            rank = (CAPTION_SUFFIXES.index(suffix), name)
            best[stem] = min(best.get(stem, rank), rank)
    return {stem: name for stem, (_, name) in best.items()}


def _stem(name: str) -> str:
    dot = name.rfind(".")
    return name[:dot] if dot > 0 else name


_Rules = tuple[tuple[int, "GitIgnoreSpec"], ...]  # length of the folder's prefix, its rules; outermost first


def _read_rules(folder: str) -> GitIgnoreSpec:
    """A folder's ignore file. Raises OSError: a folder whose rules cannot be read is unknown."""
    from pathspec import GitIgnoreSpec

    with open(f"{folder.rstrip('/')}/{IGNORE_FILE}", "rb") as file:
        lines = file.read().decode("utf-8", "surrogateescape").split("\n")
    try:
        return GitIgnoreSpec.from_lines(line.removesuffix("\r") for line in lines)
    except ValueError as error:
        raise ConfigError(
            f"{folder}/{IGNORE_FILE}: {error}", hint="its lines follow the rules of .gitignore"
        ) from error


def _matcher(rules: _Rules) -> Callable[[str], bool] | None:
    """Whether a path (folders end in '/') is ignored: the deepest file with a verdict decides, as in git."""
    if not rules:
        return None

    def ignored(path: str) -> bool:
        for skip, spec in reversed(rules):
            verdict = spec.check_file(path[skip:]).include
            if verdict is not None:
                return verdict
        return False

    return ignored


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
