"""The read side: rankings against an oracle, names that are hard to write down, damage, versions, owners."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexer import cleaning, schema, vectors
from indexer.checked import CheckedFile, Verified, describe
from indexer.errors import IndexCorrupt, IndexNotFound, IndexTooNew, SpaceMismatch
from indexer.generation import CURRENT, Root, checksum, read_current
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import Item, Member, Modality, Segment, Source
from tests.indexer.indexes import (
    DIM,
    ROOTS,
    SPACE_ID,
    SPACES,
    check,
    digest,
    found,
    items,
    oracle,
    unit,
    update,
    words,
)

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.mark.parametrize("loaded", [False, True], ids=["scan", "faiss"])
def test_ranking_equals_the_oracle_with_ties_and_deletions(
    loaded: bool, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Contents that share what stands before `=` have one vector: forty of them tie at every score.
    world = {f"{name}{i}": f"text {name}={i}" for name in "abc" for i in range(40)} | words(60)
    update(index, world)
    world = {path: word for path, word in world.items() if not path.endswith("3")}
    update(index, world | words(30, "later"))
    world |= words(30, "later")
    monkeypatch.setattr(vectors, "faiss_loaded", lambda: loaded)
    monkeypatch.setattr(vectors, "STRUCTURE_FROM", 0)
    with Snapshot.open(index) as snapshot:
        for modality in Modality:
            for k in (1, 7, 39, 40, 41, 500):
                query = unit("text a") if modality is Modality.TEXT else unit("query")
                expected = oracle(world, modality, query, k)
                assert found(snapshot, modality, query, k) == expected
                assert len(expected) == min(k, snapshot.counts[modality])


def test_a_search_does_not_load_faiss(index: Path) -> None:
    update(index, words(40))
    program = (
        "import sys, numpy as np; from pathlib import Path; from indexer.snapshot import Snapshot;"
        "from indexer.types import Modality; s = Snapshot.open(Path(sys.argv[1]));"
        "c = s.search(Modality.TEXT, np.eye(1, 16, dtype=np.float32)[0], 3); segments = s.segments(c);"
        "i = s.items_of({(g.content_hash, g.modality, g.source) for g in segments}); s.close();"
        "print(len(c), len(i), [m for m in ('faiss', 'torch', 'pyarrow.compute') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(index)], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "3 3 []\n"


def test_candidates_name_the_rows_that_hold_their_segments(index: Path) -> None:
    update(index, words(200))
    update(index, words(260))
    with Snapshot.open(index) as snapshot:
        candidates = snapshot.search(Modality.AUDIO, unit("query"), 20)
        assert set(candidates.part.tolist()) == {0, 1}
        assert all(segment.modality is Modality.AUDIO for segment in snapshot.segments(candidates))
        twice = snapshot.segments(candidates)
        assert twice == snapshot.segments(candidates)
        assert np.all(np.diff(candidates.score) <= 0)


def test_vectors_come_with_their_segments(index: Path) -> None:
    world = words(50)
    update(index, world)
    world = {path: word for path, word in world.items() if not path.endswith("3.bin")}
    update(index, world)
    by_hash = {digest(word): word for word in world.values()}
    seen = set()
    with Snapshot.open(index) as snapshot:
        for table, rows in snapshot.vectors(Modality.IMAGE):
            for content_hash, row in zip(table["content_hash"].to_pylist(), rows, strict=True):
                np.testing.assert_array_equal(row, unit(by_hash[content_hash]).astype(np.float16))
                seen.add(content_hash)
        assert len(seen) == snapshot.counts[Modality.IMAGE]


def test_items_keep_names_that_are_hard_to_write_down(index: Path) -> None:
    names = [b"caf\xc3\xa9.txt", b"\xff\xfe raw.jpg", b"new\nline \x1b[31m\t'\".wav", "日本.png".encode()]
    kept = [
        Item(
            hashlib.md5(raw).hexdigest(),
            ROOTS[0].id,
            os.fsdecode(raw),
            (
                Member(Modality.IMAGE, Source.FILE, os.fsdecode(raw), 5, 2**62, digest("image x")),
                Member(Modality.TEXT, Source.CAPTION, None, 3, 0, None, "inline é", "bro\nken"),
            ),
            {"label": "ä", "empty": ""} if raw[0] == 0xFF else {},
        )
        for raw in names
    ]
    root = Root("b" * 16, os.fsdecode(b"/media/\xff"), "manifest", {"image": "file"})
    with Writer.open(index, create=True) as writer:
        writer.commit(None, roots=[root], items=kept, spaces=SPACES)
    with Snapshot.open(index) as snapshot:
        assert snapshot.item_list() == kept
        assert snapshot.items["path"].to_pylist()[1] == "\\xff\\xfe raw.jpg"
        assert snapshot.items["path_bytes"].to_pylist() == names
        assert snapshot.roots == {root.id: root}
        assert os.fsencode(root.base) == b"/media"
        assert snapshot.items_of({(digest("image x"), Modality.IMAGE, Source.FILE)}) == {
            (digest("image x"), Modality.IMAGE, Source.FILE): kept
        }
        assert snapshot.items_of({(digest("image x"), Modality.IMAGE, Source.CAPTION)}) == {}


def test_item_rows_survive_slices_of_tables() -> None:
    table = schema.item_table(items(words(9)))
    assert schema.items_from(table.slice(3, 4)) == items(words(9))[3:7]
    assert schema.items_from(table.slice(9)) == []


def test_segments_survive_their_rows() -> None:
    segments = [
        Segment(digest("a"), Modality.IMAGE, Source.FILE, None, None, 2**64 - 1),
        Segment(digest("b"), Modality.TEXT, Source.CAPTION, None, "two\nlines", None),
    ]
    assert schema.segments_from(schema.segment_table(segments)) == segments


KINDS = {
    "generation": "generations/*.json",
    "items": "items/*.parquet",
    "segments": "parts/*/segments.parquet",
    "vectors": "parts/*/*/text.f16",
    "structure": "parts/*/*/text.faiss",
    "tombstones": "tombstones/*.bin",
}


def _read_everything(index: Path) -> None:
    with Snapshot.open(index) as snapshot:
        candidates = snapshot.search(Modality.TEXT, unit("query"), 5)
        found_segments = snapshot.segments(candidates)
        snapshot.items_of({(s.content_hash, s.modality, s.source) for s in found_segments})


def _small_index(index: Path) -> Path:
    """One generation with deleted segments, and none before it."""
    update(index, words(30))
    update(index, {path: word for path, word in words(30).items() if not path.endswith("1.bin")})
    for number in (1,):
        (index / "generations" / f"{number:06d}.json").unlink()
    Writer.open(index).close()
    return index


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_before_anything_reads_the_file(
    kind: str, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small_index(index)
    monkeypatch.setattr(vectors, "faiss_loaded", lambda: kind == "structure")
    monkeypatch.setattr(vectors, "STRUCTURE_FROM", 0)
    _read_everything(index)  # what was found whole is remembered
    (path,) = index.glob(KINDS[kind])
    whole = path.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 2):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(IndexCorrupt, match=path.stem) as caught:
            _read_everything(index)
        assert "triptych verify" in (caught.value.hint or "")
    path.write_bytes(whole)
    _read_everything(index)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["shorter", "missing"])
def test_a_short_or_missing_file_is_named(kind: str, damage: str, index: Path) -> None:
    _small_index(index)
    (path,) = index.glob(KINDS[kind])
    if damage == "shorter":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    with pytest.raises(IndexCorrupt, match=path.stem):
        _read_everything(index)


@pytest.mark.parametrize("content", [b"", b"000009\n", b"../../etc\n", b"\xff\n"])
def test_a_pointer_that_points_nowhere(content: bytes, index: Path) -> None:
    update(index, words(2))
    (index / CURRENT).write_bytes(content)
    with pytest.raises(IndexCorrupt):
        Snapshot.open(index)


def _rewrite(index: Path, change: Callable[[dict], None]) -> None:
    """Change the current manifest and give it a right checksum, as a hostile writer could."""
    path = index / "generations" / f"{read_current(index).name}.json"
    document = json.loads(path.read_bytes())
    del document["checksum"]
    change(document)
    path.write_text(json.dumps(document | {"checksum": checksum(document)}))


def test_an_index_of_a_later_version_is_refused(index: Path) -> None:
    update(index, words(2))
    _rewrite(index, lambda document: document.update(schema_version=schema.SCHEMA_VERSION + 1))
    with pytest.raises(IndexTooNew, match=f"up to {schema.SCHEMA_VERSION}") as caught:
        Snapshot.open(index)
    assert "update triptych" in (caught.value.hint or "")
    with pytest.raises(IndexTooNew):
        Writer.open(index)


def test_a_part_of_a_space_that_the_manifest_lacks(index: Path) -> None:
    update(index, words(2))
    _rewrite(index, lambda document: document["spaces"].clear())
    with pytest.raises(IndexCorrupt, match="spaces of the parts"):
        Snapshot.open(index)


@pytest.mark.parametrize("content", [b"", b"no table at all"])
@pytest.mark.parametrize("pattern", ["items/*.parquet", "parts/*/segments.parquet"])
def test_a_table_that_is_none_under_a_right_checksum(pattern: str, content: bytes, index: Path) -> None:
    update(index, words(2))
    (path,) = index.glob(pattern)
    path.write_bytes(content)
    stored = describe(path)

    def change(document: dict) -> None:
        files = document["files"] if pattern[0] == "i" else document["parts"][0]["files"]
        name = path.relative_to(index).as_posix() if pattern[0] == "i" else path.name
        files[name] = {"size": stored.size, "sha256": stored.sha256}

    _rewrite(index, change)
    with pytest.raises(IndexCorrupt, match=path.stem):
        _read_everything(index)


def test_an_earlier_version_is_migrated_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 3)
    monkeypatch.setitem(schema.MIGRATIONS, 1, lambda document: document | {"steps": [1]})
    monkeypatch.setitem(schema.MIGRATIONS, 2, lambda document: document | {"steps": [*document["steps"], 2]})
    assert schema.migrate({"schema_version": 1}) == {"schema_version": 3, "steps": [1, 2]}


@pytest.mark.parametrize("place", ["items", "part", "part file", "space"])
def test_a_manifest_cannot_name_files_outside_the_index(place: str, index: Path) -> None:
    update(index, words(2))

    def change(document: dict) -> None:
        if place == "items":
            document["items"]["file"] = "items/../../secret.parquet"
        elif place == "part":
            document["parts"][0]["id"] = "../../secret"
        elif place == "part file":
            files = document["parts"][0]["files"]
            files["../secret"] = files.pop("segments.parquet")
        else:
            document["parts"][0]["space"] = "../secret"

    _rewrite(index, change)
    with pytest.raises(IndexCorrupt):
        Snapshot.open(index)


def test_a_query_of_another_space_is_refused(index: Path) -> None:
    update(index, words(2))
    with Snapshot.open(index) as snapshot:
        with pytest.raises(SpaceMismatch, match="toy"):
            snapshot.search(Modality.TEXT, unit("q"), 1, space_id="other")
        with pytest.raises(SpaceMismatch, match=str(DIM)):
            snapshot.search(Modality.TEXT, unit("q", dim=DIM + 1), 1)


def test_an_open_snapshot_outlives_the_files_it_reads(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "GRACE_S", -1.0)
    before = words(30)
    update(index, before)
    with Snapshot.open(index) as snapshot:
        update(index, words(5))  # rewrites the only part
        assert len(list((index / "parts").iterdir())) == 1
        for modality in Modality:
            assert found(snapshot, modality, unit("q"), 9) == oracle(before, modality, unit("q"), 9)
        assert snapshot.item_list() == items(before)
    check(index, words(5))


def test_a_reader_that_misses_a_file_reads_current_again(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "GRACE_S", -1.0)
    update(index, words(30))
    stale = read_current(index)
    update(index, words(5))
    answers = iter([stale])
    monkeypatch.setattr(
        "indexer.snapshot.read_current", lambda path: next(answers, None) or read_current(path)
    )
    with Snapshot.open(index) as snapshot:
        assert snapshot.generation.number == 2


def test_no_index_and_an_index_of_another_user(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IndexNotFound):
        Snapshot.open(index)
    update(index, words(2))
    with Snapshot.open(index) as snapshot:
        assert not snapshot.foreign_owner
    monkeypatch.setattr(os, "geteuid", lambda: index.stat().st_uid + 1)
    with Snapshot.open(index) as snapshot:
        assert snapshot.foreign_owner


def test_a_file_is_hashed_once_and_again_when_it_changes(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(index, words(30))
    shutil.rmtree(Path(os.environ["TRIPTYCH_HOME"]), ignore_errors=True)  # what the writer remembered
    hashed: list[str] = []
    _count_hashing(monkeypatch, hashed)
    monkeypatch.setattr("indexer.checked.SETTLED_NS", 0)
    _read_everything(index)
    first = list(hashed)
    _read_everything(index)
    assert f"parts/{read_current(index).parts[0].id}/{SPACE_ID}/text.f16" in first
    assert hashed == first
    (path,) = index.glob("parts/*/*/text.f16")
    os.utime(path, ns=(0, 0))
    _read_everything(index)
    assert hashed[len(first) :] == [path.relative_to(index).as_posix()]
    shutil.rmtree(Path(os.environ["TRIPTYCH_HOME"]))
    _read_everything(index)
    assert sorted(hashed[len(first) + 1 :]) == sorted(first)


def _count_hashing(monkeypatch: pytest.MonkeyPatch, hashed: list[str]) -> None:
    original = CheckedFile._digest

    def counted(file: CheckedFile) -> str:
        hashed.append(file.name)
        return original(file)

    monkeypatch.setattr(CheckedFile, "_digest", counted)


def test_a_cache_that_cannot_be_read_or_written_costs_nothing_but_time(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("TRIPTYCH_HOME", str(blocked))
    update(index, words(3))
    check(index, words(3))
    home = tmp_path / "home"
    monkeypatch.setenv("TRIPTYCH_HOME", str(home))
    _read_everything(index)
    for note in (home / "verified").glob("*.json"):
        note.write_text("[1, 2")
    assert Verified.load(index)._known == {}
    check(index, words(3))
