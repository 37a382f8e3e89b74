"""The write side: commits, conflicts, merges, forgetting, and what a kill or a full disk leaves behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer import cleaning, merge, store
from indexer.errors import CommitConflict, IndexNotFound, StoreError
from indexer.generation import CURRENT, read_current
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import Modality, Segment, Source
from indexer.verify import verify
from tests.indexer.indexes import (
    SPACE_ID,
    check,
    commit,
    digest,
    found,
    items,
    oracle,
    segments_of,
    stage,
    unit,
    update,
    words,
)

STEPS = (
    "part-written",
    "parts-moved",
    "items-written",
    "tombstones-written",
    "generation-written",
    "current-swapped",
    "cleaned",
)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


def test_first_commit_is_found_and_whole(index: Path) -> None:
    world = words(50)
    generation = update(index, world)
    assert (generation.number, generation.parent) == (1, None)
    assert sum(generation.counts.values()) == sum(len(segments_of(word)[0]) for word in world.values())
    assert (index / CURRENT).read_text() == "000001\n"
    check(index, world)
    assert verify(index).problems == []


def test_generation_without_any_segment(index: Path) -> None:
    generation = update(index, {})
    assert generation.parts == ()
    with Snapshot.open(index) as snapshot:
        assert len(snapshot.search(Modality.TEXT, unit("query"), 5)) == 0
        assert snapshot.items_of({(digest("x"), Modality.TEXT, Source.FILE)}) == {}
        assert snapshot.keys() == set()
    update(index, words(3))
    check(index, words(3))


def test_deleted_content_goes_and_comes_back_without_encoding(index: Path) -> None:
    world = words(20)
    first = update(index, world)
    fewer = {path: word for path, word in world.items() if not path.endswith("7.bin")}
    second = update(index, fewer)
    assert second.tombstones_file is not None
    assert sum(part.dead_rows for part in second.parts) > 0
    check(index, fewer)
    third = update(index, world)
    assert third.parts == first.parts
    assert third.tombstones_file is None
    check(index, world)


def test_rename_and_copy_write_no_part_and_touch_writes_nothing_but_a_manifest(index: Path) -> None:
    world = words(10)
    first = update(index, world)
    renamed = {f"moved/{path}": word for path, word in world.items()} | {"copy.bin": "w3"}
    second = update(index, renamed)
    assert [part.id for part in second.parts] == [part.id for part in first.parts]
    assert second.items_file != first.items_file
    check(index, renamed)
    with Snapshot.open(index) as snapshot:
        key = next(iter(items({"copy.bin": "w3"}))).members[0].key
        owners = snapshot.items_of({key})  # type: ignore[arg-type]
        assert [item.path for item in owners[key]] == ["copy.bin", "moved/w/3.bin"]  # type: ignore[index]
    assert update(index, renamed).items_file == second.items_file


def test_same_content_from_two_writers_is_found_once(index: Path) -> None:
    with Writer.open(index, create=True) as one, Writer.open(index, create=True) as two:
        mine, theirs = stage(one, ["image a", "audio b"]), stage(two, ["audio b", "text c"])
        first = commit(one, None, {"a": "image a", "b": "audio b"}, mine)
        with pytest.raises(CommitConflict):
            commit(two, None, {"c": "text c", "b": "audio b"}, theirs)
        world = {"a": "image a", "b": "audio b", "c": "text c"}
        commit(two, first, world, theirs)  # the staged part is still good
    check(index, world)
    assert verify(index).problems == []


def test_a_live_writers_staging_is_left_alone_and_a_dead_ones_is_not(index: Path) -> None:
    update(index, words(3))
    dead = index / "staging" / ("d" * 16)
    dead.mkdir()
    (dead / "half.f16").write_bytes(b"x")
    with Writer.open(index) as live:
        part = stage(live, ["new"])[0]
        with Writer.open(index):
            assert part.folder.exists()
            assert not dead.exists()
        commit(live, live.current(), words(3) | {"n": "new"}, [part])
    check(index, words(3) | {"n": "new"})
    assert list((index / "staging").iterdir()) == []


def test_hundred_small_commits_leave_few_parts_and_the_same_results(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no crash is tested here, and disks are slow
    world = words(300, "big")
    update(index, world)
    for number in range(100):
        world[f"small/{number}.bin"] = f"small{number}"
        world.pop(f"big/{number}.bin")
        generation = update(index, world)
    assert len(generation.parts) <= merge.MAX_PARTS
    assert len(list((index / "parts").iterdir())) < 40  # those of generations within their grace
    check(index, world)
    scratch = tmp_path / "scratch"
    update(scratch, world)
    with Snapshot.open(index) as grown, Snapshot.open(scratch) as built:
        for modality in Modality:
            query = unit(f"query {modality}")
            assert found(grown, modality, query, 200) == found(built, modality, query, 200)


def test_part_that_is_mostly_deleted_is_rewritten(index: Path) -> None:
    world = words(40)
    before = update(index, world)
    left = dict(list(world.items())[:10])
    after = update(index, left)
    assert after.parts[0].id != before.parts[0].id
    assert after.tombstones_file is None
    assert after.parts[0].rows == sum(len(segments_of(word)[0]) for word in left.values())
    check(index, left)


def test_forget_removes_rows_vectors_and_older_generations(index: Path) -> None:
    world = {"secret.txt": "text secret", "shared.txt": "text shared", "also.txt": "text shared"} | words(30)
    update(index, world)
    gone = {item.id for item in items(world) if item.path in ("secret.txt", "shared.txt")}
    with Writer.open(index) as writer:
        current = writer.current()
        assert current is not None
        generation = writer.compact(current, drop=gone)
    assert generation.item_count == len(world) - 2
    left = {path: word for path, word in world.items() if path not in ("secret.txt", "shared.txt")}
    check(index, left)  # the content that another item has stays
    assert [path.name for path in (index / "generations").iterdir()] == ["000002.json"]
    raw = unit("text secret").astype("<f2").tobytes()
    for path in index.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert digest("text secret") not in data
            assert raw not in data
    with Snapshot.open(index) as snapshot:
        keys = snapshot.keys()
    assert (digest("text secret"), Modality.TEXT, Source.FILE) not in keys
    assert (digest("text shared"), Modality.TEXT, Source.FILE) in keys
    assert verify(index).problems == []


def test_old_generations_stay_for_their_grace_only(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 8):
        update(index, words(number))
    names = sorted(path.stem for path in (index / "generations").iterdir())
    assert names == ["000004", "000005", "000006", "000007"]
    with Snapshot.open(index, generation="000004") as old:
        assert old.item_list() == items(words(4))
    monkeypatch.setattr(cleaning, "GRACE_S", 0.0)
    Writer.open(index).close()
    assert [path.stem for path in (index / "generations").iterdir()] == ["000007"]
    check(index, words(7))


def _stopped_at(step: str, index: Path, world: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that commits `world` and has stopped at a step."""
    command = [sys.executable, "-m", "tests.indexer.commit_once", str(index), json.dumps(world)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        command, cwd=root, env=os.environ | {"TRIPTYCH_STOP_AT": step}, stderr=subprocess.DEVNULL
    )
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"the commit ended without reaching {step}"
    return process


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_the_last_generation_is_whole_and_so_is_the_next_run(step: str, index: Path) -> None:
    before = words(30)
    update(index, before)
    after = {path: word for path, word in before.items() if path != "w/5.bin"} | {"new": "new content"}
    process = _stopped_at(step, index, after)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    committed = step in ("current-swapped", "cleaned")
    assert read_current(index).number == (2 if committed else 1)
    check(index, after if committed else before)
    more = after | {"more": "more content"}
    update(index, more)
    check(index, more)
    assert list((index / "staging").iterdir()) == []
    assert verify(index).problems == []


def test_cleaning_between_draft_and_commit_takes_nothing_that_the_commit_names(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(index, words(4))
    update(index, words(5))
    with Writer.open(index) as writer:
        locked = store.short_lock

        @contextlib.contextmanager
        def after_another_ones_cleaning(path: Path) -> Iterator[None]:
            with locked(path):
                cleaning.clean(index)  # the grace of the first generation, and so of its items, is over
            with locked(path):
                yield

        monkeypatch.setattr(cleaning, "GRACE_S", 0.0)
        monkeypatch.setattr(store, "short_lock", after_another_ones_cleaning)
        commit(writer, writer.current(), words(4))  # its item table is the first generation's
    check(index, words(4))
    assert verify(index).problems == []


def test_every_file_of_an_index_may_be_read_by_whom_the_umask_lets(index: Path) -> None:
    old = os.umask(0o022)
    try:
        update(index, words(3))
    finally:
        os.umask(old)
    for path in [path for path in index.rglob("*") if path.is_file()]:
        assert path.stat().st_mode & 0o777 == 0o644, path


def test_killed_while_forgetting_the_next_run_prunes(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update(index, words(5))
    monkeypatch.setattr(cleaning, "clean", lambda _: None)  # as if the process died before it
    with Writer.open(index) as writer:
        current = writer.current()
        assert current is not None
        writer.compact(current, drop=[items(words(5))[0].id])
    monkeypatch.undo()
    assert len(list((index / "generations").iterdir())) == 2
    Writer.open(index).close()
    assert len(list((index / "generations").iterdir())) == 1
    assert len(list((index / "parts").iterdir())) == 1


@pytest.mark.parametrize(
    "where",
    [
        "indexer.vectors.write_half",
        "indexer.vectors.write_structure",
        "indexer.parts.fsync_file",
        "pyarrow.parquet.write_table",
        "indexer.pointer.write_atomic",
    ],
)
@pytest.mark.parametrize(("code", "says"), [(errno.ENOSPC, "full"), (errno.EROFS, "read-only")])
def test_disk_that_takes_no_more(
    where: str, code: int, says: str, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(index, words(5))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(where, refuse)
    with pytest.raises(StoreError, match=says):
        update(index, words(6))
    monkeypatch.undo()
    check(index, words(5))
    update(index, words(6))
    check(index, words(6))


def test_disk_full_once_leaves_the_staged_part_usable(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer.open(index, create=True) as writer:
        parts = stage(writer, ["one"])
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> None:
                raise OSError(errno.ENOSPC, "full")

            patch.setattr("indexer.pointer.write_atomic", refuse)
            with pytest.raises(StoreError, match="full"):
                commit(writer, None, {"a": "one"}, parts)
        commit(writer, None, {"a": "one"}, parts)
    check(index, {"a": "one"})


def test_faiss_reports_a_disk_error_as_one(tmp_path: Path) -> None:
    from indexer.vectors import index_for, write_structure

    with pytest.raises(OSError) as caught:
        write_structure(index_for(10, 8), tmp_path)
    assert caught.value.errno == errno.EIO


def test_places_that_cannot_become_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IndexNotFound):
        Writer.open(tmp_path / "nothing")
    mine = tmp_path / "photos"
    (mine / "items").mkdir(parents=True)
    (mine / "holiday.jpg").write_bytes(b"jpeg")
    with pytest.raises(StoreError, match=r"holiday\.jpg"):
        Writer.open(mine, create=True)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(StoreError, match="a file"):
        Writer.open(file, create=True)
    update(tmp_path / "index", words(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(StoreError, match="read-only"):
            Writer.open(tmp_path / "index")
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "index").stat().st_uid + 1)
    with pytest.raises(StoreError, match="another user"):
        Writer.open(tmp_path / "index")


def test_cleaning_touches_only_names_of_ours(index: Path) -> None:
    update(index, words(3))
    stranger = index / "parts" / "notes"
    stranger.mkdir()
    orphan = index / "parts" / ("0" * 16)
    orphan.mkdir()
    (index / "items" / "mine.parquet").write_bytes(b"x")
    Writer.open(index).close()
    assert stranger.exists()
    assert (index / "items" / "mine.parquet").exists()
    assert not orphan.exists()


def test_vectors_that_cannot_be_stored_are_refused(index: Path) -> None:
    segment = Segment(digest("x"), Modality.IMAGE, Source.FILE)
    with Writer.open(index, create=True) as writer:
        for rows, says in (
            (np.full((1, 4), np.nan, np.float32), "not of length 1"),
            (np.full((1, 4), 0.6, np.float32), "not of length 1"),
            (np.zeros((2, 4), np.float32), "1 segments"),
        ):
            with pytest.raises(StoreError, match=says):
                writer.add_part([segment], rows, space_id=SPACE_ID)
        with pytest.raises(StoreError, match="space id"):
            writer.add_part([segment], np.eye(1, 4, dtype=np.float32), space_id="../up")
        assert [path for path in (index / "staging").rglob("*") if path.suffix == ".f16"] == []


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(
            st.integers(0, 11).map(str), st.integers(0, 8).map(lambda i: f"content{i}"), max_size=10
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_sequence_of_worlds_is_found_as_the_oracle_says(
    tmp_path_factory: pytest.TempPathFactory, worlds: list[dict[str, str]]
) -> None:
    index = tmp_path_factory.mktemp("model") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for world in worlds:
            update(index, world)
            check(index, world)
    assert verify(index).problems == []
    assert len(oracle(worlds[-1], Modality.TEXT, unit("q"), 99)) <= len(set(worlds[-1].values()))
