"""Which contents have vectors, which are under way, and which items wait for them.

Bookkeeping only: an item is complete when each of its members' contents is either encoded or given up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from indexer.contents import Key, Medium
from indexer.diff import Pending
from indexer.hashing import HashedItem
from indexer.types import Item, Member


@dataclass(slots=True, eq=False)
class _Slot:
    """An item that waits."""

    item: HashedItem
    missing: set[Key]
    errors: dict[int, str]  # by place of the member
    unread: set[int]  # places whose hash must not be believed next time
    old: set[int]  # places that failed in an earlier run already


@dataclass(frozen=True, slots=True)
class Completed:
    """An item that is done with, and what went wrong on the way."""

    pending: Pending
    item: Item
    failures: tuple[tuple[str, str], ...]  # path, reason; of this run
    failed_before: int  # members without segments, for a reason of an earlier run
    needs: frozenset[Key]  # the contents it stands for, all of which have vectors


class Ledger:
    """The contents of one run.

    `known` are the keys that the index has vectors of. What an item of the index lacks there has failed
    before, and is left alone unless `retry` is set.
    """

    def __init__(self, known: Iterable[Key], *, retry: bool = False) -> None:
        self.retry = retry
        self.done: set[Key] = set(known)
        self.broken: dict[Key, str] = {}
        self.reused = 0  # contents that an item needed and that cost nothing
        self._waiting: dict[Key, list[_Slot]] = {}  # a key is here while its content is under way

    def enter(self, item: HashedItem) -> tuple[list[Medium], Completed | None]:
        """An item whose contents are now known: what must be encoded for it, or the item if nothing must."""
        slot = _Slot(item, set(), {i: e for i, e in enumerate(item.errors) if e is not None}, set(), set())
        before = item.pending.known
        given_up = {} if before is None or self.retry else {m.key: m.error for m in before.members}
        media: list[Medium] = []
        for place, member in enumerate(item.members):
            key = _key(member)
            if key is None:
                continue
            if key in self.broken:
                slot.errors[place] = self.broken[key]
            elif key in self.done:
                self.reused += 1
            elif key in given_up and key not in self._waiting:
                slot.old.add(place)
                slot.errors[place] = given_up[key] or "failed before"
            else:
                slot.missing.add(key)
                if key not in self._waiting:
                    self._waiting[key] = []
                    media.append(_medium(item, place, key))
                else:
                    self.reused += 1
        for key in slot.missing:
            self._waiting[key].append(slot)
        return media, None if slot.missing else _complete(slot)

    def settle(self, key: Key, reason: str | None, *, unread: bool = False) -> list[Completed]:
        """A content was encoded (no reason) or given up; the items that are complete by it.

        `unread`: what was decoded is not what was hashed, so the items' hashes are not kept.
        """
        slots = self._waiting.pop(key, [])
        if reason is None:
            self.done.add(key)
        elif not unread:
            self.broken[key] = reason
        completed = []
        for slot in slots:
            slot.missing.discard(key)
            if reason is not None:
                for place, member in enumerate(slot.item.members):
                    if _key(member) == key:
                        slot.errors[place] = reason
                        slot.unread |= {place} if unread else set()
            if not slot.missing:
                completed.append(_complete(slot))
        return completed

    def revoke(self, key: Key) -> list[Pending]:
        """A content's file is not what was hashed: the items that waited for it, to be hashed again."""
        slots = self._waiting.pop(key, [])
        for slot in slots:
            for other in slot.missing - {key}:
                self._waiting[other].remove(slot)
        return [slot.item.pending for slot in slots]


def _key(member: Member) -> Key | None:
    if member.content_hash is None:
        return None
    return member.content_hash, member.modality, member.source


def _medium(item: HashedItem, place: int, key: Key) -> Medium:
    member = item.members[place]
    if member.path is None:
        return Medium(key, None, member.text)
    path = os.path.join(item.pending.base, member.path)  # noqa: PTH118 - names stay bytes-exact
    return Medium(key, path, None, item.readings[place])


def _complete(slot: _Slot) -> Completed:
    pending = slot.item.pending
    members = tuple(
        replace(
            member,
            content_hash=None if place in slot.unread else member.content_hash,
            error=slot.errors.get(place),
        )
        for place, member in enumerate(slot.item.members)
    )
    item = Item(pending.id, pending.root_id, pending.found.path, members, dict(pending.found.metadata))
    failures = tuple(
        (_where(pending, members[place]), reason)
        for place, reason in sorted(slot.errors.items())
        if place not in slot.old
    )
    keys = (_key(member) for place, member in enumerate(members) if place not in slot.errors)
    needs = frozenset(key for key in keys if key is not None)
    return Completed(pending, item, failures, len(slot.old), needs)


def _where(pending: Pending, member: Member) -> str:
    if member.path is None:
        return f"{pending.root}, row {pending.found.path!r}"
    return os.path.join(pending.base, member.path)  # noqa: PTH118
