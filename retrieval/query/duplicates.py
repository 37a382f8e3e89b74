"""Files that are the same or nearly the same, as groups: what `triptych duplicates` lists.

Reads an index and gives data; nothing is printed here, and no file is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from indexer.types import Item, Member, Modality, Source

if TYPE_CHECKING:
    from indexer.snapshot import Snapshot
    from indexer.twins import Twins


@dataclass(frozen=True, slots=True)
class DuplicateFile:
    """One file of a group."""

    path: str  # absolute; undecodable bytes as os.fsdecode leaves them
    item_id: str
    size: int  # bytes
    content_hash: bytes  # equal for exact copies
    width: int | None = None  # pixels; None where the index does not know
    height: int | None = None
    seconds: float | None = None  # of a sound

    @property
    def order(self) -> tuple[float, int, int, str]:
        """The best of several is the least by this: most pixels or longest, then largest, then by path.

        Of equal ones the shorter name comes first: copies are named after what they are copies of.
        """
        extent = (self.width or 0) * (self.height or 0) or self.seconds or 0.0
        return -extent, -self.size, len(self.path.rpartition("/")[2]), self.path


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Files of one modality that show, sound or say the same; two at the least."""

    modality: Modality
    files: tuple[DuplicateFile, ...]  # the best first

    @property
    def best(self) -> DuplicateFile:
        """The one to keep."""
        return self.files[0]

    @property
    def exact(self) -> bool:
        """Whether all are the same, byte for byte."""
        return len({file.content_hash for file in self.files}) == 1


def duplicate_groups(
    snapshot: Snapshot, twins: Twins | None, *, modalities: Sequence[Modality] = ()
) -> list[DuplicateGroup]:
    """Groups of two files or more, the largest first, then by the best one's path.

    Without `twins` only exact copies are found. A file that several roots cover counts once; captions and
    texts inside a manifest are no files of their own.
    """
    found = []
    items = snapshot.item_list()
    for modality in modalities or tuple(Modality):
        facts: Mapping[bytes, _Extent] | None = None
        for own in _members(items, twins, modality):
            if facts is None:
                facts = _extents(snapshot, modality)
            files = {file.path: file for file in (_file(*one, snapshot, facts) for one in own)}
            if len(files) > 1:
                ordered = sorted(files.values(), key=lambda file: file.order)
                found.append(DuplicateGroup(modality, tuple(ordered)))
    return sorted(found, key=lambda group: (-len(group.files), group.modality, group.best.path))


_Extent = tuple[int | None, int | None, float | None]  # width, height, seconds


def _members(
    items: Sequence[Item], twins: Twins | None, modality: Modality
) -> Iterable[list[tuple[Item, Member]]]:
    """Files of a modality, grouped; only groups of two and more."""
    groups: dict[object, list[tuple[Item, Member]]] = {}
    for item in items:
        for member in item.members:
            if (
                member.modality is not modality
                or member.source is not Source.FILE
                or member.content_hash is None
                or member.path is None
                or member.error is not None
            ):
                continue
            number = twins.group(member.content_hash, modality) if twins else None
            key = member.content_hash if number is None else number
            groups.setdefault(key, []).append((item, member))
    return [own for own in groups.values() if len(own) > 1]


def _file(item: Item, member: Member, snapshot: Snapshot, facts: Mapping[bytes, _Extent]) -> DuplicateFile:
    root = snapshot.roots.get(item.root_id)
    path = os.path.join(root.base if root else "", member.path or "")  # noqa: PTH118 - bytes stay as they are
    extent = facts.get(member.content_hash or b"", (None, None, None))
    return DuplicateFile(path, item.id, member.size, member.content_hash or b"", *extent)


def _extents(snapshot: Snapshot, modality: Modality) -> dict[bytes, _Extent]:
    """How large each picture, or how long each sound is, as far as the index knows."""
    found: dict[bytes, _Extent] = {}
    names = ["content_hash", "end", "width", "height", "duration"]
    for place, part in enumerate(snapshot.generation.parts):
        if part.space_id != snapshot.space_id or not part.counts.get(modality):
            continue
        table = snapshot.segment_columns(place, names)  # without those that it does not keep
        table = table.slice(part.offset(modality), part.counts[modality])
        columns = {name: table[name].to_pylist() for name in table.column_names}
        nothing = [None] * len(table)
        for content_hash, end, width, height, seconds in zip(
            *(columns.get(name, nothing) for name in names), strict=True
        ):
            seen = found.get(content_hash, (None, None, None))
            longest = max(seen[2] or 0.0, seconds or end or 0.0) if modality is Modality.AUDIO else 0.0
            found[content_hash] = (width, height, longest or None)
    return found
