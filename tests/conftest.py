"""Fixtures that all tests share: the starter model, built once, and a private home for a user's files."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

from retrieval.models.model import Model
from retrieval.models.registry import load_model
from tests.media import write_pairs

ROOT = Path(__file__).parent.parent
DAY_S = 86_400


@pytest.fixture(scope="session")
def starter_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TRIPTYCH_HOME whose cache holds the starter. Do not write into it: take `home` for that.

    It is kept between runs in pytest's cache, under a name that changes with what the model is made by.
    """
    cache = getattr(request.config, "cache", None)
    if cache is None:
        return _built(tmp_path_factory.mktemp("starter"))
    folder = Path(cache.mkdir("starter"))
    home = folder / _recipe()
    for other in (path for path in folder.iterdir() if path.is_dir()):
        # Not a fresh one: another run may be using it.
        if other != home and time.time() - other.stat().st_mtime > DAY_S:
            shutil.rmtree(other, ignore_errors=True)
    return _built(home)


@pytest.fixture(scope="session")
def starter(starter_home: Path) -> Model:
    """The starter model, with two threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_HOME", str(starter_home))
        return load_model(threads=2)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TRIPTYCH_HOME of this test's own, set in the environment."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("TRIPTYCH_HOME", str(folder))
    return folder


@pytest.fixture
def home_with_starter(home: Path, starter_home: Path) -> Path:
    """As `home`, with the starter in its cache."""
    (home / "cache").symlink_to(starter_home / "cache", target_is_directory=True)
    return home


@dataclass(frozen=True, slots=True)
class TrainedFolder:
    """A model that the command line trained, its rows and a home that knows its base."""

    home: Path  # TRIPTYCH_HOME
    table: Path  # rows of 48 pictures and texts, CSV
    model: Path  # trained on them, dimensions 384 and 64
    said: str  # what training printed on stderr


@pytest.fixture(scope="session")
def trained(starter_home: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedFolder:
    """A model trained once by `triptych train`, as a process. Write into neither its folder nor its home.

    Workers of one run share it: the first that asks makes it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    with FileLock(folder.with_suffix(".lock")):
        told = folder / "told.txt"
        if not told.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            told.write_text(_trained(folder, starter_home))
        return TrainedFolder(folder / "home", folder / "pairs.csv", folder / "photos", told.read_text())


def _trained(folder: Path, starter_home: Path) -> str:
    """Train a model in a folder; what was said on stderr."""
    home = folder / "home"
    shutil.copytree(starter_home / "cache" / "models", home / "cache" / "models", copy_function=os.link)
    kept = starter_home / "cache" / "backbones"  # graphs of bare backbones, kept between runs of tests
    kept.mkdir(exist_ok=True)
    (home / "cache" / "backbones").symlink_to(kept, target_is_directory=True)
    table, model = folder / "pairs.csv", folder / "photos"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("image", "text"))
        writer.writeheader()
        writer.writerows(write_pairs(folder))
    options = ["--epochs", "4", "--batch-size", "16", "--nested", "64", "--set", "metric_k=1"]
    options += ["--set", "validation=0.2", "--set", "test=0.2"]
    done = subprocess.run(
        [str(Path(sys.executable).parent / "triptych"), "train", str(table), "--out", str(model), *options],
        env=os.environ | {"TRIPTYCH_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def trained_here(trained: TrainedFolder, monkeypatch: pytest.MonkeyPatch) -> TrainedFolder:
    """As `trained`, with its home set in the environment."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(trained.home))
    return trained


def _built(home: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_HOME", str(home))
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(home.with_suffix(".lock")):  # one worker builds, the others wait
            load_model()
    return home


def _recipe() -> str:
    """A hash of everything that a bundle's graphs follow from."""
    digest = hashlib.sha256()
    for folder in ("retrieval/models", "retrieval/encoders"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".safetensors"):
                digest.update(path.read_bytes())
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        digest.update(version(package).encode())
    return digest.hexdigest()[:16]
