"""Concepts learned from a few stamps: are the others of their kind found, and can what is shown be believed?

    python benchmarks/concepts.py

For every folder of the test half's pictures that is a kind of its own (LEAST_CLASS pictures or more), 1, 3, 5
and 10 of them are drawn as good examples, DRAWS times, without bad ones. The rest of the half is ranked by
the concept, by the mean of the examples, and by the folder's name as a query. results/concepts.json has
average precision with 95 % bootstrap intervals over folders, paired differences, what a probability of one
half keeps, the Brier skill of the probabilities, and the recall that cross-validation foretold. The number of
examples limits which folders take part, so that only numbers of one row compare. The probe's constants were
chosen on the training half, whose numbers stand beside; nothing was chosen on the test half.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from common import save, say
from stamps import Half, gallery, labels, model, text_vectors

from indexer.types import FloatArray, Modality
from retrieval.query.concepts.learning import frame_of
from retrieval.query.concepts.probe import fit

EXAMPLES = (1, 3, 5, 10)
LEAST_CLASS = 8  # pictures of a folder
LEFT = 4  # pictures that must be left to find
DRAWS = 5
BOOTSTRAP = 2000
GENERAL = ("cartoon",)  # names of folders that say how, not what: the folder above says that

Numbers = npt.NDArray[np.float64]
Found = dict[str, list[float]]  # by what was measured, a number a draw


def name_of(label: str) -> str:
    """A folder's name as a person would ask for it."""
    *above, last = label.split("/")
    return f"{last} {above[-1]}" if last in GENERAL else last.replace("_", " ")


def average_precision(scores: FloatArray, relevant: npt.NDArray[np.bool_]) -> float:
    """The mean, over the relevant ones, of the precision down to each; equal scores in the order given."""
    ordered = relevant[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    return float(precision[ordered].mean())


def one_draw(
    vectors: FloatArray, good: npt.NDArray[np.bool_], yes: npt.NDArray[np.intp], text: FloatArray
) -> dict[str, float]:
    """What is found of a folder (`good`) by the examples `yes`, among all but these."""
    rest = np.setdiff1d(np.arange(len(vectors)), yes)
    relevant, others = good[rest], vectors[rest]
    frame = frame_of(others)
    probe = fit(frame.framed(vectors[yes]), vectors[:0], frame.framed(others))
    odds = frame.framed(others) @ probe.direction * probe.scale + probe.bias
    told = 1 / (1 + np.exp(-odds))
    kept, base = told > 0.5, float(relevant.mean())
    brier = float(((told - relevant) ** 2).mean())
    found = {
        "concept": average_precision(odds, relevant),
        "mean of the examples": average_precision(others @ vectors[yes].mean(axis=0), relevant),
        "text": average_precision(others @ text, relevant),
        "kept": float(kept.sum()),
        "right": float(relevant[kept].sum()),
        "relevant": float(relevant.sum()),
        "skill": 1 - brier / (base * (1 - base)),
    }
    if probe.measured is not None:
        found["foretold recall"] = probe.measured.recall[0]
    return found


def measure(half: Half, examples: int) -> dict[str, Any]:
    """A row of the result: all folders of a half, with so many examples."""
    pictures = gallery(half, Modality.IMAGE)
    label = np.array(labels(half))[pictures.row]
    counts = Counter(label.tolist())
    kinds = sorted(one for one, count in counts.items() if count >= max(LEAST_CLASS, examples + LEFT))
    asked = text_vectors([name_of(kind) for kind in kinds])
    by_kind: list[Found] = []
    for number, kind in enumerate(kinds):
        good, found = label == kind, Found()
        for draw in range(DRAWS):
            chosen = np.random.default_rng([examples, number, draw])
            yes = chosen.choice(np.flatnonzero(good), examples, replace=False)
            for name, value in one_draw(pictures.vectors, good, yes, asked[number]).items():
                found.setdefault(name, []).append(value)
        by_kind.append(found)
    return {"examples": examples, "folders": len(kinds), **summary(by_kind)}


def summary(by_kind: Sequence[Found]) -> dict[str, Any]:
    """Means over folders with their intervals; what is kept is counted over all draws."""
    mean = {name: np.array([np.mean(one[name]) for one in by_kind]) for name in by_kind[0]}
    kept, right, relevant = (sum(sum(one[name]) for one in by_kind) for name in ("kept", "right", "relevant"))
    ways = ("concept", "mean of the examples", "text")
    row: dict[str, Any] = {
        "average precision": {way: interval(mean[way]) for way in ways},
        "concept less": {way: interval(mean["concept"] - mean[way]) for way in ways[1:]},
        "at one half": {"precision": round(right / max(kept, 1), 4), "recall": round(right / relevant, 4)},
        "Brier skill": interval(mean["skill"]),
    }
    if "foretold recall" in mean:
        row["recall foretold by cross-validation"] = interval(mean["foretold recall"])
    return row


def interval(values: Numbers) -> list[float]:
    """The mean with its 95 % bootstrap interval over folders."""
    picks = np.random.default_rng(0).integers(0, len(values), size=(BOOTSTRAP, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return [round(float(value), 4) for value in (values.mean(), low, high)]


def main() -> None:
    result: dict[str, Any] = {"model": model().name, "space_id": model().space_id, "draws": DRAWS}
    for half in ("train", "test"):
        result[half] = []
        for examples in EXAMPLES:
            row = measure(half, examples)
            say(half, examples, row)
            result[half].append(row)
    save("concepts", result)


if __name__ == "__main__":
    main()
