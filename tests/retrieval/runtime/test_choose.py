"""Which runtime serves a tower."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest

from indexer.errors import ConfigError
from indexer.types import Modality
from retrieval.models.bundle import TowerSpec
from retrieval.runtime.choose import Choice, Engine, Placement, Precision, Use, choose
from retrieval.runtime.devices import Device, Kind

CPU = Placement(device="cpu")


def tower(modality: Modality = Modality.IMAGE, **changes: Any) -> TowerSpec:
    made = TowerSpec(
        modality=modality,
        backbone="b",
        weights=(),
        head=None,
        preprocessing={},
        dim=4,
        window={},
        batch_size=8,
        group=4,
        graph=f"{modality}.onnx",
    )
    return replace(made, **changes)


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else real(name))


@pytest.fixture
def with_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("runtime", ["auto", "openvino", "onnx"])
def test_a_query_is_onnx_runtimes_in_float32(precision: str, runtime: str) -> None:
    choice = choose(tower(), Use.QUERY, Placement("cpu", runtime, precision))
    assert choice == Choice(Engine.ONNX, Precision.F32)


@pytest.mark.usefixtures("with_openvino")
def test_indexing_takes_what_measured_best() -> None:
    assert choose(tower(), Use.INDEX, CPU) == Choice(Engine.OPENVINO, Precision.F32)
    assert choose(tower(Modality.AUDIO), Use.INDEX, CPU).engine is Engine.ONNX
    assert choose(tower(Modality.TEXT), Use.INDEX, CPU).engine is Engine.ONNX
    assert choose(tower(Modality.TEXT, family="openclip"), Use.INDEX, CPU).engine is Engine.OPENVINO
    lower = replace(CPU, precision="bf16")
    assert choose(tower(Modality.AUDIO), Use.INDEX, lower) == Choice(Engine.OPENVINO, Precision.BF16)


@pytest.mark.usefixtures("with_openvino")
def test_a_precision_that_was_not_measured_on_a_model_is_said() -> None:
    lower = replace(CPU, precision="bf16")
    assert choose(tower(), Use.INDEX, lower).note is None
    assert choose(tower(family="openclip"), Use.INDEX, CPU).note is None
    assert "bf16" in (choose(tower(family="openclip"), Use.INDEX, lower).note or "")


@pytest.mark.usefixtures("without_openvino")
def test_without_openvino_onnx_runtime_serves_and_says_so() -> None:
    choice = choose(tower(), Use.INDEX, CPU)
    assert choice.engine is Engine.ONNX
    assert "OpenVINO is not installed" in (choice.note or "")
    with pytest.raises(ConfigError, match="bf16, and OpenVINO is not installed"):
        choose(tower(), Use.INDEX, replace(CPU, precision="bf16"))


@pytest.mark.usefixtures("with_openvino")
def test_int8_is_for_towers_that_have_such_a_graph() -> None:
    int8 = replace(CPU, precision="int8")
    small = choose(tower(quantised="image.int8.onnx"), Use.INDEX, int8)
    assert small == Choice(Engine.OPENVINO, Precision.INT8)
    text = choose(tower(Modality.TEXT), Use.INDEX, int8)
    assert text.precision is Precision.F32
    assert "no int8 graph" in (text.note or "")


def test_torch_serves_what_has_no_graph_and_says_so() -> None:
    alone = tower(graph=None, family="openclip")
    for use in Use:
        choice = choose(alone, use, CPU)
        assert (choice.engine, choice.precision) == (Engine.TORCH, Precision.F32)
        assert "has no ONNX graph" in (choice.note or "")
    assert choose(alone, Use.INDEX, replace(CPU, runtime="torch")).note is None


def test_a_gpu_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Device(Kind.CUDA, ("cuda:0",), "card")
    monkeypatch.setattr("retrieval.runtime.devices.resolve", lambda _word: card)
    found = choose(tower(), Use.INDEX, Placement("cuda", "auto", "bf16"))
    assert found == Choice(Engine.TORCH, Precision.BF16, card)
    assert choose(tower(), Use.INDEX, Placement("cuda")).precision is Precision.FP16
    newer = replace(card, half="bf16")
    monkeypatch.setattr("retrieval.runtime.devices.resolve", lambda _word: newer)
    assert choose(tower(), Use.INDEX, Placement("cuda")).precision is Precision.BF16
    assert choose(tower(), Use.QUERY, Placement("cuda")).engine is Engine.ONNX
    with pytest.raises(ConfigError, match="openvino does not run on cuda:0"):
        choose(tower(), Use.INDEX, Placement("cuda", "openvino"))
    with pytest.raises(ConfigError, match="int8"):
        choose(tower(), Use.INDEX, Placement("cuda", "auto", "int8"))


@pytest.mark.parametrize(
    ("placement", "part"),
    [
        (Placement("cpu", "tensorrt"), "the runtime is 'tensorrt'"),
        (Placement("cpu", "auto", "f8"), "the precision is 'f8'"),
        (Placement("cpu", "auto", "fp16"), "fp16 and the device is the CPU"),
        (Placement("cpu", "onnx", "bf16"), "ONNX Runtime computes in f32"),
    ],
)
def test_what_cannot_be_had(placement: Placement, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        choose(tower(), Use.INDEX, placement)
    assert caught.value.hint
