"""The training half of the stamps as a model sees what it was not fitted on: vectors by cross-fitting.

    python data/unseen_stamps.py

The starter's heads know the pictures and sounds of the training half: there a caption finds its picture
99 times in 100, on the test half 30 times. So what is chosen on that half, a calibration above all, is chosen
on vectors by heads that were fitted without the row's own fold. Near-duplicates share a fold. Pictures' heads
are the closed form that the shipped head's training began at: it takes seconds where the training takes many
minutes, and its recall is close. The vectors are kept in data/cache/.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import debian_packages as debian
import numpy as np
import starter_images
import starter_sounds
from starter_data import load_stamps, near_groups
from starter_fit import Array, Recipe, Rows, folds, out_of_fold

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
KEPT = debian.CACHE / "unseen-stamps-1.npz"
FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Unseen:
    """Vectors of the training half's queries, rows counted within the half."""

    image: Array  # (n, 384)
    text: Array  # (n, 384), captions: the text tower was never fitted
    audio: Array  # (m, 384)
    audio_row: Rows  # (m,)


def unseen() -> Unseen:
    """The vectors, computed where they are not kept yet. RecipeError where the material cannot be brought."""
    if not KEPT.exists():
        made = _made()
        np.savez(KEPT, image=made.image, text=made.text, audio=made.audio, audio_row=made.audio_row)
    with np.load(KEPT) as kept:
        return Unseen(kept["image"], kept["text"], kept["audio"], kept["audio_row"].astype(np.intp))


def _made() -> Unseen:
    data = starter_images.load_material(load_stamps())
    recipe = Recipe(**json.loads((RESULTS / "starter_quality.json").read_text())["image"]["recipe"])
    fold = folds([str(group) for group in near_groups(data.plain)], FOLDS, starter_images.SEED)
    image = out_of_fold(data.home, data.away, data.bank, recipe, fold, views=2)
    audio, row = _sounds(data, fold)
    return Unseen(image, data.plain.targets, audio, row)


def _sounds(data: starter_images.Material, fold: Any) -> tuple[Array, Rows]:
    """Each sound's vector by a head made without its fold and without twins of that fold's sounds."""
    stamps = data.stamps
    ours, rows = starter_sounds.effects(stamps, stamps.train)
    place = {row: number for number, row in enumerate(stamps.train)}
    own = np.array([place[row] for row in rows], np.intp)
    spare, _ = starter_sounds.effects(stamps, stamps.spare)
    test, _ = starter_sounds.effects(stamps, stamps.test)
    every = starter_sounds.joined_sounds(
        starter_sounds.joined_sounds(ours, spare), starter_sounds.sounds_elsewhere()
    )
    allowed = ~starter_sounds.twins(every, test.pairs)
    recipe = Recipe(**json.loads((RESULTS / "starter_sounds.json").read_text())["recipe"])
    classes = starter_sounds.class_vectors()
    vectors = np.zeros((len(own), 384), np.float32)
    for number in range(FOLDS):
        held = np.flatnonzero(fold[own] == number)
        keep = allowed & ~starter_sounds.twins(every, ours.pairs.take(held))
        keep[held] = False
        head = starter_sounds.fit_sounds(every.pairs.take(np.flatnonzero(keep)), classes, recipe)
        vectors[held] = head.vectors(ours.pairs.features[held], ours.pairs.logits[held])
    return vectors, own


if __name__ == "__main__":
    found = unseen()
    debian.say(f"{len(found.image)} pictures and {len(found.audio)} sounds")
