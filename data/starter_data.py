"""What the starter's heads are fitted on and tested on: stamps with their split, and drawings.

Media files in, pairs of backbone features and text vectors out. How the image head is fitted on them, and
what is reported, stands in starter_images.py; everything about sounds stands in starter_sounds.py.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import debian_packages as debian
import noto_emoji
import numpy as np
import numpy.typing as npt
import openclipart
import starter_features as features
import tuxpaint_stamps
from starter_features import Fit, ImagePreparer
from starter_fit import Array, Bank, Pairs, Rows, unit
from starter_names import IMAGE_PROMPTS, image_class_names

FIT = Fit.LETTERBOX  # the best of compare_fits; the image tower's preparer must say the same
TWIN = 0.85  # cosine of backbone features from which two pictures count as the same drawing
SAME_CAPTION = (
    0.8  # cosine from which two captions count as nearly the same: "A tent." and "A medieval tent."
)
KEYWORDS = 4  # of a drawing's keywords, how many join its caption
ICONS = ("computer/icons/",)  # icons of desktop themes: named after commands and programs, not what they show


@dataclass(frozen=True, slots=True)
class Stamps:
    """The stamps with their split: row numbers into `rows`."""

    rows: list[dict[str, Any]]
    base: Path
    captions: Array  # (n, 384)
    train: Rows  # queries of the training half
    test: Rows
    spare: Rows  # in the training half by id, but with a caption that others share: fitted on, never queried

    def paths(self, column: str, rows: Rows) -> list[Path]:
        return [self.base / self.rows[row][column] for row in rows]


def read_rows(manifest: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(manifest).to_pylist()


def load_stamps() -> Stamps:
    """The stamps, split as the module says."""
    manifest = tuxpaint_stamps.build(debian.CACHE / "tuxpaint-stamps")
    rows = read_rows(manifest)
    shared = Counter(row["text"] for row in rows)
    queried = np.array([not row["id"].startswith("symbols/") and shared[row["text"]] == 1 for row in rows])
    even = np.array([hashlib.sha256(row["id"].encode()).digest()[0] % 2 == 0 for row in rows])
    symbols = np.array([row["id"].startswith("symbols/") for row in rows])
    return Stamps(
        rows=rows,
        base=manifest.parent,
        captions=features.texts([row["text"] for row in rows]),
        train=np.flatnonzero(queried & ~even),
        test=np.flatnonzero(queried & even),
        spare=np.flatnonzero(~queried & ~even & ~symbols),
    )


def picture_pairs(stamps: Stamps, rows: Rows, *, fit: Fit = FIT, mirrored: bool = False) -> Pairs:
    """Stamps' pictures with their captions."""
    table = features.pictures(stamps.paths("image", rows), preparer=ImagePreparer(fit=fit), mirrored=mirrored)
    require(bool(table["ok"].all()), "a stamp could not be read")
    return Pairs(table["features"], table["logits"], stamps.captions[rows], np.ones(len(rows), bool))


def clipart_pairs(known: Array) -> tuple[Pairs, int]:
    """Open Clip Art's drawings, without those that look like any of `known` (n, 1280); and how many."""
    manifest = openclipart.build(debian.CACHE / "openclipart")
    rows = [row for row in read_rows(manifest) if not row["id"].startswith(ICONS)]
    plain = [row["text"] for row in rows]
    keyed = [", ".join([row["text"], *row["keywords"][:KEYWORDS]]) for row in rows]
    bare = [" ".join(row["keywords"][:KEYWORDS]) or row["text"] for row in rows]
    targets = unit(features.texts(plain) + features.texts(keyed) + features.texts(bare))
    return _drawings([manifest.parent / row["image"] for row in rows], targets, known)


def emoji_pairs(known: Array) -> tuple[Pairs, int]:
    """Noto's emoji with their Unicode names, without those that look like any of `known`; and how many."""
    manifest = noto_emoji.build(debian.CACHE / "noto-emoji")
    rows = read_rows(manifest)
    targets = features.texts([row["text"] for row in rows])
    return _drawings([manifest.parent / row["image"] for row in rows], targets, known)


def _drawings(paths: list[Path], targets: Array, known: Array) -> tuple[Pairs, int]:
    table = features.pictures(paths, preparer=ImagePreparer(fit=FIT))
    alike = (unit(table["features"]) @ unit(known).T).max(axis=1) >= TWIN
    kept = np.flatnonzero(table["ok"] & ~alike)
    pairs = Pairs(table["features"], table["logits"], targets, np.zeros(len(paths), bool))
    return pairs.take(kept), int(alike.sum())


def image_bank(stamps: Stamps, drawings: Pairs) -> Bank:
    """ImageNet's class names among the texts of the training half and of drawings."""
    names = image_class_names()
    classes = unit(
        np.sum([features.texts([form.format(name) for name in names]) for form in IMAGE_PROMPTS], axis=0)
    )
    return Bank.of(classes, np.concatenate([stamps.captions[stamps.train], drawings.targets]))


def near(first: Pairs, second: Pairs) -> npt.NDArray[np.bool_]:
    """Which of `first` (n,) nearly repeat one of `second`: by how the picture looks, or by its caption."""
    looks = unit(first.features) @ unit(second.features).T >= TWIN
    return np.asarray((looks | (first.targets @ second.targets.T >= SAME_CAPTION)).any(axis=1))


def near_groups(pairs: Pairs) -> npt.NDArray[np.intp]:
    """A group number for each pair, (n,): those that nearly repeat each other share it."""
    close = unit(pairs.features) @ unit(pairs.features).T >= TWIN
    close |= pairs.targets @ pairs.targets.T >= SAME_CAPTION
    group = np.arange(len(close))
    while True:  # the least number spreads along chains of such pairs
        least = np.where(close, group[None, :], len(close)).min(axis=1)
        if (least == group).all():
            return group
        group = least


def require(condition: bool, message: str) -> None:
    if not condition:
        raise debian.RecipeError(message)
