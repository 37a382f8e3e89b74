"""Ways of making an image head on the same features: closed forms beside contrastive losses, three seeds.

    python data/compare_heads.py [--out FILE]

Writes benchmarks/results/compare_heads.json and prints a table. Everything is fitted on the stamps' training
half and the drawings that the starter's image head is fitted on. Each way has at most three settings, chosen
on the same quarter of the training half, and each contrastive loss as many epochs; the test half is read
once, for the table. An interval is a 95 % bootstrap over queries of the mean over seeds. Ten minutes or more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import debian_packages as debian
import numpy as np
import torch
from starter_contrast import INFONCE, Contrast, contrasted, train
from starter_data import near_groups
from starter_fit import Array, Bank, Pairs, Recipe, fit_head, folds, joined, unit
from starter_images import CONSE_ALONE, FOLDS, SEED, Material, load_material
from starter_scores import CUTS, mean_recall, ranks

from retrieval.training.closed_form import cca, fourier_ridge, procrustes, ridge
from retrieval.training.heads import HeadKind, HeadOptions, make_head
from retrieval.training.losses import LossKind, LossOptions, Negatives

RESULT = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "compare_heads.json"
SEEDS = (0, 1, 2)
EPOCHS = 8.0
DRAWS = 2000
CCA_DIM = 256  # MiniLM's texts do not fill all of their 384 dimensions
START = Recipe(top=30, temperature=2.0, gain=0.5, centring=1.0, penalty=4.0, even=0.5)  # as shipped
LOSSES = {
    "InfoNCE": INFONCE,
    "sigmoid": LossOptions(kind=LossKind.SIGMOID),
    "triplet, hardest": LossOptions(kind=LossKind.TRIPLET, negatives=Negatives.HARDEST),
    "triplet, semi-hard": LossOptions(kind=LossKind.TRIPLET, negatives=Negatives.SEMI_HARD),
}
SIDES = ("text to image", "image to text")
RATES = {
    "new": (1e-3, 3e-3, 1e-2),
    "onward": (3e-4, 1e-3, 3e-3),
}  # of heads from nothing, and from a closed form
KINDS = {"linear": HeadOptions(HeadKind.LINEAR), "MLP": HeadOptions(HeadKind.MLP, hidden=512, layers=1)}

Encode = Callable[[Pairs], tuple[Array, Array]]  # unit vectors of pictures and of texts


@dataclass(frozen=True, slots=True)
class Way:
    """One way of making a head: what is made of pairs with a setting and a seed."""

    name: str
    make: Callable[[Pairs, Any, int], Encode]
    settings: Sequence[Any] = (None,)
    seeded: bool = False


def ways(bank: Bank) -> Iterator[Way]:
    """All contestants, closed forms first."""

    def started(pairs: Pairs, recipe: Recipe) -> Encode:
        head = fit_head(pairs, bank, recipe)
        return lambda each: (head.vectors(each.features, each.logits), each.targets)

    yield Way("ConSE alone", lambda pairs, _, __: started(pairs, CONSE_ALONE))
    yield Way("ridge", _linear(ridge), (1.0, 4.0, 16.0))
    yield Way("Procrustes", _linear(lambda x, y, penalty: procrustes(x, y)))
    yield Way("CCA", _both, (1.0, 3.0, 10.0))
    yield Way(
        "ridge on Fourier features",
        lambda pairs, penalty, seed: _linear(
            lambda x, y, penalty: fourier_ridge(x, y, penalty=penalty, seed=seed)
        )(pairs, penalty, seed),
        (1.0, 4.0, 16.0),
        seeded=True,
    )
    yield Way(
        "ConSE and ridge",
        lambda pairs, power, _: started(pairs, replace(START, even=power)),
        (0.0, 0.3, 0.5),
    )
    for kind, shape in KINDS.items():
        for name, loss in LOSSES.items():
            yield Way(f"{name}, {kind}", _new(shape, loss), RATES["new"], seeded=True)
    for name, loss in LOSSES.items():
        yield Way(f"{name}, from ConSE and ridge", _onward(bank, loss), RATES["onward"], seeded=True)


def _linear(solve: Callable[..., Any]) -> Callable[[Pairs, Any, int], Encode]:
    """A closed form from unit features to texts, whose means are taken away on both sides."""

    def make(pairs: Pairs, penalty: Any, _: int) -> Encode:
        middle = pairs.targets.mean(axis=0)
        found = solve(pairs.features, pairs.targets - middle, penalty=penalty)
        return lambda each: (unit(found(each.features)), each.targets)

    return make


def _both(pairs: Pairs, penalty: float, _: int) -> Encode:
    found = cca(pairs.features, pairs.targets, dim=CCA_DIM, penalty=penalty, power=1.0)
    return lambda each: (unit(found.first(each.features)), unit(found.second(each.targets)))


def _new(shape: HeadOptions, loss: LossOptions) -> Callable[[Pairs, Any, int], Encode]:
    """A head of the trainer's kinds, from random numbers, on features alone."""

    def make(pairs: Pairs, rate: float, seed: int) -> Encode:
        head = make_head(shape, pairs.features.shape[1], pairs.targets.shape[1], seed=seed)
        options = Contrast(loss=loss, epochs=EPOCHS, rate=rate)
        train(head, (unit(pairs.features),), pairs, options, seed=seed)

        @torch.no_grad()
        def encode(each: Pairs) -> tuple[Array, Array]:
            return unit(head(torch.from_numpy(unit(each.features))).numpy()), each.targets

        return encode

    return make


def _onward(bank: Bank, loss: LossOptions) -> Callable[[Pairs, Any, int], Encode]:
    """Trained on from the closed form, as the shipped head is."""

    def make(pairs: Pairs, rate: float, seed: int) -> Encode:
        options = Contrast(loss=loss, epochs=EPOCHS, rate=rate)
        head = contrasted(fit_head(pairs, bank, START), pairs, options, seed=seed)
        return lambda each: (head.vectors(each.features, each.logits), each.targets)

    return make


def measure(way: Way, data: Material) -> dict[str, Any]:
    """The setting that validation takes, and the test half by it: means over seeds, and each seed's."""
    fold = folds([str(group) for group in near_groups(data.plain)], FOLDS, SEED)
    held, names = np.flatnonzero(fold == 0), data.ids("train")
    inside = data.home.take(np.flatnonzero(np.tile(fold != 0, 2)))
    few = joined(inside, data.away)
    scores = [
        mean_recall(*way.make(few, setting, SEEDS[0])(data.plain.take(held)), [names[row] for row in held])
        for setting in way.settings
    ]
    setting = way.settings[int(np.argmax(scores))]
    labels, found = data.ids("test"), []
    for seed in SEEDS if way.seeded else SEEDS[:1]:
        pictures, texts = way.make(data.every, setting, seed)(data.test)
        found.append((ranks(pictures, texts, labels, labels), ranks(texts, pictures, labels, labels)))
    return {"way": way.name, "setting": setting, "validation": [round(score, 4) for score in scores]} | {
        title: table(np.stack([pair[side] for pair in found]))
        for side, title in enumerate(("image to text", "text to image"))
    }


def table(found: Array) -> dict[str, Any]:
    """Recall of ranks (seeds, queries): the mean over seeds with its interval, and each seed's."""
    picks = np.random.default_rng(SEED).integers(0, found.shape[1], size=(DRAWS, found.shape[1]))
    report: dict[str, Any] = {}
    for cut in CUTS:
        hit = (found <= cut).astype(np.float64)
        low, high = np.quantile(hit.mean(axis=0)[picks].mean(axis=1), [0.025, 0.975])
        report[f"R@{cut}"] = [round(float(value), 4) for value in (hit.mean(), low, high)]
        report[f"R@{cut} by seed"] = [round(float(value), 4) for value in hit.mean(axis=1)]
    return report


def line(row: dict[str, Any]) -> str:
    cells = [
        f"{row[side]['R@10'][0]:.3f} ({row[side]['R@10'][1]:.2f}-{row[side]['R@10'][2]:.2f})"
        for side in SIDES
    ]
    return f"| {row['way']} | {' | '.join(cells)} |"


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with the reason on stderr. The table goes to stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE")
    out = parser.parse_args(words).out
    try:
        data = load_material()
    except debian.RecipeError as error:
        debian.say(f"error: {error}")
        return 2
    print(f"| way | {' | '.join(f'{side} R@10' for side in SIDES)} |\n|---|---|---|")
    rows = []
    for way in ways(data.bank):
        rows.append(measure(way, data))
        print(line(rows[-1]), flush=True)
    about = {
        "queries": len(data.test.features),
        "seeds": SEEDS,
        "epochs": EPOCHS,
        "pairs": len(data.every.features),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(about | {"ways": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
