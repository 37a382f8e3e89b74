"""An evaluation and a comparison as tables for a person at a terminal. Plain text; computes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from retrieval.evaluation.intervals import Difference, Interval
from retrieval.evaluation.run import Comparison, Evaluation
from retrieval.render.escape import printable

COLUMNS = ("direction", "queries", "gallery")


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """A line a direction with its metrics in per cent, below it the 95 % intervals, then chance."""
    names = list(evaluation.directions[0].metrics)
    rows: list[Sequence[str]] = [(*COLUMNS, *names)]
    for way in evaluation.directions:
        metrics = way.metrics
        rows.append(
            (way.name, str(way.queries), str(way.gallery), *[_number(n, metrics[n].value) for n in names])
        )
        rows.append(("  95 % interval", "", "", *[_ends(n, metrics[n]) for n in names]))
        rows.append(
            ("  chance", "", "", *[_number(n, way.chance[n]) if n in way.chance else "" for n in names])
        )
    return [*_table(rows), f"mean recall {_number('R', evaluation.mean_recall)} over {evaluation.rows} rows"]


def comparison_lines(comparison: Comparison, first: str, second: str) -> list[str]:
    """First minus second in points: `*` where the 95 % interval leaves out zero."""
    names = list(comparison.directions[0].differences)
    rows: list[Sequence[str]] = [("direction", *names)]
    for way in comparison.directions:
        found: Mapping[str, Difference] = way.differences
        starred = [_signed(n, found[n].value) + ("*" if found[n].clear else " ") for n in names]
        rows.append((f"{way.direction[0]} to {way.direction[1]}", *starred))
        rows.append(("  95 % interval", *[_ends(n, found[n]) + " " for n in names]))
    lines = [f"{printable(first)} minus {printable(second)}, on the same queries, in points:", *_table(rows)]
    lines.append("* the interval leaves out zero; of ranks, less is better")
    if comparison.only_one:
        ways = ", ".join(f"{a} to {b}" for a, b in comparison.only_one)
        lines.append(f"measured for one of the two only: {ways}")
    return lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Words to the left, numbers to the right, two spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _number(name: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if name.endswith("rank") else f"{100 * value:.1f}"


def _signed(name: str, value: float) -> str:
    return ("+" if value >= 0 else "-") + _number(name, abs(value))


def _ends(name: str, value: Interval | Difference) -> str:
    if math.isnan(value.low):
        return "-"
    show = _signed if isinstance(value, Difference) else _number
    return f"{show(name, value.low)}..{show(name, value.high)}"
