"""Contents through the encoders with a scripted pool: order, batches, halves, and files that change."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from indexer.contents import Broken, ContentEncoder, Encoded, Medium
from indexer.diff import Pending
from indexer.hashing import CHANGED, HashedItem, Reading, hash_item, hash_items, read_hash
from indexer.ledger import Ledger
from indexer.media.workers import Chunk, Failed, Finished, Job
from indexer.report import Stopwatch
from indexer.scan import FoundItem, FoundMember, item_id_of
from indexer.types import Item, Member, Modality, Prepared, Range, Source
from tests.toy import ToyEncoder, word_vector

ROOT = "0" * 32


class Script:
    """A pool whose outcomes are written down."""

    def __init__(self, *outcomes: Chunk | Finished | Failed) -> None:
        self.outcomes = outcomes

    def run(self, jobs: Iterable[Job]) -> Iterator[Any]:
        assert [job.id for job in jobs] == sorted({outcome.job_id for outcome in self.outcomes})
        yield from self.outcomes


def medium(content: bytes, **given: Any) -> Medium:
    return Medium((content * 16, Modality.TEXT, Source.FILE), given.pop("path", None), **given)


def chunk(job: int, *words: str, start: int = 0) -> Chunk:
    return Chunk(
        job,
        [
            Prepared(
                np.frombuffer(word.encode(), np.uint8).astype(np.int64), Range(start + i, start + i + 1), word
            )
            for i, word in enumerate(words)
        ],
    )


def run(script: Script, *media: Medium, batch_size: int = 4) -> tuple[list[Encoded | Broken], ToyEncoder]:
    encoder = ToyEncoder(Modality.TEXT, batch_size=batch_size)
    pool: Any = script
    return list(ContentEncoder(pool, {Modality.TEXT: encoder}, Stopwatch()).run(media)), encoder


def test_a_content_comes_out_whole_and_in_its_own_order() -> None:
    script = Script(
        chunk(1, "red", "green", "blue", "black"),  # a full batch, but not all of it
        chunk(2, "white"),
        Finished(2, 0, 0),
        chunk(1, "cow", start=4),
        Finished(1, 0, 0),
    )
    outcomes, encoder = run(script, medium(b"1"), medium(b"2"))
    assert encoder.encoded == 6
    by_key = {outcome.medium.key[0][:1]: outcome for outcome in outcomes}
    first = by_key[b"1"]
    assert isinstance(first, Encoded)
    assert [segment.text for segment in first.segments] == ["red", "green", "blue", "black", "cow"]
    assert [segment.range for segment in first.segments] == [Range(i, i + 1) for i in range(5)]
    for segment, vector in zip(first.segments, first.vectors, strict=True):
        np.testing.assert_allclose(vector, word_vector(segment.text or ""), atol=1e-6)
    assert len(outcomes) == 2


def test_the_model_sees_full_batches_but_for_the_last() -> None:
    sizes: list[int] = []

    class Counting(ToyEncoder):
        def encode(self, tensors: Any) -> Any:
            sizes.append(len(tensors))
            return super().encode(tensors)

    script: Any = Script(*[one for job in range(1, 11) for one in (chunk(job, "red"), Finished(job, 0, 0))])
    contents = ContentEncoder(script, {Modality.TEXT: Counting(Modality.TEXT, batch_size=4)}, Stopwatch())
    assert len(list(contents.run(medium(bytes([i])) for i in range(10)))) == 10
    assert sizes == [4, 4, 2]


def test_what_a_failed_medium_left_is_neither_encoded_nor_given_out() -> None:
    script = Script(chunk(1, "red", "green"), Failed(1, "broken"), chunk(2, "blue"), Finished(2, 0, 0))
    outcomes, encoder = run(script, medium(b"1"), medium(b"2"))
    assert [(type(outcome), outcome.medium.key[0][:1]) for outcome in outcomes] == [
        (Broken, b"1"),
        (Encoded, b"2"),
    ]
    assert encoder.encoded == 1


def test_a_medium_without_segments_is_broken() -> None:
    outcomes, _ = run(Script(Finished(1, 0, 0)), medium(b"1"))
    assert isinstance(outcomes[0], Broken)
    assert not outcomes[0].changed


def test_another_size_time_or_dirty_content_means_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("red")
    os.utime(path, ns=(10**18, 10**18))
    reading = read_hash(str(path))
    assert reading == Reading(reading.content_hash, 3, 10**18, dirty=False)

    def ends(reading: Reading, last: Finished | Failed) -> Encoded | Broken:
        return run(Script(chunk(1, "red"), last), medium(b"1", path=str(path), reading=reading))[0][0]

    assert isinstance(ends(reading, Finished(1, 3, 10**18)), Encoded)
    assert ends(reading, Finished(1, 4, 10**18))[1:] == (CHANGED, True)
    assert ends(reading, Finished(1, 3, 10**18 + 1))[1:] == (CHANGED, True)
    assert ends(reading, Failed(1, "broken"))[1:] == ("broken", False)
    assert ends(reading._replace(size=2), Failed(1, "broken"))[1:] == (CHANGED, True)
    other = reading._replace(content_hash=b"?" * 16)
    assert isinstance(ends(other, Finished(1, 3, 10**18)), Encoded)
    assert ends(other._replace(dirty=True), Finished(1, 3, 10**18))[1:] == (CHANGED, True)


def pending(tmp_path: Path, name: str, known: Item | None = None) -> Pending:
    status = (tmp_path / name).stat()
    member = FoundMember(name, Modality.TEXT, Source.FILE, status.st_size, status.st_mtime_ns)
    return Pending(ROOT, str(tmp_path), FoundItem(name, (member,)), known)


def aged(path: Path, words: str) -> None:
    path.write_text(words)
    os.utime(path, ns=(10**18, 10**18))


def test_a_hash_is_trusted_by_size_and_time_unless_told_otherwise(tmp_path: Path) -> None:
    aged(tmp_path / "a.txt", "red")
    known = Member(Modality.TEXT, Source.FILE, "a.txt", 3, 10**18, b"k" * 16)
    entry = pending(tmp_path, "a.txt", Item(item_id_of(ROOT, "a.txt"), ROOT, "a.txt", (known,)))
    assert hash_item(entry).members == (known,)
    assert (
        hash_item(entry, trust=False).members[0].content_hash
        == read_hash(str(tmp_path / "a.txt")).content_hash
    )


def test_hashes_come_in_order_and_few_are_read_ahead(tmp_path: Path) -> None:
    for i in range(300):
        aged(tmp_path / f"{i:03}.txt", str(i))
    pulled = 0

    def entries() -> Iterator[Pending]:
        nonlocal pulled
        for i in range(300):
            pulled += 1
            yield pending(tmp_path, f"{i:03}.txt")

    hashed = hash_items(entries(), threads=2)
    first = next(hashed)
    assert pulled < 100
    names = [item.pending.found.path for item in (first, *hashed)]
    assert names == [f"{i:03}.txt" for i in range(300)]


def hashed(tmp_path: Path, name: str, words: str) -> HashedItem:
    aged(tmp_path / name, words)
    return hash_item(pending(tmp_path, name))


def test_copies_wait_for_one_encoding_and_share_its_fate(tmp_path: Path) -> None:
    ledger = Ledger(())
    one, two = hashed(tmp_path, "1.txt", "red"), hashed(tmp_path, "2.txt", "red")
    media, completed = ledger.enter(one)
    assert (len(media), completed) == (1, None)
    assert ledger.enter(two) == ([], None)
    done = ledger.settle(media[0].key, None)
    assert [one.item.path for one in done] == ["1.txt", "2.txt"]
    assert all(one.item.members[0].error is None and one.needs == {media[0].key} for one in done)
    assert ledger.reused == 1


def test_a_broken_content_breaks_later_copies_at_once(tmp_path: Path) -> None:
    ledger = Ledger(())
    media, _ = ledger.enter(hashed(tmp_path, "1.txt", "red"))
    assert ledger.settle(media[0].key, "bad")[0].failures == ((str(tmp_path / "1.txt"), "bad"),)
    media, completed = ledger.enter(hashed(tmp_path, "2.txt", "red"))
    assert media == []
    assert completed is not None
    assert (completed.item.members[0].error, completed.needs) == ("bad", frozenset())


def test_the_hash_of_a_file_that_never_rests_is_not_kept(tmp_path: Path) -> None:
    ledger = Ledger(())
    media, _ = ledger.enter(hashed(tmp_path, "1.txt", "red"))
    item = ledger.settle(media[0].key, CHANGED, unread=True)[0].item
    assert (item.members[0].error, item.members[0].content_hash) == (CHANGED, None)
    media, _ = ledger.enter(hashed(tmp_path, "2.txt", "red"))
    assert len(media) == 1  # the content itself is not to blame


def test_revoked_items_leave_every_queue(tmp_path: Path) -> None:
    ledger = Ledger(())
    aged(tmp_path / "cow.txt", "cow")
    aged(tmp_path / "cow.md", "moo")
    members = tuple(
        FoundMember(name, Modality.TEXT, source, 3, 10**18)
        for name, source in (("cow.md", Source.FILE), ("cow.txt", Source.CAPTION))
    )
    entry = Pending(ROOT, str(tmp_path), FoundItem("cow.md", members), None)
    media, _ = ledger.enter(hash_item(entry))
    assert ledger.revoke(media[0].key) == [entry]
    assert ledger.settle(media[1].key, None) == []
    again, _ = ledger.enter(hash_item(entry, trust=False))
    assert [one.key for one in again] == [media[0].key]
    assert ledger.settle(media[0].key, None)[0].item.path == "cow.md"


def test_a_model_loads_in_a_thread_that_an_ending_interpreter_waits_for() -> None:
    """A library that is cut short while it loads aborts the process, whatever was to be its exit code."""
    threads: list[threading.Thread] = []

    class Slow(ToyEncoder):
        def warm(self) -> None:
            threads.append(threading.current_thread())

    pool: Any = Script(Failed(1, "no picture"))
    (outcome,) = ContentEncoder(pool, {Modality.TEXT: Slow(Modality.TEXT)}, Stopwatch()).run([medium(b"1")])
    assert isinstance(outcome, Broken)
    for thread in threading.enumerate():
        if thread.name == "warm text":
            thread.join()
    (thread,) = threads
    assert thread is not threading.main_thread()
    assert not thread.daemon
