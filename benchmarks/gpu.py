"""What the GPU benchmarks share: the device, the rate of its matrix products, timing, results as JSON.

Leaves out what a machine lent for its GPU may lack: nothing of the project is imported here.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "torch", "torchvision", "open-clip-torch", "transformers", "faiss-gpu", "pillow")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def say(*parts: object) -> None:
    print(*parts, file=sys.stderr, flush=True)


def not_run(name: str, device: str) -> bool:
    """Say in one line that there is no device to measure on; True where that is so."""
    if device != "cuda" or torch.cuda.is_available():
        return False
    why = "torch sees no CUDA device" if torch.version.cuda else "this torch is built without CUDA"
    print(f"{name} has not run: {why}. It is known to work by --device cpu --quick, which measures nothing.")
    return True


def wait(device: str) -> None:
    """Until the device has done all that it was handed."""
    if device == "cuda":
        torch.cuda.synchronize()


def rate(work: Callable[[], object], items: int, *, device: str, seconds: float) -> float:
    """Items a second: the median of five spans, each at least a fifth of `seconds`, after a first call."""
    for _ in range(2):
        work()
    wait(device)
    found = []
    for _ in range(5):
        start, calls = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / 5:
            work()
            wait(device)
            calls += 1
        found.append(calls * items / (time.perf_counter() - start))
    return statistics.median(found)


def matmul_rate(dtype: str, *, device: str, side: int, seconds: float) -> float:
    """Floating-point operations a second of a large square product of random numbers; float32 is no tf32."""
    one, other = (torch.randn(side, side, device=device).to(DTYPES[dtype]) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return rate(lambda: one @ other, 2 * side**3, device=device, seconds=seconds)
    finally:
        torch.set_float32_matmul_precision(before)


def machine(device: str) -> dict[str, Any]:
    """Device, cores and versions, without anything that names the machine."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    found: dict[str, Any] = {"device": "cpu, a dry run: nothing here is a measurement"}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found = {
            "device": properties.name,
            "memory_gb": round(properties.total_memory / 2**30),
            "cuda": torch.version.cuda,
        }
    return found | {"cores": len(os.sched_getaffinity(0)), "packages": versions}


def save(name: str, device: str, result: dict[str, Any], *, quick: bool) -> None:
    """Print the result, and write results/NAME.json unless it is a dry run."""
    whole = {"benchmark": name, "date": time.strftime("%Y-%m-%d"), "machine": machine(device), **result}
    text = json.dumps(whole, indent=2)
    print(text)
    if quick:
        say("a dry run: not written")
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def rounded(value: Any) -> Any:
    """Numbers to four digits, in whatever holds them."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value
