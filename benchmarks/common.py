"""What the benchmarks share: the machine's description, timed processes, results as JSON.

A result is a ratio measured in one run on one machine; absolute times are there to be read, not compared.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "numpy",
    "onnxruntime",
    "openvino",
    "pyarrow",
    "torch",
    "timm",
    "sentence-transformers",
    "pillow",
    "triptych",
)


@dataclass(frozen=True)
class Run:
    """One finished process, by the operating system's own account."""

    seconds: float  # wall
    cpu_seconds: float
    peak_mb: float  # resident, largest


def run(command: list[str], *, expect: str | None = None) -> Run:
    """Time a command from outside. RuntimeError when it fails or does not print `expect`."""
    with tempfile.NamedTemporaryFile() as printed:
        launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")), printed.name]
        done = subprocess.run([*launcher, *command], capture_output=True, check=True)
        output = printed.read().decode("utf-8", "replace")
    found = json.loads(done.stdout)
    if found["status"] != 0 or (expect is not None and expect not in output):
        raise RuntimeError(f"{command} ended with {found['status']}: {output[:500]}")
    return Run(found["seconds"], found["cpu_seconds"], found["peak_mb"])


def alternate(commands: dict[str, list[str]], *, rounds: int, expect: dict[str, str]) -> dict[str, list[Run]]:
    """Run each command in turn, `rounds` times after one round that is not counted."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for round_number in range(rounds + 1):
        for name, command in commands.items():
            done = run(command, expect=expect.get(name))
            if round_number:
                runs[name].append(done)
    return runs


def median(values: list[float]) -> float:
    return round(statistics.median(values), 4)


def summary(runs: list[Run]) -> dict[str, float]:
    """Medians of a command's runs, with the spread of its wall time."""
    walls = [one.seconds for one in runs]
    return {
        "seconds": median(walls),
        "seconds_min": round(min(walls), 4),
        "seconds_max": round(max(walls), 4),
        "cpu_seconds": median([one.cpu_seconds for one in runs]),
        "peak_mb": median([one.peak_mb for one in runs]),
    }


def machine() -> dict[str, Any]:
    """CPU, cores, memory and versions, without anything that names the machine."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def save(name: str, result: dict[str, Any]) -> None:
    """Write results/NAME.json with the machine, and print the ratios."""
    RESULTS.mkdir(exist_ok=True)
    whole = {"benchmark": name, "date": time.strftime("%Y-%m-%d"), "machine": machine(), **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=2) + "\n")
    for budget in result.get("budgets", ()):
        print(f"{budget['what']}: {budget['value']} (budget {budget['budget']}): {budget['verdict']}")


@dataclass(frozen=True)
class Budget:
    """One number against what it should be."""

    what: str
    value: float
    limit: float
    at_most: bool = True
    unit: str = "x"

    def as_dict(self) -> dict[str, Any]:
        met = self.value <= self.limit if self.at_most else self.value >= self.limit
        sign = "at most" if self.at_most else "at least"
        entry = asdict(self) | {
            "budget": f"{sign} {self.limit}{self.unit}",
            "verdict": "met" if met else "missed",
        }
        return entry | {"value": round(self.value, 4)}


def say(*parts: object) -> None:
    print(*parts, file=sys.stderr, flush=True)
