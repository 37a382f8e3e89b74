"""The listing of items' names gives, to the byte, what listing item by item gives."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from indexer.names import BIT, COLUMNS, names_list
from indexer.postings import Builder, Document
from indexer.schema import item_table
from indexer.snapshot import Snapshot
from indexer.types import Item, Member, Modality, Source
from indexer.words import Names, document
from tests.indexer.indexes import digest, update, words

SUFFIX = re.compile(r"\.(?=[^.]*[A-Za-z])[A-Za-z0-9]{1,5}$")
FOLDERS = ("", "pics", "pics/2023", "MyTrip/pics", "été/東京", "bad\udcff/pics", "frog/frog")
NAMES = (
    "frog.png",
    "frog frog.jpeg",
    "IMG2023.jpg",
    "pics",
    "a.b.tar",
    ".hidden",
    "goldenEagle.wav",
    "東京.gif",
)
VALUES = ("Dart Frogs", "frog", "", "été", "a b a b a")


def one_by_one(items: list[Item]) -> bytes:
    """The list as its definition says: each folder, name and value of an item counts once."""
    builder = Builder()
    kinds, pairs = [], []
    for row, item in enumerate(items):
        living = [m for m in item.members if m.error is None and m.content_hash is not None]
        texts = set(item.metadata.values())
        for path in {item.path, *(m.path for m in item.members if m.path is not None)}:
            *folders, name = path.split("/")
            texts.update(folders or [""], [SUFFIX.sub("", name)])
        builder.add(document(texts) if living else Document({}, 0))
        kinds.append(sum({BIT[m.modality] for m in living}))
        pairs += {(int.from_bytes(m.content_hash[8:16], "little"), row) for m in living if m.content_hash}
    halves = np.array([half for half, _ in sorted(pairs)], "<u8")
    return builder.content(
        np.frombuffer(bytes.fromhex("".join(item.id for item in items)), np.uint8),
        np.array(kinds, np.uint8),
        np.array([len(halves)], "<u8"),
        halves,
        np.array([row for _, row in sorted(pairs)], "<u4"),
    )


def made(count: int, seed: int) -> list[Item]:
    """Items of every kind: several members, none living, the same content twice, metadata or none."""
    random = np.random.default_rng(seed)

    def path() -> str:
        folder, name = FOLDERS[random.integers(len(FOLDERS))], NAMES[random.integers(len(NAMES))]
        return f"{folder}/{name}" if folder else name

    def member(own: str) -> Member:
        kind = list(Modality)[random.integers(3)]
        known = random.random() < 0.9
        return Member(
            kind,
            Source.FILE,
            (own, path(), None)[random.choice(3, p=(0.7, 0.2, 0.1))],
            1,
            1,
            digest(f"{random.integers(1 + count // 4)}") if known else None,
            error=None if known and random.random() < 0.9 else "broken",
        )

    found = []
    for number in range(count):
        own = path()
        members = tuple(member(own) for _ in range(random.choice(4, p=(0.05, 0.7, 0.2, 0.05))))
        many = random.choice(3, p=(0.7, 0.2, 0.1))
        metadata = {f"k{i}": VALUES[random.integers(len(VALUES))] for i in range(many)}
        found.append(Item(digest(f"id{number}").hex(), "a" * 16, own, members, metadata))
    return found


@pytest.mark.parametrize("count", [0, 1, 2, 400])
def test_it_is_what_listing_one_by_one_gives(count: int) -> None:
    items = made(count, seed=count)
    table = item_table(items)
    assert names_list(table) == one_by_one(items)
    assert names_list(table.slice(count // 3, count // 2)) == one_by_one(items[count // 3 :][: count // 2])


def test_the_columns_read_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    update(tmp_path / "index", words(700))  # more than one row group
    with Snapshot.open(tmp_path / "index") as snapshot:
        listed = names_list(snapshot.item_columns(COLUMNS))
        assert listed == one_by_one(snapshot.item_list())
    assert Names(memoryview(listed), name="x").documents == 700
