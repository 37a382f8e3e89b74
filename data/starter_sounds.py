"""The starter's audio head: sounds with their names, how the head is fitted on them, and what it measures.

    python data/starter_sounds.py [--dry-run]

Writes retrieval/models/starter/heads/audio.safetensors and benchmarks/results/starter_sounds.json. Every
choice is made by leaving out whole packages in turn, never on the test half of the stamps. Pictures stand in
starter_data.py and fit_starter_heads.py; what is measured, in sound_scores.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import debian_packages as debian
import named_sounds
import numpy as np
import numpy.typing as npt
import starter_features as features
from sound_scores import everyday_score, paired, phrase_ranks, recall_of, shown
from starter_classes import align, match_classes
from starter_data import Stamps, load_stamps, picture_pairs, read_rows, require
from starter_fit import Array, Bank, Fitted, Pairs, Recipe, Rows, choose, conse, unit
from starter_names import ABSENT, CATEGORIES, SOUND_CLASSES, SOUND_CLASSIFIER, SOUND_CLASSIFIERS
from starter_scores import both_ways, ranks

ROOT = Path(__file__).resolve().parent.parent
HEADS = ROOT / "retrieval" / "models" / "starter" / "heads"
RESULT = ROOT / "benchmarks" / "results" / "starter_sounds.json"
VERSION = "2"
SEED = 0
STAMPS = "tuxpaint-stamps-default"
WHOLE = "qabcs-data"  # reported by itself: of all packages, the one with the most everyday things
TWIN = 0.985  # cosine of features from which sounds of two packages count as the same recording
ENOUGH = 20  # different names from which a package is a gallery
START = Recipe(top=10, temperature=2.0, gain=0.5, centring=1.0, penalty=1000.0, even=0.0, home=1.0)
CONSE_ALONE = Recipe(top=10, temperature=2.0, gain=1.0, centring=1.0, penalty=1e9, even=0.0)
RIDGE_ALONE = Recipe(top=10, temperature=2.0, gain=0.0, centring=0.0, penalty=1000.0, even=0.0)
GRID: dict[str, Sequence[Any]] = {
    "penalty": (300.0, 1000.0, 3000.0),  # of features of unit variance
    "gain": (0.25, 0.5, 0.75),
    "temperature": (1.0, 2.0, 4.0),
    "top": (10, 30),
}


@dataclass(frozen=True, slots=True)
class Sounds:
    """Sounds with their names: the stamps' effects of one half, or named sounds of other packages."""

    pairs: Pairs
    names: list[str]
    packages: list[str]  # where each comes from

    def take(self, rows: Rows) -> Sounds:
        return Sounds(self.pairs.take(rows), [self.names[n] for n in rows], [self.packages[n] for n in rows])


def effects(stamps: Stamps, rows: Rows) -> tuple[Sounds, Rows]:
    """The sound effects among these stamps, with the stamps' captions; and which rows have one."""
    having = np.array([row for row in rows if stamps.rows[row]["audio"]], dtype=np.intp)
    table = features.sounds(stamps.paths("audio", having))
    require(bool(table["ok"].all()), "a stamp's sound could not be read")
    names = [stamps.rows[row]["text"] for row in having]
    return _sounds(table["features"], names, [STAMPS] * len(names), home=True), having


def sounds_elsewhere() -> Sounds:
    """Named sounds of other packages."""
    manifest = named_sounds.build(debian.CACHE / "named-sounds")
    rows = read_rows(manifest)
    packages = [row["label"] for row in rows]
    tables = []
    for package in dict.fromkeys(packages):  # the rows of a package lie together
        own = [manifest.parent / row["audio"] for row in rows if row["label"] == package]
        tables.append(features.sounds(own))
    kept = np.flatnonzero(np.concatenate([table["ok"] for table in tables]))
    every = np.concatenate([table["features"] for table in tables])
    names = [rows[row]["text"] for row in kept]
    return _sounds(every[kept], names, [packages[row] for row in kept], home=False)


def _sounds(table: Array, names: list[str], packages: list[str], *, home: bool) -> Sounds:
    pairs = Pairs(table, sound_logits(table), features.texts(names), np.full(len(names), home))
    return Sounds(pairs, names, packages)


def joined_sounds(first: Sounds, second: Sounds) -> Sounds:
    """Both sets, in order."""
    from starter_fit import joined

    return Sounds(
        joined(first.pairs, second.pairs), first.names + second.names, first.packages + second.packages
    )


def sound_classifier() -> Any:
    """One network (512) -> (81) that gives the mean of two of the sound network's classifiers' logits.

    Both have two hidden layers, laid side by side; each one's logits are taken from their own mean first. A
    category that one of them lacks has the other's.
    """
    import torch

    from retrieval.models.starter.backbones import load_aisfx

    parts: Any = load_aisfx(with_classifiers=True).classifiers
    own = [
        [layer for layer in parts[name] if isinstance(layer, torch.nn.Linear)] for name in SOUND_CLASSIFIERS
    ]
    knows = [[c for c in CATEGORIES if c not in absent] for absent in SOUND_CLASSIFIERS.values()]
    known = Counter(name for each in knows for name in each)
    first = torch.nn.Linear(own[0][0].in_features, sum(layers[0].out_features for layers in own))
    second = torch.nn.Linear(first.out_features, sum(layers[1].out_features for layers in own))
    last = torch.nn.Linear(second.out_features, len(SOUND_CLASSES))
    with torch.no_grad():
        first.weight.copy_(torch.cat([layers[0].weight for layers in own]))
        first.bias.copy_(torch.cat([layers[0].bias for layers in own]))
        second.weight.copy_(torch.block_diag(*[layers[1].weight for layers in own]))
        second.bias.copy_(torch.cat([layers[1].bias for layers in own]))
        weight, bias = torch.zeros_like(last.weight), torch.zeros_like(last.bias)
        at = 0
        for layers, names in zip(own, knows, strict=True):
            rows = [SOUND_CLASSES.index(name) for name in names]
            share = torch.tensor([1.0 / known[name] for name in names])
            width = layers[2].in_features
            centred = layers[2].weight - layers[2].weight.mean(dim=0)
            weight[rows, at : at + width] += centred * share[:, None]
            bias[rows] += (layers[2].bias - layers[2].bias.mean()) * share
            at += width
        last.weight.copy_(weight)
        last.bias.copy_(bias)
    net = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), last)
    return net.eval().requires_grad_(False)


def sound_logits(table: Array) -> Array:
    """Logits (n, 81) of `sound_classifier` on the sound network's features (n, 512)."""
    import torch

    with torch.inference_mode():
        return np.asarray(sound_classifier()(torch.from_numpy(table)).numpy())


def category_vectors() -> dict[str, Array]:
    """A text vector of each sound category: its phrases' mean."""
    phrases = [phrase for every in CATEGORIES.values() for phrase in every]
    vectors = dict(zip(phrases, features.texts(phrases), strict=True))
    return {name: unit(np.mean([vectors[p] for p in every], axis=0)) for name, every in CATEGORIES.items()}


def class_vectors() -> Array:
    """The text vectors of the classes that ConSE mixes, (81, 384)."""
    vectors = category_vectors()
    return np.stack([vectors[name] for name in SOUND_CLASSES])


def fit_sounds(pairs: Pairs, classes: Array, recipe: Recipe) -> Fitted:
    """Ridge from unit features, each of variance one, to centred text vectors, beside centred ConSE."""
    inputs = unit(pairs.features)
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    scaled = (inputs - centre) / scale
    targets = pairs.targets - pairs.targets.mean(axis=0)
    gram = scaled.T @ scaled + recipe.penalty * np.eye(scaled.shape[1], dtype=np.float32)
    weight = (np.linalg.solve(gram, scaled.T @ targets) / scale[:, None]).astype(np.float32)
    usual = conse(pairs.logits, classes, top=recipe.top, temperature=recipe.temperature).mean(axis=0)
    bias = -centre @ weight - recipe.gain * recipe.centring * usual
    return Fitted(recipe, classes, weight, bias.astype(np.float32), np.eye(384, dtype=np.float32))


def twins(sounds: Sounds, others: Pairs) -> npt.NDArray[np.bool_]:
    """Which sounds (n,) are the same recording as one of `others`."""
    return (unit(sounds.pairs.features) @ unit(others.features).T).max(axis=1) >= TWIN


def left_out(sounds: Sounds, classes: Array, recipe: Recipe) -> Array:
    """Each sound's vector by a head fitted without its package and without twins of its sounds."""
    vectors = np.zeros((len(sounds.names), 384), np.float32)
    packages = np.array(sounds.packages)
    for package in dict.fromkeys(sounds.packages):
        held = np.flatnonzero(packages == package)
        rest = np.flatnonzero((packages != package) & ~twins(sounds, sounds.pairs.take(held)))
        fitted = fit_sounds(sounds.pairs.take(rest), classes, recipe)
        vectors[held] = fitted.vectors(sounds.pairs.features[held], sounds.pairs.logits[held])
    return vectors


def package_recall(sounds: Sounds, vectors: Array) -> float:
    """Mean of R@1, R@5 and R@10 between sounds and names within each package, both ways, over packages."""
    return float(np.mean([recall_of(both) for both in _by_package(sounds, vectors).values()]))


def _by_package(sounds: Sounds, vectors: Array) -> dict[str, tuple[Array, Array]]:
    found = {}
    packages = np.array(sounds.packages)
    for package in dict.fromkeys(sounds.packages):
        rows = np.flatnonzero(packages == package)
        names = [sounds.names[row] for row in rows]
        if len(set(names)) >= ENOUGH:
            found[package] = phrase_ranks(vectors[rows], sounds.pairs.targets[rows], names)
    return found


def in_third(name: str) -> bool:
    """Whether a name is of the third that is held out; all sounds of a name, of any package, go together."""
    return hashlib.sha256(name.lower().encode()).digest()[0] % 3 == 0


def fit_audio(stamps: Stamps, image: Bank | None, head: Any) -> tuple[Fitted, dict[str, Any]]:
    """The audio head, and what there is to say of it; `head` gives pictures' vectors."""
    del image  # sounds' texts are not evened out: it measured no better
    ours, _ = effects(stamps, np.concatenate([stamps.train, stamps.spare]))
    test, _ = effects(stamps, stamps.test)
    every = joined_sounds(ours, sounds_elsewhere())
    every = every.take(np.flatnonzero(~twins(every, test.pairs)))
    classes = class_vectors()
    recipe, inside = choose(START, GRID, lambda r: package_recall(every, left_out(every, classes, r)))
    methods = {"shipped": recipe, "ridge alone": RIDGE_ALONE, "ConSE alone": CONSE_ALONE}
    fitted = {name: fit_sounds(every.pairs, classes, each) for name, each in methods.items()}
    report = {
        "recipe": asdict(recipe),
        "training": {"sounds": dict(Counter(every.packages)), "different names": len(set(every.names))},
        "cross-validated mean recall, packages left out": round(inside, 4),
        "classes": about_classes(every),
        "packages left out": leave_packages(every, classes, methods),
        "held-out third": leave_third(every, classes, methods),
        "test": {name: test_audio(stamps, each, head) for name, each in fitted.items()},
        "test, paired": test_paired(stamps, fitted, head),
    }
    return fitted["shipped"], report


def about_classes(every: Sounds) -> dict[str, Any]:
    """How well each classifier's outputs fit the categories in order, on sounds whose names are known."""
    import torch

    from retrieval.models.starter.backbones import load_aisfx

    with torch.inference_mode():
        table = load_aisfx(with_classifiers=True).class_logits(torch.from_numpy(every.pairs.features))
    scaled = {n: (v.numpy() - v.numpy().mean(0)) / v.numpy().std(0) for n, v in table.items()}
    vectors, names = category_vectors(), list(CATEGORIES)
    found: dict[str, Any] = {}
    for name, values in scaled.items():
        if values.shape[1] > len(names):
            continue
        match = match_classes(values, every.pairs.targets, vectors, draws=50)
        above = (match.score - match.shuffled_mean) / match.shuffled_deviation
        found[name] = {"outputs": values.shape[1], "deviations above shuffled": round(above, 1)}
    known = [names.index(n) for n in names if n not in ABSENT]
    together = np.zeros((scaled["prosfx"].shape[1], len(names)))
    together[:, known] = scaled["prosfx"].T @ scaled[SOUND_CLASSIFIER] / len(every.names)
    taken = set(align(together)[1])
    found["prosfx"]["absent, by agreement"] = [n for at, n in enumerate(names) if at not in taken]
    return found


def leave_packages(every: Sounds, classes: Array, methods: dict[str, Recipe]) -> dict[str, Any]:
    """Every package left out in turn: everyday classes, and recall between sounds and names within it."""
    vectors = {name: left_out(every, classes, each) for name, each in methods.items()}
    ranked = {name: _by_package(every, table) for name, table in vectors.items()}
    day = {name: everyday_score(table, every.names, features.texts) for name, table in vectors.items()}

    def table(pick: Callable[[dict[str, tuple[Array, Array]]], tuple[Array, Array]]) -> dict[str, Any]:
        return shown({name: pick(each) for name, each in ranked.items()})

    return {
        "everyday": {name: each.summary() for name, each in day.items()},
        "everyday, paired": {
            f"shipped - {name}": paired(day["shipped"].right, day[name].right, day[name].groups)
            for name in methods
            if name != "shipped"
        },
        f"{WHOLE} left out": table(lambda each: each[WHOLE]),
        "all packages, each its own gallery": table(
            lambda each: (
                np.concatenate([both[0] for both in each.values()]),
                np.concatenate([both[1] for both in each.values()]),
            )
        ),
    }


def leave_third(every: Sounds, classes: Array, methods: dict[str, Recipe]) -> dict[str, Any]:
    """A third of each package by name held out; the gallery is that third of all packages."""
    third = np.array([in_third(name) for name in every.names])
    held = every.take(np.flatnonzero(third))
    rest = every.take(np.flatnonzero(~third))
    rest = rest.take(np.flatnonzero(~twins(rest, held.pairs)))
    found = {}
    for name, recipe in methods.items():
        fitted = fit_sounds(rest.pairs, classes, recipe)
        vectors = fitted.vectors(held.pairs.features, held.pairs.logits)
        found[name] = phrase_ranks(vectors, held.pairs.targets, held.names)
    return {"sounds": len(held.names), "names": len(set(held.names))} | shown(found)


def _test_vectors(stamps: Stamps, audio: Fitted, head: Any) -> tuple[Array, Array, Array, list[str]]:
    sounds, rows = effects(stamps, stamps.test)
    place = {row: number for number, row in enumerate(stamps.test)}
    pictures = picture_pairs(stamps, stamps.test).take(np.array([place[row] for row in rows]))
    seen = head.vectors(pictures.features, pictures.logits)
    vectors = audio.vectors(sounds.pairs.features, sounds.pairs.logits)
    return vectors, sounds.pairs.targets, seen, [stamps.rows[row]["id"] for row in rows]


def test_audio(stamps: Stamps, audio: Fitted, head: Any) -> dict[str, Any]:
    """Text-audio and image-audio on the test stamps that have a sound effect."""
    vectors, texts, seen, ids = _test_vectors(stamps, audio, head)
    return {
        "text-audio": both_ways(vectors, texts, ids, "audio", "text"),
        "image-audio": both_ways(vectors, seen, ids, "audio", "image"),
    }


def test_paired(stamps: Stamps, fitted: dict[str, Fitted], head: Any) -> dict[str, Any]:
    """Paired differences of R@10 on the test stamps, of the shipped head to the others."""
    hits: dict[str, dict[str, npt.NDArray[np.bool_]]] = {}
    for name, each in fitted.items():
        vectors, texts, seen, ids = _test_vectors(stamps, each, head)
        for kind, other in (("text", texts), ("image", seen)):
            hits.setdefault(f"{kind} to audio", {})[name] = ranks(other, vectors, ids, ids) <= 10
            hits.setdefault(f"audio to {kind}", {})[name] = ranks(vectors, other, ids, ids) <= 10
    return {
        way: {
            f"shipped - {name}": paired(table["shipped"], table[name]) for name in table if name != "shipped"
        }
        for way, table in hits.items()
    }


def write_audio(fitted: Fitted, report: dict[str, Any]) -> None:
    """The fitted numbers as the audio head's file, with how they were made in its header."""
    import torch

    from retrieval.models.starter.heads import AudioHead, HeadShape, save_head

    source = sound_classifier()
    hidden = tuple(layer.out_features for layer in source[:-1] if isinstance(layer, torch.nn.Linear))
    wide, classes = fitted.weight.shape[0], len(fitted.classes)
    head = AudioHead(HeadShape(wide, classes, fitted.recipe.top, classifier=hidden))
    head.classifier.load_state_dict(source.state_dict())
    head.load_state_dict({n: torch.tensor(v) for n, v in fitted.tensors.items()}, strict=False)
    about = {"recipe": report["recipe"], "training": report["training"], "seed": SEED}
    metadata = {"kind": "conse+ridge", "version": VERSION, "fitted": json.dumps(about, sort_keys=True)}
    save_head(head, HEADS / "audio.safetensors", metadata=metadata)
    debian.say("wrote audio.safetensors")


class ShippedImageHead:
    """The shipped image head, as far as image-audio scores need it."""

    def vectors(self, table: Array, logits: Array) -> Array:
        import torch

        from retrieval.models.starter.heads import load_image_head

        with torch.inference_mode():
            return np.asarray(load_image_head()(torch.from_numpy(table), torch.from_numpy(logits)).numpy())


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with the reason on stderr. The report goes to stdout as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="measure and print, write nothing")
    dry = parser.parse_args(words).dry_run
    try:
        fitted, report = fit_audio(load_stamps(), None, ShippedImageHead())
    except debian.RecipeError as error:
        debian.say(f"error: {error}")
        return 2
    if not dry:
        write_audio(fitted, report)
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
