"""Settings: file, then environment, then flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.errors import ConfigError
from retrieval.config import cache_dir, load_settings


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return file


def test_flags_win_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, 'k = 3\nmodel = "birds"\nworkers = 5\n')
    monkeypatch.setenv("TRIPTYCH_K", "7")
    settings = load_settings(file).with_flags(workers=1, timeout_s=None)
    assert (settings.k, settings.model, settings.workers, settings.timeout_s) == (7, "birds", 1, 60.0)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("kk = 3", "'kk', which is unknown"),
        ("k = [", "not valid TOML"),
        ("k = 0", "k is 0"),
        ("k = 'x'", "k is 'x'"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part.replace("[", r"\[")) as caught:
        load_settings(write(tmp_path, text))
    assert caught.value.hint


def test_home_moves_everything(tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "home" / "cache"
