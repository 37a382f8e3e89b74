"""What a device's name means, with torch faked where a device is, and without torch where none can be."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from indexer import gpu
from indexer.errors import ConfigError
from retrieval.runtime import devices
from retrieval.runtime.devices import CPU, Kind, half_of, resolve

ROOT = Path(__file__).parents[3]


def fake(
    monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False, built: str = "13.0", chip: int = 9
) -> None:
    """A torch that sees so many devices, on a machine that may have some."""
    torch = types.SimpleNamespace(
        __version__="9.9",
        version=types.SimpleNamespace(cuda=built or None, hip=None),
        cuda=types.SimpleNamespace(
            is_available=lambda: cuda > 0,
            device_count=lambda: cuda,
            get_device_name=lambda place: f"Chip at {place}",
            get_device_capability=lambda _place: (chip, 0),
        ),
        backends=types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: mps)),
    )
    monkeypatch.setattr(devices, "_torch", lambda: torch)
    monkeypatch.setattr(devices, "may_have_device", lambda: True)


def test_auto_prefers_cuda_then_mps_then_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, cuda=2, mps=True)
    found = resolve("auto")
    assert (found.kind, found.places, found.first) == (Kind.CUDA, ("cuda:0", "cuda:1"), "cuda:0")
    assert (found.name, found.half) == ("Chip at cuda:0", "bf16")
    fake(monkeypatch, cuda=1, chip=7)
    assert resolve("auto").half == "fp16"
    fake(monkeypatch, mps=True)
    assert resolve("auto").places == ("mps",)
    fake(monkeypatch)
    assert resolve("auto") == CPU


@pytest.mark.parametrize(("chip", "half"), [(9, "bf16"), (8, "bf16"), (7, "fp16")])
def test_indexing_and_training_take_the_same_lower_precision(
    monkeypatch: pytest.MonkeyPatch, chip: int, half: str
) -> None:
    import torch

    from retrieval.training.options import TrainOptions
    from retrieval.training.placement import placed

    fake(monkeypatch, cuda=1, chip=chip)
    assert resolve("cuda").half == half
    assert placed(TrainOptions(), torch.device("cuda:0")).precision == half
    assert half_of("mps") == "fp16"


def test_one_of_several_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, cuda=2)
    assert resolve(" CUDA:1 ").places == ("cuda:1",)
    assert resolve("cuda").places == ("cuda:0", "cuda:1")
    assert str(resolve("cuda")) == "cuda:0, cuda:1"


@pytest.mark.parametrize(
    ("word", "cuda", "built", "said", "hint"),
    [
        ("cuda", 0, "13.0", "torch 9.9 sees only cpu", "NVIDIA driver that serves CUDA 13.0"),
        ("cuda:0", 0, "", "sees only cpu", "install the CUDA build of torch"),
        ("cuda:2", 2, "13.0", "sees only cuda:0, cuda:1, cpu", "name one of cuda:0"),
        ("mps", 1, "13.0", "sees only cuda:0, cpu", "Apple"),
    ],
)
def test_a_named_device_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, word: str, cuda: int, built: str, said: str, hint: str
) -> None:
    fake(monkeypatch, cuda=cuda, built=built)
    with pytest.raises(ConfigError, match=said) as caught:
        resolve(word)
    assert hint in (caught.value.hint or "")
    assert repr(word) in caught.value.message


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "", "cpu:0"])
def test_an_unknown_word(word: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu"):
        resolve(word)


@pytest.mark.parametrize("word", ["cpu", "auto"])
def test_the_cpu_needs_no_torch(word: str) -> None:
    code = (
        "import sys\nfrom retrieval.runtime.devices import resolve\n"
        f"assert resolve({word!r}).is_cpu\n"
        "print([m for m in ('torch', 'faiss') if m in sys.modules])"
    )
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("hidden", ["", "-1", " "])
def test_hidden_devices_are_certainly_none(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setattr(gpu, "SIGNS", ("null",))  # as if every machine's /dev/null were a GPU
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu.may_have_cuda()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not gpu.may_have_cuda()
