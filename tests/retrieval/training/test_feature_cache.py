"""The feature cache: whole blocks or none, whoever writes, and damage that costs a computation only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval.training.feature_cache import FeatureCache, Halves

ROOT = Path(__file__).parents[3]
PRINT = "ab" * 32
WIDTH = 5


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def values(*numbers: int) -> Halves:
    """A row a number, different for each."""
    return (np.array(numbers)[:, None] * 10 + np.arange(WIDTH)).astype(np.float16)


def opened(root: Path, *, fingerprint: str = PRINT, width: int = WIDTH) -> tuple[FeatureCache, list[str]]:
    said: list[str] = []
    return FeatureCache.open(root, fingerprint=fingerprint, width=width, warn=said.append), said


def blocks(cache: FeatureCache) -> list[Path]:
    return sorted(cache.folder.glob("*.f16"))


def test_what_was_added_is_gathered_in_any_order(tmp_path: Path) -> None:
    cache, _ = opened(tmp_path)
    cache.add([key(3), key(1)], values(3, 1))
    cache.add([key(2)], values(2))
    for one in (cache, opened(tmp_path)[0]):
        assert len(one) == 3
        assert one.missing([key(2), key(9), key(1), key(9)]) == [key(9)]
        assert (one.gather([key(1), key(2), key(3), key(1)]) == values(1, 2, 3, 1)).all()
        assert one.gather([]).shape == (0, WIDTH)
        with pytest.raises(KeyError):
            one.gather([key(9)])


def test_of_two_of_one_content_the_older_serves(tmp_path: Path) -> None:
    first, second = opened(tmp_path)[0], opened(tmp_path)[0]
    first.add([key(1)], values(1))
    second.add([key(1), key(2)], values(7, 2))  # it did not know of the first's
    for cache in (first, opened(tmp_path)[0]):
        assert (cache.gather([key(1)]) == values(1)).all()
    assert (second.gather([key(1), key(2)]) == values(7, 2)).all()
    second.refresh()
    assert (second.gather([key(1), key(2)]) == values(1, 2)).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_stored(tmp_path: Path, wrong: float) -> None:
    cache, _ = opened(tmp_path)
    bad = values(1, 2)
    bad[1, 3] = wrong
    with pytest.raises(ValueError, match="not finite"):
        cache.add([key(1), key(2)], bad)
    with pytest.raises(ValueError, match="shape"):
        cache.add([key(1)], values(1, 2))
    assert blocks(cache) == []


@pytest.mark.parametrize("kept", [0, 10, 70, -1])
def test_a_cut_block_is_told_and_computed_again(tmp_path: Path, kept: int) -> None:
    cache, _ = opened(tmp_path)
    cache.add([key(1), key(2)], values(1, 2))
    cache.add([key(3)], values(3))
    first = blocks(cache)[0]
    first.write_bytes(first.read_bytes()[:kept])
    again, said = opened(tmp_path)
    assert len(said) == 1
    assert first.name in said[0]
    assert again.missing([key(1), key(2), key(3)]) == [key(1), key(2)]
    again.add([key(1), key(2)], values(1, 2))
    assert (opened(tmp_path)[0].gather([key(3), key(2)]) == values(3, 2)).all()


@pytest.mark.parametrize("place", [60 + 5, -1])  # in the keys, in the values
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: int) -> None:
    cache, _ = opened(tmp_path)
    cache.add([key(1)], values(1))
    cache.add([key(1), key(2)], values(1, 2))
    data = bytearray(blocks(cache)[0].read_bytes())
    data[place] ^= 64
    blocks(cache)[0].write_bytes(data)
    again, said = opened(tmp_path)
    assert again.missing([key(1), key(2)]) == []  # the other block has it too
    assert (again.gather([key(1)]) == values(1)).all()
    assert ["checksum" in line for line in said] == [True]
    assert len(blocks(cache)) == 1
    assert opened(tmp_path)[1] == []


def test_another_networks_block_is_left_alone(tmp_path: Path) -> None:
    cache, _ = opened(tmp_path)
    cache.add([key(1)], values(1))
    other, said = opened(tmp_path, fingerprint=PRINT[:16] + "0" * 48)  # the same folder
    assert other.missing([key(1)]) == [key(1)]
    assert "another network" in said[0]
    wider, said = opened(tmp_path, width=WIDTH + 1)
    assert wider.missing([key(1)]) == [key(1)]
    assert len(said) == 1
    assert (opened(tmp_path)[0].gather([key(1)]) == values(1)).all()
    apart, said = opened(tmp_path, fingerprint="cd" * 32)
    assert (len(apart), said) == (0, [])


def test_processes_write_at_once(tmp_path: Path) -> None:
    """Two processes fill one cache with overlapping contents; every block is whole."""
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.retrieval.training.test_feature_cache import key, opened, values
cache, _ = opened(Path(sys.argv[2]))
for number in range(int(sys.argv[3]), int(sys.argv[3]) + 30):
    cache.add([key(number), key(number + 100)], values(number, number + 100))
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(tmp_path), str(start)])
        for start in (0, 15)
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    cache, said = opened(tmp_path)
    numbers = [*range(45), *range(100, 145)]
    assert said == []
    assert len(blocks(cache)) == 60
    assert len(cache) == 90
    assert cache.missing([key(number) for number in numbers]) == []
    assert (cache.gather([key(number) for number in numbers]) == values(*numbers)).all()


def test_a_killed_writers_leftovers_do_not_count(tmp_path: Path) -> None:
    import os

    cache, _ = opened(tmp_path)
    cache.add([key(1)], values(1))
    whole = blocks(cache)[0]
    half = whole.with_name(f".{whole.name}.0123456789abcdef")
    half.write_bytes(whole.read_bytes()[:90])
    assert len(opened(tmp_path)[0]) == 1
    assert half.exists()  # perhaps another process is still writing it
    os.utime(half, (0, 0))
    again, said = opened(tmp_path)
    assert not half.exists()
    assert (len(again), said) == (1, [])
