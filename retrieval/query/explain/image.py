"""Which regions of a picture its cosine with a query hangs on: windows of it are hidden, or shown alone.

The decoded, upright picture is masked and then prepared as any other, so that every tower can be asked. What
is hidden takes the picture's border colour: on the stamps' training half that left more of the heat where it
belongs than the mean colour or a blur did (benchmarks/results/explain.json).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from indexer.types import Encoder, FloatArray
from retrieval.query.explain import masks
from retrieval.query.explain.passes import encoded, scores
from retrieval.query.explain.types import PictureHeat

RGB = npt.NDArray[np.uint8]
CELLS = 8  # of the grid along the longer side: 148 passes for a square picture
BLUR = 12  # the longer side over this is a blur's radius


class Fill(StrEnum):
    """What hidden cells show."""

    BORDER = "border"  # the median colour along the four edges
    MEAN = "mean"  # the mean colour
    BLUR = "blur"  # the picture itself, blurred beyond recognition


def read_picture(path: str | os.PathLike[str], encoder: Encoder) -> RGB:
    """The picture as the tower's own reader gives it, near the size that the tower sees.

    MediaError and OSError as indexer.media.image.read_image.
    """
    from indexer.media.image import read_image

    side = encoder.preparer.hint.min_side
    return shrunk(read_image(path, min_side=side), side)


def shrunk(picture: RGB, side: int) -> RGB:
    """The picture (height, width, 3) at 1/n of its size, its shorter side at least `side`; 0: as it is."""
    from PIL import Image

    factor = min(picture.shape[:2]) // side if side else 1
    if factor < 2:
        return picture
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).reduce(factor))


def picture_heat(
    picture: RGB, encoder: Encoder, queries: FloatArray, *, cells: int = CELLS, fill: Fill = Fill.BORDER
) -> list[PictureHeat]:
    """What each region adds to the cosine with each query (t, dim), from one set of passes."""
    shape = masks.grid_of(picture.shape[0], picture.shape[1], cells)
    plan = masks.plan(shape)
    told = masked_scores(picture, plan, encoder, queries, fill=fill)
    passes = sum(map(len, plan))
    return [PictureHeat(masks.effects(plan, own), picture, passes) for own in told]


def masked_scores(
    picture: RGB,
    plan: Sequence[FloatArray],
    encoder: Encoder,
    queries: FloatArray,
    *,
    fill: Fill = Fill.BORDER,
) -> list[list[FloatArray]]:
    """For each query (t, dim) and each array of masks (m, rows, columns) the cosines (m,)."""
    prepare = encoder.preparer.tensor
    every = (keep for masks_of in plan for keep in masks_of)
    vectors = encoded((prepare(one) for one in masked(picture, every, fill)), encoder)
    ends = np.cumsum([len(one) for one in plan])[:-1]
    return [list(np.split(line, ends)) for line in scores(vectors, queries)]


def masked(picture: RGB, keep: Iterator[FloatArray], fill: Fill) -> Iterator[RGB]:
    """The picture under each mask (rows, columns); 1 keeps a cell, 0 shows the fill."""
    behind = _behind(picture, fill).astype(np.float32)
    ahead = picture.astype(np.float32) - behind
    height, width = picture.shape[:2]
    for one in keep:
        rows, columns = (
            np.arange(side) * cells // side for side, cells in zip((height, width), one.shape, strict=True)
        )
        weight = one[np.ix_(rows, columns)][..., None]
        yield (behind + weight * ahead + 0.5).astype(np.uint8)


def _behind(picture: RGB, fill: Fill) -> npt.NDArray[np.generic]:
    """What stands where the picture is hidden, of a shape that broadcasts to the picture's."""
    if fill is Fill.MEAN:
        return picture.mean(axis=(0, 1))
    if fill is Fill.BORDER:
        edges = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
        return np.median(np.concatenate(edges), axis=0)
    from PIL import Image, ImageFilter

    radius = max(picture.shape[:2]) / BLUR
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).filter(ImageFilter.GaussianBlur(radius)))
