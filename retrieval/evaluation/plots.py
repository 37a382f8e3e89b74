"""An evaluation's plots as SVG fragments, for one HTML page of any background.

matplotlib draws them without a display and without reading or writing the user's settings for it. Lines and
words take the page's own text colour.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.types import Modality
from retrieval.evaluation.diagnosis import Plane, Similarities
from retrieval.evaluation.run import DirectionResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEPTH = 100  # of a recall curve
BINS = 60
INK = "#010203"  # stands for the page's text colour while matplotlib draws
# Okabe and Ito's colours, told apart by most colour-blind eyes, of middle lightness for either background.
COLOURS = {Modality.IMAGE: "#0083c9", Modality.TEXT: "#d9820f", Modality.AUDIO: "#009e73"}
WAYS = ("#0083c9", "#d9820f", "#009e73", "#c65f9d", "#8a63d2", "#a08800")
STYLE: Any = {  # by matplotlib's own names
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "savefig.facecolor": "none",
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "svg.hashsalt": "triptych",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "ytick.color": INK,
    "ytick.labelsize": 8,
}


def recall_svg(results: Sequence[DirectionResult]) -> str:
    """R@k for k of 1 to 100 (or the gallery), a panel for each two modalities, chance dashed."""
    pairs = _panels(results)
    with _figure(len(pairs)) as (figure, axes):
        for axis, ways in zip(axes, pairs, strict=True):
            for way, colour in zip(ways, WAYS, strict=False):
                depth = min(DEPTH, way.gallery)
                k = np.arange(1, depth + 1)
                axis.plot(k, way.scores.recall_curve(depth), color=colour, lw=1.8, label=way.name)
                axis.plot(k, way.scores.chance_curve(depth), color=colour, lw=1, ls="--")
            axis.plot([], [], color=INK, lw=1, ls="--", label="chance")
            axis.set_xscale("log")
            ticks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= max(way.gallery for way in ways)]
            axis.set_xticks(ticks, [str(k) for k in ticks])
            axis.xaxis.minorticks_off()
            axis.set_ylim(0, 1.02)
            axis.set_xlabel("k")
            axis.set_ylabel("share of queries with a hit in the first k")
            axis.legend(loc="upper left" if _low_start(ways) else "lower right")
        return _svg(figure, "Recall at k for every direction, with what chance would give")


def _low_start(ways: Sequence[DirectionResult]) -> bool:
    """Whether the upper left of a recall plot is free."""
    return max(float(way.scores.recall_curve(10).max()) for way in ways) < 0.6


def _panels(results: Sequence[DirectionResult]) -> list[list[DirectionResult]]:
    panels: dict[frozenset[Modality], list[DirectionResult]] = {}
    for result in results:
        panels.setdefault(frozenset(result.direction), []).append(result)
    return list(panels.values())


def similarity_svg(samples: Sequence[Similarities]) -> str:
    """Histograms of the cosines of pairs against non-pairs, a panel a sample."""
    with _figure(len(samples)) as (figure, axes):
        for axis, sample in zip(axes, samples, strict=True):
            both = np.concatenate([sample.pairs, sample.others])
            low, high = float(both.min()), float(both.max())
            bins = min(
                BINS, max(12, int(2 * np.sqrt(len(sample.pairs))))
            )  # few pairs: no comb of single ones
            edges = np.linspace(low - 1e-6, high + 1e-6, bins + 1).tolist()
            for values, colour, label in (
                (sample.others, "#8a8a8a", "non-pairs"),
                (sample.pairs, WAYS[0], "pairs"),
            ):
                if len(values):
                    weights = np.full(len(values), 1 / len(values))
                    axis.hist(values, edges, weights=weights, color=colour, alpha=0.55, label=label)
                    axis.axvline(float(values.mean()), color=colour, lw=1.5)
            axis.set_title(f"{sample.direction[0]} and {sample.direction[1]}")
            axis.set_xlabel("cosine")
            axis.set_ylabel("share")
            axis.legend(loc="upper right")
        return _svg(figure, "Cosines of pairs and of non-pairs")


def plane_svg(shown: Plane) -> str:
    """Contents of all modalities in their first two principal components, centroids as crosses."""
    with _figure(1, width=5.6, height=4.2) as (figure, axes):
        axis = axes[0]
        for modality, points in shown.points.items():
            size = 12 if len(points) < 400 else 5
            axis.scatter(
                points[:, 0],
                points[:, 1],
                s=size,
                color=COLOURS[modality],
                alpha=0.5,
                lw=0,
                label=modality.value,
            )
        for modality, centre in shown.centroids.items():
            axis.scatter(
                centre[0], centre[1], s=130, marker="X", color=COLOURS[modality], ec=INK, lw=1.2, zorder=3
            )
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_xlabel("first principal component")
        axis.set_ylabel("second")
        axis.set_title(f"{shown.explained:.0%} of the variance; crosses are centroids")
        axis.legend(loc="best", markerscale=1.6)
        return _svg(figure, "Contents of every modality in the plane of most variance")


@contextmanager
def _figure(
    panels: int, *, width: float = 3.9, height: float = 3.1
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure with panels beside each other, three a row, in this file's style."""
    with _own_settings():
        from matplotlib.figure import Figure

        columns = min(panels, 3)
        rows = -(-panels // columns)
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for spare in grid[panels:]:
            spare.remove()
        yield figure, list(grid[:panels])


@contextmanager
def _own_settings() -> Iterator[None]:
    """matplotlib with its defaults and this file's style; what the process or the user set stays as it was.

    Where nothing says where matplotlib may keep its list of fonts, that is a folder of ours while it loads.
    """
    with contextlib.ExitStack() as undo:
        if "MPLCONFIGDIR" not in os.environ:
            os.environ["MPLCONFIGDIR"] = undo.enter_context(tempfile.TemporaryDirectory(prefix="triptych-"))
            undo.callback(os.environ.pop, "MPLCONFIGDIR", None)
        import matplotlib
        import matplotlib.font_manager  # reads and writes its list here

        undo.enter_context(matplotlib.rc_context())
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def _svg(figure: Figure, label: str) -> str:
    """The figure as an <svg> element that scales with the page."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    width = re.search(r'width="([\d.]+)pt"', text)
    size = f"width:{float(width.group(1)) * 4 / 3:.0f}px" if width else "width:100%"
    return re.sub(
        r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"([^>]*?) (?:width|height)="[\d.]+pt"',
        rf'\1\2 role="img" aria-label="{label}" style="{size};max-width:100%;height:auto"',
        text,
        count=1,
    )
