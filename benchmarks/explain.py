"""Where an explanation's heat falls: two stamps side by side on a square white page, asked for one of them.

    python benchmarks/explain.py [--cases 200] [--chosen-on 30]

Both stamps lie whole within what the starter sees, drawn at random from different labels; the left one is as
likely to be asked for as the right one. A case counts where more than half of the heat is on its half.
Ways to hide regions are compared on the training half, whose stamps the image head was fitted on; what the
product does is then measured on the test half, over every case, also those where the model takes the other
stamp for the better match ("matched" says how often it does not).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import stamps
from common import Budget, save, say

from indexer.media.image import read_image
from indexer.types import FloatArray, Modality
from retrieval.query.explain import masks
from retrieval.query.explain.image import CELLS, Fill, masked_scores
from retrieval.query.explain.types import positive_share

SIDE = 448  # pixels of the page: twice what the tower sees
MARGIN = 8  # around a stamp, in its half of the page
RANDOM = 150  # random masks, as RISE has them
SEED = 5
GOAL = 0.85
SHAPE = (CELLS, CELLS)
Plan = list[FloatArray]
Told = tuple[npt.NDArray[np.bool_], list[list[FloatArray]]]  # columns asked for; scores a caption and array


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A page and which half of it is asked for."""

    page: npt.NDArray[np.uint8]
    query: FloatArray  # (dim,): the caption of the stamp on the right half
    other: FloatArray  # (dim,): of the other stamp
    columns: npt.NDArray[np.bool_]  # (CELLS,): the asked half's


def cases(half: stamps.Half, count: int) -> list[Case]:
    """Pairs of stamps of different labels, each on a page."""
    rows, captions = stamps.rows_of(half), stamps.text_vectors(stamps.texts(half))
    draw = np.random.default_rng(SEED)
    found: list[Case] = []
    while len(found) < count:
        first, second = draw.choice(len(rows), 2, replace=False).tolist()
        left = bool(draw.integers(2))
        if rows[first]["label"] != rows[second]["label"]:
            pair = (first, second) if left else (second, first)
            columns = (np.arange(CELLS) < CELLS // 2) == left
            found.append(Case(_page(rows, pair), captions[first], captions[second], columns))
    return found


def _page(rows: Sequence[stamps.Row], pair: tuple[int, int]) -> npt.NDArray[np.uint8]:
    from PIL import Image

    page = Image.new("RGB", (SIDE, SIDE), "white")
    half = SIDE // 2
    for place, row in enumerate(pair):
        picture = Image.fromarray(read_image(stamps.STAMPS / rows[row]["image"]))
        scale = (half - 2 * MARGIN) / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        small = picture.resize((width, height), Image.Resampling.BICUBIC)
        page.paste(small, (place * half + (half - width) // 2, (SIDE - height) // 2))
    return np.asarray(page)


def random_masks(count: int, share: float = 0.5) -> FloatArray:
    """Each cell kept with that probability, shape (count, rows, columns)."""
    return (np.random.default_rng(SEED).random((count, *SHAPE)) < share).astype(np.float32)


def scored(found: Sequence[Case], plan: Plan, fill: Fill) -> list[Told]:
    """For every case the columns asked for, and the scores of its caption and the other one's."""
    tower = stamps.model().tower(Modality.IMAGE)
    told = []
    for place, case in enumerate(found):
        queries = np.stack([case.query, case.other])
        told.append(masked_scores(case.page, plan, tower, queries, fill=fill))
        if place % 20 == 19:
            say(f"{fill}: {place + 1} of {len(found)} pages")
    return [(case.columns, one) for case, one in zip(found, told, strict=True)]


def outcome(
    told: Sequence[Told],
    plan: Plan,
    parts: Sequence[int],
    score: Callable[[list[list[FloatArray]], int], FloatArray],
) -> dict[str, Any]:
    """How often the heat of some of the masks falls right, with its Wilson interval."""
    used = [plan[part] for part in parts]
    share = np.array(
        [
            positive_share(masks.effects(used, [score(one, part) for part in parts]), columns)
            for columns, one in told
        ]
    )
    right = int((share > 0.5).sum())
    low, high = wilson(right, len(share))
    return {
        "passes": sum(map(len, used)),
        "right": [round(right / len(share), 4), round(low, 4), round(high, 4)],
        "heat on the right half": round(float(share.mean()), 4),
    }


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return float(middle - half), float(middle + half)


def own(told: list[list[FloatArray]], part: int) -> FloatArray:
    """The cosine with the caption asked for."""
    return told[0][part]


def against(told: list[list[FloatArray]], part: int) -> FloatArray:
    """The cosine with it, less that with the other stamp's caption."""
    return told[0][part] - told[1][part]


def compared(plan: Plan, count: int) -> dict[str, Any]:
    """Ways to hide regions, on the training half."""
    ways = {
        "hide large windows": [0],
        "show large windows": [1],
        "hide small windows": [2],
        "show small windows": [3],
        "hide both": [0, 2],
        "hide and show large": [0, 1],
        "all windows": [0, 1, 2, 3],
    }
    found = cases("train", count)
    table = {}
    for fill in Fill:
        told = scored(found, plan, fill)
        for name, parts in ways.items():
            table[f"{name}, {fill}"] = outcome(told, plan, parts, own)
    random = [random_masks(RANDOM)]
    table["random masks (RISE), border"] = outcome(scored(found, random, Fill.BORDER), random, [0], own)
    return table


def matched(found: Sequence[Case]) -> npt.NDArray[np.bool_]:
    """Where the half asked for, shown alone, is nearer to the caption than the other half alone, (cases,)."""
    keep = np.array([case.columns for case in found], np.float32)
    tower = stamps.model().tower(Modality.IMAGE)
    alone = []
    for case, columns in zip(found, keep, strict=True):
        both = np.stack([np.broadcast_to(side, SHAPE) for side in (columns, 1 - columns)])
        [line] = masked_scores(case.page, [np.ascontiguousarray(both)], tower, case.query[None])
        alone.append(line[0][0] > line[0][1])
    return np.array(alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--chosen-on", type=int, default=30, help="pages of the training half")
    options = parser.parse_args()
    plan = masks.plan(SHAPE)
    everything = list(range(len(plan)))
    found = cases("test", options.cases)
    told = scored(found, plan, Fill.BORDER)
    product = outcome(told, plan, everything, own)
    fits = matched(found)
    kept = [one for one, fit in zip(told, fits, strict=True) if fit]
    say(f"test half: {product}, matched {fits.mean():.3f}")
    goal = Budget("heat on the right half", product["right"][0], GOAL, at_most=False, unit="")
    save(
        "explain",
        {
            "what": "two stamps a page: share of cases whose heat falls on the one asked for, with interval",
            "model": stamps.model().space_id,
            "cases": options.cases,
            "test half": {
                "as the product does it": product,
                "heat against the other caption": outcome(told, plan, everything, against),
                "hiding only": outcome(told, plan, [0, 2], own),
                "matched": round(float(fits.mean()), 4),
                "as the product does it, of the matched": outcome(kept, plan, everything, own),
            },
            "training half": compared(plan, options.chosen_on),
            "budgets": [goal.as_dict()],
        },
    )


if __name__ == "__main__":
    main()
