"""Word lists: the file, which lists an update makes, and what forgetting leaves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from indexer import forget as forgetting
from indexer.errors import IndexCorrupt
from indexer.generation import Space, read_current
from indexer.names import names_list
from indexer.postings import Builder, Document, Postings
from indexer.schema import item_table
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import Facts, Item, Member, Modality, Range, Segment, Source
from indexer.words import KIND, Contents, Names, WordLists, document
from tests.worded import ROOT, Thing, digest, index


def built(*documents: Document) -> bytes:
    builder = Builder()
    for one in documents:
        builder.add(one)
    return builder.content(np.arange(3, dtype="<u4"))


def test_postings_are_those_of_the_documents() -> None:
    random = np.random.default_rng(0)
    names = [f"w{n}" for n in range(40)] + ["żaba", "東京", "zz"]
    documents = [Counter(random.choice(names, random.integers(0, 12)).tolist()) for _ in range(60)]
    lists = Postings(memoryview(built(*(Document(one, one.total()) for one in documents))), name="x")
    assert lists.documents == 60
    assert lists.filled == sum(bool(one) for one in documents)
    assert lists.lengths.tolist() == [one.total() for one in documents]
    assert lists.length == sum(one.total() for one in documents)
    for word in names:
        expected = [(n, one[word]) for n, one in enumerate(documents) if word in one]
        number = lists.find(word)
        assert number is not None
        found, counts = lists.holding(number)
        assert list(zip(found.tolist(), counts.tolist(), strict=True)) == expected
        assert lists.frequency(number) == len(expected)
    assert [lists.find(word) for word in ("", "a", "w", "w399", "zzz", "\U0001f438")] == [None] * 6
    assert lists.extra("<u4", 3).tolist() == [0, 1, 2]


def test_an_empty_list_is_a_list() -> None:
    lists = Postings(memoryview(built()), name="x")
    assert (lists.documents, lists.length, lists.find("frog")) == (0, 0, None)


def test_a_count_has_a_ceiling() -> None:
    lists = Postings(memoryview(built(Document({"a": 100_000}, 100_000))), name="x")
    assert lists.holding(0)[1].tolist() == [65535]


@pytest.mark.parametrize("change", [b"TRIPWRD0", None])
def test_what_is_no_list_is_refused(change: bytes | None) -> None:
    data = built(Document({"a": 1}, 1))
    broken = data[:-8] if change is None else change + data[8:]
    with pytest.raises(IndexCorrupt):
        Postings(memoryview(broken), name="x")


def test_pieces_do_not_make_a_document_longer() -> None:
    found = document(["goldenEagle eagle", "42"])
    assert found.length == 3
    assert found.counts == {"goldeneagle": 1, "golden": 1, "eagle": 2, "42": 1}


def test_names_are_split_and_counted_once() -> None:
    members = (
        Member(Modality.IMAGE, Source.FILE, "MyTrip/2023/red_frog.01.jpeg", 1, 1, digest("a")),
        Member(Modality.TEXT, Source.CAPTION, "MyTrip/2023/red_frog.01.txt", 1, 1, digest("b")),
    )
    failed = Member(Modality.IMAGE, Source.FILE, "lost.png", 1, 1, None, error="broken")
    items = [
        Item("0" * 32, ROOT.id, members[0].path or "", members, {"label": "Dart Frogs"}),
        Item("f" * 32, ROOT.id, "lost.png", (failed,)),
    ]
    names = Names(memoryview(names_list(item_table(items))), name="x")
    held = {word: names.find(word) for word in ("mytrip", "my", "trip", "2023", "red", "frog", "01", "dart")}
    assert None not in held.values()
    assert names.holding(held["frog"] or 0)[1].tolist() == [2]  # the name and the label
    assert [names.find(word) for word in ("jpeg", "txt", "lost")] == [None] * 3
    assert names.having([Modality.TEXT]).tolist() == [True, False]
    assert names.having([Modality.AUDIO]).tolist() == [False, False]
    assert [names.id(row) for row in (0, 1)] == ["0" * 32, "f" * 32]


def test_an_update_makes_only_the_lists_that_are_new(tmp_path: Path) -> None:
    things = [Thing("frog.png", ("a green frog",)), Thing("toad.png", ("a brown toad",))]
    first = index(tmp_path / "i", things)
    second = index(tmp_path / "i", [*things, Thing("newt.png", ("an orange newt",))])
    part = f"{KIND}/{first.parts[0].id}"
    assert second.derived[part] == first.derived[part]
    assert len(second.derived) == 3
    renamed = index(
        tmp_path / "i", [Thing("frog.png", ("a green frog",)), Thing("a/b.png", ("a brown toad",))]
    )
    assert {key for key in renamed.derived if key in second.derived} >= {part}
    assert not WordLists().due(renamed)
    with Writer.open(tmp_path / "i") as writer:
        assert writer.derive(renamed, [WordLists()]) is renamed  # there is nothing to make


def test_lists_of_another_version_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    things = [Thing("frog.png", ("a green frog",))]
    monkeypatch.setattr("indexer.words.KIND", "words-0")
    old = index(tmp_path / "i", things)
    monkeypatch.undo()
    assert WordLists().due(old)
    with Writer.open(tmp_path / "i") as writer:
        new = writer.derive(old, [WordLists()])
    assert len(new.derived) == 2
    assert all(key.startswith(f"{KIND}/") for key in new.derived)


def test_what_is_forgotten_leaves_no_word(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    index(folder, [Thing("frog.png", ("a green frog",)), Thing("xylotheque.png", ("a quincunx",))])
    assert any(b"quincunx" in file.read_bytes() for file in (folder / "derived").iterdir())
    assert forgetting.forget(folder, [Path("/media/xylotheque.png")]) == 1
    with Writer.open(folder) as writer:
        writer.derive(read_current(folder), [WordLists()])
    held = b"".join(file.read_bytes() for file in (folder / "derived").iterdir())
    assert b"quincunx" not in held
    assert b"xylotheque" not in held
    assert b"green" in held
    with Snapshot.open(folder) as snapshot:
        names = Names.of(snapshot)
        assert names is not None
        assert names.documents == 1


def test_facts_of_a_medium_count_once_however_many_windows_it_has(tmp_path: Path) -> None:
    facts = Facts(title="Wind of Change", artist="Scorpions", words="rock\nwhistling wind")
    windows = [
        Segment(digest("song"), Modality.AUDIO, Source.FILE, Range(at, at + 10), facts=facts)
        for at in (0, 5, 10)
    ]
    picture = Segment(digest("p"), Modality.IMAGE, Source.FILE)
    members = (Member(Modality.AUDIO, Source.FILE, "a.mp3", 1, 1, digest("song")),)
    with Writer.open(tmp_path / "i", create=True) as writer:
        part = writer.add_part([picture, *windows], np.eye(4, 4, dtype=np.float32), space_id="toy")
        items = [Item("0" * 32, ROOT.id, "a.mp3", members)]
        made = writer.commit(None, roots=[ROOT], items=items, spaces={"toy": Space("toy", 4)}, parts=[part])
        writer.derive(made, [WordLists()])
    with Snapshot.open(tmp_path / "i") as snapshot:
        found = Contents.of(snapshot, 0)
    assert found is not None
    assert (found.documents, found.lengths.tolist(), found.row.tolist()) == (1, [7], [1])
    assert found.key(0) == (digest("song"), Modality.AUDIO, Source.FILE)
    assert found.holding(found.find("wind") or 0)[1].tolist() == [2]
    assert found.find("scorpion") is not None
