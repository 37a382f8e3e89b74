"""Rows on their way from a source into a PairSet: files looked at, captions joined, ids checked.

Every source (tables, folders, COCO files, shards, indexes) says what it says as `Said`; the rules that hold
for all of them stand here. Reads no source and no medium.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from indexer.errors import ManifestError, TrainingError
from indexer.fsio import hash_bytes
from indexer.types import Modality
from retrieval.training.types import PairSet, Row, Split

SPLIT_WORDS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "dev": Split.VALIDATION,
    "test": Split.TEST,
    "testing": Split.TEST,
}
FIRST_REASONS = 3  # that an error quotes
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|pipe:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Said:
    """What a source says of one row. Paths are as it writes them, absolute or relative to the base."""

    where: str  # for messages: "row 3", a file's name
    image: str | None = None
    texts: tuple[str, ...] = ()
    audio: str | None = None
    key: str | None = None  # the row's own id; None: made from its paths
    label: str | None = None
    group: str | None = None
    split: Split | None = None
    weight: float = 1.0

    @property
    def media(self) -> tuple[Modality, ...]:
        have = {Modality.IMAGE: self.image, Modality.TEXT: self.texts, Modality.AUDIO: self.audio}
        return tuple(modality for modality in Modality if have[modality])


@dataclass(slots=True)
class _Kept:
    """A row that is taken; rows that repeat its media give it more texts."""

    row: Row
    said: Said
    texts: dict[str, None] = field(default_factory=dict)


class RowCollector:
    """Takes what a source says row by row, and gives a PairSet.

    - A file that is missing is a problem of its row; the row stays with what is left if that is two media or
      more, else it is left out. So is a row that names fewer than two.
    - Rows without an id of their own that are alike but for the text are one row with several texts: the
      usual form of five captions a picture in a table.
    - Two rows of one id are an error, since one of them would be lost.
    """

    def __init__(self, source: str, base: str) -> None:
        self.source = source
        self.problems: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.seen = 0
        self.base = base
        self._kept: dict[str, _Kept] = {}  # by id
        self._alike: dict[Hashable, str] = {}  # rows without an id, by all but the text -> id
        self._owners: dict[str, str] = {}  # id -> where it was given; also those of rows left out
        self._stat: dict[str, str | None] = {}  # path -> what is wrong with it

    def add(self, said: Said) -> None:
        """Take a row, or note why not. ManifestError for an id that an earlier row has."""
        self.seen += 1
        if said.key is not None:
            if said.key in self._owners:
                earlier = self._owners[said.key]
                raise ManifestError(
                    f"{self.source}: {said.where} has the id {said.key!r}, which {earlier} has",
                    hint="make the ids unique, or drop the id column: rows of the same picture or sound are "
                    "then joined, and their texts become several captions of it",
                )
            self._owners[said.key] = said.where
        left = self._with_files(said)
        if len(left.media) < 2:
            if left.media == said.media:
                has = f"it has only {said.media[0]}" if said.media else "it has none"
                self.problem(said.where, f"a pair takes two of image, text and audio, {has}")
            return
        self._take(left)

    def problem(self, where: str, why: str) -> None:
        """Note something that was left out."""
        self.problems.append((where, why))

    def finish(self, *, what: str = "rows") -> PairSet:
        """The rows in the order of their first mention. ManifestError where none is left."""
        if not self._kept:
            raise ManifestError(self._nothing(what), hint=self._remedy())
        rows = tuple(replace(kept.row, texts=tuple(kept.texts)) for kept in self._kept.values())
        digest = _digest([replace(kept.said, texts=tuple(kept.texts)) for kept in self._kept.values()])
        return PairSet(self.source, rows, digest, tuple(self.problems), tuple(self.notes))

    def _remedy(self) -> str:
        """What to do where no row is left, by what was wrong with the first of them."""
        if not self.problems:
            return "give rows with two or more of image, text and audio each"
        if all("a pair takes two" in why for _, why in self.problems[:FIRST_REASONS]):
            return "fill in a second one of the columns image, text and audio"
        return f"check the paths: relative ones start at {self.base}"

    def _nothing(self, what: str) -> str:
        if not self.seen and not self.problems:
            return f"{self.source} has no {what}"
        told = "; ".join(f"{where}: {why}" for where, why in islice(self.problems, FIRST_REASONS))
        more = len(self.problems) - FIRST_REASONS
        return (
            f"{self.source}: of {self.seen} {what} none is a pair of media that are there"
            + (f" ({told}" if told else "")
            + (f"; and {more} more" if more > 0 else "")
            + (")" if told else "")
        )

    def _with_files(self, said: Said) -> Said:
        """The row without the files that cannot be used."""
        left = said
        for modality, name in ((Modality.IMAGE, said.image), (Modality.AUDIO, said.audio)):
            if name is not None and (why := self._wrong(name)):
                image = modality is Modality.IMAGE
                left = replace(left, image=None) if image else replace(left, audio=None)
                rest = "" if len(left.media) < 2 else "; the row's other media are used"
                self.problem(said.where, f"{modality} {name!r}: {why}{rest}")
        return left

    def _wrong(self, name: str) -> str | None:
        if name not in self._stat:
            self._stat[name] = _file_problem(self._path(name), name)
        return self._stat[name]

    def _path(self, name: str) -> str:
        return os.path.normpath(os.path.join(self.base, name))  # noqa: PTH118 - names stay bytes-exact

    def _take(self, said: Said) -> None:
        texts = dict.fromkeys(said.texts)
        image = self._path(said.image) if said.image else None
        audio = self._path(said.audio) if said.audio else None
        key = said.key
        if key is None:
            alike = (image, audio, said.label, said.group, said.split, said.weight)
            if alike in self._alike:
                self._kept[self._alike[alike]].texts.update(texts)
                return
            key = self._alike[alike] = self._made_id(said)
        row = Row(key, image, (), audio, said.label, said.group, said.split, said.weight, said.where)
        self._kept[key] = _Kept(row, replace(said, key=key), texts)

    def _made_id(self, said: Said) -> str:
        """A hash of the paths as they are written, so that it does not change when the data set is moved."""
        names = [os.path.normpath(name) if name else None for name in (said.image, said.audio)]
        key = plain = hash_bytes(json.dumps(names).encode()).hex()
        copies = 1
        while key in self._kept or key in self._owners:
            copies += 1
            key = f"{plain}-{copies}"
        self._owners[key] = said.where
        return key


def _file_problem(path: str, name: str) -> str | None:
    if ADDRESS.match(name):
        return "an address; only files on this machine are read"
    try:
        status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        return (getattr(error, "strerror", None) or str(error)).lower()
    if not stat.S_ISREG(status.st_mode):
        return "not a file"
    return "an empty file" if status.st_size == 0 else None


def _digest(rows: Sequence[Said]) -> str:
    digest = hashlib.sha256()
    for said in rows:
        told = [said.key, said.image, said.texts, said.audio, said.label, said.group, said.split, said.weight]
        digest.update(json.dumps(told).encode() + b"\n")
    return digest.hexdigest()


def parse_split(value: Any) -> Split | None:
    """What a split's name means, None for none. ValueError, with what was expected, for any other value."""
    if is_none(value):
        return None
    if isinstance(value, str) and value.strip().lower() in SPLIT_WORDS:
        return SPLIT_WORDS[value.strip().lower()]
    raise ValueError(f"split {value!r}, where {', '.join(SPLIT_WORDS)} or nothing is expected")


def parse_weight(value: Any) -> float:
    """A row's weight, 1 for none. ValueError for what is no finite number of 0 or more."""
    if is_none(value):
        return 1.0
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight {value!r}, where a number of 0 or more is expected")
    return weight


def is_none(value: Any) -> bool:
    """Whether a cell says nothing: null, an empty or blank text, or the NaN that pandas writes for null."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def require_trainable(pairs: PairSet) -> None:
    """TrainingError for rows that nothing can be learned from: none, one, or all of weight 0."""
    hint = "give at least a few hundred rows, each with two of image, text and audio"
    usable = [row for row in pairs.rows if len(row.modalities) >= 2]
    if not usable:
        raise TrainingError(f"{pairs.source} has no pair: no row has two of image, text and audio", hint=hint)
    if len(usable) == 1:
        raise TrainingError(
            f"{pairs.source} has one row, {usable[0].said_at!r}; training tells a row's media from another "
            "row's, so it takes two at the very least",
            hint=hint,
        )
    if not any(row.weight > 0 for row in usable):
        raise TrainingError(
            f"all {len(usable)} rows of {pairs.source} have weight 0, so nothing would be learned",
            hint="leave out the weight column, or give some rows a weight above 0",
        )
