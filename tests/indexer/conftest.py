"""Fixtures of whole updates: a tree, an index, and decoding without processes for tests that can do so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.indexer.trees import (
    InlinePool,
)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's folder of the test's own; for modules that use this fixture."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))


@pytest.fixture
def decoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inline, but for tests that ask for real `workers`; for modules that use this fixture."""
    if "workers" not in request.fixturenames:
        monkeypatch.setattr("indexer.build.DecodePool", InlinePool)


@pytest.fixture
def workers() -> None:
    """Decode in real worker processes."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"
