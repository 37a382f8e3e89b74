"""What is measured of sounds and their names: recall between them, everyday classes, paired intervals.

Arrays and names in, numbers out; what is fitted stands in starter_sounds.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from starter_everyday import EVERYDAY, everyday_class
from starter_scores import CUTS, ranks

Array = npt.NDArray[np.float32]
DRAWS = 2000
BOTH = ("audio to text", "text to audio")


def phrase_ranks(vectors: Array, targets: Array, names: Sequence[str]) -> tuple[Array, Array]:
    """Ranks of each sound's name among the names, and of each name's best sound among the sounds."""
    first = [names.index(name) for name in sorted(set(names))]
    phrases, labels = targets[first], [names[row] for row in first]
    return ranks(vectors, phrases, names, labels), ranks(phrases, vectors, labels, names)


def recall_of(both: tuple[Array, Array]) -> float:
    """Mean of R@1, R@5 and R@10 over both directions."""
    return float(np.mean([(found <= cut).mean() for found in both for cut in CUTS]))


def paired(
    ours: npt.NDArray[Any], theirs: npt.NDArray[Any], groups: Sequence[str] | None = None, seed: int = 0
) -> list[float]:
    """[difference, low, high] of shares over the same queries; a 95 % bootstrap over queries or groups."""
    difference = np.asarray(ours, float) - np.asarray(theirs, float)
    if groups is None:
        sums, sizes = difference, np.ones(len(difference))
    else:
        _, number = np.unique(np.asarray(groups), return_inverse=True)
        sums, sizes = np.bincount(number, difference), np.bincount(number)
    picks = np.random.default_rng(seed).integers(0, len(sums), size=(DRAWS, len(sums)))
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(value), 4) for value in (difference.mean(), low, high)]


def shown(found: dict[str, tuple[Array, Array]]) -> dict[str, Any]:
    """Recall by method and direction, and how `shipped` differs at R@10 from each other method."""
    table: dict[str, Any] = {}
    for name, both in found.items():
        table[name] = {
            way: {f"R@{cut}": paired(each <= cut, np.zeros(len(each))) for cut in CUTS}
            for way, each in zip(BOTH, both, strict=True)
        }
    for name, both in found.items():
        if name != "shipped":
            table[f"R@10, shipped - {name}"] = {
                way: paired(mine <= 10, each <= 10)
                for way, mine, each in zip(BOTH, found["shipped"], both, strict=True)
            }
    return table


@dataclass(frozen=True, slots=True)
class Everyday:
    """Which sounds of the everyday classes were given the right class."""

    right: npt.NDArray[np.bool_]
    classes: list[str]
    groups: list[str]  # sounds of one name, which are drawn together

    def summary(self) -> dict[str, Any]:
        nothing = np.zeros(len(self.right))
        table: dict[str, Any] = {"sounds": len(self.right)}
        table["right"] = paired(self.right, nothing, self.groups)
        shares = {}
        for title in EVERYDAY:
            rows = [at for at, each in enumerate(self.classes) if each == title]
            if rows:
                shares[title] = [len(rows), round(float(self.right[rows].mean()), 4)]
        table["mean over classes"] = round(float(np.mean([share for _, share in shares.values()])), 4)
        return table | {"by class": shares}


def everyday_score(vectors: Array, names: Sequence[str], texts: Callable[[Sequence[str]], Array]) -> Everyday:
    """Sounds of the everyday classes, each given the class whose bare name is nearest to its vector."""
    titles = list(EVERYDAY)
    belongs = [everyday_class(name) for name in names]
    rows = [at for at, title in enumerate(belongs) if title]
    given = (vectors[rows] @ texts(titles).T).argmax(axis=1)
    right = np.array([titles[place] == belongs[row] for place, row in zip(given, rows, strict=True)])
    return Everyday(right, [belongs[row] for row in rows], [names[row] for row in rows])
