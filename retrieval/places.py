"""Which index a command means: the user's registry of indexes, and the rules that pick one.

An index that nobody registered is opened only when it is named: a folder from outside may hold one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import ConfigError, IndexNotFound
from indexer.fsio import write_atomic
from retrieval.config import data_dir
from retrieval.home import expanded

INDEX_NAME = ".triptych"
LOCK_TIMEOUT_S = 10.0  # the lock is held for the moment of a write


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered index: where it is, what it covers, when it was last written."""

    path: Path
    roots: tuple[Path, ...]
    used: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Choice:
    """The index a command will use, and why, in words to show."""

    path: Path
    why: str


def entries() -> list[Entry]:
    """Every registered index, the most recently written first."""
    file = data_dir() / "indexes.json"
    if not file.is_file():
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        found = [Entry(Path(r["path"]), tuple(map(Path, r["roots"])), float(r["used"])) for r in rows]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{file} cannot be read",
            hint="remove it and run `triptych index DIR` again; the indexes themselves are safe",
        ) from None
    return sorted(found, key=lambda entry: (-entry.used, str(entry.path)))


def register(index: Path, roots: Sequence[Path]) -> None:
    """Add an index, or refresh what it covers and when it was written. Forgets indexes that are gone.

    ConfigError where the registry is damaged, OSError where it cannot be written.
    """
    from filelock import FileLock

    folder = data_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "indexes.lock", timeout=LOCK_TIMEOUT_S):
        path = index.absolute()
        kept = [entry for entry in entries() if entry.path != path and (entry.path / "CURRENT").exists()]
        kept.insert(0, Entry(path, tuple(root.absolute() for root in roots), time.time()))
        rows = [
            {"path": str(entry.path), "roots": [str(root) for root in entry.roots], "used": entry.used}
            for entry in kept
        ]
        write_atomic(folder / "indexes.json", json.dumps(rows, indent=1).encode())


def for_writing(sources: Sequence[Path], named: Path | None) -> Path:
    """Where `triptych index SOURCES` writes: the named place, or `.triptych` in the first source."""
    if named is not None:
        return _inside(named)
    first = sources[0]
    return (first.parent if first.is_file() else first) / INDEX_NAME


def for_reading(named: Path | None, setting: Path | None, *, here: Path | None = None) -> Choice:
    """The named index, else the setting's, else the nearest one over this folder, else the latest.

    IndexNotFound says how to make one.
    """
    for path, why in ((named, "--index"), (setting, "TRIPTYCH_INDEX or the configuration file")):
        if path is not None:
            return _existing(path, why)
    here = (here or Path.cwd()).absolute()
    known = [entry for entry in entries() if (entry.path / "CURRENT").exists()]
    over = [(len(root.parts), entry) for entry in known for root in entry.roots if _covers(root, here)]
    if over:
        return Choice(max(over, key=lambda pair: pair[0])[1].path, "it covers this folder")
    if known:
        return Choice(known[0].path, "the most recently written index")
    raise IndexNotFound("there is no index yet", hint="make one with `triptych index DIR`")


def _covers(root: Path, here: Path) -> bool:
    return here == root or root in here.parents


def _inside(path: Path) -> Path:
    """The index that a path names: itself, or the `.triptych` in it."""
    path = expanded(path).absolute()
    if not (path / "CURRENT").exists() and (path / INDEX_NAME / "CURRENT").exists():
        return path / INDEX_NAME
    return path


def _existing(path: Path, why: str) -> Choice:
    inside = _inside(path)
    if not (inside / "CURRENT").exists():
        raise IndexNotFound(
            f"{path} (from {why}) holds no index", hint=f"make one with `triptych index DIR --index {path}`"
        )
    return Choice(inside, why)
