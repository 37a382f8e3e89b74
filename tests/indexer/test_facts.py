"""Facts beside segments: written with a part, merged with it, and absent from parts that have none."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from indexer import facts
from indexer.generation import checksum, read_current
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import Facts, Modality, Segment, Source
from indexer.verify import verify
from tests.indexer.indexes import (
    SPACE_ID,
    check,
    commit,
    digest,
    lacking,
    modality_of,
    segments_of,
    stage,
    unit,
    update,
    words,
)

ALL = Facts(
    width=640,
    height=480,
    duration=1.5,
    sample_rate=44_100,
    channels=2,
    taken_at=datetime(2024, 5, 31, 18, 2, 11),
    camera="NIKON D40",
    latitude=53.5,
    longitude=-9.25,
    title="Fähre",
    artist="Ada",
    album="Harbour",
    genre="Field",
    year=2011,
    words="gulls\ncrane",
)


pytestmark = pytest.mark.usefixtures("own_cache")


def told(word: str) -> Facts | None:
    """Facts of a word's content: pictures and sounds have some."""
    if modality_of(word) is Modality.TEXT:
        return None
    return Facts(width=len(word), title=word) if modality_of(word) is Modality.IMAGE else Facts(words=word)


def update_with_facts(index: Path, world: dict[str, str]) -> None:
    """As indexes.update, with facts for what is new."""
    with Writer.open(index, create=True) as writer:
        names = lacking(index, world)
        pieces = [segments_of(word) for word in names]
        segments = [
            Segment(one.content_hash, one.modality, one.source, one.range, one.text, one.phash, told(word))
            for word, (own, _) in zip(names, pieces, strict=True)
            for one in own
        ]
        rows = np.concatenate([vectors for _, vectors in pieces])
        commit(writer, writer.current(), world, [writer.add_part(segments, rows, space_id=SPACE_ID)])


def stored(index: Path) -> dict[bytes, set[tuple[int | None, str | None, str | None]]]:
    """Width, title and words by content, of all rows."""
    found: dict[bytes, set[tuple[int | None, str | None, str | None]]] = {}
    with Snapshot.open(index) as snapshot:
        for place in range(len(snapshot.generation.parts)):
            table = snapshot.segment_columns(place, ["width", "content_hash", "title", "words"])
            assert table.schema.names == ["width", "content_hash", "title", "words"]
            for width, content_hash, title, own in zip(*(c.to_pylist() for c in table.columns), strict=True):
                found.setdefault(content_hash, set()).add((width, title, own))
    return found


def expected(world: dict[str, str], *, without: set[str] = frozenset()) -> dict:  # type: ignore[assignment]
    """The same by the oracle; contents of `without` were indexed before there were facts."""
    rows = {}
    for word in set(world.values()):
        own = (None if word in without else told(word)) or Facts()
        rows[digest(word)] = {(own.width, own.title, own.words)}
    return rows


def test_names_are_those_of_the_dataclass() -> None:
    assert facts.NAMES == tuple(field.name for field in fields(Facts)) == tuple(facts.fact_schema().names)


def test_every_fact_comes_back_as_it_was(tmp_path: Path) -> None:
    index = tmp_path / "index"
    segments = [
        Segment(digest("text"), Modality.TEXT, Source.FILE),
        Segment(digest("image"), Modality.IMAGE, Source.FILE, facts=ALL),
        Segment(digest("image2"), Modality.IMAGE, Source.FILE, facts=Facts(title="lone \udce4")),
    ]
    with Writer.open(index, create=True) as writer:
        part = writer.add_part(segments, np.stack([unit(word) for word in "abc"]), space_id=SPACE_ID)
        commit(writer, None, {"a": "image", "b": "text", "c": "image2"}, [part])
    with Snapshot.open(index) as snapshot:
        table = snapshot.segment_columns(0, facts.column_schema().names)
        assert table.schema.names == facts.column_schema().names
        assert table.select(list(facts.NAMES)).schema.equals(facts.fact_schema())
        first, second, last = table.to_pylist()
        assert Facts(**{name: first[name] for name in facts.NAMES}) == ALL
        assert second["title"] == "lone \\xe4"
        assert {last[name] for name in facts.NAMES} == {None}
        found = snapshot.segments(snapshot.search(Modality.IMAGE, unit("b"), 1))
        assert found == [Segment(digest("image"), Modality.IMAGE, Source.FILE)]  # hits come without
    assert verify(index).problems == []


def test_facts_follow_their_rows_through_merges(tmp_path: Path) -> None:
    index = tmp_path / "index"
    world: dict[str, str] = {}
    for number in range(10):  # more parts than stay apart
        world |= words(7, f"w{number}-")
        world.pop(f"w{number}-/0.bin", None)
        update_with_facts(index, world)
    assert len(read_current(index).parts) < 10
    check(index, world)
    assert stored(index).items() >= expected(world).items()
    assert verify(index).problems == []


def test_a_part_without_facts_has_no_file_of_them(tmp_path: Path) -> None:
    update(tmp_path / "index", words(20))
    assert not list((tmp_path / "index").glob("parts/*/facts.parquet"))
    with Snapshot.open(tmp_path / "index") as snapshot:
        table = snapshot.segment_columns(0, ["taken_at", "year"])
        assert table.schema.types == [pa.timestamp("ms"), pa.int16()]
        assert (table.num_rows, table["year"].null_count) == (snapshot.generation.parts[0].rows,) * 2


def as_version_2(index: Path) -> None:
    """Make the manifest what the version before wrote."""
    path = index / "generations" / f"{read_current(index).name}.json"
    document = json.loads(path.read_text())
    del document["checksum"], document["derived"]
    document |= {"schema_version": 2, "banks": []}
    path.write_text(json.dumps(document | {"checksum": checksum(document)}))


def test_an_index_of_version_2_is_searched_merged_and_verified(tmp_path: Path) -> None:
    index, old = tmp_path / "index", words(20, "old")
    update(index, old)
    as_version_2(index)
    check(index, old)
    assert stored(index) == expected(old, without=set(old.values()))
    assert verify(index).problems == []
    world = dict(old)
    for number in range(8):
        world |= words(5, f"new{number}")
        update_with_facts(index, world)
    check(index, world)
    assert any(len(part.files) > 1 and "facts.parquet" in part.files for part in read_current(index).parts)
    assert stored(index) == expected(world, without=set(old.values()))
    assert verify(index).problems == []
    assert (
        json.loads((index / "generations" / f"{read_current(index).name}.json").read_text())["schema_version"]
        == 3
    )


def test_damaged_facts_are_found(tmp_path: Path) -> None:
    index = tmp_path / "index"
    update_with_facts(index, words(30))
    path = next(index.glob("parts/*/facts.parquet"))
    whole = path.read_bytes()
    name = path.relative_to(index).as_posix()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    path.write_bytes(flipped)
    assert verify(index).problems == [f"{name} does not match its checksum"]
    path.write_bytes(whole[:-4] + b"none")
    with Snapshot.open(index) as snapshot, pytest.raises(Exception, match=r"no Parquet file any more"):
        snapshot.glance()
    path.write_bytes(whole)
    assert verify(index).problems == []


def test_the_last_rows_of_large_tables_keep_their_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "ROW_GROUP", 16)
    monkeypatch.setattr("indexer.parts.BLOCK", 24)
    index = tmp_path / "index"
    world = words(90)
    update_with_facts(index, world)
    gone = {path: word for path, word in world.items() if not path.endswith(("3.bin", "7.bin", "8.bin"))}
    with Writer.open(index) as writer:
        parent = writer.current()
        assert parent is not None
        writer.compact(commit(writer, parent, gone, stage(writer, [])))
    assert stored(index) == expected(gone)
    assert verify(index).problems == []
