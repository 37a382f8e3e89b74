"""The torch runtime on a CPU: equal to the graph it was given, and what it does when memory ends."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from indexer.errors import ConfigError, ModelError
from retrieval.encoders.tower import OUTPUT
from retrieval.models.export import ViewGraph
from retrieval.runtime import torch as module
from retrieval.runtime.probe import rows_worth
from retrieval.runtime.replicas import Replicas
from retrieval.runtime.torch import TorchOptions, TorchRuntime, is_full, repeated
from tests.retrieval.runtime.graphs import Mixed, load, text_graph, view_graph
from tests.retrieval.runtime.replicated import texts, views


def plain(graph: nn.Module, inputs: Any) -> np.ndarray:
    """What the graph gives, called directly with everything at once."""
    with torch.inference_mode():
        return graph(*(torch.from_numpy(inputs[name]) for name in graph.inputs)).numpy()


def share(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest distance, as a share of the median distance between different inputs."""
    pairs = itertools.combinations(expected[:30], 2)
    typical = np.median([np.linalg.norm(a - b) for a, b in pairs])
    assert typical > 0.3
    return float(np.linalg.norm(found - expected, axis=1).max() / typical)


@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("per_segment", [1, 3])
def test_views_equal_the_graph_whatever_the_group(rows: int, per_segment: int) -> None:
    inputs = views(13, per_segment=per_segment)
    runtime = TorchRuntime.open(view_graph(), options=TorchOptions(rows=rows))
    np.testing.assert_allclose(runtime.run(inputs)[OUTPUT], plain(view_graph(), inputs), atol=1e-6)
    assert runtime.precision == "f32"


def test_texts_equal_the_graph() -> None:
    inputs = texts(13)
    runtime = TorchRuntime.open(text_graph(), options=TorchOptions(rows=4))
    np.testing.assert_allclose(runtime.run(inputs)[OUTPUT], plain(text_graph(), inputs), atol=1e-6)


def test_several_outputs_are_averaged_each() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Mixed()

        def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            one = self.net(pixels)
            return one, torch.cat([one, one * one], dim=1)

    class Head(nn.Module):
        def forward(self, one: Tensor, two: Tensor) -> Tensor:
            return one + two[:, 8:]

    graph = ViewGraph(Two(), Head()).eval()
    inputs = views(7, per_segment=3)
    found = TorchRuntime.open(graph, options=TorchOptions(rows=2)).run(inputs)[OUTPUT]
    np.testing.assert_allclose(found, plain(graph, inputs), atol=1e-6)


def test_features_need_not_be_of_unit_length() -> None:
    graph = ViewGraph(Mixed(), unit=False).eval()
    inputs = views(5)
    found = TorchRuntime.open(graph).run(inputs)[OUTPUT]
    np.testing.assert_allclose(found, plain(graph, inputs), atol=1e-5)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).min() > 1e-3
    cut = TorchRuntime.open(view_graph(), options=TorchOptions(unit=False)).run(inputs)[OUTPUT]
    assert np.abs(np.linalg.norm(cut, axis=1) - 1).min() > 1e-3


def test_bf16_is_near_and_is_really_lower() -> None:
    inputs = views(40)
    exact = plain(view_graph(), inputs)
    runtime = TorchRuntime.open(view_graph(), options=TorchOptions(precision="bf16"))
    found = runtime.run(inputs)[OUTPUT]
    assert runtime.precision == "bf16"
    assert found.dtype == np.float32
    assert 1e-4 < share(found, exact) < 0.05
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_precision_that_is_not_there(precision: str) -> None:
    with pytest.raises(ConfigError, match=precision):
        TorchRuntime.open(view_graph(), options=TorchOptions(precision=precision))


class Greedy(nn.Module):
    """A backbone that cannot take more than `most` views at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.net, self.most, self.seen = Mixed(), most, []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return self.net(pixels)


def test_out_of_memory_halves_the_group_and_loses_nothing() -> None:
    lines: list[str] = []
    greedy = Greedy(5)
    inputs = views(50)
    runtime = TorchRuntime.open(ViewGraph(greedy), options=TorchOptions(rows=16), note=lines.append)
    found = runtime.run(inputs)[OUTPUT]
    np.testing.assert_allclose(found, plain(ViewGraph(Mixed()), inputs), atol=1e-6)
    assert runtime.rows == 4
    assert lines == [f"cpu ran out of memory: {n} at once from here on" for n in (8, 4)]
    runtime.run(inputs)
    assert max(greedy.seen[-13:]) == 4  # remembered


def test_a_device_too_small_for_one_input_is_an_error() -> None:
    runtime = TorchRuntime.open(ViewGraph(Greedy(0)), options=TorchOptions(rows=4))
    with pytest.raises(ModelError, match="too little memory for one input"):
        runtime.run(views(4))


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    assert not is_full(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert is_full(RuntimeError("MPS backend out of memory"))
    runtime = TorchRuntime.open(view_graph(), options=TorchOptions(rows=4))
    with pytest.raises(RuntimeError, match="shapes"):
        runtime.run({"views": np.zeros((8, 2, 2, 3), np.uint8), "pool": np.eye(8, dtype=np.float32)})


def test_a_probe_stops_where_the_device_is_full() -> None:
    greedy = Greedy(100)
    runtime = TorchRuntime.open(ViewGraph(greedy), options=TorchOptions(rows=4))
    runtime._timed = lambda inputs: (runtime.run(inputs), 1.0)[1]  # each doubling doubles the rate
    assert runtime.probe(views(2)) == 32  # 64 fit, 128 did not: one doubling is left as room
    assert runtime.rows == 4
    assert set(greedy.seen) == {16, 32, 64, 128}


def test_a_compiler_that_fails_costs_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(network: nn.Module, **_: Any) -> nn.Module:
        raise RuntimeError("no working C++ compiler\nand a long trace")

    lines: list[str] = []
    monkeypatch.setattr(module.torch, "compile", compile_)
    options = TorchOptions(rows=4, compiled=True)
    runtime = TorchRuntime.open(view_graph(), options=options, samples=views(2), note=lines.append)
    inputs = views(9)
    np.testing.assert_allclose(runtime.run(inputs)[OUTPUT], plain(view_graph(), inputs), atol=1e-6)
    assert lines == ["torch.compile failed, running without it: no working C++ compiler"]


def test_a_compiled_backbone_sees_one_number_of_views(monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = Greedy(1000)
    monkeypatch.setattr(module.torch, "compile", lambda network, **_: network)
    options = TorchOptions(rows=4, compiled=True)
    runtime = TorchRuntime.open(ViewGraph(greedy), options=options, samples=views(2))
    inputs = views(9)
    found = runtime.run(inputs)[OUTPUT]
    assert set(greedy.seen) == {4}
    np.testing.assert_allclose(found, plain(ViewGraph(Mixed()), inputs), atol=1e-6)


def test_repeated_inputs_are_the_first_row() -> None:
    many = repeated(views(3), 5)
    assert many["views"].shape == (5, 4, 4, 3)
    assert (many["views"] == views(3)["views"][0]).all()
    np.testing.assert_array_equal(many["pool"], np.eye(5))
    assert repeated(texts(3), 6)["input_ids"].shape == (6, 9)


class TestRowsWorth:
    def test_doubles_while_it_pays(self) -> None:
        assert rows_worth(lambda rows: 1.0 if rows < 256 else rows / 256) == 256

    def test_one_flat_step_is_gone_over(self) -> None:
        took = {16: 1.0, 32: 2.0, 64: 2.0, 128: 3.9, 256: 7.8}
        assert rows_worth(took.__getitem__) == 64

    def test_leaves_room_on_a_full_device(self) -> None:
        assert rows_worth(lambda rows: 1.0 if rows <= 512 else None) == 256

    def test_a_device_that_takes_nothing(self) -> None:
        assert rows_worth(lambda rows: None) == 4

    def test_gives_up_in_time(self) -> None:
        ticks = iter(range(0, 1000, 4))
        assert rows_worth(lambda rows: 1.0, patience=7, clock=lambda: float(next(ticks))) == 32


def test_another_process_gives_what_this_one_gives() -> None:
    """One alone, since each imports torch; that two share rows out, test_replicas.py says."""
    with Replicas.open(load, ("cpu",)) as other:
        found = other.run(views(17, per_segment=3))[OUTPUT]
        assert (other.precision, other.preferred_group) == ("f32", 4)
    np.testing.assert_allclose(found, plain(view_graph(), views(17, per_segment=3)), atol=1e-6)
