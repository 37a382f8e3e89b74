"""The cache of models while processes write into it: nobody waits, nothing breaks, nothing is left."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.errors import ModelNotFound
from retrieval.models import cache
from retrieval.models.bundle import OLD, Bundle, ModelSpec
from retrieval.models.families.openclip import _emptied
from retrieval.models.registry import find_model
from retrieval.models.starter.spec import starter_spec
from retrieval.models.work import staging

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys
from pathlib import Path
from retrieval.models import cache
from retrieval.models.work import staging
from tests.retrieval.test_model_cache import filling, spec_of

def fill(work):
    if sys.argv[1] == "killed":
        (work / "half").write_bytes(b"h")
        os.kill(os.getpid(), signal.SIGKILL)
    return filling(sys.argv[1])(work)

if sys.argv[1] == "staging":
    with staging() as work:
        (work / "half").write_bytes(b"h")
        os.kill(os.getpid(), signal.SIGKILL)
for _ in range(10):
    cache.store(spec_of("x").space_id, fill)
"""


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(name, (replace(starter_spec().towers[1], head=None),))


def filling(name: str, wait: Callable[[], object] = lambda: None) -> Callable[[Path], ModelSpec]:
    """Writes two files with the name in them."""

    def fill(work: Path) -> ModelSpec:
        (work / "one").write_text(name)
        wait()
        (work / "two").write_text(name)
        return spec_of(name)

    return fill


def process(word: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, word], cwd=ROOT)


def folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.is_dir())


def test_nobody_waits_for_a_model_that_is_being_made(home: Path) -> None:
    begun, go, made = threading.Event(), threading.Event(), list[Bundle]()

    def wait() -> None:
        begun.set()
        assert go.wait(30)

    slow = threading.Thread(
        target=lambda: made.append(cache.store(spec_of("x").space_id, filling("slow", wait)))
    )
    slow.start()
    try:
        assert begun.wait(30)
        with pytest.raises(ModelNotFound):
            find_model("typo")
        quick = cache.store(spec_of("x").space_id, filling("quick"))  # and sweeps, but not what is alive
        assert find_model("quick").path == quick.folder
    finally:
        go.set()
        slow.join(30)
    assert made[0].spec.names == ("quick", "slow")
    assert (made[0].path("one").read_text(), made[0].path("two").read_text()) == ("slow", "slow")
    assert made[0].verify() == []
    assert folders(cache.models_dir()) == [made[0].folder.name]


def test_two_processes_leave_one_whole_model_with_both_names(home: Path) -> None:
    both = [process("a"), process("b")]
    assert [one.wait(60) for one in both] == [0, 0]
    (bundle,) = cache.bundles()
    assert bundle.verify() == []
    assert bundle.path("one").read_text() == bundle.path("two").read_text()
    assert set(bundle.spec.names) == {"a", "b"}
    assert folders(cache.models_dir()) == [bundle.folder.name]


def test_what_a_killed_process_leaves_is_swept(home: Path) -> None:
    killed = [process(word) for word in ("killed", "staging")]
    assert [one.wait(60) for one in killed] == [-9, -9]
    place = home / "cache" / "staging"
    assert len(folders(cache.models_dir())) == len(folders(place)) == 1
    bundle = cache.store(spec_of("x").space_id, filling("x"))
    assert folders(cache.models_dir()) == [bundle.folder.name]
    with staging() as one, _emptied() as two:  # a live one stays
        assert (one.parent.parent, two.parent.parent) == (place, place)
        assert len(folders(place)) == 2
    assert folders(place) == []


def test_a_bundle_that_was_set_aside_comes_back(home: Path) -> None:
    bundle = cache.store(spec_of("x").space_id, filling("x"))
    aside = cache.models_dir() / f"{OLD}dead"
    aside.mkdir()
    bundle.folder.rename(aside / bundle.folder.name)  # a process died before the new one took its place
    other = replace(spec_of("y"), towers=(replace(spec_of("y").towers[0], dim=7),))
    cache.store(other.space_id, lambda _work: other)
    assert find_model("x").bundle.verify() == []
    assert not aside.exists()


def test_a_cache_that_cannot_be_written_can_still_be_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = cache.store(spec_of("x").space_id, filling("x"))

    def refused() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("retrieval.models.registry.swapping", refused)
    assert find_model("x").path == bundle.folder
    with pytest.raises(ModelNotFound):
        find_model("typo")
