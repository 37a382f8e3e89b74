"""An evaluation and a comparison as tables for a person at a terminal. Plain text; computes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from retrieval.evaluation.intervals import Difference, Interval
from retrieval.evaluation.run import Comparison, Evaluation
from retrieval.render.escape import printable

COLUMNS = ("direction", "queries", "gallery")


def evaluation_lines(evaluation: Evaluation, *, width: int | None = None) -> list[str]:
    """A line a direction with its metrics in per cent, below it the 95 % intervals, then chance.

    Where that is wider than `width`, columns of a terminal, a line a metric.
    """
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
    lines = _table(rows)
    if not _fits(lines, width):
        lines = _tall(evaluation)
    count = f"{evaluation.rows} row{'s' * (evaluation.rows != 1)}"
    return [*lines, f"mean recall {_number('R', evaluation.mean_recall)} over {count}"]


def _tall(evaluation: Evaluation) -> list[str]:
    """The same, a metric a line, for a narrow terminal."""
    rows: list[Sequence[str]] = []
    for way in evaluation.directions:
        rows.append((way.name, "%", "95 % interval", "chance"))
        rows += [
            (
                f"  {name}",
                _number(name, found.value),
                _ends(name, found),
                _number(name, way.chance[name]) if name in way.chance else "",
            )
            for name, found in way.metrics.items()
        ]
        rows.append((f"  {way.queries} queries, {way.gallery} candidates", "", "", ""))
    return _table(rows)


def comparison_lines(
    comparison: Comparison, first: str, second: str, *, width: int | None = None
) -> list[str]:
    """First minus second in points: `*` where the 95 % interval leaves out zero. `width` as above."""
    names = list(comparison.directions[0].differences)
    rows: list[Sequence[str]] = [("direction", *names)]
    tall: list[Sequence[str]] = []
    for way in comparison.directions:
        found: Mapping[str, Difference] = way.differences
        title = f"{way.direction[0]} to {way.direction[1]}"
        starred = [_signed(n, found[n].value) + ("*" if found[n].clear else " ") for n in names]
        ends = [_ends(n, found[n]) + " " for n in names]
        rows += [(title, *starred), ("  95 % interval", *ends)]
        tall.append((title, "points ", "95 % interval "))
        tall += [(f"  {name}", *cells) for name, *cells in zip(names, starred, ends, strict=True)]
    table = _table(rows)
    lines = [f"{printable(first)} minus {printable(second)}, on the same queries, in points:"]
    lines += table if _fits(table, width) else _table(tall)
    lines.append("* the interval leaves out zero; of ranks, less is better")
    if comparison.only_one:
        ways = ", ".join(f"{a} to {b}" for a, b in comparison.only_one)
        lines.append(f"measured for one of the two only: {ways}")
    return lines


def _fits(lines: Sequence[str], width: int | None) -> bool:
    return width is None or max(map(len, lines)) <= width


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
