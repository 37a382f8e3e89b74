"""The starter: its pinned space, what it is built from, and how the registry finds and builds it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import ModelError, ModelNotFound, WeightsMissing
from indexer.types import Modality
from retrieval.models import cache
from retrieval.models.model import Model
from retrieval.models.registry import find_model, list_models, load_model, model_spec
from retrieval.models.starter import build, weights
from retrieval.models.starter.spec import starter_spec
from retrieval.runtime.onnx import OnnxRuntime

# The same on every machine. A change makes every index of the starter unreadable to the new one: it belongs
# in the changelog.
SPACE_ID = "ae322a452aa9171007fb06de2d03caf569ebc372a245dc0899c47e4b7c912f68"

Make = Callable[[Path], None]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Towers that are built in no time, as files that no runtime can open; the names of those built."""
    made: list[str] = []

    def stand_in(name: str) -> Make:
        def make(path: Path) -> None:
            if name == "audio":
                weights.locate(weights.AISFX)
            made.append(name)
            path.write_bytes(name.encode())
            if name == "text":
                path.with_name("tokenizer.json").write_text("{}")

        return make

    for name in ("text", "image", "audio"):
        monkeypatch.setattr(build, f"_{name}", stand_in(name))
    return made


@pytest.fixture
def no_aisfx(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """As if aisfx were not installed; call the result to install it."""
    real = weights.find_spec
    hidden = {"aisfx"}
    monkeypatch.setattr(weights, "find_spec", lambda name: None if name in hidden else real(name))
    return hidden.clear


def test_the_space_is_pinned() -> None:
    assert starter_spec().space_id == SPACE_ID


def test_every_weight_is_the_pinned_one() -> None:
    for weight in weights.WEIGHTS.values():
        assert weights.verified(weight).is_file()
        assert weight.licence
        assert weight.source


def test_the_number_of_weights_is_as_stated() -> None:
    from retrieval.models.starter import backbones

    loaders = {
        weights.MINILM: backbones.load_minilm,
        weights.LITE0: backbones.load_lite0,
        weights.AISFX: backbones.load_aisfx,
    }
    for weight, load in loaders.items():
        assert sum(one.numel() for one in load().parameters()) == weight.params


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = weights.locate(weights.LITE0)
    changed = tmp_path / "changed.pth"
    data = bytearray(real.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    monkeypatch.setattr(weights, "locate", lambda _weight: changed)
    with pytest.raises(ModelError, match="SHA-256"):
        weights.verified(weights.LITE0)


def test_missing_weights_name_the_line_that_installs_them(no_aisfx: Callable[[], None]) -> None:
    with pytest.raises(WeightsMissing) as caught:
        weights.locate(weights.AISFX)
    assert caught.value.hint == "uv pip install --no-deps aisfx==0.1.2"


def test_the_classifiers_come_in_the_checkpoints_order() -> None:
    from retrieval.models.starter.backbones import load_aisfx

    network = load_aisfx(with_classifiers=True)
    assert {name: net[-1].out_features for name, net in network.classifiers.items()} == {
        "prosfx": 78,
        "soundlyTrain": 79,
        "ucsMixed": 69,
        "soundstormBalanced": 81,
        "productionelementsBalanced": 10,
        "cartoonexpressBalanced": 27,
        "hpxdigitalBalanced": 3,
        "series6000Balanced": 23,
        "series9000Balanced": 8,
    }


def test_it_is_built_once(home: Path, quick: list[str]) -> None:
    steps: list[tuple[str, float]] = []
    model = load_model("starter", progress=lambda step, share: steps.append((step, share)))
    assert quick == ["text", "image", "audio"]
    assert model.path.is_relative_to(home)
    assert [share for _, share in steps] == sorted(share for _, share in steps)
    assert steps[0][1] == 0.0
    assert steps[-1] == ("ready", 1.0)
    assert load_model("starter").path == model.path
    assert load_model(SPACE_ID).path == model.path
    assert find_model(SPACE_ID[:12]).path == model.path
    assert len(quick) == 3


def test_without_aisfx_two_modalities_go_on(
    home: Path, quick: list[str], no_aisfx: Callable[[], None]
) -> None:
    model = load_model("starter")
    assert model.modalities == (Modality.IMAGE, Modality.TEXT)
    assert model.space_id == SPACE_ID
    with pytest.raises(WeightsMissing) as caught:
        model.tower(Modality.AUDIO)
    assert "uv pip install --no-deps aisfx==0.1.2" in (caught.value.hint or "")
    assert list_models()[0].missing == ("audio: uv pip install --no-deps aisfx==0.1.2",)
    no_aisfx()  # installed since
    assert load_model("starter").modalities == tuple(Modality)
    assert len(list_models()) == 1


def test_a_damaged_bundle_is_built_again(home: Path, quick: list[str]) -> None:
    model = load_model("starter")
    (model.path / "image.onnx").unlink()
    for name in ("starter", SPACE_ID, SPACE_ID[:16]):
        with pytest.raises(ModelError, match=r"image\.onnx is missing"):
            find_model(name)
    assert load_model("starter").modalities == tuple(Modality)
    assert len(quick) == 6


def test_two_at_once_build_once(home: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started, go = threading.Event(), threading.Event()
    slow = build._text

    def hold(path: Path) -> None:
        started.set()
        assert go.wait(30)
        slow(path)

    monkeypatch.setattr(build, "_text", hold)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(load_model("starter").path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert started.wait(30)
    go.set()
    for thread in threads:
        thread.join(30)
    assert len(found) == 2
    assert quick == ["text", "image", "audio"]


def test_an_unknown_model_says_what_exists(home: Path, quick: list[str]) -> None:
    with pytest.raises(ModelNotFound, match="has none") as caught:
        find_model("starter")
    assert caught.value.hint == "build it: triptych models build starter"
    assert [(info.name, info.path) for info in list_models()] == [("starter", None)]
    load_model("starter")
    with pytest.raises(ModelNotFound, match=rf"no model clip .*starter \({SPACE_ID[:12]}\)"):
        load_model("clip")
    with pytest.raises(ModelNotFound, match=r"no model mine \(space 0000"):
        find_model("0" * 64, called="mine")
    with pytest.raises(ModelNotFound):
        find_model(str(list_models()[0].path))  # a path is no name


def test_a_read_only_cache_is_told(home: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_work: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_image", full)
    with pytest.raises(ModelError, match="No space left on device") as caught:
        load_model("starter")
    assert "TRIPTYCH_HOME" in (caught.value.hint or "")
    assert list_models()[0].path is None


@pytest.mark.starter
def test_the_built_model(starter: Model, home_with_starter: Path) -> None:
    assert starter.space_id == SPACE_ID
    assert starter.dim == 384
    assert starter.bundle.verify() == []
    spec = model_spec(SPACE_ID[:12])
    assert spec["space_id"] == SPACE_ID
    assert {tower["modality"]: tower["graph"] for tower in spec["towers"]} == {
        "image": "image.onnx",
        "text": "text.onnx",
        "audio": "audio.onnx",
    }
    assert all(tower["precision"] == "f32" for tower in spec["towers"])
    assert {weight["licence"] for tower in spec["towers"] for weight in tower["weights"]} == {
        "Apache-2.0",
        "CC-BY-4.0",
    }


@pytest.mark.starter
def test_a_tower_opens_its_own_graph_only(home_with_starter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = OnnxRuntime.open

    def watched(graph: Path, *, threads: int = 0, prepack: bool = True) -> OnnxRuntime:
        opened.append(graph.name)
        return real(graph, threads=threads, prepack=prepack)

    monkeypatch.setattr(OnnxRuntime, "open", watched)
    model = find_model("starter")
    tower = model.tower(Modality.TEXT)
    tensor = tower.preparer.tensor("a cow")
    assert opened == []
    tower.encode([tensor])
    tower.encode([tensor])
    assert opened == ["text.onnx"]
    assert model.tower(Modality.TEXT) is tower


@pytest.mark.starter
def test_encoding_loads_nothing_heavy(home_with_starter: Path) -> None:
    code = """
import pickle, sys
from indexer.types import Modality
from retrieval.models.registry import find_model
model = find_model("starter")
tower = model.tower(Modality.TEXT)
print(tower.encode([tower.preparer.tensor("thunder")]).shape)
for modality in Modality:
    pickle.loads(pickle.dumps(model.tower(modality).preparer))
print(sorted({"torch", "timm", "transformers", "onnx", "PIL", "soundfile", "safetensors"} & set(sys.modules)))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(1, 384)", "[]"]


@pytest.mark.starter
def test_a_zero_vector_stays_finite(starter: Model) -> None:
    """A view that counts for nothing must not make a NaN of its neighbours."""
    runtime = starter.tower(Modality.AUDIO).warm()
    views = np.zeros((2, 100, 96), np.float32)
    vectors = runtime.run({"views": views, "pool": np.array([[0, 0], [0.5, 0.5]], np.float32)})["vectors"]
    assert np.isfinite(vectors).all()


def test_a_file_that_is_no_graph_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"text\.onnx cannot be loaded"):
        OnnxRuntime.open(tmp_path / "text.onnx")


def test_the_lock_is_not_left_behind(home: Path, quick: list[str]) -> None:
    load_model("starter")
    with cache.swapping(), cache.swapping("starter"):
        assert find_model("starter").name == "starter"
