"""Rows of media -> features and examples, each content computed once and kept in a cache.

Media are decoded in supervised workers and go through the fast runtime in full batches, as for an index.
Where features lie on disk stands in feature_cache.py, what a network is in retrieval/models/backbones.py.
Imports no torch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.contents import ContentEncoder, Encoded, Medium
from indexer.errors import TrainingError
from indexer.fsio import hash_bytes
from indexer.hashing import Reading, Unreadable, read_hash
from indexer.media.workers import DecodePool
from indexer.report import Stopwatch
from indexer.types import FloatArray, Modality, Preparer, Source
from retrieval.encoders.tower import units
from retrieval.models.backbones import Backbone, feature_tower
from retrieval.models.bundle import canonical_json
from retrieval.training.feature_cache import LARGEST, FeatureCache
from retrieval.training.known_hashes import KnownHashes
from retrieval.training.types import Examples, Features, Ints, Row

__all__ = [
    "Collected",
    "FeatureCache",
    "FeatureEvent",
    "FeatureProgress",
    "FeatureWarning",
    "collect_features",
]

MAX_WINDOWS = 6  # of a sound, from its beginning
POOLING = 1  # counts changes of how a content's segments become one feature
BLOCK = 2048  # contents written together,
PATIENCE_S = 5.0  # or after so long, so that a run that is killed loses little
HASH_THREADS = 2
TOO_LARGE = f"its features go beyond {LARGEST:g}, what float16 holds"
Halves = npt.NDArray[np.float16]
Ref = tuple[Modality, str]  # a medium that rows name: a path, or for texts the text itself


@dataclass(frozen=True, slots=True)
class FeatureProgress:
    """How far collecting is, in contents; `reused` of those done were there, `failed` have no features."""

    done: int
    total: int
    reused: int
    failed: int


@dataclass(frozen=True, slots=True)
class FeatureWarning:
    """Something that was wrong with the cache and has been mended."""

    message: str


FeatureEvent = FeatureProgress | FeatureWarning
OnEvent = Callable[[FeatureEvent], None]


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """The rows that can be learned from, as numbers, and what became of the others."""

    features: Features
    examples: Examples  # of the rows in `kept`, in that order
    hashes: Mapping[Modality, list[bytes]]  # content hash of each row of `features`
    failures: tuple[tuple[str, str], ...]  # (path, or row, and why)
    computed: int  # contents
    reused: int
    kept: Ints  # row numbers that survive, ascending
    labels: tuple[str, ...] = ()  # what `examples.labels` count
    groups: tuple[str, ...] = ()  # what `examples.groups` count


class _Content(NamedTuple):
    """A medium whose hash is known."""

    hash: bytes
    path: str | None
    text: str | None
    reading: Reading | None


@dataclass(slots=True)
class _State:
    """What a run knows so far."""

    caches: Mapping[Modality, FeatureCache]
    say: OnEvent
    contents: dict[Ref, _Content] = field(default_factory=dict)
    unread: dict[Ref, str] = field(default_factory=dict)  # media that could not be hashed, and why
    broken: dict[tuple[Modality, bytes], str] = field(default_factory=dict)  # and those that gave no features
    computed: int = 0
    reused: int = 0
    total: int = 0

    def tell(self) -> None:
        failed = len(self.unread) + len(self.broken)
        self.say(FeatureProgress(self.computed + self.reused + failed, self.total, self.reused, failed))

    def problem(self, ref: Ref) -> str | None:
        """Why a medium has no features."""
        if ref in self.unread:
            return self.unread[ref]
        return self.broken.get((ref[0], self.contents[ref].hash))


def collect_features(
    rows: Sequence[Row],
    backbones: Mapping[Modality, Backbone],
    *,
    cache: Path,
    workers: int | None = None,
    threads: int = 0,
    timeout_s: float = 60.0,
    on_event: OnEvent | None = None,
) -> Collected:
    """Features of all media that rows name, computed where `cache` lacks them, and the rows as examples.

    A content's feature is the mean over its segments: a picture has one, a sound at most its first 6 windows,
    a text its chunks, whose mean is made a unit vector again. A medium that fails is left out; so is a row
    with fewer than two modalities left; both are in `failures`. A modality without a backbone is not read.
    Raises TrainingError where no row is left or the cache cannot be written, WeightsMissing for a network
    that is not installed.
    """
    say = on_event or (lambda _event: None)
    with _told(cache):
        state = _State({m: _opened(one, cache, say) for m, one in backbones.items()}, say)
    refs = dict.fromkeys(ref for row in rows for ref in _refs(row, backbones))
    known = KnownHashes.open(cache)
    _hash_all(refs, state, known)
    with _told(cache):
        known.keep((one.path, one.reading) for one in state.contents.values() if one.path and one.reading)
    missing = _missing(state)
    state.tell()
    if missing:
        _compute(missing, backbones, state, workers=workers, threads=threads, timeout_s=timeout_s)
    return _assembled(rows, backbones, state)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What the cache's file system refuses, as a TrainingError."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"the feature cache {folder} cannot be used: {error.strerror or error}",
            hint="free space there, or set TRIPTYCH_HOME to another folder",
        ) from error


def _refs(row: Row, backbones: Mapping[Modality, Backbone]) -> Iterator[Ref]:
    """The row's media of wanted modalities, each once."""
    named = {
        Modality.IMAGE: (row.image,) if row.image else (),
        Modality.TEXT: tuple(dict.fromkeys(row.texts)),
        Modality.AUDIO: (row.audio,) if row.audio else (),
    }
    return ((modality, one) for modality in Modality if modality in backbones for one in named[modality])


def _opened(backbone: Backbone, cache: Path, say: OnEvent) -> FeatureCache:
    """A backbone's cache; its name depends on everything that features do."""
    said = {"backbone": backbone.fingerprint, "pooling": POOLING}
    if backbone.modality is Modality.AUDIO:
        said["windows"] = MAX_WINDOWS
    return FeatureCache.open(
        cache,
        fingerprint=hashlib.sha256(canonical_json(said)).hexdigest(),
        width=backbone.width,
        warn=lambda line: say(FeatureWarning(f"feature cache of {backbone.id}: {line}")),
    )


def _hash_all(refs: Iterable[Ref], state: _State, known: KnownHashes) -> None:
    """Hash each medium once, but for files that are as an earlier run knew them.

    A file that rows name as both picture and sound is two media.
    """
    files: list[Ref] = []
    for ref in refs:
        if ref[0] is Modality.TEXT:
            data = ref[1].encode("utf-8", "surrogatepass")
            state.contents[ref] = _Content(hash_bytes(data), None, ref[1], None)
        else:
            files.append(ref)
    rest = iter(files)
    with ThreadPoolExecutor(HASH_THREADS, "hash") as pool:
        while some := list(islice(rest, 1024)):
            for ref, found in zip(
                some, pool.map(partial(_read, known), (path for _, path in some)), strict=True
            ):
                if isinstance(found, Reading):
                    state.contents[ref] = _Content(found.content_hash, ref[1], None, found)
                else:
                    state.unread[ref] = found


def _read(known: KnownHashes, path: str) -> Reading | str:
    try:
        return known.find(path) or read_hash(path)
    except Unreadable as error:
        return str(error)


def _missing(state: _State) -> list[Medium]:
    """What must be computed; counts what need not."""
    by_key: dict[tuple[Modality, bytes], _Content] = {}
    for (modality, _), content in state.contents.items():
        by_key.setdefault((modality, content.hash), content)
    state.total = len(by_key) + len(state.unread)
    media: list[Medium] = []
    for modality, cache in state.caches.items():
        mine = [key for kind, key in by_key if kind is modality]
        lacking = cache.missing(mine)
        state.reused += len(mine) - len(lacking)
        for key in lacking:
            content = by_key[modality, key]
            media.append(Medium((key, modality, Source.FILE), content.path, content.text, content.reading))
    return media


def _compute(
    media: Sequence[Medium],
    backbones: Mapping[Modality, Backbone],
    state: _State,
    *,
    workers: int | None,
    threads: int,
    timeout_s: float,
) -> None:
    """Features of media that lack them, written in blocks as they come; an interrupt loses none that came."""
    needed = {medium.key[1] for medium in media}
    towers = {m: feature_tower(backbones[m], threads=threads) for m in Modality if m in needed}
    preparers = {modality: capped(tower.preparer) for modality, tower in towers.items()}
    writer = _Writer(state)
    with DecodePool(preparers, workers=workers or None, timeout_s=timeout_s) as pool:
        try:
            for outcome in ContentEncoder(pool, towers, Stopwatch()).run(media):
                key, modality, _ = outcome.medium.key
                if isinstance(outcome, Encoded):
                    writer.put(modality, key, _pooled(modality, outcome.vectors))
                else:
                    state.broken[modality, key] = outcome.reason
                state.tell()
        finally:
            writer.flush()


def capped(preparer: Preparer) -> Preparer:
    """The preparer with a sound's windows limited."""
    capable: Any = preparer  # sounds' preparers are dataclasses with this field, whatever their family
    return replace(capable, max_windows=MAX_WINDOWS) if hasattr(preparer, "max_windows") else preparer


def _pooled(modality: Modality, vectors: FloatArray) -> FloatArray:
    """One feature, (width,), of a content's segments."""
    mean = vectors.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    return (units(mean) if modality is Modality.TEXT else mean)[0]


class _Writer:
    """Features on their way into blocks."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._held: dict[Modality, dict[bytes, Halves]] = {m: {} for m in state.caches}
        self._since = time.monotonic()

    def put(self, modality: Modality, key: bytes, feature: FloatArray) -> None:
        if not np.isfinite(feature).all():
            self._state.broken[modality, key] = "its features are not finite"
            return
        if np.abs(feature).max() > LARGEST:
            self._state.broken[modality, key] = TOO_LARGE
            return
        self._state.computed += 1
        held = self._held[modality]
        held[key] = feature.astype(np.float16)
        if len(held) >= BLOCK or time.monotonic() - self._since > PATIENCE_S:
            self.flush()

    def flush(self) -> None:
        for modality, held in self._held.items():
            if held:
                cache = self._state.caches[modality]
                with _told(cache.folder):
                    cache.add(list(held), np.stack(list(held.values())))
                held.clear()
        self._since = time.monotonic()


def _assembled(rows: Sequence[Row], backbones: Mapping[Modality, Backbone], state: _State) -> Collected:
    """Arrays of the rows that are left. Contents are numbered as kept rows first name them."""
    failures: dict[tuple[str, str], None] = {}
    kept: list[int] = []
    slots: list[dict[Modality, list[bytes]]] = []
    for number, row in enumerate(rows):
        have: dict[Modality, list[bytes]] = {}
        for ref in _refs(row, backbones):
            if why := state.problem(ref):
                failures[_place(row, ref), why] = None
            else:
                have.setdefault(ref[0], []).append(state.contents[ref].hash)
        if len(have) >= 2:
            kept.append(number)
            slots.append(have)
        else:
            left = ", ".join(have) or "nothing"
            failures[row.said_at, f"left out: a pair takes two of {', '.join(backbones)}, it has {left}"] = (
                None
            )
    if not kept:
        told = "; ".join(f"{where}: {why}" for where, why in islice(failures, 3))
        raise TrainingError(
            f"of {len(rows)} rows none has two media that can be read" + (f" ({told})" if told else ""),
            hint="check the paths; relative ones start at the manifest's folder",
        )
    hashes = {m: list(dict.fromkeys(k for have in slots for k in have.get(m, ()))) for m in backbones}
    labels, label_names = _factorised([rows[number].label for number in kept])
    groups, group_names = _factorised([rows[number].group for number in kept])
    weights = np.array([rows[number].weight for number in kept], np.float32)
    return Collected(
        features={m: state.caches[m].gather(keys) for m, keys in hashes.items()},
        examples=Examples({m: _slots(slots, m, keys) for m, keys in hashes.items()}, labels, groups, weights),
        hashes=hashes,
        failures=tuple(failures),
        computed=state.computed,
        reused=state.reused,
        kept=np.array(kept, np.int64),
        labels=label_names,
        groups=group_names,
    )


def _place(row: Row, ref: Ref) -> str:
    return f"{row.said_at}, text {ref[1][:40]!r}" if ref[0] is Modality.TEXT else ref[1]


def _slots(rows: Sequence[Mapping[Modality, list[bytes]]], modality: Modality, keys: Sequence[bytes]) -> Ints:
    """Content numbers, (rows, slots), padded with -1; two texts that are one content count once."""
    number = {key: place for place, key in enumerate(keys)}
    lists = [[number[key] for key in dict.fromkeys(row.get(modality, ()))] for row in rows]
    table = np.full((len(rows), max(1, *map(len, lists))), -1, np.int64)
    for row, numbers in enumerate(lists):
        table[row, : len(numbers)] = numbers
    return table


def _factorised(words: Sequence[str | None]) -> tuple[Ints, tuple[str, ...]]:
    """Numbers in alphabetical order, -1 for None, and the words they stand for."""
    names = tuple(sorted({word for word in words if word is not None}))
    number = {name: place for place, name in enumerate(names)}
    return np.array([-1 if word is None else number[word] for word in words], np.int64), names
