"""Which index a command means."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.errors import ConfigError, IndexNotFound
from retrieval import places


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))


def make(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "CURRENT").write_text("000001")
    return path


def test_the_named_one_comes_first_then_the_setting(tmp_path: Path) -> None:
    named, setting = make(tmp_path / "a" / ".triptych"), make(tmp_path / "b")
    assert places.for_reading(tmp_path / "a", setting).path == named
    assert places.for_reading(None, setting).path == setting


def test_the_nearest_registered_one_covers_then_the_latest(tmp_path: Path) -> None:
    wide, narrow, other = (make(tmp_path / name) for name in ("wide", "narrow", "other"))
    media = tmp_path / "media"
    (media / "birds" / "owls").mkdir(parents=True)
    places.register(narrow, [media / "birds"])
    places.register(wide, [media])
    places.register(other, [tmp_path / "elsewhere"])
    assert places.for_reading(None, None, here=media / "birds" / "owls").path == narrow
    assert places.for_reading(None, None, here=media).path == wide
    assert places.for_reading(None, None, here=tmp_path).path == other


def test_an_unregistered_index_is_used_only_when_named(tmp_path: Path) -> None:
    make(tmp_path / ".triptych")
    with pytest.raises(IndexNotFound) as caught:
        places.for_reading(None, None, here=tmp_path)
    assert "triptych index" in (caught.value.hint or "")
    assert places.for_reading(tmp_path, None).path == tmp_path / ".triptych"


def test_a_user_who_is_not_there_is_no_index() -> None:
    with pytest.raises(IndexNotFound, match=r"~no such user/x \(from --index\) holds no index"):
        places.for_reading(Path("~no such user/x"), None)


def test_an_index_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    gone, kept = make(tmp_path / "gone"), make(tmp_path / "kept")
    places.register(gone, [tmp_path])
    (gone / "CURRENT").unlink()
    places.register(kept, [tmp_path])
    assert [entry.path for entry in places.entries()] == [kept]


def test_a_broken_registry_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "data"
    folder.mkdir(parents=True)
    (folder / "indexes.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        places.entries()


def test_writing_goes_into_the_first_source(tmp_path: Path) -> None:
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("image\n")
    assert places.for_writing([tmp_path, Path("x")], None) == tmp_path / ".triptych"
    assert places.for_writing([manifest], None) == tmp_path / ".triptych"
    assert places.for_writing([manifest], tmp_path / "new") == tmp_path / "new"
