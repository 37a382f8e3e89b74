"""Which rows make up each batch, and which of a row's texts. numpy only, no torch.

Everything follows from (seed, epoch): the state is two numbers, and a run that resumes in the middle of an
epoch sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.errors import TrainingError
from indexer.types import Modality
from retrieval.training.types import Examples, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of the training examples, the same on every rank."""

    rows: Ints  # (n,)
    contents: Mapping[Modality, Ints]  # (n,) the content drawn of each row, -1 where it has none

    def __len__(self) -> int:
        return len(self.rows)


class Sampler:
    """Batches of the rows that have a pair; rows with fewer than two modalities are never drawn.

    `balance` is a temperature T: kinds of rows (which modalities they have), and labels within a kind, are
    drawn in proportion to count^(1/T). At 1 every row comes once an epoch; the larger T, the more equal
    kinds and labels become, and rows of rare ones come several times.

    Raises TrainingError where no row has two modalities.
    """

    def __init__(
        self, examples: Examples, *, batch_size: int, seed: int, balance: float = 1.0, dropout: float = 0.0
    ) -> None:
        present = np.stack([examples.has(modality) for modality in Modality], axis=1)
        self._rows = np.flatnonzero(present.sum(axis=1) >= 2)
        if not len(self._rows):
            raise TrainingError(
                f"none of {len(examples)} training rows has two modalities: there is no pair to learn from",
                hint="give rows with at least two of image, text and audio",
            )
        self._batch_size, self._seed, self._dropout = batch_size, seed, dropout
        self._slots = {modality: _packed(slots) for modality, slots in examples.contents.items()}
        self._shares = None
        if balance > 1.0:
            kinds = present[self._rows] @ (1 << np.arange(len(Modality)))
            self._shares = _shares(kinds, examples.labels[self._rows], balance)

    @property
    def rows(self) -> int:
        """Rows drawn an epoch."""
        return len(self._rows)

    def __len__(self) -> int:
        """Batches an epoch; the last may be smaller."""
        return -(-self.rows // self._batch_size)

    def batches(self, epoch: int, position: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `position` on."""
        rng = np.random.default_rng([self._seed, epoch])
        order = self._order(rng)
        drawn = {modality: self._draw(modality, order, rng) for modality in self._slots}
        if self._dropout:
            _drop(drawn, self._dropout, rng)
        for start in range(position * self._batch_size, len(order), self._batch_size):
            part = slice(start, start + self._batch_size)
            yield Batch(order[part], {modality: contents[part] for modality, contents in drawn.items()})

    def _order(self, rng: np.random.Generator) -> Ints:
        order = rng.permutation(self._rows)
        if self._shares is None:
            return order
        # Systematic sampling: a row of share p comes floor(np) or ceil(np) times, which varies far less
        # than independent draws would.
        places = np.argsort(order, kind="stable")
        shuffled = np.empty(len(order))
        shuffled[places] = self._shares
        edges = np.cumsum(shuffled) / self._shares.sum()
        ticks = (np.arange(len(order)) + rng.random()) / len(order)
        found = order[np.minimum(np.searchsorted(edges, ticks, side="right"), len(order) - 1)]
        return rng.permutation(found)

    def _draw(self, modality: Modality, order: Ints, rng: np.random.Generator) -> Ints:
        """One of each row's contents, each as likely; -1 where there is none."""
        slots, counts = self._slots[modality]
        chosen = rng.random(len(order))  # drawn even for one slot, so that captions added later move nothing
        slot = (chosen * counts[order]).astype(np.int64)
        return np.asarray(slots[order, slot])


def _packed(slots: Ints) -> tuple[Ints, Ints]:
    """Slots with the padding last, and how many each row has."""
    missing = slots < 0
    order = np.argsort(missing, axis=1, kind="stable")
    return np.take_along_axis(slots, order, axis=1), (~missing).sum(axis=1)


def _shares(kinds: Ints, labels: Ints, temperature: float) -> npt.NDArray[np.float64]:
    """How often each row is to be drawn, (rows,), not normed; rows without a label count as one label."""
    _, kind, kind_counts = np.unique(kinds, return_inverse=True, return_counts=True)
    pairs = np.stack([kind, labels], axis=1)
    strata, stratum, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    within = counts ** (1.0 / temperature)
    totals = np.bincount(strata[:, 0], within)
    drawn = kind_counts ** (1.0 / temperature)
    share = drawn[strata[:, 0]] * within / totals[strata[:, 0]] / counts
    return np.asarray(share[stratum.ravel()])


def _drop(drawn: dict[Modality, Ints], chance: float, rng: np.random.Generator) -> None:
    """Take one modality from some of the rows that have all three, in place."""
    if len(drawn) < len(Modality):
        return
    whole = np.all([contents >= 0 for contents in drawn.values()], axis=0)
    losing = whole & (rng.random(len(whole)) < chance)
    which = rng.integers(len(Modality), size=len(whole))
    for number, modality in enumerate(Modality):
        drawn[modality][losing & (which == number)] = -1
