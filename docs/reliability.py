"""Draw docs/reliability.svg, a panel a pair of modalities; make_query_tables.py calls it."""

from __future__ import annotations

import math
import sys
from itertools import groupby

from tables import HERE, Json, read

PLOT = HERE / "reliability.svg"
SIDE, GAP, LEFT, TOP = 170, 56, 46, 42  # of a panel, between panels, and before the first, in pixels
TICKS = (0.0, 0.05, 0.2, 0.5, 1.0)
ACROSS = 3


def plot() -> str:
    """Reliability: a panel a pair of modalities, both axes square roots, a point a bin of equal mass."""
    pairs = read("calibration")["pairs"]
    ordered = [list(group) for _, group in groupby(pairs, key=lambda pair: pair.split()[0])]
    width, height = LEFT + ACROSS * (SIDE + GAP), TOP + len(ordered) * (SIDE + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11" fill="#222">',
        "<title>Reliability of probabilities, by modality of the query and of the hit</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="16">Across: probability that was told. Up: share that was right, '
        "with 95 % intervals.</text>",
    ]
    for down, group in enumerate(ordered):
        for across, pair in enumerate(group):
            left, top = LEFT + across * (SIDE + GAP), TOP + down * (SIDE + GAP)
            lines += [f'<g transform="translate({left} {top})">', *panel(pair, pairs[pair]), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def panel(pair: str, found: Json) -> list[str]:
    """One pair's frame, diagonal and points."""
    lines = [
        f'<text x="0" y="-6" font-weight="bold">{pair}</text>',
        f'<rect width="{SIDE}" height="{SIDE}" fill="none" stroke="#888"/>',
        f'<line x1="0" y1="{SIDE}" x2="{SIDE}" y2="0" stroke="#bbb" stroke-dasharray="4 3"/>',
    ]
    for tick in TICKS:
        lines.append(f'<text x="{place(tick)}" y="{SIDE + 14}" text-anchor="middle">{tick:g}</text>')
        lines.append(f'<text x="-5" y="{place(tick, up=True)}" dy="4" text-anchor="end">{tick:g}</text>')
    for count, told, right in found["reliability"]:
        low, high = wilson(right, count)
        x = place(told)
        lines.append(
            f'<line x1="{x}" y1="{place(low, up=True)}" x2="{x}" y2="{place(high, up=True)}" stroke="#8ab"/>'
        )
        lines.append(f'<circle cx="{x}" cy="{place(right, up=True)}" r="3" fill="#146"/>')
    return lines


def place(share: float, *, up: bool = False) -> str:
    """Where a share in [0, 1] stands on an axis, in pixels; from below if `up`."""
    far = SIDE * math.sqrt(share)
    return f"{SIDE - far if up else far:.1f}"


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count`, within [0, 1]."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def draw() -> None:
    """Write the plot, or with `--check` exit 1 where it is stale."""
    drawn = plot()
    if "--check" not in sys.argv:
        PLOT.write_text(drawn, encoding="utf-8")
    elif not PLOT.is_file() or PLOT.read_text(encoding="utf-8") != drawn:
        sys.exit(1)
