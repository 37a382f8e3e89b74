"""What may be removed from an index: old generations, files that none names, staging of dead writers.

Runs under the commit lock. Only names that this program gives are touched, whatever else lies in the folder.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from indexer.errors import IndexCorrupt, IndexTooNew
from indexer.fsio import Lease
from indexer.generation import CURRENT, GENERATION, TOKEN, Generation, read_current, read_generation

KEEP_GENERATIONS = 4  # the current one and those before it
GRACE_S = 3600.0  # how long an older one is kept for readers that opened it
STORED = {  # folder: suffix
    "parts": "",
    "items": ".parquet",
    "tombstones": ".bin",
    "codebooks": ".faiss",
    "derived": ".bin",
}


def kept_generations(index_dir: Path, current: Generation) -> list[Generation]:
    """The current generation and older ones that are still whole, newest first."""
    kept = [current]
    for number in sorted(_numbers(index_dir), reverse=True):
        if number < current.number:
            with contextlib.suppress(IndexCorrupt, IndexTooNew, OSError):
                kept.append(read_generation(index_dir, f"{number:06d}"))
    return kept


def clean(index_dir: Path) -> None:
    """Remove what no kept generation names. Without a current generation, only staging of dead writers."""
    if not (index_dir / CURRENT).exists():
        _clean_staging(index_dir)
        return
    current = read_current(index_dir)
    since = time.time() - GRACE_S
    kept = [
        generation
        for generation in kept_generations(index_dir, current)[:KEEP_GENERATIONS]
        if generation is current or (generation.created >= since and generation.number >= current.oldest)
    ]
    names = {generation.name for generation in kept}
    for number in _numbers(index_dir):
        if f"{number:06d}" not in names:  # a later one than current was never committed
            (index_dir / "generations" / f"{number:06d}.json").unlink(missing_ok=True)
    named = {"/".join(Path(path).parts[:2]) for generation in kept for path in generation.all_files}
    for path in _stored(index_dir):
        if path.relative_to(index_dir).as_posix() not in named:
            _remove(path)
    _clean_leftovers(index_dir)
    _clean_staging(index_dir)


def _numbers(index_dir: Path) -> list[int]:
    names = [path.stem for path in (index_dir / "generations").glob("*.json")]
    return [int(name) for name in names if GENERATION.fullmatch(name)]


def _stored(index_dir: Path) -> Iterator[Path]:
    """Everything that this program stored, by its name."""
    for folder, suffix in STORED.items():
        if (index_dir / folder).is_dir():
            for path in sorted((index_dir / folder).iterdir()):
                if path.name.endswith(suffix) and TOKEN.fullmatch(path.name.removesuffix(suffix)):
                    yield path


def orphans(index_dir: Path, kept: list[Generation]) -> list[str]:
    """Stored files and folders that no kept generation names."""
    named = {"/".join(Path(path).parts[:2]) for generation in kept for path in generation.all_files}
    paths = (path.relative_to(index_dir).as_posix() for path in _stored(index_dir))
    return [path for path in paths if path not in named]


def _clean_leftovers(index_dir: Path) -> None:
    """Half-written files of an atomic write whose process died; nobody else writes here under the lock."""
    for path in [*index_dir.glob(f".{CURRENT}.*"), *(index_dir / "generations").glob(".[0-9]*.json.*")]:
        path.unlink(missing_ok=True)


def _clean_staging(index_dir: Path) -> None:
    """Remove what dead writers staged. The lease of a live one cannot be had."""
    staging = index_dir / "staging"
    if not staging.is_dir():
        return
    for folder in sorted(staging.iterdir()):
        if TOKEN.fullmatch(folder.name) and folder.is_dir():
            lease = Lease(folder)
            if lease.acquire():
                _remove(folder)
                lease.release()


def _remove(path: Path) -> None:
    """Remove a file or a folder; what cannot be removed is an orphan for the next cleaning."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
