"""What an update sees of a damaged index before it does anything, and what that look must not cost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.checked import CheckedFile
from indexer.errors import IndexCorrupt
from indexer.snapshot import Snapshot
from indexer.types import Modality
from tests.indexer.trees import media, run
from tests.toy import word_vector

pytestmark = pytest.mark.usefixtures("decoding")


@pytest.fixture
def whole(tree: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index with a part, and with tombstones."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    media(tree)
    run(index, tree)
    (tree / "sub/white.png").unlink()
    run(index, tree)
    return index


def zero_the_head(path: Path) -> None:
    path.write_bytes(bytes(64) + path.read_bytes()[64:])


def zero_the_tail(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-32] + bytes(32))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("parts/*/segments.parquet", zero_the_head),
        ("parts/*/segments.parquet", zero_the_tail),
        ("parts/*/*/image.f16", zero_the_head),
        ("parts/*/*/image.f16", zero_the_tail),
        ("parts/*/*/text.f16", cut),
        ("parts/*/*/image.faiss", zero_the_head),
        ("tombstones/*.bin", zero_the_head),
        ("parts/*/*/audio.faiss", Path.unlink),
    ],
)
def test_an_update_without_changes_refuses_a_damaged_index(
    tree: Path, whole: Path, pattern: str, damage: Callable[[Path], None]
) -> None:
    (victim,) = whole.glob(pattern)
    damage(victim)
    with pytest.raises(IndexCorrupt) as caught:
        run(whole, tree)
    assert victim.name in caught.value.message
    assert "triptych verify" in (caught.value.hint or "")


def test_a_file_written_to_after_a_search_found_it_whole_is_read_again(
    tree: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.checked.SETTLED_NS", -1)  # remember files however young
    (victim,) = whole.glob("parts/*/*/image.f16")
    with Snapshot.open(whole) as snapshot:
        snapshot.search(Modality.IMAGE, word_vector("red"), 1)
    good = victim.read_bytes()
    middle = len(good) // 2
    victim.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    os.utime(victim, (1, 1))
    with pytest.raises(IndexCorrupt, match=r"image\.f16 does not match its checksum"):
        run(whole, tree)
    victim.write_bytes(good)
    assert run(whole, tree).unchanged == 6


def test_a_look_at_a_whole_index_reads_no_part_to_its_end(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = CheckedFile._digest
    monkeypatch.setattr(CheckedFile, "_digest", lambda file: read.append(file.name) or real(file))
    with Snapshot.open(whole) as snapshot:
        snapshot.glance()
    assert [name for name in read if name.startswith("parts/")] == []
