"""Named concepts: what an index keeps of what a person marked good and bad, and what a search makes of it.

A concept is a direction in the space, and for each modality a line from cosines to log odds. How one is
learned stands in learning.py. It lies in the index as a derived file of the whole index, as JSON, which is
also the form that it is exported in; a search reads it with numpy alone.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.derived import WHOLE, key_of, telling, told
from indexer.errors import ConfigError, QueryError, SpaceMismatch
from indexer.fsio import write_atomic
from indexer.generation import Generation, read_current
from indexer.snapshot import Snapshot
from indexer.types import FloatArray, Modality
from retrieval.query.concepts.probe import Measured
from retrieval.types import Query

KIND = "concept"
VERSION = 1
NAME = re.compile(r"[a-z0-9-]{1,64}")
MAX_BYTES = 16 << 20  # of an exported concept
UNIT = 1e-3  # how far from 1 the length of a direction may be


@dataclass(frozen=True, slots=True)
class Line:
    """The log odds of a cosine with the direction are `slope * cosine + bias`."""

    slope: float  # positive
    bias: float


@dataclass(frozen=True, slots=True)
class Marked:
    """An example that a concept was learned from."""

    name: str  # a path, or an item's id
    good: bool
    modality: Modality
    content: str  # its content hash, 32 hex digits
    indexed: bool  # whether it was in the index


@dataclass(frozen=True, slots=True, eq=False)
class Concept:
    """What was learned from examples, under a name."""

    name: str
    space_id: str
    model: str | None  # the space's model, by name
    direction: FloatArray  # (dim,), of length 1
    lines: Mapping[Modality, Line]  # of each modality that the index had
    examples: tuple[Marked, ...]
    others: int  # segments of the collection that counted as bad, each for little
    measured: Measured | None  # None: with a single good example there is nothing to measure
    measured_of: Mapping[Modality, Measured] = field(default_factory=dict)  # the same by what examples are

    @property
    def modality(self) -> Modality:
        """What most of the good examples are; of equally many the first in order."""
        kinds = [one.modality for one in self.examples if one.good]
        return max(Modality, key=lambda modality: (kinds.count(modality), -list(Modality).index(modality)))

    @property
    def yes(self) -> int:
        return sum(one.good for one in self.examples)

    @property
    def no(self) -> int:
        return len(self.examples) - self.yes


def probability(
    concept: Concept, cosine: npt.ArrayLike, modality: Modality | None = None
) -> npt.NDArray[np.float32]:
    """That segments of a modality, with these cosines (n,) with the direction, are of the concept; in [0, 1].

    Rises with the cosine. None, and a modality that was not there when it was learned, are taken
    for that of the examples.
    """
    line = concept.lines.get(modality or concept.modality) or concept.lines[concept.modality]
    odds = np.clip(line.slope * np.asarray(cosine, np.float64) + line.bias, -500, 500)
    return (1 / (1 + np.exp(-odds))).astype(np.float32)


def resolve(query: Query, snapshot: Snapshot) -> Query:
    """A query for `concept:NAME` with its vector and modality; any other as it is. Errors as `load`."""
    if query.concept is None:
        return query
    found = load(snapshot, query.concept)
    named = query.name or f"concept:{found.name}"
    return replace(query, modality=found.modality, vector=found.direction, name=named)


def check_name(name: str) -> str:
    """The name; ConfigError where it cannot be one."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a concept", hint="take small letters, digits and -, 64 at most: my-boat"
        )
    return name


# In the index


def check_free(index: Path, name: str, *, over: bool = False) -> None:
    """ConfigError where a name cannot be one, or where it is taken and `over` is not set."""
    _check_free(read_current(index), check_name(name), over)


def _check_free(generation: Generation, name: str, over: bool) -> None:
    if name in names_in(generation) and not over:
        raise ConfigError(f"there is a concept {name} already", hint="give --replace, or another name")


def names(snapshot: Snapshot) -> list[str]:
    """The names of an index's concepts, sorted."""
    return names_in(snapshot.generation)


def names_in(generation: Generation) -> list[str]:
    """The same of a generation."""
    start = key_of(KIND, WHOLE) + "/"
    return sorted(key.removeprefix(start) for key in generation.derived if key.startswith(start))


def load(snapshot: Snapshot, name: str) -> Concept:
    """A concept of an index. QueryError where there is none of that name, SpaceMismatch for another space."""
    data = snapshot.derived(key_of(KIND, detail=name)) if NAME.fullmatch(name) else None
    if data is None and name in names(snapshot):
        raise QueryError(f"the file of the concept {name!r} is damaged", hint="learn or import it again")
    if data is None:
        raise QueryError(f"the index has no concept {name!r}", hint=_known(names(snapshot)))
    found = from_bytes(bytes(told(data)[1]), called=f"the concept {name}")
    _same_space(found, snapshot.space_id, snapshot.model)
    _same_dim(found, snapshot.generation)
    return found


def save(index: Path, concept: Concept, *, over: bool = False) -> None:
    """Keep a concept in an index. ConfigError where one of that name is there and `over` is not set.

    SpaceMismatch where the index is of another space, StoreError where it cannot be written.
    """
    contents = {bytes.fromhex(one.content) for one in concept.examples}  # a file may be indexed later
    data = telling(contents, to_bytes(concept))

    def may(generation: Generation) -> None:
        _same_space(concept, next(iter(generation.spaces), None), None)
        _same_dim(concept, generation)
        _check_free(generation, concept.name, over)

    _write(index, check_name(concept.name), data, may)


def remove(index: Path, name: str) -> None:
    """Take a concept out of an index. QueryError where there is none of that name."""

    def may(generation: Generation) -> None:
        if name not in names_in(generation):
            raise QueryError(f"the index has no concept {name!r}", hint=_known(names_in(generation)))

    _write(index, name, b"", may)


def _write(index: Path, name: str, data: bytes, may: Callable[[Generation], None]) -> None:
    from indexer.deriving import Kept, derive  # not at the top: a search that reads a concept takes no lock

    derive(index, [Kept(key_of(KIND, detail=name), data)], may=may)


def _same_dim(concept: Concept, generation: Generation) -> None:
    space = generation.spaces.get(concept.space_id)
    if space is not None and len(concept.direction) != space.dim:
        raise SpaceMismatch(
            f"the concept {concept.name} has {len(concept.direction)} dimensions, the index has {space.dim}",
            hint="learn it on this index",
        )


def _known(known: list[str]) -> str:
    if not known:
        return "learn one: triptych concept learn NAME --yes a.jpg b.jpg --no c.jpg"
    return f"it has {', '.join(known)}"


def _same_space(concept: Concept, space_id: str | None, model: str | None) -> None:
    if concept.space_id != space_id:
        has = f"{model or 'a model'} (space {space_id[:12]})" if space_id else "no vectors"
        raise SpaceMismatch(
            f"the concept {concept.name} was learned with {concept.model or 'a model'} "
            f"(space {concept.space_id[:12]}), and the index has {has}",
            hint="learn it again from its examples in this index",
        )


# As a file


def export(concept: Concept, path: Path) -> None:
    """Write a concept to a JSON file, which `import_` reads.

    ConfigError where its folder is not there, OSError where it cannot be written.
    """
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {path.absolute().parent}", hint="make it first")
    write_atomic(path, to_bytes(concept))


def import_(path: Path) -> Concept:
    """A concept from a file that `export` wrote. QueryError says what is wrong with it."""
    if path.stat().st_size > MAX_BYTES:
        raise QueryError(f"{path} is over {MAX_BYTES >> 20} MB, and no concept is", hint="name another file")
    return from_bytes(path.read_bytes(), called=str(path))


def to_bytes(concept: Concept) -> bytes:
    """A concept as JSON, the direction in base64 as little-endian float32."""
    document = {
        "version": VERSION,
        "name": concept.name,
        "space_id": concept.space_id,
        "model": concept.model,
        "dim": len(concept.direction),
        "direction": base64.b64encode(concept.direction.astype("<f4").tobytes()).decode(),
        "lines": {modality.value: [line.slope, line.bias] for modality, line in concept.lines.items()},
        "examples": [asdict(one) for one in concept.examples],
        "others": concept.others,
        "measured": None if concept.measured is None else asdict(concept.measured),
        "measured_of": {modality.value: asdict(one) for modality, one in concept.measured_of.items()},
    }
    return json.dumps(document, indent=1).encode()


def from_bytes(data: bytes, *, called: str) -> Concept:
    """The concept that `to_bytes` gave these. QueryError for anything else, naming what is wrong."""
    try:
        return _read(json.loads(data))
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise QueryError(
            f"{called} is no concept: it is not JSON", hint="take one that `triptych concept export` wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise QueryError(
            f"{called} is no concept: {what}", hint="take one that `triptych concept export` wrote"
        ) from None


def _read(document: Any) -> Concept:
    """ValueError, KeyError or TypeError where a document is none of a concept."""
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    if document["version"] != VERSION:
        raise ValueError(f"it is of version {document['version']!r}, and this program reads {VERSION}")
    direction = np.frombuffer(base64.b64decode(document["direction"], validate=True), "<f4")
    if len(direction) != document["dim"] or not len(direction):
        raise ValueError(f"its direction has {len(direction)} numbers, {document['dim']} were expected")
    if not np.isfinite(direction).all() or abs(float(np.linalg.norm(direction)) - 1) > UNIT:
        raise ValueError("its direction is not a vector of length 1")
    lines = {Modality(name): Line(float(a), float(b)) for name, (a, b) in document["lines"].items()}
    if not all(line.slope > 0 and math.isfinite(line.slope + line.bias) for line in lines.values()):
        raise ValueError("a slope or bias is not a number that can be one")
    measured = document["measured"]
    found = Concept(
        name=str(document["name"]),
        space_id=str(document["space_id"]),
        model=None if document["model"] is None else str(document["model"]),
        direction=direction.astype(np.float32),
        lines=lines,
        examples=tuple(_marked(one) for one in document["examples"]),
        others=int(document["others"]),
        measured=None if measured is None else _counts(measured),
        measured_of={  # absent from what was learned before this was told apart
            Modality(name): _counts(one) for name, one in document.get("measured_of", {}).items()
        },
    )
    if not NAME.fullmatch(found.name):
        raise ValueError(f"its name is {found.name!r}")
    if not found.yes or found.modality not in lines:
        raise ValueError("it has no good example of a modality that it has a line of")
    return found


def _counts(row: Mapping[str, Any]) -> Measured:
    return Measured(**{name: int(count) for name, count in row.items()})


def _marked(row: Mapping[str, Any]) -> Marked:
    content = str(row["content"])
    if len(bytes.fromhex(content)) != 16:
        raise ValueError(f"an example's content hash is {content!r}")
    return Marked(
        str(row["name"]), bool(row["good"]), Modality(row["modality"]), content, bool(row["indexed"])
    )
