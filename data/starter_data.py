"""What the starter's heads are fitted on and tested on: stamps with their split, drawings, named sounds.

Media files in, pairs of backbone features and text vectors out. How heads are fitted on them, and what is
reported, stands in fit_starter_heads.py.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import debian_packages as debian
import named_sounds
import numpy as np
import openclipart
import starter_features as features
import tuxpaint_stamps
from starter_features import Fit, ImagePreparer
from starter_fit import Array, Bank, Pairs, Rows, unit
from starter_names import CATEGORIES, IMAGE_PROMPTS, SOUND_CLASSES, SOUND_CLASSIFIER, image_class_names

FIT = Fit.LETTERBOX  # the best of compare_fits; the image tower's preparer must say the same
TWIN = 0.85  # cosine of backbone features from which two pictures count as the same drawing
KEYWORDS = 4  # of a drawing's keywords, how many join its caption


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
    rows = read_rows(manifest)
    table = features.pictures(
        [manifest.parent / row["image"] for row in rows], preparer=ImagePreparer(fit=FIT)
    )
    plain = [row["text"] for row in rows]
    keyed = [", ".join([row["text"], *row["keywords"][:KEYWORDS]]) for row in rows]
    bare = [" ".join(row["keywords"][:KEYWORDS]) or row["text"] for row in rows]
    targets = unit(features.texts(plain) + features.texts(keyed) + features.texts(bare))
    alike = (unit(table["features"]) @ unit(known).T).max(axis=1) >= TWIN
    kept = np.flatnonzero(table["ok"] & ~alike)
    pairs = Pairs(table["features"], table["logits"], targets, np.zeros(len(rows), bool))
    return pairs.take(kept), int(alike.sum())


def image_bank(stamps: Stamps, clipart: Pairs) -> Bank:
    names = image_class_names()
    classes = unit(
        np.sum([features.texts([form.format(name) for name in names]) for form in IMAGE_PROMPTS], axis=0)
    )
    return Bank.of(classes, np.concatenate([stamps.captions[stamps.train], clipart.targets]))


@dataclass(frozen=True, slots=True)
class Sounds:
    """Sounds with their names: the stamps' effects of one half, or named sounds of other packages."""

    pairs: Pairs
    names: list[str]


def effects(stamps: Stamps, rows: Rows) -> tuple[Sounds, Rows]:
    """The sound effects among these stamps, with the stamps' captions; and which rows have one."""
    having = np.array([row for row in rows if stamps.rows[row]["audio"]], dtype=np.intp)
    table = features.sounds(stamps.paths("audio", having))
    require(bool(table["ok"].all()), "a stamp's sound could not be read")
    names = [stamps.rows[row]["text"] for row in having]
    return _sounds(table["features"], names, home=True), having


def sounds_elsewhere() -> Sounds:
    """Named sounds of other packages."""
    manifest = named_sounds.build(debian.CACHE / "named-sounds")
    rows = read_rows(manifest)
    table = features.sounds([manifest.parent / row["audio"] for row in rows])
    kept = np.flatnonzero(table["ok"])
    return _sounds(table["features"][kept], [rows[row]["text"] for row in kept], home=False)


def sound_logits(table: Array, classifier: str = SOUND_CLASSIFIER) -> Array:
    """Logits of one of the sound network's classifiers on its features (n, 512)."""
    import torch

    from retrieval.models.starter.backbones import load_aisfx

    network = load_aisfx(with_classifiers=True)
    with torch.inference_mode():
        return np.asarray(network.classifiers[classifier](torch.from_numpy(table)).numpy())


def category_vectors() -> dict[str, Array]:
    """A text vector of each sound category: its phrases' mean."""
    phrases = [phrase for every in CATEGORIES.values() for phrase in every]
    vectors = dict(zip(phrases, features.texts(phrases), strict=True))
    return {name: unit(np.mean([vectors[p] for p in every], axis=0)) for name, every in CATEGORIES.items()}


def sound_bank(images: Bank) -> Bank:
    """The sound classes, in the text space as it was measured for pictures: both heads even it out alike."""
    vectors = category_vectors()
    classes = np.stack([vectors[name] for name in SOUND_CLASSES])
    return Bank(classes, images.mean, images.axes, images.spread)


def _sounds(table: Array, names: list[str], *, home: bool) -> Sounds:
    pairs = Pairs(table, sound_logits(table), features.texts(names), np.full(len(names), home))
    return Sounds(pairs, names)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise debian.RecipeError(message)
