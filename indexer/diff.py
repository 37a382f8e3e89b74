"""Items on disk against items known: what to keep, what to look into, what is gone, what cannot be told.

Pure functions over a Scan and the item table; no file is opened. The order of evidence: same path, size and
mtime_ns means unchanged; otherwise the file is hashed (hashing.py), and the same content hash means touched.
A new item whose content an item that is gone had was moved; whose content another item has, was copied.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from indexer.errors import PruneRefused
from indexer.scan import FoundItem, FoundMember, Scan, item_id_of
from indexer.types import Item, Member, Modality

DIRTY_BEFORE_NS = 2_000_000_000  # ticks of file systems are up to 2 s long (FAT)
DIRTY_AFTER_NS = 3_600_000_000_000  # a clock ahead by more than this is a stamp, not a tick
PRUNE_SHARE = 5  # more than one item in so many gone from a root needs consent
PRUNE_FREE = 10  # as many may always go


class Change(StrEnum):
    """What became of an item since the index last looked."""

    UNCHANGED = "unchanged"
    TOUCHED = "touched"  # other size, time or metadata, same contents
    CHANGED = "changed"
    ADDED = "added"
    MOVED = "moved"
    COPIED = "copied"
    DELETED = "deleted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Pending:
    """An item that is new or looks changed: its contents must be hashed before anything can be said."""

    root_id: str
    base: str  # the folder that member paths are relative to
    found: FoundItem
    known: Item | None
    root: str = ""  # the root's path

    @property
    def id(self) -> str:
        return self.known.id if self.known else item_id_of(self.root_id, self.found.path)

    def trusted_hash(self, member: FoundMember) -> bytes | None:
        """The member's content hash where size and time vouch for it, so that it need not be read."""
        if member.content_hash is not None or self.known is None:
            return member.content_hash
        for old in self.known.members:
            if (old.path, old.modality, old.source) == (member.path, member.modality, member.source):
                return old.content_hash if _same_file(member, old) else None
        return None


@dataclass(slots=True)
class RootDiff:
    """One root's items, sorted by what is to be done about them."""

    scan: Scan
    kept: list[Item] = field(default_factory=list)  # unchanged
    unknown: list[Item] = field(default_factory=list)  # kept as they were, since nothing can be told
    pending: list[Pending] = field(default_factory=list)
    gone: list[Item] = field(default_factory=list)  # no longer there: deleted, or moved
    skipped: dict[Modality, int] = field(default_factory=dict)  # members for which there is no encoder

    @property
    def known(self) -> int:
        """How many items the index had of this root."""
        old = sum(1 for pending in self.pending if pending.known)
        return len(self.kept) + len(self.unknown) + len(self.gone) + old


def compare(
    scan: Scan,
    known: Iterable[Item],
    *,
    modalities: Collection[Modality] = tuple(Modality),
    retry_failed: bool = False,
    prune: bool = False,
) -> RootDiff:
    """A root's scan against what the index knows of that root.

    `modalities` are those that can be encoded; media of others are left as the index has them, and are not
    new items. An item that failed is looked at again when it changed, when its content could not even be
    read, or with `retry_failed`. A root that is not there, or one with nothing in it that had items (as an
    unmounted volume looks), makes its items unknown; `prune` takes the empty root at its word. So is a
    manifest's row whose file was read once and is not there now.
    """
    diff = RootDiff(scan)
    if scan.missing or (scan.empty and not prune):
        diff.unknown = list(known)
        return diff
    old = {item.path: item for item in known}
    for found in scan.items:
        item = old.pop(found.path, None)
        if (
            item is not None
            and _is_same(found, item)
            and not (retry_failed and any(member.error for member in item.members))
        ):
            diff.kept.append(item)
        elif item is not None and (
            (scan.unknown and _is_unknown(item, scan.unknown)) or (scan.away and _would_lose(found, item))
        ):
            diff.unknown.append(item)
        else:
            _look_into(diff, found, item, modalities)
    if not scan.unknown:
        diff.gone = list(old.values())
        return diff
    for item in old.values():
        (diff.unknown if _is_unknown(item, scan.unknown) else diff.gone).append(item)
    return diff


def _look_into(diff: RootDiff, found: FoundItem, item: Item | None, modalities: Collection[Modality]) -> None:
    without = [member.modality for member in found.members if member.modality not in modalities]
    for modality in without:
        diff.skipped[modality] = diff.skipped.get(modality, 0) + 1
    if without:
        if item is not None and any(member.modality in without for member in item.members):
            diff.unknown.append(item)
            return
        if found.members[0].modality in without:  # a caption alone is no item
            return
        members = tuple(member for member in found.members if member.modality in modalities)
        found = found._replace(members=members)
        if item is not None and _is_same(found, item):
            diff.kept.append(item)
            return
    diff.pending.append(Pending(diff.scan.root_id, diff.scan.base, found, item, diff.scan.path))


def _is_same(found: FoundItem, item: Item) -> bool:
    members, old = found.members, item.members
    if len(members) != len(old) or found.metadata != item.metadata:
        return False
    return all(map(_same_member, members, old))


def _same_member(member: FoundMember, old: Member) -> bool:
    return (
        member.path == old.path
        and member.modality is old.modality
        and member.source is old.source
        and _same_file(member, old)
    )


def _same_file(member: FoundMember, old: Member) -> bool:
    if member.error is not None:  # it was not there the last time either
        return old.content_hash is None and old.error == member.error
    if old.content_hash is None:  # it could not be read, or changed while it was
        return False
    if member.content_hash is not None:  # inline text
        return member.content_hash == old.content_hash
    return member.mtime_ns == old.mtime_ns and member.size == old.size


def _would_lose(found: FoundItem, item: Item) -> bool:
    """Whether a file that is not there now is one whose content the index has: its volume may be away."""
    there = {old.modality for old in item.members if old.path is not None and old.content_hash is not None}
    return any(member.error is not None and member.modality in there for member in found.members)


def _is_unknown(item: Item, unknown: Collection[str]) -> bool:
    """Whether an item, one of its files or a folder above them could not be looked at."""
    if "" in unknown or item.path in unknown:
        return True
    for member in item.members:
        path = member.path or ""
        while path:
            if path in unknown:
                return True
            path = path.rpartition("/")[0]
    return False


def is_dirty(mtime_ns: int, read_ns: int) -> bool:
    """Whether a file was written so shortly before it was read that a later write may leave the same time.

    The time of such a file is kept negated, so that it never looks unchanged.
    """
    return read_ns - DIRTY_BEFORE_NS <= mtime_ns <= read_ns + DIRTY_AFTER_NS


def _was_dirty(found: FoundItem, item: Item) -> bool:
    """Whether an item was looked into only because its files had just been written the last time."""
    settled = [
        replace(old, mtime_ns=new.mtime_ns) if old.mtime_ns < 0 else old
        for new, old in zip(found.members, item.members, strict=True)
    ]
    return _is_same(found, replace(item, members=tuple(settled)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of each pending item, in order, and which of those that are gone were only moved."""

    changes: list[Change]
    moved: frozenset[str]  # ids of the items at the old places


def judge(
    pending: Sequence[Pending],
    hashes: Mapping[str, tuple[bytes | None, ...]],
    *,
    gone: Iterable[Item],
    others: Iterable[Item],
) -> Verdict:
    """Name the change of each pending item, from the content hashes of its members by item id.

    `gone` are the items no longer in place, `others` those that stay. The first member decides: an item
    that is new and has the content of one that is gone was moved there, each old item once, in the order of
    paths.
    """
    left: dict[tuple[bytes, Modality], list[Item]] = {}
    for item in sorted(gone, key=lambda item: (item.path, item.id), reverse=True):
        first = item.members[0]
        if first.content_hash is not None:
            left.setdefault((first.content_hash, first.modality), []).append(item)
    there = {(item.members[0].content_hash, item.modality) for item in others}
    changes: list[Change] = []
    moved: set[str] = set()
    for entry in pending:
        content = hashes.get(entry.id, (None,))
        if entry.known is not None:
            same = content == tuple(member.content_hash for member in entry.known.members)
            if not same or None in content:
                changes.append(Change.CHANGED)
            else:
                changes.append(Change.UNCHANGED if _was_dirty(entry.found, entry.known) else Change.TOUCHED)
            continue
        if content[0] is None:
            changes.append(Change.ADDED)
            continue
        key = (content[0], entry.found.members[0].modality)
        if left.get(key):
            moved.add(left[key].pop().id)
            changes.append(Change.MOVED)
        else:
            changes.append(Change.COPIED if key in there else Change.ADDED)
    return Verdict(changes, frozenset(moved))


def check_prune(diff: RootDiff, moved: Collection[str]) -> None:
    """Raise PruneRefused where more than a fifth of a root's items, and more than ten, would be deleted."""
    deleted = sum(1 for item in diff.gone if item.id not in moved)
    if deleted > PRUNE_FREE and deleted * PRUNE_SHARE > diff.known:
        raise PruneRefused(
            f"{deleted} of {diff.known} items of {diff.scan.path!r} are no longer there",
            hint="if they were deleted on purpose, run this again with --prune; if a volume is not mounted, "
            "mount it first; nothing was changed",
        )


def needs_hashes_first(diff: RootDiff) -> bool:
    """Whether only the contents of new files can tell if too many items would be deleted."""
    return len(diff.gone) > PRUNE_FREE and len(diff.gone) * PRUNE_SHARE > diff.known
