"""Filters: which segments and items a condition lets through, against plain Python over the same items."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import QueryError
from indexer.generation import Root, Space
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import Facts, Item, Member, Modality, Range, Segment, Source
from retrieval.query.filters.pairs import local_times
from retrieval.query.filters.where import Filter, Limits, examples, filtered, predicate_of
from tests.indexer.indexes import DIM, digest, unit, update

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO
FOLDER, ROWS = Root("a" * 16, "/media", "folder"), Root("b" * 16, "/data/stamps.csv", "manifest")
STAMP = 1_700_000_000  # seconds since 1970


@dataclass(frozen=True)
class Medium:
    """A content with its segments."""

    word: str
    modality: Modality
    source: Source = Source.FILE
    facts: Facts | None = None
    ranges: tuple[Range | None, ...] = (None,)

    @property
    def segments(self) -> list[Segment]:
        text = self.word if self.modality is TEXT else None
        return [
            Segment(digest(self.word), self.modality, self.source, one, text, None, self.facts)
            for one in self.ranges
        ]

    def member(self, path: str | None, size: int = 10, days: int = 0) -> Member:
        stamp = 0 if path is None else (STAMP + days * 86_400) * 10**9
        text = self.word if path is None else None
        return Member(self.modality, self.source, path, size, stamp, digest(self.word), text)


WIDE = Medium(
    "wide", IMAGE, facts=Facts(width=2000, height=500, camera="Nikon", taken_at=datetime(2024, 5, 9, 12))
)
SMALL = Medium("small", IMAGE, facts=Facts(width=100, height=100))
BARE = Medium("bare", IMAGE)
GONE = Medium("gone", IMAGE, facts=Facts(width=3000))
CAPTION = Medium("a red boat", TEXT, Source.CAPTION, ranges=(Range(0, 5), Range(5, 10)))
NOTE = Medium("only words", TEXT, ranges=(Range(0, 10),))
SONG = Medium(
    "song", AUDIO, facts=Facts(duration=15.0, artist="Nina", year=1965), ranges=(Range(0, 10), Range(5, 15))
)


def _item(name: str, root: Root, path: str, *members: Member, **metadata: str) -> Item:
    return Item(digest(name).hex(), root.id, path, members, metadata)


B_TEXT = CAPTION.member("Holiday/Boat.txt")
ITEMS = {
    "boat": _item("boat", FOLDER, "Holiday/Boat.JPG", WIDE.member("Holiday/Boat.JPG", 900), B_TEXT),
    "copy": _item("copy", FOLDER, "Work/boat copy.jpeg", WIDE.member("Work/boat copy.jpeg", 900, days=-400)),
    "small": _item("small", FOLDER, "it's.png", SMALL.member("it's.png", 5, days=30)),
    "bare": _item("bare", FOLDER, ".hidden", BARE.member(".hidden", 7)),
    "note": _item("note", FOLDER, "a/b/note.md", NOTE.member("a/b/note.md", 3)),
    "row": _item(
        "row",
        ROWS,
        "r1",
        *(SMALL.member("img/s.png"), SONG.member("/abs/song.ogg"), CAPTION.member(None)),
        label="Bird", split="test", author="Ann",
    ),
    "words": _item("words", ROWS, "r2", NOTE.member(None), label="cat"),
}  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filters") / "index"
    old = Root("c" * 16, "/old", "folder")
    gone = _item("gone", old, "gone.png", GONE.member("gone.png"))
    with pytest.MonkeyPatch.context() as patch, Writer.open(path, create=True) as writer:
        patch.setattr("indexer.merge.DEAD_SHARE", 1.0)  # the deleted row stays in its part
        generation = None
        for media, items in (
            ([WIDE, CAPTION, GONE], [ITEMS["boat"], gone]),
            ([SMALL, BARE, NOTE, SONG], list(ITEMS.values())),
        ):
            segments = [segment for medium in media for segment in medium.segments]
            vectors = np.stack([unit(f"{one.content_hash.hex()}{one.range}") for one in segments])
            part = writer.add_part(segments, vectors, space_id="toy")
            spaces = {"toy": Space("toy", DIM)}
            generation = writer.commit(
                generation, roots=[FOLDER, ROWS], items=items, spaces=spaces, parts=[part]
            )
    return path


@pytest.fixture
def snapshot(index: Path) -> Iterator[Snapshot]:
    with Snapshot.open(index) as opened:
        yield opened


Seen = set[tuple[str, Modality, Source, float | None]]  # item's name, and what of it


def seen(snapshot: Snapshot, found: Filter) -> Seen:
    """What a filter lets through, place by place."""
    names = {item.id: name for name, item in ITEMS.items()}
    pairs: Seen = set()
    for part, allowed in enumerate(found.allowed):
        table = snapshot.segment_columns(part, ["modality", "source", "start"]).to_pylist()
        assert len(table) == len(allowed)
        for row, segment in enumerate(table):
            ids = found.items_of(part, row)
            assert bool(ids) == bool(allowed[row])
            place = Modality(segment["modality"]), Source(segment["source"]), segment["start"]
            pairs |= {(names[item], *place) for item in ids}
    return pairs


def every() -> Seen:
    media = (WIDE, SMALL, BARE, CAPTION, NOTE, SONG)
    return {
        (name, segment.modality, segment.source, None if segment.range is None else segment.range.start)
        for name, item in ITEMS.items()
        for member in item.members
        for medium in media
        for segment in medium.segments
        if (segment.content_hash, segment.modality, segment.source) == member.key
    }


Keep = Callable[[str, Modality, Source, float | None], bool]


@pytest.mark.parametrize(
    ("predicate", "keep"),
    [
        ("true", lambda *_: True),
        ("false", lambda *_: False),
        # a fact of the picture counts for the caption's segments, and for both items that hold the picture
        ("width >= 1000", lambda name, *_: name in ("boat", "copy")),
        ("width < 1000 and height = 100", lambda name, *_: name in ("small", "row")),
        ("width is null", lambda name, *_: name in ("bare", "note", "words")),
        ("duration > 10 and width = 100", lambda name, *_: name == "row"),
        ("artist = 'Nina' and year = 1965", lambda name, *_: name == "row"),
        ("camera ilike 'nik%' and year(taken_at) = 2024", lambda name, *_: name in ("boat", "copy")),
        ("width > 1000 and modality = 'text'", lambda name, kind, *_: (name, kind) == ("boat", TEXT)),
        ("source = 'caption'", lambda name, modality, source, _: source is Source.CAPTION),
        ("start >= 5 and end_at <= 15", lambda name, modality, source, start: start == 5),
        ("text like '%red%'", lambda name, modality, source, _: source is Source.CAPTION),
        ("caption like '%red%'", lambda name, *_: name in ("boat", "row")),
        ("kind = 'image' and modality = 'text'", lambda name, what, source, _: source is Source.CAPTION),
        ("path = '/media/Holiday/Boat.JPG'", lambda name, *_: name == "boat"),
        ("path = '/data/img/s.png'", lambda name, *_: name == "row"),
        ("path is null", lambda name, *_: name == "words"),
        ("name = 'it''s.png'", lambda name, *_: name == "small"),
        ("name like '%oat%'", lambda name, *_: name in ("boat", "copy")),
        ("folder = '/media'", lambda name, *_: name in ("small", "bare")),
        ("folder = '/media/a/b'", lambda name, *_: name == "note"),
        ("ext = 'jpg'", lambda name, *_: name == "boat"),
        ("ext is null", lambda name, *_: name in ("bare", "words")),
        ("root = '/data/stamps.csv'", lambda name, *_: name in ("row", "words")),
        ("size = 900", lambda name, *_: name in ("boat", "copy")),
        ("label = 'Bird' and split = 'test'", lambda name, *_: name == "row"),
        ("metadata['author'] = 'Ann'", lambda name, *_: name == "row"),
        ("map_contains(metadata, 'author')", lambda name, *_: name == "row"),
        ("metadata['author'] <> 'x'", lambda name, *_: name == "row"),  # null is not true
        ("modified is null", lambda name, *_: name == "words"),
        ("modified < '2023-11-01'", lambda name, *_: name == "copy"),
        ("width > 0 and text is not null", lambda name, kind, *_: name in ("boat", "row") and kind is TEXT),
        ("album is null and latitude is null and words is null", lambda *_: True),
    ],
)  # fmt: skip
def test_what_a_condition_lets_through(snapshot: Snapshot, predicate: str, keep: Keep) -> None:
    found = filtered(snapshot, predicate)
    expected = {one for one in every() if keep(*one)}
    assert seen(snapshot, found) == expected
    assert found.count == sum(int(allowed.sum()) for allowed in found.allowed)


def test_a_deleted_segment_never_comes(snapshot: Snapshot) -> None:
    assert any(part.dead for part in snapshot.generation.parts)
    assert filtered(snapshot, "true").count == sum(snapshot.counts.values())
    assert filtered(snapshot, "width = 3000").count == 0


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"under": "/media/Holiday"}, {"boat"}),
        ({"under": "/media/Holi"}, set()),
        ({"under": "/media/it's.png"}, {"small"}),
        ({"under": "/"}, set(ITEMS) - {"words"}),
        ({"types": ["jpg"]}, {"boat", "copy"}),
        ({"types": [".JPEG", "md"]}, {"boat", "copy", "note"}),
        ({"types": ["text"]}, {"note", "words"}),
        ({"labels": ["bird"]}, {"row"}),
        ({"labels": ["bird", "CAT", "it's"]}, {"row", "words"}),
        ({"since": "2024"}, {"boat", "copy"}),  # by the camera's clock
        ({"since": "2023-12-01", "before": "2024-05-09"}, {"small"}),
        ({"where": "width > 1", "types": ["png"], "labels": ["bird"]}, {"row"}),
        ({"where": "width > 1 or true -- all", "types": ["png"], "labels": ["bird"]}, {"row"}),
    ],
)
def test_short_forms(snapshot: Snapshot, options: dict[str, object], names: set[str]) -> None:
    predicate = predicate_of(**options)  # type: ignore[arg-type]
    assert predicate is not None
    assert {name for name, *_ in seen(snapshot, filtered(snapshot, predicate))} == names


def test_under_means_what_is_in_the_folder_one_stands_in(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    predicate = predicate_of(under="link")
    assert predicate is not None
    assert f"'{tmp_path / 'real'}/'" in predicate
    assert f"'{tmp_path / 'link'}/'" in predicate


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        ("width", "BIGINT, not true or false"),
        ("'true'", "VARCHAR, not true or false"),
        ("null", "not true or false"),
        ("modified < 'yesterday'", "cannot be used"),
        ("path + 1 > 2", "cannot be used"),
        ("lower(width, 2) = 'x'", "cannot be used"),
        ("cast(name as integer) > 3", "cannot be used"),
        ("regexp_matches(name, '(')", "cannot be used"),
        ("widht > 3", "no column"),
    ],
)
def test_what_cannot_be_judged_says_why(snapshot: Snapshot, predicate: str, message: str) -> None:
    with pytest.raises(QueryError, match=message) as refused:
        filtered(snapshot, predicate)
    assert refused.value.hint
    assert "\n" not in refused.value.message
    assert filtered(snapshot, "true").count  # nothing is left behind


def test_a_slow_filter_is_stopped(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    many = pa.table(
        {"place": np.arange(200_000), "name": pa.array([f"{n % 977}a" * 5 for n in range(200_000)])}
    )
    monkeypatch.setattr("retrieval.query.filters.pairs.Rows.table", lambda _: many)
    monkeypatch.setattr("retrieval.query.filters.pairs.Rows.view", "SELECT place, name FROM given")
    start = time.monotonic()
    with pytest.raises(QueryError, match=r"more than 0\.2 s"):
        filtered(
            snapshot, " or ".join(f"name ~ (name || '{n}')" for n in range(12)), limits=Limits(seconds=0.2)
        )
    assert time.monotonic() - start < 5


def test_what_runs_cannot_reach_files_or_settings(tmp_path: Path) -> None:
    """The connection itself refuses, should anything get past the parser."""
    import duckdb

    from retrieval.query.filters.where import _connection

    (tmp_path / "x.csv").write_text("a\n1\n")
    for sql in (
        f"SELECT * FROM read_csv('{tmp_path}/x.csv')",
        f"SELECT * FROM '{tmp_path}/x.csv'",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        f"ATTACH '{tmp_path}/other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '10GB'",
        "RESET lock_configuration",
        "SELECT * FROM tmp_path",
    ):
        with pytest.raises(QueryError, match="cannot be used"), _connection(Limits()) as connection:
            connection.execute(sql).fetchall()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv"]
    with _connection(Limits(memory_mb=64, threads=1)) as connection:
        asked = "SELECT current_setting('threads'), current_setting('memory_limit')"
        assert connection.execute(asked).fetchall() == [(1, "61.0 MiB")]
    assert duckdb.execute("SELECT 1").fetchall() == [(1,)]  # the process's own connection is untouched


def test_a_condition_is_checked_before_anything_is_read(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.query.filters.where.pairs_of", lambda _: pytest.fail("the index was read"))
    with Snapshot.open(index) as snapshot, pytest.raises(QueryError):
        filtered(snapshot, "true; select 1")


def test_an_empty_index_takes_every_condition(tmp_path: Path) -> None:
    with Writer.open(tmp_path / "index", create=True) as writer:
        writer.commit(None, roots=[], items=[], spaces={}, parts=[])
    with Snapshot.open(tmp_path / "index") as snapshot:
        for predicate in ("true", "width > 3 and text = 'x' and modified > '2024-01-01' and ext = 'a'"):
            found = filtered(snapshot, predicate)
            assert (found.allowed, found.count) == ([], 0)
        with pytest.raises(QueryError):
            filtered(snapshot, "widht > 3")
        assert set(examples(snapshot).values()) == {None}


def test_an_index_without_facts_is_filtered_by_the_rest(tmp_path: Path) -> None:
    update(tmp_path / "index", {"x/red.png": "image red", "y/blue.png": "image blue"})
    with Snapshot.open(tmp_path / "index") as snapshot:
        assert filtered(snapshot, "width is null and words is null").count == 2
        assert filtered(snapshot, "width > 0").count == 0
        found = filtered(snapshot, "width is null and folder = '/media/y'")
        assert [found.items_of(0, row) for row in np.flatnonzero(found.allowed[0])] == [
            {digest("y/blue.png").hex()}
        ]


def test_what_another_space_holds_is_not_allowed(tmp_path: Path) -> None:
    item = _item("small", FOLDER, "s.png", SMALL.member("s.png"))
    spaces = {"toy": Space("toy", DIM), "old": Space("old", DIM)}
    with Writer.open(tmp_path / "index", create=True) as writer:
        parts = [writer.add_part(SMALL.segments, unit("s")[None], space_id=space) for space in ("old", "toy")]
        writer.commit(None, roots=[FOLDER], items=[item], spaces=spaces, parts=parts)
    with Snapshot.open(tmp_path / "index") as snapshot:
        own = [part.space_id == snapshot.space_id for part in snapshot.generation.parts]
        assert sorted(own) == [False, True]
        for predicate in ("width = 100", "modality = 'image' and width = 100"):
            assert [allowed.tolist() for allowed in filtered(snapshot, predicate).allowed] == [
                [one] for one in own
            ]


def test_a_search_takes_only_what_is_allowed(snapshot: Snapshot) -> None:
    only = filtered(snapshot, "kind = 'image' and width < 1000")
    found = snapshot.search(IMAGE, unit("query"), 10, allowed=only.allowed)
    assert [segment.content_hash for segment in snapshot.segments(found)] == [digest("small")]
    assert only.items_of(int(found.part[0]), int(found.row[0])) == {ITEMS["small"].id, ITEMS["row"].id}


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Asia/Kathmandu"]
)
def test_local_times_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        rng = np.random.default_rng(0)
        seconds = np.concatenate(
            [rng.integers(-(10**9), 2 * 10**9, 500), 1_711_846_800 + np.arange(-7200, 7200, 60)]
        )
        found = local_times(seconds * 10**9)
        assert [str(one) for one in found] == [
            datetime.fromtimestamp(second).isoformat(timespec="microseconds") for second in seconds.tolist()
        ]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_examples_come_from_the_index(snapshot: Snapshot) -> None:
    told = examples(snapshot)
    assert told["width"] == 2000
    assert told["artist"] == "Nina"
    assert told["metadata"] == {"label": "Bird", "split": "test", "author": "Ann"}
    assert told["path"] == "/media/Holiday/Boat.JPG"
    assert told["album"] is None
    json.dumps(told, default=str)
