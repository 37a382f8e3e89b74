"""What is worked out from an index once its vectors are written: background scores, word lists, duplicates.

Such files lie in derived/, named by the generation under a key that says what they are of: a part, an item
table, or the whole index. None of them is needed to find anything: a reader does without one that is missing
or damaged, and the next update makes it again. What they hold is not known here; each kind is made by a
Derivation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from indexer.errors import StoreError

if TYPE_CHECKING:
    from indexer.generation import Generation, Part
    from indexer.snapshot import Snapshot

WHOLE = "index"  # the subject of what is of the whole index
MARK = b"TRIPTOLD"  # begins a file that says which contents it tells of
HASH_BYTES = 16
KEY = re.compile(r"[a-z][a-z0-9-]{0,31}(?:/[0-9a-z-]{1,64}){1,2}")


class Derivation(Protocol):
    """One thing that is worked out of an index, as one or more kinds of files."""

    def due(self, generation: Generation) -> bool:
        """Whether `derive` might give anything, told by the generation's keys alone."""
        ...

    def derive(self, snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
        """Keys with their contents, only those that the snapshot lacks or has out of date.

        The snapshot's own are read with `snapshot.derived(key)`. A content of no bytes removes the key.
        """
        ...


def key_of(kind: str, subject: str = WHOLE, detail: str = "") -> str:
    """The key of a file: its kind, the id of a part or of an item table, and what of that, if need be."""
    return "/".join((kind, subject, *([detail] if detail else [])))


def items_id(items_file: str) -> str:
    """The id of an item table, as a subject of keys."""
    return items_file.removeprefix("items/").removesuffix(".parquet")


def carried(
    derived: Mapping[str, str],
    parts: list[Part],
    items_file: str,
    *,
    purge: bool,
    keeps: Callable[[str], bool] | None = None,
) -> dict[str, str]:
    """What a new generation takes over from its parent: files of parts and items that it still has.

    Those of the whole index are taken over as they are, though out of date, as their makers start from them;
    where rows were removed for good, of which they may tell, only those files that `keeps` says do not.
    """
    subjects = {part.id for part in parts} | {items_id(items_file)} | (set() if purge else {WHOLE})

    def stays(key: str, file: str) -> bool:
        subject = key.split("/")[1]
        return subject in subjects or (purge and subject == WHOLE and keeps is not None and keeps(file))

    return {key: file for key, file in derived.items() if stays(key, file)}


def tells_of(data: bytes | memoryview, contents: Collection[bytes]) -> bool:
    """Whether a file of the whole index may tell of any of these contents; one that does not say may."""
    return bytes(data[: len(MARK)]) != MARK or not told(data)[0].isdisjoint(contents)


def telling(contents: Collection[bytes], payload: bytes) -> bytes:
    """A file of the whole index that says which contents, by their hashes, it tells of: see `told`.

    It is kept when other contents are forgotten, and goes with the first of its own.
    """
    hashes = b"".join(sorted(contents))
    return MARK + len(hashes).to_bytes(8, "little") + hashes + payload


def told(data: bytes | memoryview) -> tuple[frozenset[bytes], memoryview]:
    """The contents that a file of `telling` tells of, and its payload; StoreError where it is none."""
    view = memoryview(data)
    start = len(MARK) + 8
    size = int.from_bytes(view[len(MARK) : start], "little")
    if bytes(view[: len(MARK)]) != MARK or size % HASH_BYTES or start + size > len(view):
        raise StoreError("a derived file does not say what it tells of", hint="remove it and make it again")
    hashes = bytes(view[start : start + size])
    found = frozenset(hashes[i : i + HASH_BYTES] for i in range(0, size, HASH_BYTES))
    return found, view[start + size :]
