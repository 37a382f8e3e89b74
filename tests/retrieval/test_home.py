"""What `~` stands for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retrieval.home import expanded


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # the same, on Windows


def test_the_users_own_folder(tmp_path: Path) -> None:
    assert expanded("~/a.png") == expanded(Path("~/a.png")) == tmp_path / "a.png"
    assert expanded("~") == tmp_path


@pytest.mark.skipif(os.name != "posix", reason="Windows guesses the folders of others")
@pytest.mark.parametrize("path", ["~100 birds", "~no such user/x.png", "~\0", "~\ud800/x"])
def test_what_names_no_user_stays(path: str) -> None:
    assert expanded(path) == expanded(Path(path)) == Path(path)


def test_only_at_the_beginning() -> None:
    assert expanded("a/~") == Path("a/~")
    assert expanded("./~/a") == Path("~/a")  # a folder of that name, which pathlib takes for home
    assert expanded("") == Path()
