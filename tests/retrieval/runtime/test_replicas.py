"""Several devices: the same vectors in the same order, and processes that die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import ModelError
from retrieval.encoders.tower import OUTPUT
from retrieval.runtime.replicas import Replicas, split
from tests.retrieval.runtime.replicated import load, load_dying, texts, views

PLACES = ("cpu:0", "cpu:1")


@pytest.fixture(scope="module")
def pair() -> Iterator[Replicas]:
    with Replicas.open(load, PLACES) as replicas:
        yield replicas


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("per_segment", [1, 3])
def test_two_devices_give_what_one_gives(pair: Replicas, count: int, per_segment: int) -> None:
    inputs = views(count, per_segment=per_segment)
    alone = load("cpu").run(inputs)[OUTPUT]
    found = pair.run(inputs)[OUTPUT]
    np.testing.assert_allclose(found, alone, atol=1e-6)
    if count > 1:  # vectors differ by far more than that, so the order is told too
        assert np.linalg.norm(alone[1:] - alone[:-1], axis=1).min() > 0.05


def test_a_pair_says_what_it_is(pair: Replicas) -> None:
    assert pair.precision == "f32"
    assert pair.preferred_group == 8
    assert len(set(pair.pids)) == 2
    assert os.getpid() not in pair.pids


def test_texts_are_shared_out_too() -> None:
    inputs = texts(11)
    with Replicas.open(load, PLACES) as replicas:
        found = replicas.run(inputs)[OUTPUT]
    np.testing.assert_allclose(found, load("cpu").run(inputs)[OUTPUT], atol=1e-6)


def test_a_process_killed_between_runs_is_started_again() -> None:
    lines: list[str] = []
    inputs = views(9)
    with Replicas.open(load, PLACES, note=lines.append) as replicas:
        before, pids = replicas.run(inputs)[OUTPUT], replicas.pids
        os.kill(pids[1], signal.SIGKILL)
        after = replicas.run(inputs)[OUTPUT]
        assert replicas.pids[0] == pids[0]
        assert replicas.pids[1] != pids[1]
    np.testing.assert_array_equal(after, before)
    assert lines == [f"the process for cpu:1 died (signal {signal.SIGKILL.value}): started again"]


def test_a_process_killed_within_a_run_is_started_again(tmp_path: Path) -> None:
    inputs, lines = views(9), []
    with Replicas.open(partial(load_dying, folder=tmp_path, always=False), PLACES, note=lines.append) as two:
        found = two.run(inputs)[OUTPUT]
    assert (tmp_path / "died").exists()
    np.testing.assert_allclose(found, load("cpu").run(inputs)[OUTPUT], atol=1e-6)
    assert len(lines) == 1


def test_inputs_that_kill_twice_are_an_error(tmp_path: Path) -> None:
    with Replicas.open(partial(load_dying, folder=tmp_path, always=True), PLACES) as replicas:
        with pytest.raises(ModelError, match=r"cpu:1 died 2 times .*signal 9"):
            replicas.run(views(9))
        one = replicas.run(views(1))[OUTPUT]  # half of one is none for the second: the first still works
    np.testing.assert_allclose(one, load("cpu").run(views(1))[OUTPUT], atol=1e-6)


def test_an_error_of_a_process_comes_with_its_hint() -> None:
    with pytest.raises(ModelError, match=r"cpu:0: no cpu:0 here") as caught:
        Replicas.open(partial(load, broken=True), PLACES)
    assert caught.value.hint == "name another"


def test_a_bad_run_is_an_error_and_the_process_goes_on(pair: Replicas) -> None:
    with pytest.raises(ModelError, match="cpu:0: ValueError"):
        pair.run({"views": np.zeros((3, 2, 2, 3), np.uint8), "pool": np.ones((4, 4), np.float32)})
    assert pair.run(views(3))[OUTPUT].shape == (3, 8)


def test_processes_end_with_close() -> None:
    replicas = Replicas.open(load, PLACES)
    pids = replicas.pids
    replicas.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_rows_are_split_by_weight_and_views_follow_their_segments() -> None:
    inputs = views(8, per_segment=2)
    first, second = split(inputs, [3, 1])
    assert first is not None
    assert second is not None
    assert [len(one["views"]) for one in (first, second)] == [12, 4]
    np.testing.assert_array_equal(second["views"], inputs["views"][12:])
    np.testing.assert_array_equal(second["pool"], inputs["pool"][6:, 12:])
    assert split(views(1), [1, 1]).count(None) == 1
