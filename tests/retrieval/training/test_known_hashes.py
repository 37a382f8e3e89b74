"""Hashes of an earlier run: whom they serve, and what they must not hide."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from indexer.fsio import hash_bytes
from indexer.hashing import Reading, read_hash
from indexer.types import Modality
from retrieval.training import features, known_hashes
from retrieval.training.features import collect_features
from retrieval.training.known_hashes import NAME, KnownHashes
from retrieval.training.types import Row
from tests.retrieval.training.sources import picture_bytes
from tests.retrieval.training.test_features import TOYS, Feature, towers

__all__ = ["towers"]  # the fixture
LONG_AGO = 1_600_000_000_000_000_000


def write(path: Path, content: bytes, *, time_ns: int = LONG_AGO) -> str:
    path.write_bytes(content)
    os.utime(path, ns=(time_ns, time_ns))
    return str(path)


def remembered(folder: Path, *paths: str) -> KnownHashes:
    KnownHashes.open(folder).keep((path, read_hash(path)) for path in paths)
    return KnownHashes.open(folder)


def test_a_file_as_it_was_is_known(tmp_path: Path) -> None:
    path = write(tmp_path / os.fsdecode(b"na\xffme"), b"one")
    found = remembered(tmp_path / "cache", path).find(path)
    assert found == Reading(hash_bytes(b"one"), 3, LONG_AGO, dirty=False)


def test_another_size_or_time_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"one")
    known = remembered(tmp_path / "cache", path)
    write(tmp_path / "a", b"four")
    assert known.find(path) is None
    write(tmp_path / "a", b"two", time_ns=LONG_AGO + 1)
    assert known.find(path) is None
    Path(path).unlink()
    assert known.find(path) is None
    assert known.find(str(tmp_path / "never seen")) is None


def test_what_was_just_written_is_not_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"one")
    known = KnownHashes.open(tmp_path)
    known.keep([(path, read_hash(path)._replace(dirty=True))])
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"version": 9, "files": {"/a": [1, 1, "00"]}}'])
def test_damage_is_nothing_known(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / NAME, content)
    path = write(tmp_path / "a", b"one")
    assert KnownHashes.open(tmp_path).find("/a") is None
    assert remembered(tmp_path, path).find(path) is not None


def test_the_longest_ago_are_forgotten_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_hashes, "MOST", 2)
    paths = [write(tmp_path / name, name.encode()) for name in "abc"]
    for path in (*paths, paths[1]):
        remembered(tmp_path / "cache", path)
    assert list(json.loads((tmp_path / "cache" / NAME).read_bytes())["files"]) == paths[1:]


def test_a_second_run_reads_no_file_that_is_as_it_was(
    tmp_path: Path, towers: dict[Modality, Feature], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [write(tmp_path / f"{n}.png", picture_bytes((60 + n, 0, 0))) for n in range(3)]
    rows = [Row(name, name, ("a boat",)) for name in names]
    first = collect_features(rows, TOYS, cache=tmp_path / "cache", workers=1)
    read: list[str] = []
    monkeypatch.setattr(features, "read_hash", lambda path: read.append(path) or read_hash(path))
    write(tmp_path / "1.png", picture_bytes((0, 0, 90)), time_ns=LONG_AGO + 1)
    again = collect_features(rows, TOYS, cache=tmp_path / "cache", workers=1)
    assert read == [names[1]]
    assert (again.computed, again.reused) == (1, 3)
    old, new = first.hashes[Modality.IMAGE], again.hashes[Modality.IMAGE]
    assert [a == b for a, b in zip(old, new, strict=True)] == [True, False, True]
