"""Take items out of an index, and their vectors and texts out of its files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from indexer.errors import CommitConflict
from indexer.generation import Root
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import Item, Source

_ATTEMPTS = 5


def forget(index_dir: Path, paths: Sequence[Path]) -> int:
    """How many items went. Each path names a root, a folder below one, or a file; none has to exist any more.

    A root that is named goes too. What is forgotten and still lies in a root that stays is found again by
    that root's next update. Content that another item has stays for that item. Raises IndexNotFound, and
    CommitConflict where other writers kept committing.
    """
    with Writer.open(index_dir) as writer:
        for _ in range(_ATTEMPTS):
            try:
                return _forget(writer, index_dir, paths)
            except CommitConflict:
                continue
    raise CommitConflict(
        f"other writers committed to {index_dir} first, {_ATTEMPTS} times",
        hint="wait until they are done and run this again",
    )


def _forget(writer: Writer, index_dir: Path, paths: Sequence[Path]) -> int:
    with Snapshot.open(index_dir) as snapshot:
        generation, roots, items = snapshot.generation, snapshot.roots, snapshot.item_list()
    prefixes = _named(paths)
    gone_roots = {root.id for root in roots.values() if _below(root.path, prefixes)}
    drop = {item.id for item in items if item.root_id in gone_roots or _is_named(item, roots, prefixes)}
    if not drop and not gone_roots:
        return 0
    generation = writer.compact(generation, drop=drop)  # first, so that what is to go is gone for certain
    if gone_roots:
        writer.commit(
            generation,
            roots=[root for root in generation.roots if root.id not in gone_roots],
            items=[item for item in items if item.id not in drop],
            spaces=generation.spaces,
        )
    return len(drop)


def _named(paths: Iterable[Path]) -> set[str]:
    """Absolute forms of each path: as it is written, and with the links on the way to it resolved.

    The path itself is not resolved, so that forgetting a link leaves what it points to.
    """
    found: set[str] = set()
    for path in paths:
        written = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow the last link
        parent, name = os.path.split(written)
        found |= {written, os.path.normpath(f"{os.path.realpath(parent)}/{name}")}
        if path.is_dir():
            found.add(os.path.realpath(path))
    return found


def _is_named(item: Item, roots: dict[str, Root], prefixes: set[str]) -> bool:
    """Whether one of an item's own files is named, or lies below a folder that is. Captions do not count."""
    root = roots.get(item.root_id)
    if root is None:
        return False
    base = root.path if root.kind == "folder" else os.path.dirname(root.path)  # noqa: PTH120
    return any(
        member.path is not None
        and member.source is Source.FILE
        and _below(
            os.path.normpath(f"{base}/{member.path}" if member.path[0] != "/" else member.path), prefixes
        )
        for member in item.members
    )


def _below(path: str, prefixes: set[str]) -> bool:
    """Whether a path is one of these or lies below one."""
    while path not in prefixes:
        shorter = path.rpartition("/")[0]
        if shorter in ("", path):
            return "/" in prefixes
        path = shorter
    return True
