"""The starter's image head: how it is fitted and then trained, and what it measures.

Pairs of features and texts in, a head and a report out. The closed form stands in starter_fit.py, the
contrastive step in starter_contrast.py, the data in starter_data.py. Every choice is made by
cross-validation inside the stamps' training half, in folds that keep near-duplicates together; the test half
is read for the report only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import debian_packages as debian
import numpy as np
import numpy.typing as npt
import photographs
import starter_features as features
from starter_contrast import Contrast, contrasted, settings
from starter_data import (
    FIT,
    Stamps,
    clipart_pairs,
    emoji_pairs,
    image_bank,
    load_stamps,
    near,
    near_groups,
    picture_pairs,
)
from starter_features import Fit, ImagePreparer
from starter_fit import (
    Array,
    Bank,
    Fitted,
    Pairs,
    Recipe,
    choose,
    conse,
    fit_head,
    folds,
    joined,
    out_of_fold,
)
from starter_scores import both_ways, gains, mean_recall, ranks

HEADS = Path(__file__).resolve().parent.parent / "retrieval" / "models" / "starter" / "heads"
VERSION = "2"
FOLDS, SEED = 4, 0
CONSE_ALONE = Recipe(top=10, temperature=1.0, gain=1.0, centring=0.0, penalty=1e9, even=0.0)
GRID: dict[str, Sequence[Any]] = {
    "even": (0.0, 0.2, 0.3, 0.5),
    "centring": (0.0, 0.5, 1.0),
    "temperature": (1.0, 1.5, 2.0),
    "top": (10, 30, 100),
    "gain": (0.25, 0.5, 0.75, 1.0),
    "penalty": (1.0, 2.0, 4.0, 8.0),
    "home": (1.0, 2.0, 4.0),
}
# What the trained head is compared with before it is taken, each by cross-validation.
VARIANTS = {
    "trained": Contrast(),
    "trained, the evening matrix fixed": Contrast(after=False),
    "trained, three seeds averaged": Contrast(seeds=3),
}

Maker = Callable[[Pairs], Fitted]


@dataclass(frozen=True, slots=True)
class Material:
    """What the image head is fitted on and measured with."""

    stamps: Stamps
    plain: Pairs  # the training half, as it is
    mirrored: Pairs  # the same, left and right exchanged
    spare: Pairs
    test: Pairs
    clipart: Pairs
    emoji: Pairs
    twins: dict[str, int]  # drawings left out, since they look like a stamp of either half
    bank: Bank

    @property
    def home(self) -> Pairs:
        return joined(self.plain, self.mirrored)

    @property
    def away(self) -> Pairs:
        return joined(joined(self.spare, self.clipart), self.emoji)

    @property
    def every(self) -> Pairs:
        return joined(self.home, self.away)

    def ids(self, part: str) -> list[str]:
        return [self.stamps.rows[row]["id"] for row in getattr(self.stamps, part)]


def load_material(stamps: Stamps | None = None) -> Material:
    """Bring and compute everything; minutes the first time, seconds after that. RecipeError."""
    stamps = stamps or load_stamps()
    plain, test, spare = (picture_pairs(stamps, getattr(stamps, part)) for part in ("train", "test", "spare"))
    known = np.concatenate([plain.features, test.features, spare.features])
    clipart, alike = clipart_pairs(known)
    emoji, same = emoji_pairs(known)
    mirrored = picture_pairs(stamps, stamps.train, mirrored=True)
    spare = replace(
        spare, home=np.zeros(len(spare.home), bool)
    )  # never queried, so drawn as often as drawings
    bank = image_bank(stamps, joined(clipart, emoji))
    twins = {"clipart": alike, "emoji": same}
    return Material(stamps, plain, mirrored, spare, test, clipart, emoji, twins, bank)


def fit_image(stamps: Stamps) -> tuple[Fitted, dict[str, Any], Bank]:
    """The image head, what there is to say of it, and the texts it was fitted among."""
    data = load_material(stamps)
    recipe, contrast, inside = choose_all(data)
    fitted = fit_and_train(data.every, data.bank, recipe, contrast)
    closed = fit_head(data.every, data.bank, recipe)
    alone = fit_head(data.home, data.bank, CONSE_ALONE)
    report: dict[str, Any] = {
        "recipe": asdict(recipe),
        "training": settings(contrast) | {"gain it ended at": round(fitted.recipe.gain, 4)},
        "fits": compare_fits(data),
        "pairs": {name: len(getattr(data, name).features) for name in ("plain", "spare", "clipart", "emoji")}
        | {"left out as twins of stamps": data.twins},
        "cross-validated mean recall": inside,
    }
    report |= report_test(data, {"shipped": fitted, "closed form": closed, "ConSE alone": alone})
    report["test, no near-duplicate in training"] = report_apart(data, recipe, contrast)
    report["photographs"] = report_photographs(data, fitted, alone)
    return fitted, report, data.bank


def fit_and_train(pairs: Pairs, bank: Bank, recipe: Recipe, contrast: Contrast) -> Fitted:
    """The closed form, then the contrastive step from there."""
    return contrasted(fit_head(pairs, bank, recipe), pairs, contrast, seed=SEED)


def choose_all(data: Material) -> tuple[Recipe, Contrast, dict[str, float]]:
    """The closed form's recipe, then how it is trained on; and each candidate's cross-validated recall."""
    fold = folds([str(group) for group in near_groups(data.plain)], FOLDS, SEED)
    names = data.ids("train")

    def measure(recipe: Recipe) -> float:
        vectors = out_of_fold(data.home, data.away, data.bank, recipe, fold, views=2)
        return mean_recall(vectors, data.plain.targets, names)

    def recall(contrast: Contrast, away: Pairs) -> float:
        make = partial(fit_and_train, bank=data.bank, recipe=recipe, contrast=contrast)
        return mean_recall(cross_fitted(data, fold, make, away=away), data.plain.targets, names)

    recipe, closed = choose(Recipe(), GRID, measure)
    found = {"closed form": closed}
    found |= {name: recall(contrast, data.away) for name, contrast in VARIANTS.items()}
    best = max(VARIANTS, key=found.__getitem__)
    for name, away in (("no emoji", joined(data.spare, data.clipart)), ("stamps alone", data.spare)):
        found[f"{best}, {name}"] = recall(VARIANTS[best], away)
    return recipe, VARIANTS[best], {name: round(value, 4) for name, value in found.items()}


def cross_fitted(data: Material, fold: npt.NDArray[np.int64], fit: Maker, *, away: Pairs) -> Array:
    """Vectors of the training half, each by a head that was made without its fold, beside all of `away`."""
    vectors = np.zeros_like(data.plain.targets)
    for number in range(int(fold.max()) + 1):
        kept, held = np.flatnonzero(np.tile(fold != number, 2)), np.flatnonzero(fold == number)
        head = fit(joined(data.home.take(kept), away))
        vectors[held] = head.vectors(data.plain.features[held], data.plain.logits[held])
    return vectors


def compare_fits(data: Material) -> dict[str, dict[str, float]]:
    """How well each way of fitting a picture into a square does on the training half."""
    labels = data.ids("train")
    fold = folds(labels, FOLDS, SEED)
    table = {}
    for fit in Fit:
        pairs = picture_pairs(data.stamps, data.stamps.train, fit=fit)
        alone = conse(pairs.logits, data.bank.classes, top=10, temperature=1.0)
        ridge = out_of_fold(pairs, pairs.take(np.arange(0)), data.bank, Recipe(penalty=1.0), fold)
        table[fit.value] = {
            "conse": round(mean_recall(alone, pairs.targets, labels), 4),
            "conse and ridge on stamps": round(mean_recall(ridge, pairs.targets, labels), 4),
        }
    return table


def report_test(data: Material, heads: dict[str, Fitted]) -> dict[str, Any]:
    """Recall on the test half of each head, and what the first gains over the others."""
    vectors = {name: head.vectors(data.test.features, data.test.logits) for name, head in heads.items()}
    names = data.ids("test")
    table: dict[str, Any] = {}
    for number, (name, found) in enumerate(vectors.items()):
        title = f"test, {name}" if number else "test"
        table[title] = both_ways(found, data.test.targets, names, "image", "text", seed=SEED)
    first, *others = vectors
    table["test, gain"] = {
        f"over {other}": gains(vectors[first], vectors[other], data.test.targets, names) for other in others
    }
    return table


def report_apart(data: Material, recipe: Recipe, contrast: Contrast) -> dict[str, Any]:
    """The same test by a head fitted without any stamp that nearly repeats one of the test half."""
    stays, spare = ~near(data.plain, data.test), ~near(data.spare, data.test)
    home = data.home.take(np.flatnonzero(np.tile(stays, 2)))
    away = joined(joined(data.spare.take(np.flatnonzero(spare)), data.clipart), data.emoji)
    head = fit_and_train(joined(home, away), data.bank, recipe, contrast)
    found = head.vectors(data.test.features, data.test.logits)
    return {
        "stamps left out of training": int((~stays).sum() + (~spare).sum()),
        **both_ways(found, data.test.targets, data.ids("test"), "image", "text", seed=SEED),
    }


def report_photographs(data: Material, fitted: Fitted, alone: Fitted) -> dict[str, Any]:
    """Whether photographs were forgotten: name to picture and back, the head beside ConSE alone.

    Each name has one picture, so that mean average precision is the mean reciprocal rank. The second set is
    the test stamps that are PNG files, most of them photographs that were cut out.
    """
    found = photographs.photographs()
    table = features.pictures([path for path, _ in found], preparer=ImagePreparer(fit=FIT))
    names = [text for _, text in found]
    texts = features.texts(names)
    png = [
        number
        for number, row in enumerate(data.stamps.test)
        if data.stamps.rows[row]["image"].endswith(".png")
    ]
    stamps = data.test.take(np.array(png))
    ids = [data.ids("test")[number] for number in png]
    report: dict[str, Any] = {}
    for title, seen, logits, goal, labels in (
        ("photographs of packages", table["features"], table["logits"], texts, names),
        ("test stamps in PNG files", stamps.features, stamps.logits, stamps.targets, ids),
    ):
        heads = {"head": fitted.vectors(seen, logits), "ConSE alone": alone.vectors(seen, logits)}
        report[title] = {"pictures": len(labels)} | {
            name: {
                "image to text": round(float((1 / ranks(vectors, goal, labels, labels)).mean()), 4),
                "text to image": round(float((1 / ranks(goal, vectors, labels, labels)).mean()), 4),
            }
            for name, vectors in heads.items()
        }
    return report


def write_image(fitted: Fitted, report: dict[str, Any]) -> None:
    """The fitted numbers as the image head's file, with how they were made in its header."""
    import torch

    from retrieval.models.starter.heads import HeadShape, ImageHead, save_head

    wide, classes = fitted.weight.shape[0], len(fitted.classes)
    head = ImageHead(HeadShape(wide, classes, fitted.recipe.top))
    head.load_state_dict({n: torch.tensor(v) for n, v in fitted.tensors.items()}, strict=False)
    about = {name: report[name] for name in ("recipe", "training", "pairs")} | {"seed": SEED}
    metadata = {"kind": "conse+linear", "version": VERSION, "fitted": json.dumps(about, sort_keys=True)}
    save_head(head, HEADS / "image.safetensors", metadata=metadata)
    debian.say("wrote image.safetensors")
