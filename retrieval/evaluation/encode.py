"""Rows to vectors: all media of rows through a model's towers, with what each content is called.

Decoding runs in supervised workers and encoding in full batches, by the same code as an index. Numbers of
contents follow from the rows alone, not from what a model could encode, so that two models' vectors of the
same rows can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from indexer.contents import Broken, ContentEncoder, Encoded, Medium
from indexer.errors import TrainingError
from indexer.fsio import hash_bytes
from indexer.hashing import Reading, Unreadable, read_hash
from indexer.media.workers import DecodePool
from indexer.report import FileFailed, Progress, Stopwatch
from indexer.types import Encoder, FloatArray, Modality, Source
from retrieval.training.types import Examples, Ints, Row

OnEvent = Callable[[FileFailed | Progress], None]


class Towers(Protocol):
    """What is evaluated: retrieval.models.model.Model, or anything that encodes like it."""

    @property
    def dim(self) -> int: ...

    @property
    def modalities(self) -> tuple[Modality, ...]: ...

    def tower(self, modality: Modality) -> Encoder: ...


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRows:
    """Rows as numbers, with a vector for each content that they point to."""

    vectors: Mapping[Modality, FloatArray]  # (contents, dim) unit vectors; NaN where a content has none
    examples: Examples  # the rows that have two or more modalities
    names: Mapping[Modality, tuple[str, ...]]  # (contents,) a file's path, or the text itself
    rows: Ints  # (examples,) number of each among the rows that were given
    failures: tuple[FileFailed, ...] = ()  # files that gave no vector


@dataclass(slots=True)
class _Contents:
    """Distinct contents of one modality, numbered in the order of their first row."""

    number: dict[bytes, int] = field(default_factory=dict)  # by content hash
    media: list[Medium] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, medium: Medium, name: str) -> int:
        if medium.key[0] not in self.number:
            self.number[medium.key[0]] = len(self.media)
            self.media.append(medium)
            self.names.append(name)
        return self.number[medium.key[0]]


def encode_rows(
    model: Towers, rows: Sequence[Row], *, workers: int = 0, on_event: OnEvent | None = None
) -> EncodedRows:
    """Vectors of all media that rows name, through the model's towers; `workers` decode (0: one a core).

    Contents are told apart by what is in them: a file under two names is one. A content of several segments
    (a long sound's windows, a long text's chunks) gets the normalised mean of their unit vectors, as a query
    of it would. A file that gives no vector is named in `failures`; a row that has fewer than two modalities
    left is dropped.

    Raises TrainingError where no row is left.
    """
    say = on_event or (lambda _event: None)
    known = {modality: _Contents() for modality in Modality if modality in model.modalities}
    failures: list[FileFailed] = []

    def fail(where: str, why: str) -> None:
        failures.append(FileFailed(where, why))
        say(failures[-1])

    slots = _numbered(rows, known, fail)
    vectors = _encode_all(model, known, workers=workers, fail=fail, say=say)
    examples, kept = _examples(rows, slots, vectors)
    if not len(kept):
        lost = f"; {len(failures)} files failed, the first: {failures[0].reason}" if failures else ""
        raise TrainingError(
            f"none of {len(rows)} rows has two modalities that the model can encode "
            f"({', '.join(known) or 'it has no tower'}){lost}",
            hint="give rows with two or more of these, or a model with towers for what the rows have",
        )
    names = {modality: tuple(contents.names) for modality, contents in known.items()}
    return EncodedRows(vectors, examples, names, kept, tuple(failures))


def _numbered(
    rows: Sequence[Row], known: Mapping[Modality, _Contents], fail: Callable[[str, str], None]
) -> list[dict[Modality, list[int]]]:
    """Each row's content numbers; a file is read once, however many rows name it."""
    readings: dict[str, Reading | None] = {}

    def read(path: str) -> Reading | None:
        if path not in readings:
            try:
                readings[path] = read_hash(path)
            except Unreadable as error:
                readings[path] = None
                fail(path, str(error))
        return readings[path]

    slots: list[dict[Modality, list[int]]] = []
    for row in rows:
        mine: dict[Modality, list[int]] = {}
        for modality, path in ((Modality.IMAGE, row.image), (Modality.AUDIO, row.audio)):
            if path is not None and modality in known and (reading := read(path)) is not None:
                medium = Medium((reading.content_hash, modality, Source.FILE), path, None, reading)
                mine[modality] = [known[modality].add(medium, path)]
        if Modality.TEXT in known and row.texts:
            texts = known[Modality.TEXT]
            mine[Modality.TEXT] = [texts.add(_text(text), text) for text in dict.fromkeys(row.texts)]
        slots.append(mine)
    return slots


def _text(text: str) -> Medium:
    content_hash = hash_bytes(text.encode("utf-8", "surrogatepass"))
    return Medium((content_hash, Modality.TEXT, Source.CAPTION), None, text)


def _encode_all(
    model: Towers,
    known: Mapping[Modality, _Contents],
    *,
    workers: int,
    fail: Callable[[str, str], None],
    say: OnEvent,
) -> dict[Modality, FloatArray]:
    """A row a content, (contents, dim); NaN for those that failed."""
    wanted = {modality: contents for modality, contents in known.items() if contents.media}
    encoders = {modality: model.tower(modality) for modality in wanted}
    vectors = {
        modality: np.full((len(contents.media), model.dim), np.nan, np.float32)
        for modality, contents in known.items()
    }
    media = [medium for contents in wanted.values() for medium in contents.media]
    segments = 0
    preparers = {modality: encoder.preparer for modality, encoder in encoders.items()}
    with DecodePool(preparers, workers=workers or None) as pool:
        outcomes = ContentEncoder(pool, encoders, Stopwatch()).run(media) if media else ()
        for done, outcome in enumerate(outcomes, 1):
            content_hash, modality, _ = outcome.medium.key
            pooled = None
            if isinstance(outcome, Encoded):
                segments += len(outcome.segments)
                pooled = pool_segments(outcome.vectors)
            if pooled is None:
                reason = outcome.reason if isinstance(outcome, Broken) else "its segments cancel out"
                fail(outcome.medium.path or outcome.medium.text or "", reason)
            else:
                vectors[modality][known[modality].number[content_hash]] = pooled
            say(Progress(done, len(media), segments))
    return vectors


def pool_segments(vectors: FloatArray) -> FloatArray | None:
    """One unit vector (dim,) for a content: the mean of its segments' (segments, dim), normalised.

    None where the mean is zero.
    """
    if len(vectors) == 1:
        return vectors[0]
    mean = vectors.mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    return (mean / length).astype(np.float32) if length > 0 else None


def _examples(
    rows: Sequence[Row],
    slots: Sequence[Mapping[Modality, Sequence[int]]],
    vectors: Mapping[Modality, FloatArray],
) -> tuple[Examples, Ints]:
    """The rows that keep two modalities, and their numbers."""
    left, kept = usable_slots(slots, vectors)
    groups: dict[tuple[str, str], int] = {}  # a row without a group is one of its own
    chosen = [rows[place] for place in kept]
    examples = Examples(
        {modality: padded([left[place].get(modality, ()) for place in kept]) for modality in vectors},
        # Over all rows, so that a label's number does not depend on what a model could encode.
        numbered([row.label for row in rows])[kept],
        np.array([groups.setdefault(_group(row), len(groups)) for row in chosen], int),
        np.array([row.weight for row in chosen], np.float32),
    )
    return examples, np.array(kept, int)


def numbered(labels: Sequence[str | None]) -> Ints:
    """Labels as numbers in the order of their first row, -1 for none."""
    known: dict[str, int] = {}
    return np.array([-1 if one is None else known.setdefault(one, len(known)) for one in labels], np.int64)


def usable_slots(
    slots: Sequence[Mapping[Modality, Sequence[int]]], vectors: Mapping[Modality, FloatArray]
) -> tuple[list[dict[Modality, list[int]]], list[int]]:
    """Each row's contents that have a vector, and the rows that keep two modalities or more."""
    good = {m: np.asarray(np.isfinite(table).all(axis=1)) for m, table in vectors.items()}
    left = [{m: [n for n in own if good[m][n]] for m, own in mine.items()} for mine in slots]
    return left, [place for place, mine in enumerate(left) if sum(map(bool, mine.values())) > 1]


def _group(row: Row) -> tuple[str, str]:
    return ("row", row.id) if row.group is None else ("group", row.group)


def padded(lists: Sequence[Sequence[int]]) -> Ints:
    """Lists of numbers side by side, (lists, longest), filled up with -1; at least one column."""
    table = np.full((len(lists), max(map(len, lists), default=0) or 1), -1, np.int64)
    for row, numbers in enumerate(lists):
        table[row, : len(numbers)] = numbers
    return table
