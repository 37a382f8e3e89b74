"""OpenVINO behind the runtime protocol: the same vectors as ONNX Runtime's, whatever the number of inputs."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")

from indexer.errors import ConfigError, ModelError
from retrieval.models.export import TextGraph, export
from retrieval.runtime.onnx import OnnxRuntime
from retrieval.runtime.openvino import OpenVinoRuntime, capabilities
from retrieval.runtime.protocol import Arrays
from tests.retrieval.runtime.graphs import Placed, text_graph, view_graph

GROUP = 4


@pytest.fixture(scope="module")
def views_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "views.onnx"
    export(view_graph(), path, views(3))
    return path


@pytest.fixture(scope="module")
def texts_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "texts.onnx"
    export(text_graph(), path, texts(3, 5))
    return path


def views(count: int, *, segments: int = 0, seed: int = 0) -> Arrays:
    """`count` views, one a segment, or divided among so many segments."""
    noise = np.random.default_rng(seed)
    pixels = noise.integers(0, 256, (count, 4, 4, 3), np.uint8)
    if not segments:
        return {"views": pixels, "pool": np.eye(count, dtype=np.float32)}
    pool = np.zeros((segments, count), np.float32)
    for column in range(count):
        pool[column % segments, column] = 1.0
    return {"views": pixels, "pool": pool / pool.sum(axis=1, keepdims=True)}


def texts(count: int, tokens: int) -> Arrays:
    ids = np.random.default_rng(count).integers(1, 50, (count, tokens))
    mask = (np.arange(tokens) < np.arange(1, count + 1)[:, None] % tokens + 1).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("count", [1, 3, GROUP, GROUP + 1, 3 * GROUP - 1])
def test_any_number_of_views_gives_what_onnx_runtime_gives(views_graph: Path, count: int) -> None:
    expected = OnnxRuntime.open(views_graph, threads=1).run(views(count))["vectors"]
    found = OpenVinoRuntime.open(views_graph, threads=2, group=GROUP).run(views(count))["vectors"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert count == 1 or np.abs(expected[1:] - expected[:-1]).max() > 0.1  # different views differ


def test_segments_of_several_views_are_averaged_across_groups(views_graph: Path) -> None:
    inputs = views(11, segments=3)
    expected = OnnxRuntime.open(views_graph, threads=1).run(inputs)["vectors"]
    found = OpenVinoRuntime.open(views_graph, threads=1, group=GROUP).run(inputs)["vectors"]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    whole = OpenVinoRuntime.open(views_graph, threads=1).run(inputs)["vectors"]  # not cut
    np.testing.assert_allclose(whole, expected, atol=2e-6)


@pytest.mark.parametrize(("count", "tokens"), [(1, 1), (3, 5), (2, 16), (5, 37)])
def test_texts_of_any_length(texts_graph: Path, count: int, tokens: int) -> None:
    expected = OnnxRuntime.open(texts_graph, threads=1).run(texts(count, tokens))["vectors"]
    runtime = OpenVinoRuntime.open(texts_graph, threads=1, group=GROUP, max_tokens=40)
    found = runtime.run(texts(count, tokens))["vectors"]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(("positions", "fixed"), [(13, False), (13, True)])
def test_texts_as_long_as_the_network_has_positions_for(tmp_path: Path, positions: int, fixed: bool) -> None:
    path = tmp_path / "placed.onnx"
    samples = texts(3, positions if fixed else 5)
    export(TextGraph(Placed(positions)).eval(), path, samples, fixed_length=fixed)
    expected = OnnxRuntime.open(path, threads=1)
    for most in (0, positions):
        runtime = OpenVinoRuntime.open(path, threads=1, max_tokens=most)
        for tokens in [positions] if fixed else [5, positions, 6, positions, 9, 8]:
            found, right = (one.run(texts(4, tokens))["vectors"] for one in (runtime, expected))
            np.testing.assert_allclose(found, right, atol=2e-6)


def test_a_vector_does_not_depend_on_its_batch(views_graph: Path) -> None:
    runtime = OpenVinoRuntime.open(views_graph, precision=lowest(), threads=1, group=GROUP)
    inputs = views(7)
    together = runtime.run(inputs)["vectors"]
    one = np.ones((1, 1), np.float32)
    alone = [
        runtime.run({"views": inputs["views"][row : row + 1], "pool": one})["vectors"] for row in range(7)
    ]
    np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-6)


def test_several_threads_at_once(views_graph: Path) -> None:
    runtime = OpenVinoRuntime.open(views_graph, threads=2, group=GROUP)
    batches = [views(5, seed=seed) for seed in range(24)]
    expected = [runtime.run(batch)["vectors"] for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda batch: runtime.run(batch)["vectors"], batches))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif("BF16" not in capabilities(), reason="the processor does not compute in bf16")
def test_bf16_is_what_was_asked_for_and_close(views_graph: Path) -> None:
    exact = OpenVinoRuntime.open(views_graph, threads=1, group=GROUP)
    lower = OpenVinoRuntime.open(views_graph, precision="bf16", threads=1, group=GROUP)
    assert (exact.precision, lower.precision) == ("f32", "bf16")
    expected, found = (runtime.run(views(16))["vectors"] for runtime in (exact, lower))
    assert np.abs(found - expected).max() > 1e-5  # float32 would be closer: it is not computed in that
    assert (found * expected).sum(axis=1).min() > 0.99


def test_what_it_cannot_do(views_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="fp16"):
        OpenVinoRuntime.open(views_graph, precision="fp16")
    broken = tmp_path / "image.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"image\.onnx cannot be loaded"):
        OpenVinoRuntime.open(broken)
    monkeypatch.setattr("retrieval.runtime.openvino.capabilities", lambda: ("FP32", "INT8"))
    with pytest.raises(ConfigError, match="does not compute in it") as caught:
        OpenVinoRuntime.open(views_graph, precision="bf16")
    assert caught.value.hint == "use --precision f32"


def test_it_writes_nothing_into_the_home_and_leaves_telemetry_out(tmp_path: Path, views_graph: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from retrieval.runtime.openvino import OpenVinoRuntime; "
        f"OpenVinoRuntime.open(Path({str(views_graph)!r})); "
        "print([name for name in ('openvino_telemetry', 'torch') if sys.modules.get(name)])"
    )
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert list(tmp_path.iterdir()) == []


def lowest() -> str:
    return "bf16" if "BF16" in capabilities() else "f32"
