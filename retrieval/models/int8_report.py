"""What an int8 graph of an image tower costs beside its float32 one, on pictures it was not made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import FloatArray, Modality
from retrieval.models.bundle import Bundle
from retrieval.models.model import Model, open_tower
from retrieval.runtime.choose import Choice, Engine, Precision

CUT = 10  # hits among which recall looks
CAPTIONED = 30  # captions from which recall is told


@dataclass(frozen=True, slots=True)
class Picture:
    """One prepared picture of the folder."""

    views: npt.NDArray[Any]
    caption: str | None


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of queries whose own answer is among the first CUT, of a float32 tower and an int8 one."""

    f32: float
    int8: float

    @property
    def loss(self) -> float:
        return self.f32 - self.int8


@dataclass(frozen=True, slots=True)
class Quantised:
    """An int8 graph and what it costs."""

    model: str
    graph: str  # file name in the bundle
    calibrated: int  # pictures
    compared: int  # pictures, others where the folder has enough
    cosine_mean: float  # of int8 vectors to float32 ones
    cosine_worst: float
    recall: Mapping[str, Recall]  # by direction; empty where too few pictures have captions

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for a person."""
        said = [
            f"{self.model}: {self.graph}, calibrated with {self.calibrated} pictures",
            f"cosine to float32 on {self.compared} others: {self.cosine_mean:.4f} in the mean, "
            f"{self.cosine_worst:.4f} at worst",
        ]
        said += [
            f"{title}, R@{CUT}: {one.f32:.1%} in float32, {one.int8:.1%} in int8"
            for title, one in self.recall.items()
        ]
        if not self.recall:
            said.append(f"recall was not measured: fewer than {CAPTIONED} of them have a caption")
        return [*said, "an index uses it with --precision int8"]


def measured(bundle: Bundle, pictures: Sequence[Picture], *, calibrated: int, threads: int) -> Quantised:
    """What the int8 graph costs on pictures that it was not calibrated with."""
    model = Model(bundle, threads)
    tower = bundle.spec.tower(Modality.IMAGE)
    assert tower is not None
    views = [one.views for one in pictures]
    exact, small = (
        open_tower(
            bundle,
            tower,
            space_id=model.space_id,
            threads=model.tower(Modality.IMAGE).threads,
            choice=Choice(Engine.OPENVINO, precision),
        ).encode(views)
        for precision in (Precision.F32, Precision.INT8)
    )
    cosines = (exact * small).sum(axis=1)
    captions = [one.caption for one in pictures]
    return Quantised(
        model=bundle.spec.name,
        graph=tower.quantised,
        calibrated=calibrated,
        compared=len(pictures),
        cosine_mean=float(cosines.mean()),
        cosine_worst=float(cosines.min()),
        recall=_recall(model, exact, small, captions),
    )


def _recall(
    model: Model, exact: FloatArray, small: FloatArray, captions: Sequence[str | None]
) -> dict[str, Recall]:
    """Recall between the pictures and their captions, in both directions."""
    rows = [row for row, caption in enumerate(captions) if caption]
    if len(rows) < CAPTIONED or Modality.TEXT not in model.modalities:
        return {}
    said = [captions[row] or "" for row in rows]
    tower = model.tower(Modality.TEXT)
    texts = tower.encode([tower.preparer.tensor(text) for text in said])
    labels = np.array(said)
    both = {"image to text": lambda images: (images, texts), "text to image": lambda images: (texts, images)}
    return {
        title: Recall(*(recall_at(*sides(one[rows]), labels) for one in (exact, small)))
        for title, sides in both.items()
    }


def recall_at(queries: FloatArray, gallery: FloatArray, labels: npt.NDArray[Any], cut: int = CUT) -> float:
    """The share of queries, row by row those of `gallery`, whose label is among the best `cut`; in [0, 1].

    An answer of another label that scores the same counts as ranked before.
    """
    scores = queries @ gallery.T
    same = labels[:, None] == labels[None, :]
    best = np.where(same, scores, -np.inf).max(axis=1)
    before = ((scores >= best[:, None]) & ~same).sum(axis=1)
    return float((before < cut).mean())
