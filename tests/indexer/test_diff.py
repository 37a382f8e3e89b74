"""Comparing what is on disk with what is known: pure functions, no files."""

from __future__ import annotations

import pytest

from indexer.diff import Change, RootDiff, check_prune, compare, is_dirty, judge
from indexer.errors import PruneRefused
from indexer.scan import FoundItem, FoundMember, Scan, item_id_of
from indexer.types import Item, Member, Modality, Source

ROOT = "0" * 32
SECOND = 10**9


def found(path: str, *, size: int = 1, mtime: int = 5, caption: str | None = None) -> FoundItem:
    members = [FoundMember(path, Modality.IMAGE, Source.FILE, size, mtime)]
    if caption:
        members.append(FoundMember(caption, Modality.TEXT, Source.CAPTION, 1, 5))
    return FoundItem(path, tuple(members))


def known(
    path: str,
    content: bytes | None = b"x" * 16,
    *,
    size: int = 1,
    mtime: int = 5,
    caption: str | None = None,
    error: str | None = None,
) -> Item:
    members = [Member(Modality.IMAGE, Source.FILE, path, size, mtime, content, error=error)]
    if caption:
        members.append(Member(Modality.TEXT, Source.CAPTION, caption, 1, 5, b"c" * 16))
    return Item(item_id_of(ROOT, path), ROOT, path, tuple(members))


def scan_of(*items: FoundItem, unknown: tuple[str, ...] = (), empty: bool = False) -> Scan:
    return Scan(ROOT, "/r", "/r", list(items), unknown=frozenset(unknown), empty=empty)


def names(diff: RootDiff) -> dict[str, list[str]]:
    return {
        "kept": [item.path for item in diff.kept],
        "unknown": [item.path for item in diff.unknown],
        "pending": [entry.found.path for entry in diff.pending],
        "gone": [item.path for item in diff.gone],
    }


def test_size_time_and_captions_tell_what_to_look_into() -> None:
    scan = scan_of(
        found("added"),
        found("grown", size=2),
        found("later", mtime=6),
        found("same"),
        found("told", caption="told.txt"),
        found("twin", caption="twin.txt"),
        found("untold"),
    )
    old = [known("gone"), known("grown"), known("later"), known("same"), known("told")]
    old += [known("twin", caption="twin.txt"), known("untold", caption="untold.txt")]
    assert names(compare(scan, old)) == {
        "kept": ["same", "twin"],
        "unknown": [],
        "pending": ["added", "grown", "later", "told", "untold"],
        "gone": ["gone"],
    }


def test_a_member_that_did_not_change_is_not_read_again() -> None:
    entry = compare(scan_of(found("a", size=9, caption="a.txt")), [known("a", caption="a.txt")]).pending[0]
    picture, caption = entry.found.members
    assert entry.trusted_hash(picture) is None
    assert entry.trusted_hash(caption) == b"c" * 16


def test_dirty_and_unread_files_are_looked_into_failed_ones_are_not() -> None:
    scan = scan_of(found("bad"), found("dirty"), found("unread"))
    old = [known("bad", error="broken"), known("dirty", mtime=-1), known("unread", None, error="no")]
    assert names(compare(scan, old))["pending"] == ["dirty", "unread"]
    assert names(compare(scan, old, retry_failed=True))["pending"] == ["bad", "dirty", "unread"]


def test_what_cannot_be_looked_at_is_unknown_not_gone() -> None:
    scan = scan_of(found("a"), found("c"), unknown=("shut", "c.txt"))
    old = [known("a"), known("b"), known("c", caption="c.txt"), known("shut/deep/d"), known("shutter")]
    assert names(compare(scan, old)) == {
        "kept": ["a"],
        "unknown": ["c", "shut/deep/d"],
        "pending": [],
        "gone": ["b", "shutter"],
    }


def test_an_empty_folder_that_had_items_is_unknown_unless_pruned() -> None:
    assert names(compare(scan_of(empty=True), [known("a")]))["unknown"] == ["a"]
    assert names(compare(scan_of(empty=True), [known("a")], prune=True))["gone"] == ["a"]


def test_media_without_an_encoder_are_left_as_they_are() -> None:
    scan = scan_of(found("a", caption="a.txt"), found("b", size=2, caption="b.txt"), found("c"))
    old = [known("b", caption="b.txt")]
    diff = compare(scan, old, modalities={Modality.IMAGE})
    assert names(diff) == {"kept": [], "unknown": ["b"], "pending": ["a", "c"], "gone": []}
    assert [len(entry.found.members) for entry in diff.pending] == [1, 1]
    assert diff.skipped == {Modality.TEXT: 2}
    diff = compare(scan, old, modalities={Modality.TEXT})
    assert names(diff)["pending"] == []
    assert diff.skipped == {Modality.IMAGE: 3}


def test_changes_are_named_by_content() -> None:
    scan = scan_of(
        found("changed", size=2), found("copy"), found("moved"), found("new"), found("touched", mtime=9)
    )
    old = [
        known("changed", b"1" * 16),
        known("left", b"2" * 16),
        known("source", b"3" * 16),
        known("touched"),
    ]
    diff = compare(scan, old, retry_failed=False)
    diff.gone = [item for item in diff.gone if item.path == "left"]
    hashes = {
        item_id_of(ROOT, "changed"): (b"9" * 16,),
        item_id_of(ROOT, "copy"): (b"3" * 16,),
        item_id_of(ROOT, "moved"): (b"2" * 16,),
        item_id_of(ROOT, "new"): (b"8" * 16,),
        item_id_of(ROOT, "touched"): (b"x" * 16,),
    }
    verdict = judge(diff.pending, hashes, gone=diff.gone, others=[old[2]])
    assert verdict.changes == [Change.CHANGED, Change.COPIED, Change.MOVED, Change.ADDED, Change.TOUCHED]
    assert verdict.moved == {old[1].id}


def test_each_old_place_explains_one_move() -> None:
    diff = compare(scan_of(found("b1"), found("b2")), [known("a", b"1" * 16)])
    hashes = {item_id_of(ROOT, name): (b"1" * 16,) for name in ("b1", "b2")}
    assert judge(diff.pending, hashes, gone=diff.gone, others=[]).changes == [Change.MOVED, Change.ADDED]


@pytest.mark.parametrize(
    ("total", "gone", "refused"),
    [(10, 10, False), (11, 11, True), (55, 11, False), (54, 11, True), (1000, 200, False), (1000, 201, True)],
)
def test_more_than_a_fifth_and_more_than_ten_are_refused(total: int, gone: int, refused: bool) -> None:
    old = [known(f"{i:04}", bytes([i % 256]) * 16) for i in range(total)]
    diff = compare(scan_of(*(found(item.path) for item in old[gone:])), old)
    if refused:
        with pytest.raises(PruneRefused, match=f"{gone} of {total}"):
            check_prune(diff, ())
        check_prune(diff, {item.id for item in diff.gone})
    else:
        check_prune(diff, ())


@pytest.mark.parametrize(
    ("age_s", "dirty"), [(2.0, True), (2.1, False), (0, True), (-3600, True), (-3601, False)]
)
def test_a_file_is_dirty_within_a_tick_of_its_reading(age_s: float, dirty: bool) -> None:
    read = 10**18
    assert is_dirty(read - round(age_s * SECOND), read) is dirty


def away(path: str) -> FoundItem:
    """A manifest's row whose picture is not there, with a text of its own."""
    picture = FoundMember(f"{path}.png", Modality.IMAGE, Source.FILE, 0, 0, error="no such file")
    text = FoundMember(None, Modality.TEXT, Source.CAPTION, 1, 0, "t", b"t" * 16)
    return FoundItem(path, (picture, text))


@pytest.mark.parametrize(
    ("content", "error", "place"),
    [
        (b"x" * 16, None, "unknown"),  # it was read once
        (b"x" * 16, "not a picture", "unknown"),  # it was read once, though nothing came of it
        (None, "no such file", "kept"),  # it was not there the last time either
        (None, "permission denied", "pending"),  # it was there, and could not be read
    ],
)
def test_a_row_whose_file_is_away_loses_nothing(content: bytes | None, error: str | None, place: str) -> None:
    members = (
        Member(Modality.IMAGE, Source.FILE, "a.png", 0, 0, content, error=error),
        Member(Modality.TEXT, Source.CAPTION, None, 1, 0, b"t" * 16, "t"),
    )
    row = Item(item_id_of(ROOT, "a"), ROOT, "a", members)
    scan = Scan(ROOT, "/r/m.csv", "/r", [away("a"), away("new")], away={"a": ("row 1", "gone")})
    found = names(compare(scan, [row]))
    expected: dict[str, list[str]] = {"kept": [], "unknown": [], "pending": ["new"], "gone": []}
    expected[place] = ["a", *expected[place]]
    assert found == expected
