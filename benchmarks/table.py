"""Fill docs/benchmarks.md from benchmarks/results/*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
MOST = 6000  # characters of a benchmark's table
INTRO = """# Benchmarks

Filled in by benchmarks/table.py from benchmarks/results/. A budget is a ratio, or a bound on memory or
time, in one run on one machine; `make bench` measures them again on yours.

| what | measured | budget | |
|---|---|---|---|
"""


def page() -> str:
    """The whole page: budgets first, then each benchmark's own numbers."""
    found = [json.loads(file.read_text()) for file in sorted((HERE / "results").glob("*.json"))]
    results = [one for one in found if "benchmark" in one]  # the others belong to docs/starter.md
    rows = [
        f"| {one['what']} | {one['value']:.4g}{one['unit']} | {one['budget']} | {one['verdict']} |"
        for result in results
        for one in result.get("budgets", ())
    ]
    return INTRO + "\n".join(rows) + "\n" + "".join(section(result) for result in results)


def section(result: dict[str, Any]) -> str:
    """One benchmark: its machine and its numbers, flattened; where they are many, where they stand."""
    where = described(result.get("machine", {}))
    skipped = {"benchmark", "date", "machine", "budgets", "rounds"}
    numbers = flat({key: value for key, value in result.items() if key not in skipped})
    lines = "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in numbers)
    if len(lines) > MOST:
        lines = f"{len(numbers)} numbers: benchmarks/results/{result['benchmark']}.json.\n"
    return f"\n## {result['benchmark']}\n\n{result.get('date', '')}, {where}.\n\n{lines}"


def described(machine: dict[str, Any] | str) -> str:
    """The machine and its versions, in a line."""
    if isinstance(machine, str):
        return machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; {versions}"


def flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Nested numbers as (path, value) pairs."""
    if not isinstance(value, dict):
        return [(name, value)]
    return [pair for key, inner in value.items() for pair in flat(inner, f"{name}: {key}" if name else key)]


if __name__ == "__main__":
    PAGE.write_text(page())
