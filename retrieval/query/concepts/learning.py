"""How a concept is learned: examples become vectors, a probe is fitted, and its numbers are put in cosines.

Vectors of every modality are taken relative to that modality's mean in the collection, and to how far from it
they usually are, so that a concept learned from pictures says something of sounds, and examples of several
modalities tell what they have in common and not which modality they are. The negatives that nobody gave are a
sample of the collection, of the modalities that the good examples have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from indexer.errors import QueryError, SpaceMismatch
from indexer.snapshot import Snapshot
from indexer.types import FloatArray, Modality
from retrieval.query.compose import compose
from retrieval.query.concepts.concept import Concept, Line, Marked, check_name
from retrieval.query.concepts.examples import Example, find
from retrieval.query.concepts.probe import Probe, fit
from retrieval.query.sample import sampled
from retrieval.query.session import Session
from retrieval.types import Query

if TYPE_CHECKING:
    from retrieval.models.model import Model

SAMPLE = 512  # segments of a modality that stand for the collection
COPY = 0.995  # cosine from which a segment of the collection is taken for a copy of an example
LEAST = 2  # segments from which a modality has a mean


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What vectors of a modality are taken relative to."""

    mean: FloatArray  # (dim,)
    reach: float  # the root mean square distance from it

    def framed(self, vectors: FloatArray) -> FloatArray:
        """Unit vectors (n, dim) relative to it."""
        return ((vectors - self.mean) / self.reach).astype(np.float32)


def learn(
    snapshot: Snapshot,
    model: Model | None,
    name: str,
    yes: Sequence[str],
    no: Sequence[str] = (),
    *,
    session: Session | None = None,
) -> Concept:
    """A concept from what `yes` and `no` name: files, items or hits of the last search (`examples.find`).

    `model` encodes files that the index does not know. QueryError where an example cannot be found, where one
    is on both sides, where there is no good one, or where there is nothing to tell good ones from.
    """
    check_name(name)
    if not yes:
        raise QueryError(
            f"{name} has no good example{', only bad ones' if no else ''}", hint="give one or more with --yes"
        )
    if snapshot.space_id is None:
        raise QueryError("the index has no vectors to learn from", hint="index something first")
    given = {
        good: _vectors([find(snapshot, one, session=session) for one in names], snapshot, model)
        for good, names in ((True, yes), (False, no))
    }
    _check_sides(given[True], given[False])
    samples = {modality: snapshot.vectors_of(sampled(snapshot, modality, SAMPLE)) for modality in Modality}
    frames = _frames(samples, given[True] + given[False])
    probe, others = _fitted(name, given, samples, frames)
    return Concept(
        name=name,
        space_id=snapshot.space_id,
        model=snapshot.model,
        direction=probe.direction,
        lines={modality: _line(probe, modality, on) for modality, on in frames.items()},
        examples=_marked(given),
        others=others,
        measured=probe.measured,
        measured_of={Modality(kind): one for kind, one in probe.measured_of.items()},
    )


Given = list[tuple[Example, FloatArray]]  # examples with their unit vectors


def _fitted(
    name: str,
    given: Mapping[bool, Given],
    samples: Mapping[Modality, FloatArray],
    frames: Mapping[Modality, Frame],
) -> tuple[Probe, int]:
    """The probe that tells good examples from bad ones and the collection, and how much of that it was given.

    QueryError where there is nothing to tell them from.
    """
    good, bad = (_rows(given[side], frames) for side in (True, False))
    others, kinds = _others(samples, given, frames)
    if not len(bad) + len(others):
        raise QueryError(
            f"there is nothing to tell the examples of {name} from",
            hint="give bad ones with --no, or index more than the examples",
        )
    groups = [one.modality.value for side in (True, False) for one, _ in given[side]] + kinds
    return fit(good, bad, others, groups=np.array(groups)), len(others)


def _marked(given: Mapping[bool, Given]) -> tuple[Marked, ...]:
    """The examples as a concept names them, the good ones first."""
    return tuple(
        Marked(one.name, side, one.modality, one.content.hex(), one.indexed)
        for side in (True, False)
        for one, _ in given[side]
    )


def _vectors(found: Sequence[Example], snapshot: Snapshot, model: Model | None) -> Given:
    """Each example once, with its unit vector."""
    once = {(one.content, one.modality, one.segment): one for one in found}
    return [(one, _vector(one, snapshot, model)) for one in once.values()]


def _vector(example: Example, snapshot: Snapshot, model: Model | None) -> FloatArray:
    if example.vector is not None:
        return example.vector
    if model is None:
        raise QueryError(f"{example.name} is not in the index", hint="index it first")
    if model.space_id != snapshot.space_id:
        raise SpaceMismatch(
            f"{model.name} is of another space than the index, which was made with {snapshot.model}",
            hint="leave out --model",
        )
    return compose(Query(example.modality, path=example.path), model.tower(example.modality))


def _check_sides(good: Given, bad: Given) -> None:
    """QueryError where something is both a good and a bad example."""
    of_good = {(one.content, one.segment): one for one, _ in good}
    for one, _ in bad:
        twin = of_good.get((one.content, one.segment))
        if twin is not None:
            same = "" if twin.name == one.name else f", which has the content of {twin.name}"
            raise QueryError(
                f"{one.name}{same} is a good and a bad example at once", hint="leave it out on one side"
            )


def _frames(samples: Mapping[Modality, FloatArray], given: Given) -> dict[Modality, Frame]:
    """What each modality of the index, and of the examples, is taken relative to.

    A modality with too few segments in the index has the frame of all others together.
    """
    enough = {modality: rows for modality, rows in samples.items() if len(rows) >= LEAST}
    every = [*enough.values()] or [np.stack([vector for _, vector in given])]
    whole = frame_of(np.concatenate(every))
    frames = {modality: frame_of(rows) for modality, rows in enough.items()}
    present = {modality for modality, rows in samples.items() if len(rows)} | {
        one.modality for one, _ in given
    }
    return frames | {
        modality: whole for modality in Modality if modality in present and modality not in frames
    }


def frame_of(rows: FloatArray) -> Frame:
    """The frame of unit vectors (n, dim), n of 1 or more."""
    mean = rows.mean(axis=0, dtype=np.float64)
    reach = float(np.sqrt(((rows - mean) ** 2).sum(axis=1).mean()))
    return Frame(mean.astype(np.float32), reach if reach > 1e-6 else 1.0)


def _rows(given: Given, frames: Mapping[Modality, Frame]) -> FloatArray:
    """Examples relative to their modalities' frames, shape (n, dim)."""
    dim = len(next(iter(frames.values())).mean)
    rows = [frames[one.modality].framed(vector[None]) for one, vector in given]
    return np.concatenate(rows) if rows else np.zeros((0, dim), np.float32)


def _others(
    samples: Mapping[Modality, FloatArray], given: Mapping[bool, Given], frames: Mapping[Modality, Frame]
) -> tuple[FloatArray, list[str]]:
    """The collection's sample without copies of the examples, relative to its frames, shape (n, dim); and
    the modality of each.
    """
    kinds = {one.modality for one, _ in given[True]}
    known = np.stack([vector for side in given.values() for _, vector in side])
    rows, names = [np.zeros((0, known.shape[1]), np.float32)], list[str]()
    for modality in (one for one in Modality if one in kinds):
        vectors = samples[modality]
        if len(vectors):
            apart = (vectors @ known.T).max(axis=1) < COPY
            rows.append(frames[modality].framed(vectors[apart]))
            names += [modality.value] * int(apart.sum())
    return np.concatenate(rows), names


def _line(probe: Probe, modality: Modality, frame: Frame) -> Line:
    """The log odds in terms of a plain cosine: ((x - mean) / reach) @ direction * scale + bias."""
    scale, bias = probe.lines.get(modality.value, (probe.scale, probe.bias))
    slope = scale / frame.reach
    return Line(slope, bias - slope * float(probe.direction @ frame.mean))
