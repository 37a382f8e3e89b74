"""Fit the starter's heads from nothing, measure them on stamps never used for a choice, and write both.

    python data/fit_starter_heads.py [--dry-run]

Writes retrieval/models/starter/heads/*.safetensors and benchmarks/results/starter_quality.json; some ten
minutes on two cores the first time, one with the features in data/cache/features. The split: stamps not
below symbols/ whose caption no other stamp has; one is for testing when the first byte of the SHA-256 of
its id is even, and the gallery is the test stamps. Every choice (how a picture is fitted into the network's
square, temperature, how many classes, gains, penalties) is made by cross-validation inside the other half.
Drawings and sounds from other packages join the fit; drawings that look the same as a stamp are taken out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import debian_packages as debian
import numpy as np
import starter_features as features
from starter_classes import match_classes
from starter_data import (
    FIT,
    TWIN,
    Stamps,
    category_vectors,
    clipart_pairs,
    effects,
    image_bank,
    load_stamps,
    picture_pairs,
    sound_bank,
    sounds_elsewhere,
)
from starter_features import Fit, ImagePreparer
from starter_fit import (
    Array,
    Bank,
    Fitted,
    Recipe,
    choose,
    conse,
    fit_head,
    folds,
    joined,
    out_of_fold,
    unit,
)
from starter_names import ABSENT, SOUND_CLASSIFIER
from starter_scores import CUTS, mean_recall, ranks, recall_table

ROOT = Path(__file__).resolve().parent.parent
HEADS = ROOT / "retrieval" / "models" / "starter" / "heads"
RESULT = ROOT / "benchmarks" / "results" / "starter_quality.json"
VERSION = "1"
FOLDS, SEED = 4, 0
CONSE_ALONE = Recipe(top=10, temperature=1.0, gain=1.0, centring=0.0, penalty=1e9, even=0.0)
IMAGE_GRID: dict[str, Sequence[Any]] = {
    "even": (0.0, 0.2, 0.3, 0.5),
    "centring": (0.0, 0.5, 1.0),
    "temperature": (1.0, 1.5, 2.0),
    "top": (10, 30, 100),
    "gain": (0.25, 0.5, 0.75, 1.0),
    "penalty": (1.0, 2.0, 4.0, 8.0),
    "home": (1.0, 2.0, 4.0),
}
AUDIO_GRID = IMAGE_GRID | {"temperature": (1.0, 2.0, 4.0), "penalty": (0.3, 1.0, 3.0, 10.0)}
# Photographs that scikit-image and scikit-learn carry, with what a person would search them by.
PHOTOGRAPHS = {
    "skimage/data/astronaut.png": "an astronaut",
    "skimage/data/brick.png": "a brick wall",
    "skimage/data/chelsea.png": "a cat",
    "skimage/data/clock_motion.png": "a clock",
    "skimage/data/coffee.png": "a cup of coffee",
    "skimage/data/coins.png": "coins",
    "skimage/data/grass.png": "grass",
    "skimage/data/gravel.png": "gravel",
    "skimage/data/horse.png": "a horse",
    "skimage/data/moon.png": "the surface of the moon",
    "skimage/data/motorcycle_left.png": "a motorcycle",
    "skimage/data/rocket.jpg": "a rocket launch",
    "sklearn/datasets/images/china.jpg": "a Chinese temple",
    "sklearn/datasets/images/flower.jpg": "a flower",
}


def compare_fits(stamps: Stamps, bank: Bank) -> dict[str, dict[str, float]]:
    """How well each way of fitting a picture into a square does on the training half."""
    table = {}
    fold = folds([stamps.rows[row]["id"] for row in stamps.train], FOLDS, SEED)
    labels = [stamps.rows[row]["id"] for row in stamps.train]
    for fit in Fit:
        pairs = picture_pairs(stamps, stamps.train, fit=fit)
        nothing = pairs.take(np.arange(0))
        alone = conse(pairs.logits, bank.classes, top=10, temperature=1.0)
        ridge = out_of_fold(pairs, nothing, bank, Recipe(penalty=1.0), fold)
        table[fit.value] = {
            "conse": round(mean_recall(alone, pairs.targets, labels), 4),
            "conse and ridge on stamps": round(mean_recall(ridge, pairs.targets, labels), 4),
        }
    return table


def fit_image(stamps: Stamps) -> tuple[Fitted, dict[str, Any], Bank]:
    """The image head, what there is to say of it, and the texts it was fitted among."""
    plain = picture_pairs(stamps, stamps.train)
    home = joined(plain, picture_pairs(stamps, stamps.train, mirrored=True))
    test = picture_pairs(stamps, stamps.test)
    spare = picture_pairs(stamps, stamps.spare)
    known = np.concatenate([plain.features, test.features, spare.features])
    clipart, twins = clipart_pairs(known)
    away = joined(spare, clipart)
    bank = image_bank(stamps, clipart)
    ids = [stamps.rows[row]["id"] for row in stamps.train]
    fold = folds(ids, FOLDS, SEED)

    def measure(recipe: Recipe) -> float:
        return mean_recall(out_of_fold(home, away, bank, recipe, fold, views=2), plain.targets, ids)

    recipe, inside = choose(Recipe(), IMAGE_GRID, measure)
    fitted = fit_head(joined(home, away), bank, recipe)
    alone = fit_head(home, bank, CONSE_ALONE)
    names = [stamps.rows[row]["id"] for row in stamps.test]
    vectors = fitted.vectors(test.features, test.logits)
    new = (unit(test.features) @ unit(np.concatenate([plain.features, spare.features])).T).max(1) < TWIN
    report = {
        "recipe": asdict(recipe),
        "fits": compare_fits(stamps, bank),
        "training": {"stamps": len(plain.features), "spare stamps": len(spare.features)}
        | {"clipart": len(clipart.features), "clipart left out as twins of stamps": twins},
        "cross-validated mean recall": round(inside, 4),
        "test": both_ways(vectors, test.targets, names, "image", "text"),
        "test, ConSE alone": both_ways(
            alone.vectors(test.features, test.logits), test.targets, names, "image", "text"
        ),
        "test, queries whose picture has no twin in the training half": both_ways(
            vectors, test.targets, names, "image", "text", only=new
        ),
        "photographs": photographs(fitted, alone),
    }
    return fitted, report, bank


def photographs(fitted: Fitted, alone: Fitted) -> dict[str, Any]:
    """Whether the head forgot photographs: mean reciprocal rank of what each is called, head and ConSE alone.

    The gallery is the photographs, or what they are called: small, so only a large loss shows.
    """
    import skimage

    folder = Path(skimage.__file__).parent.parent
    names = [name for name in PHOTOGRAPHS if (folder / name).is_file()]
    table = features.pictures([folder / name for name in names], preparer=ImagePreparer(fit=FIT))
    texts = features.texts([PHOTOGRAPHS[name] for name in names])
    found: dict[str, Any] = {"photographs": len(names)}
    for title, head in (("head", fitted), ("ConSE alone", alone)):
        vectors = head.vectors(table["features"], table["logits"])
        found[title] = {
            "image to text": round(float((1 / ranks(vectors, texts, names, names)).mean()), 4),
            "text to image": round(float((1 / ranks(texts, vectors, names, names)).mean()), 4),
        }
    return found


def both_ways(
    first: Array, second: Array, labels: list[str], one: str, other: str, *, only: Any = None
) -> dict[str, Any]:
    """Recall in both directions; `only` says which rows are queries, the gallery is all of them."""
    asked = np.flatnonzero(only) if only is not None else np.arange(len(first))
    asking = [labels[row] for row in asked]
    return {
        "queries": len(asked),
        "gallery": len(first),
        f"{one} to {other}": recall_table(ranks(first[asked], second, asking, labels), seed=SEED),
        f"{other} to {one}": recall_table(ranks(second[asked], first, asking, labels), seed=SEED),
    }


def fit_audio(stamps: Stamps, images: Bank, image: Fitted) -> tuple[Fitted, dict[str, Any]]:
    """The audio head, and what there is to say of it."""
    ours, _ = effects(stamps, np.concatenate([stamps.train, stamps.spare]))
    theirs = sounds_elsewhere()
    every = joined(ours.pairs, theirs.pairs)
    names = ours.names + theirs.names
    bank = sound_bank(images)
    fold = folds(names, FOLDS, SEED)
    nothing = every.take(np.arange(0))

    def measure(recipe: Recipe) -> float:
        return phrase_recall(out_of_fold(every, nothing, bank, recipe, fold), every.targets, names)

    recipe, inside = choose(Recipe(gain=1.0), AUDIO_GRID, measure)
    fitted, alone = fit_head(every, bank, recipe), fit_head(every, bank, CONSE_ALONE)
    outputs = np.exp(every.logits - every.logits.max(axis=1, keepdims=True))
    match = match_classes(outputs / outputs.sum(axis=1, keepdims=True), every.targets, category_vectors())
    return fitted, {
        "recipe": asdict(recipe),
        "training": {"stamps' effects": len(ours.names), "named sounds": len(theirs.names)}
        | {"different names": len(set(names))},
        "cross-validated mean recall": round(inside, 4),
        "cross-validated mean recall, ConSE alone": round(
            phrase_recall(alone.vectors(every.features, every.logits), every.targets, names), 4
        ),
        "classes": asdict(match) | {"classifier": SOUND_CLASSIFIER, "absent as shipped": ABSENT},
        "test": test_audio(stamps, fitted, image),
        "test, ConSE alone": test_audio(stamps, alone, image),
    }


def phrase_recall(vectors: Array, targets: Array, names: Sequence[str]) -> float:
    """Mean of R@1, R@5, R@10 between sounds and different names, both ways; all sounds of a name match."""
    first = [names.index(name) for name in sorted(set(names))]
    phrases, labels = targets[first], [names[row] for row in first]
    both = (ranks(vectors, phrases, names, labels), ranks(phrases, vectors, labels, names))
    return float(np.mean([(found <= cut).mean() for found in both for cut in CUTS]))


def test_audio(stamps: Stamps, audio: Fitted, image: Fitted) -> dict[str, Any]:
    """Text-audio and image-audio on the test stamps that have a sound effect."""
    sounds, rows = effects(stamps, stamps.test)
    vectors = audio.vectors(sounds.pairs.features, sounds.pairs.logits)
    place = {row: number for number, row in enumerate(stamps.test)}
    pictures = picture_pairs(stamps, stamps.test).take(np.array([place[row] for row in rows]))
    seen = image.vectors(pictures.features, pictures.logits)
    ids = [stamps.rows[row]["id"] for row in rows]
    return {
        "text-audio": both_ways(vectors, sounds.pairs.targets, ids, "audio", "text"),
        "image-audio": both_ways(vectors, seen, ids, "audio", "image"),
    }


def write_head(kind: str, fitted: Fitted, report: dict[str, Any]) -> None:
    """The fitted numbers as a head file, with how they were made in its header."""
    import torch

    from retrieval.models.starter.backbones import load_aisfx
    from retrieval.models.starter.heads import AudioHead, ConseHead, HeadShape, ImageHead, save_head

    wide, classes = fitted.weight.shape[0], len(fitted.classes)
    head: ConseHead
    if kind == "image":
        head = ImageHead(HeadShape(wide, classes, fitted.recipe.top))
    else:
        source = load_aisfx(with_classifiers=True).classifiers[SOUND_CLASSIFIER]
        hidden = tuple(layer.out_features for layer in source[:-1] if isinstance(layer, torch.nn.Linear))
        head = AudioHead(HeadShape(wide, classes, fitted.recipe.top, classifier=hidden))
        head.classifier.load_state_dict(source.state_dict())
    numbers = {
        "class_vectors": fitted.classes,
        "temperature": np.float32(fitted.recipe.temperature),
        "conse_gain": np.float32(fitted.recipe.gain),
        "after": fitted.after,
        "residual.weight": fitted.weight.T,
        "residual.bias": fitted.bias,
    }
    head.load_state_dict({n: torch.tensor(v) for n, v in numbers.items()}, strict=False)
    about = {"recipe": report["recipe"], "training": report["training"], "seed": SEED}
    metadata = {"kind": "conse+ridge", "version": VERSION, "fitted": json.dumps(about, sort_keys=True)}
    save_head(head, HEADS / f"{kind}.safetensors", metadata=metadata)
    debian.say(f"wrote {kind}.safetensors")


def machine() -> dict[str, Any]:
    packages = ("numpy", "torch", "timm", "open-clip-torch", "sentence-transformers", "resvg-py", "pillow")
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "date": datetime.now(UTC).date().isoformat(),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with the reason on stderr. The report goes to stdout as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="measure and print, write nothing")
    dry = parser.parse_args(words).dry_run
    try:
        stamps = load_stamps()
        image, about_image, bank = fit_image(stamps)
        audio, about_audio = fit_audio(stamps, bank, image)
    except debian.RecipeError as error:
        debian.say(f"error: {error}")
        return 2
    report = {"version": VERSION, "seed": SEED, "image": about_image, "audio": about_audio} | machine()
    if not dry:
        write_head("image", image, about_image)
        write_head("audio", audio, about_audio)
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
