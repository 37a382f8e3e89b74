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
        ("runtime = 'tensorrt'", "runtime is 'tensorrt'"),
        ("precision = 'f8'", "precision is 'f8'"),
        ("device = 'cuda:x'", "device is 'cuda:x'"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part.replace("[", r"\[")) as caught:
        load_settings(write(tmp_path, text))
    assert caught.value.hint


def test_where_and_how_a_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, 'runtime = "onnx"\nprecision = "bf16"\ndevice = "cpu"\n')
    monkeypatch.setenv("TRIPTYCH_PRECISION", "INT8")
    settings = load_settings(file).with_flags(device="cuda:1")
    assert (settings.runtime, settings.precision, settings.device) == ("onnx", "int8", "cuda:1")
    with pytest.raises(ConfigError, match="device is 'tpu'") as caught:
        settings.with_flags(device="tpu")
    assert caught.value.hint == "it takes one of auto, cpu, cuda, cuda:N, mps"


def test_home_moves_everything(tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "home" / "cache"
