"""What is worked out of an index: made when due, carried over, dropped with its subject, never needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from indexer.derived import items_id, key_of, telling, told
from indexer.deriving import Kept
from indexer.deriving import derive as derive_kept
from indexer.errors import CommitConflict, StoreError
from indexer.generation import Generation, read_current
from indexer.publish import Publisher
from indexer.report import BuildOptions, Stopwatch
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.verify import verify
from tests.indexer.indexes import SPACE_ID, SPACES, check, digest, items, update, words


@dataclass
class Tally:
    """Rows of each part, of the item table and of all parts, a file each; `made` notes the keys."""

    made: list[str] = field(default_factory=list)

    def due(self, generation: Generation) -> bool:
        return not set(self.keys(generation)) <= set(generation.derived)

    def keys(self, generation: Generation) -> list[str]:
        parts = [key_of("tally", part.id) for part in generation.parts]
        return [*parts, key_of("tally", items_id(generation.items_file)), key_of("tally")]

    def derive(self, snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
        generation = snapshot.generation
        sizes = [part.rows for part in generation.parts]
        for key, size in zip(self.keys(generation), [*sizes, generation.item_count, sum(sizes)], strict=True):
            if snapshot.derived(key) is None:
                self.made.append(key)
                yield key, f"{key} {size}".encode()


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index"
    update(path, words(20))
    return path


def publishing(index: Path, tally: Tally, stack: ExitStack) -> Publisher:
    """A publisher of an update that derives with `tally`."""
    return Publisher(
        index,
        (SPACE_ID, SPACES[SPACE_ID]),
        BuildOptions(derivations=(tally,)),
        Stopwatch(),
        on_event=lambda _: None,
        stack=stack,
    )


def derive(index: Path, *derivations: Tally) -> Generation:
    with Writer.open(index) as writer:
        parent = writer.current()
        assert parent is not None
        return writer.derive(parent, derivations)


def read(index: Path) -> dict[str, str]:
    """Every derived file by its key."""
    with Snapshot.open(index) as snapshot:
        found = {}
        for key in snapshot.generation.derived:
            data = snapshot.derived(key)
            assert data is not None
            found[key] = bytes(data).decode()
    return found


def files(index: Path) -> set[str]:
    return {f"derived/{path.name}" for path in (index / "derived").iterdir()}


def test_made_once_and_read_back(index: Path) -> None:
    before, tally = read_current(index), Tally()
    generation = derive(index, tally)
    assert (generation.number, generation.parent) == (before.number + 1, before.number)
    assert (generation.parts, generation.items_file) == (before.parts, before.items_file)
    rows, part = before.parts[0].rows, before.parts[0].id
    assert read(index) == {
        key: f"{key} {size}"
        for key, size in (
            (f"tally/{part}", rows),
            (f"tally/{items_id(before.items_file)}", 20),
            ("tally/index", rows),
        )
    }
    check(index, words(20))
    assert verify(index).problems == []
    assert not tally.due(generation)
    assert derive(index, tally) == generation  # nothing to do: no commit
    with Snapshot.open(index) as snapshot:
        assert snapshot.derived("tally/nothing") is None


def test_only_what_is_new_is_made_after_an_update(index: Path) -> None:
    tally = Tally()
    first = derive(index, tally)
    tally.made.clear()
    second = update(index, words(25))  # another part, another item table
    assert set(second.derived) == {f"tally/{first.parts[0].id}", "tally/index"}
    assert tally.due(second)
    third = derive(index, tally)
    assert tally.made == [f"tally/{third.parts[1].id}", f"tally/{items_id(third.items_file)}"]
    assert len(read(index)) == 4
    check(index, words(25))


def test_a_part_keeps_its_files_while_items_change(index: Path) -> None:
    first = derive(index, Tally())
    part = f"tally/{first.parts[0].id}"
    second = update(index, {path.replace("w/", "moved/"): word for path, word in words(20).items()})
    assert second.derived[part] == first.derived[part]
    assert f"tally/{items_id(first.items_file)}" not in second.derived


def test_files_of_merged_parts_go(index: Path) -> None:
    tally, world = Tally(), words(20)
    old = {f"tally/{part.id}" for part in derive(index, tally).parts}
    for number in range(9):
        world = world | words(3, f"more{number}")
        update(index, world)
        last = derive(index, tally)
    assert not old & set(last.derived)
    assert set(read(index)) == set(tally.keys(last))
    check(index, world)
    assert verify(index).problems == []


def forget(index: Path, count: int) -> Generation:
    with Writer.open(index) as writer:
        parent = writer.current()
        assert parent is not None
        return writer.compact(parent, drop=[item.id for item in items(words(20))[:count]])


def test_forgetting_leaves_nothing_that_may_tell_of_it(index: Path) -> None:
    first = derive(index, Tally())
    after = forget(index, 3)
    assert after.derived == {}
    assert files(index) == set()
    assert not set(first.derived.values()) & set(after.files)
    assert verify(index).problems == []
    derive(index, Tally())
    assert len(read(index)) == 3


@dataclass
class Telling:
    """A file of the whole index that says which content it tells of."""

    word: str
    key: str

    def due(self, generation: Generation) -> bool:
        return self.key not in generation.derived

    def derive(self, snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
        yield self.key, telling([digest(self.word)], b"of " + self.word.encode())


def test_what_tells_of_other_contents_is_kept_when_one_is_forgotten(index: Path) -> None:
    first, last = (items(words(20))[place].members[0].content_hash for place in (0, -1))
    names = {digest(word): word for word in words(20).values()}
    assert first is not None
    assert last is not None
    with Writer.open(index) as writer:
        parent = writer.current()
        assert parent is not None
        writer.derive(parent, [Telling(names[first], "told/index/a"), Telling(names[last], "told/index/b")])
    assert list(forget(index, 1).derived) == ["told/index/b"]
    with Snapshot.open(index) as snapshot:
        data = snapshot.derived("told/index/b")
        assert data is not None
        contents, payload = told(data)
    assert contents == frozenset([last])
    assert bytes(payload) == b"of " + names[last].encode()


def test_an_empty_content_removes_a_key(index: Path) -> None:
    class Emptied:
        def due(self, generation: Generation) -> bool:
            return "tally/index" in generation.derived

        def derive(self, snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
            yield "tally/index", b""

    derive(index, Tally())
    with Writer.open(index) as writer:
        parent = writer.current()
        assert parent is not None
        assert "tally/index" not in writer.derive(parent, [Emptied()]).derived


def test_one_that_fails_leaves_the_index_and_no_file(index: Path) -> None:
    class Failing(Tally):
        def derive(self, snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
            yield "tally/index", b"half"
            raise StoreError("no more")

    before = read_current(index)
    with pytest.raises(StoreError, match="no more"):
        derive(index, Failing())
    assert read_current(index) == before
    assert files(index) == set()
    assert verify(index).problems == []


def test_another_writer_first(index: Path) -> None:
    with Writer.open(index) as writer:
        parent = writer.current()
        assert parent is not None
        update(index, words(21))
        with pytest.raises(CommitConflict):
            writer.derive(parent, [Tally()])
    assert read(index) == {}
    check(index, words(21))


def test_the_publisher_goes_by_what_is_current(index: Path) -> None:
    tally = Tally()
    options = BuildOptions(derivations=(tally,))
    with ExitStack() as stack:
        publisher = Publisher(
            index,
            (SPACE_ID, SPACES[SPACE_ID]),
            options,
            Stopwatch(),
            on_event=lambda _: None,
            stack=stack,
        )
        publisher.read_base()
        update(index, words(23))  # by another, after this one read
        publisher.derive()
        assert publisher.committed
        assert publisher.base.generation == read_current(index)
        assert set(read(index)) == set(tally.keys(read_current(index)))
        publisher.committed = False
        publisher.derive()
        assert not publisher.committed
    check(index, words(23))


def test_a_writer_at_hand_opens_the_generation_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = Snapshot.open

    def noted(index_dir: Path, *, generation: str | None = None) -> Snapshot:
        opened.append(generation or "current")
        return real(index_dir, generation=generation)

    tally = Tally()
    with ExitStack() as stack:
        publisher = publishing(index, tally, stack)
        base = publisher.read_base().generation
        assert base is not None
        publisher.open()
        monkeypatch.setattr(Snapshot, "open", noted)
        publisher.derive()
        assert opened == [base.name]
        monkeypatch.undo()
    assert set(read(index)) == set(tally.keys(read_current(index)))


def test_a_damaged_file_that_nobody_makes_costs_no_generation(index: Path) -> None:
    first = derive(index, Tally())
    path = index / first.derived["tally/index"]
    path.write_bytes(b"X" + path.read_bytes()[1:])

    class Others(Tally):
        def due(self, generation: Generation) -> bool:
            return False

    assert derive(index, Others()) == first
    assert read_current(index) == first


def damage(index: Path, generation: Generation, key: str) -> None:
    path = index / generation.derived[key]
    path.write_bytes(b"X" + path.read_bytes()[1:])


def test_a_damaged_file_can_be_removed(index: Path) -> None:
    first = derive(index, Tally())
    part = key_of("tally", first.parts[0].id)
    for key in ("tally/index", part):
        damage(index, first, key)
    derive_kept(index, [Kept("tally/index", b"")])
    second = read_current(index)
    assert set(second.derived) == set(first.derived) - {"tally/index"}
    # What is gone is not removed twice, whatever else is damaged, and what is kept is not kept again.
    whole = key_of("tally", items_id(first.items_file))
    derive_kept(index, [Kept("tally/index", b""), Kept(whole, f"{whole} 20".encode())])
    assert read_current(index) == second
    derive_kept(index, [Kept(part, b"")])
    assert set(read(index)) == {whole}


STOPPED = """
import sys
from pathlib import Path
from tests.indexer.test_derived import Tally, derive
derive(Path(sys.argv[1]), Tally())
"""


@pytest.mark.parametrize("step", ["derived-moved", "generation-written", "current-swapped"])
def test_a_process_killed_at_any_step_leaves_the_index_whole(step: str, index: Path) -> None:
    before = read_current(index)
    stopped = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(index)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TRIPTYCH_STOP_AT": step},
        stderr=subprocess.DEVNULL,
    )
    _, status = os.waitpid(stopped.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"it ended without reaching {step}"
    stopped.kill()
    stopped.wait()
    now = read_current(index)
    assert (now == before) == (step != "current-swapped")
    assert len(files(index)) == 3
    check(index, words(20))
    if step == "derived-moved":
        problems = verify(index).problems
        assert problems
        assert all("derived/" in line or "staging" in line for line in problems)
    Writer.open(index).close()  # cleans up
    assert files(index) == set(read_current(index).derived.values())
    assert verify(index).problems == []
    tally = Tally()
    derive(index, tally)
    assert len(tally.made) == (0 if step == "current-swapped" else 3)
    assert len(read(index)) == 3


def test_verify_counts_them_and_names_damage(index: Path) -> None:
    without = verify(index).checked
    derive(index, Tally())
    report = verify(index)
    assert report.problems == []
    assert report.checked == without + 3
    path = sorted((index / "derived").iterdir())[0]
    whole = path.read_bytes()
    path.write_bytes(b"X" + whole[1:])
    assert verify(index).problems == [f"derived/{path.name} does not match its checksum"]
    check(index, words(20))  # nothing of a search needs it
    path.unlink()
    assert verify(index).problems[0] == f"derived/{path.name} is missing"
    path.write_bytes(whole)
    orphan = index / "derived" / ("0" * 16 + ".bin")
    orphan.write_bytes(b"left")
    mine = index / "derived" / "notes.txt"
    mine.write_bytes(b"mine")
    assert any(orphan.name in line for line in verify(index).problems)
    Writer.open(index).close()
    assert not orphan.exists()
    assert mine.exists()
    assert path.exists()


@pytest.mark.parametrize("damage", ["flipped", "shorter", "missing"])
def test_what_is_damaged_is_done_without_and_made_anew(index: Path, damage: str) -> None:
    generation = derive(index, Tally())
    for key in sorted(generation.derived):
        path = index / generation.derived[key]
        whole = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(b"X" + whole[1:] if damage == "flipped" else whole[:-1])
        with Snapshot.open(index) as snapshot:
            assert snapshot.derived(key) is None
            assert set(snapshot.sound.derived) == set(generation.derived) - {key}
        check(index, words(20))
        tally = Tally()
        with ExitStack() as stack:
            publisher = publishing(index, tally, stack)
            publisher.read_base()
            publisher.derive()
        assert tally.made == [key]
        assert path.read_bytes() == whole
        assert verify(index).problems == []
