"""Bring an index up to date with folders and manifests: scan -> hash -> decode and encode -> part -> commit.

What a run has finished is committed every so many segments and minutes, so that a run that is killed loses
little and the next one goes on from there. An item is in the item table only once all of it is encoded or
given up; until then the table holds what it held before. Deletions come with the last commit.
"""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from indexer.contents import Broken, ContentEncoder, Encoded, Medium
from indexer.diff import (
    Change,
    Pending,
    RootDiff,
    Verdict,
    check_prune,
    compare,
    judge,
    needs_hashes_first,
)
from indexer.errors import ConfigError, SpaceMismatch
from indexer.forget import forget
from indexer.generation import Root, Space
from indexer.hashing import HashedItem, hash_items
from indexer.ledger import Completed, Ledger
from indexer.manifest import read_manifest
from indexer.media.workers import DecodePool, available_cores
from indexer.publish import Base, Publisher
from indexer.report import (
    BuildOptions,
    Event,
    FileFailed,
    OnEvent,
    Planned,
    Progress,
    Skipped,
    Stopwatch,
    UpdateReport,
)
from indexer.scan import Scan, is_manifest, scan
from indexer.types import Encoder, Item, Modality

__all__ = ["BuildOptions", "UpdateReport", "forget", "update"]

EMPTY_ROOT = "empty, as a volume that is not mounted: what the index knows of it is kept without --prune"
WORTH_A_WORKER = 16  # items to look into, for each decode process beyond the first
Hashes = dict[str, tuple[bytes | None, ...]]  # content hashes of members by item id


def update(
    index_dir: Path,
    sources: Sequence[Path],
    *,
    encoders: Mapping[Modality, Encoder],
    options: BuildOptions | None = None,
    on_event: OnEvent | None = None,
) -> UpdateReport:
    """Make an index tell what lies in `sources`: folders, manifests or single media files.

    Items of the index's other roots stay as they are. The index is made where there is none. Bad files are
    reported and never stop the run. Raises ConfigError for a source that is not there and that the index does
    not know, ManifestError, SpaceMismatch where the index holds another model's vectors, PruneRefused where
    too much would be deleted, CommitConflict where other writers kept committing.
    """
    options = options or BuildOptions()
    say = on_event or _silent
    space = _space_of(encoders, options.model)
    with ExitStack() as stack:
        publisher = Publisher(index_dir, space, options, Stopwatch(), on_event=say, stack=stack)
        return _Update(publisher, encoders, say, stack).run(sources)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No cyclic garbage collection: it would walk the items of a large tree over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _silent(event: Event) -> None:
    """For callers that want only the report."""


def _space_of(encoders: Mapping[Modality, Encoder], model: str) -> tuple[str, Space]:
    spaces = {(encoder.space_id, encoder.dim) for encoder in encoders.values()}
    if len(spaces) != 1:
        raise SpaceMismatch(
            f"the encoders live in {len(spaces)} spaces, expected one", hint="take the encoders of one model"
        )
    space_id, dim = spaces.pop()
    return space_id, Space(model, dim)


class _Update:
    """One run, used once."""

    def __init__(
        self, publisher: Publisher, encoders: Mapping[Modality, Encoder], say: OnEvent, stack: ExitStack
    ) -> None:
        self.publisher = publisher
        self.options = publisher.options
        self.clock = publisher.clock
        self.encoders = encoders
        self.say = say
        self.stack = stack
        self.ledger = Ledger(())
        self.contents: ContentEncoder | None = None
        self.failures: list[FileFailed] = []
        self.encoded: Counter[Modality] = Counter()
        self.hashes: Hashes = {}
        self.failed_before = 0
        self.done = self.total = 0

    def run(self, sources: Sequence[Path]) -> UpdateReport:
        with self.clock.stage("scan"), _no_collection():
            base = self.publisher.read_base()
            diffs = self._compare(_scans(sources, base, self.publisher.index_dir), base)
        pending = [entry for diff in diffs for entry in diff.pending]
        gone = [item for diff in diffs for item in diff.gone]
        self._announce(diffs, pending, gone)
        hashed = self._check(diffs, pending, gone, base)
        if self.total:
            self.publisher.open()  # before the work: where an index cannot be written, say so at once
        try:
            self._encode(hashed)
        except KeyboardInterrupt:
            self.publisher.commit()
            raise
        self.publisher.remove(gone)
        with _no_collection():
            self.publisher.commit()
            self.publisher.derive()
            self.publisher.tidy()
            return self._report(diffs, _judged(diffs, pending, gone, self.hashes, base))

    def _compare(self, scans: Iterable[Scan], base: Base) -> list[RootDiff]:
        known: dict[str, list[Item]] = {}
        for item in base.items.values():
            known.setdefault(item.root_id, []).append(item)
        diffs = []
        for found in scans:
            for path, reason in found.problems:
                self._fail(path, reason)
            if found.empty and found.kind == "folder" and found.root_id in known and not self.options.prune:
                self._fail(found.path, EMPTY_ROOT)
            if found.root_id not in base.roots:
                self.publisher.add_root(Root(found.root_id, found.path, found.kind))
            diff = compare(
                found,
                known.get(found.root_id, ()),
                modalities=self.encoders.keys(),
                retry_failed=self.options.retry_failed,
                prune=self.options.prune,
            )
            for item in diff.unknown if found.away else ():
                if item.path in found.away:
                    self._fail(*found.away[item.path])
            diffs.append(diff)
        return diffs

    def _announce(self, diffs: Sequence[RootDiff], pending: Sequence[Pending], gone: Sequence[Item]) -> None:
        self.total = len(pending)
        self.say(Planned(self.total, sum(len(diff.kept) for diff in diffs), len(gone)))
        for modality, count in _skipped(diffs).items():
            self.say(Skipped(modality, count))

    def _check(
        self, diffs: Sequence[RootDiff], pending: list[Pending], gone: Sequence[Item], base: Base
    ) -> Iterator[HashedItem]:
        """The pending items, hashed as they are pulled; all at once where only that tells what was moved."""
        hashed = self._timed(hash_items(pending, threads=self.options.hash_threads))
        if self.options.prune or not any(needs_hashes_first(diff) for diff in diffs):
            return hashed
        read = list(hashed)
        hashes = {item.pending.id: tuple(member.content_hash for member in item.members) for item in read}
        moved = _judged(diffs, pending, gone, hashes, base).moved
        for diff in diffs:
            check_prune(diff, moved)
        return iter(read)

    def _timed(self, items: Iterator[HashedItem]) -> Iterator[HashedItem]:
        while True:
            with self.clock.stage("hash"):
                item = next(items, None)
            if item is None:
                return
            yield item

    def _encode(self, hashed: Iterator[HashedItem]) -> None:
        """Encode what has no vectors yet. Files that changed meanwhile are read once more at the end."""
        if self.total:
            self.ledger = Ledger(self.publisher.keys(), retry=self.options.retry_failed)
        for last in (False, True):
            again: list[Pending] = []
            media = self._media(hashed)
            first = next(media, None)
            if first is not None:
                for outcome in self._decoded(itertools.chain([first], media)):
                    again += self._settle(outcome, last=last)
                    if self.publisher.due():
                        self.publisher.commit()
            if not again:
                return
            hashed = self._timed(hash_items(again, threads=self.options.hash_threads, trust=False))

    def _media(self, hashed: Iterator[HashedItem]) -> Iterator[Medium]:
        for item in hashed:
            media, completed = self.ledger.enter(item)
            if completed is not None:
                self._accept(completed)
            yield from media

    def _decoded(self, media: Iterator[Medium]) -> Iterator[Encoded | Broken]:
        """What comes out of the encoders; the workers are started by the first medium, if any comes."""
        if self.contents is None:
            preparers = {modality: encoder.preparer for modality, encoder in self.encoders.items()}
            # A worker takes as long to start as some dozens of pictures take to decode.
            most = self.options.workers or available_cores()
            pool = DecodePool(
                preparers,
                workers=min(most, 1 + self.total // WORTH_A_WORKER),
                timeout_s=self.options.timeout_s,
                memory_mb=self.options.memory_mb,
            )
            self.contents = ContentEncoder(self.stack.enter_context(pool), self.encoders, self.clock)
        outcomes = self.contents.run(media)
        while True:
            with self.clock.stage("decode"):
                outcome = next(outcomes, None)
            if outcome is None:
                return
            yield outcome

    def _settle(self, outcome: Encoded | Broken, *, last: bool) -> list[Pending]:
        """Note what became of a content; the items to be hashed again because a file changed."""
        key = outcome.medium.key
        if isinstance(outcome, Encoded):
            self.encoded[key[1]] += len(outcome.segments)
            self.publisher.add_content(outcome)
            completed = self.ledger.settle(key, None)
        elif outcome.changed and not last:
            return self.ledger.revoke(key)
        else:
            completed = self.ledger.settle(key, outcome.reason, unread=outcome.changed)
        for one in completed:
            self._accept(one)
        return []

    def _accept(self, completed: Completed) -> None:
        for path, reason in completed.failures:
            self._fail(path, reason)
        self.failed_before += completed.failed_before
        self.publisher.add_item(completed)
        self.hashes[completed.item.id] = tuple(member.content_hash for member in completed.item.members)
        self.done += 1
        self.say(Progress(self.done, self.total, self.encoded.total()))

    def _fail(self, path: str, reason: str) -> None:
        failure = FileFailed(path, reason)
        self.failures.append(failure)
        self.say(failure)

    def _report(self, diffs: Sequence[RootDiff], verdict: Verdict) -> UpdateReport:
        changes = Counter(verdict.changes)
        changes[Change.DELETED] = sum(item.id not in verdict.moved for diff in diffs for item in diff.gone)
        changes[Change.UNCHANGED] += sum(len(diff.kept) for diff in diffs)
        changes[Change.UNKNOWN] = sum(len(diff.unknown) for diff in diffs)
        base = self.publisher.base
        assert base.generation is not None
        return UpdateReport(
            changes=changes,
            failures=tuple(self.failures),
            failed_before=self.failed_before
            + sum(
                member.error is not None for diff in diffs for item in diff.kept for member in item.members
            ),
            skipped=_skipped(diffs),
            encoded=self.encoded,
            reused=self.ledger.reused,
            items=len(base.items),
            segments=base.generation.counts,
            generation=base.generation.number,
            committed=self.publisher.committed,
            seconds=self.clock.seconds,
            warnings=tuple(self.publisher.warned),
        )


def _skipped(diffs: Iterable[RootDiff]) -> Counter[Modality]:
    total: Counter[Modality] = Counter()
    for diff in diffs:
        total.update(diff.skipped)
    return total


def _judged(
    diffs: Iterable[RootDiff], pending: Sequence[Pending], gone: Sequence[Item], hashes: Hashes, base: Base
) -> Verdict:
    if not pending and not gone:
        return Verdict([], frozenset())
    absent = {item.id for item in gone}
    others = (item for item in base.items.values() if item.id not in absent)
    return judge(pending, hashes, gone=gone, others=others)


def _scans(sources: Sequence[Path], base: Base, index_dir: Path) -> list[Scan]:
    """Each source as it lies on disk, once. Raises ConfigError for one that is nowhere, or inside another."""
    scans: dict[str, Scan] = {}
    for source in sources:
        found = read_manifest(source) if is_manifest(source) else scan(source, index_dir=index_dir)
        if found.missing and found.root_id not in base.roots:
            raise ConfigError(
                f"{found.path!r} is not there", hint="name a folder, a manifest or a media file that exists"
            )
        scans.setdefault(found.root_id, found)
    places = {root.id: root.path for root in base.roots.values() if root.kind != "manifest"}
    places |= {found.root_id: found.path for found in scans.values() if found.kind != "manifest"}
    for inner in places.values():
        for outer in places.values():
            below = inner.removeprefix(outer.rstrip("/") + "/")
            if inner not in (outer, below) and not below.startswith(".") and "/." not in below:
                raise ConfigError(
                    f"{inner!r} lies inside {outer!r}: its files would be in the index twice",
                    hint=f"index {outer!r} alone, and forget {inner!r} first if the index has it",
                )
    return list(scans.values())
