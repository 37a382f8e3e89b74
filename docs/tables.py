"""Pages whose tables come from benchmarks/results/: between `<!-- table NAME -->` and `<!-- end -->` stands a
table, the sentences around are written by hand. `--check` only compares, for the tests.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.S)
Json = dict[str, Any]


def read(name: str) -> Json:
    """A benchmark's results."""
    found: Json = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def short(value: float) -> str:
    """A share with two digits, no zero before the point."""
    return f"{value:.2f}".replace("0.", ".", 1)


def ranged(numbers: list[float]) -> str:
    """A value with its 95 % interval."""
    value, low, high = numbers
    return f"{short(value)} ({short(low)}-{short(high)})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(page: Path, tables: Mapping[str, Callable[[], str]]) -> None:
    """Fill the page, or with `--check` exit 1 where it is stale."""
    before = page.read_text(encoding="utf-8")
    after = BLOCK.sub(lambda found: f"{found[1]}{tables[found[2]]()}{found[3]}", before)
    if "--check" in sys.argv:
        sys.exit(after != before)
    page.write_text(after, encoding="utf-8")
