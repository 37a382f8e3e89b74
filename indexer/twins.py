"""Near-duplicates over a whole index: the derived file that names their groups, its making and its reading.

Keyed by contents, so that a renamed file costs nothing. When two contents are near stands in likeness.py,
what groups they make in grouping.py. Reading needs numpy alone.

The file: MAGIC, the length of a JSON head (4 bytes, little-endian), the head, then of each modality that the
head lists: hashes of the contents that have twins (sorted, 16 bytes each), of each its leader's place among
them (int32), hashes of those that have none; of texts also the hashes of their words (8 bytes each), of both.
"""

from __future__ import annotations

import hashlib
import json
import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.derived import key_of
from indexer.types import Modality

if TYPE_CHECKING:
    from indexer.generation import Generation
    from indexer.likeness import Nearness
    from indexer.snapshot import Snapshot
    from indexer.vectors import BoolArray, IndexArray

KIND = "twins"
MAGIC = b"TRIPTWN1"
HASH = np.dtype("V16")
LENGTH = struct.Struct("<I")


class _Known(NamedTuple):
    """What a file says of one modality."""

    twins: npt.NDArray[np.void]  # (g,): hashes of contents with twins, sorted
    leader: npt.NDArray[np.int32]  # (g,): places among them
    alone: npt.NDArray[np.void]  # (s,): hashes of the others, sorted
    words: npt.NDArray[np.uint64]  # (g + s,) of texts, else empty


@dataclass(frozen=True, slots=True, eq=False)
class Twins:
    """Groups of near-duplicates, as the last update of the index found them."""

    head: Mapping[str, Any]
    known: Mapping[Modality, _Known]

    @classmethod
    def open(cls, snapshot: Snapshot) -> Twins | None:
        """The groups of an index; None where no update has looked for them yet.

        They may lag behind the index after an update that was cut short: what is new has no group then.
        """
        contents = (snapshot.derived(key) for key in reversed(_keys(snapshot.generation)))
        whole = next((content for content in contents if content is not None), None)  # a damaged one may stay
        return None if whole is None else cls.read(whole)

    @classmethod
    def read(cls, content: memoryview | bytes) -> Twins | None:
        """The groups in a file's content, without a copy; None for a form of another version."""
        start = len(MAGIC) + LENGTH.size
        if bytes(content[: len(MAGIC)]) != MAGIC:
            return None
        (length,) = LENGTH.unpack(content[len(MAGIC) : start])
        head = json.loads(bytes(content[start : start + length]))
        place = start + length
        known = {}
        for name, (twins, alone, words) in head["modalities"].items():
            arrays = []
            for kind, count in ((HASH, twins), ("<i4", twins), (HASH, alone), ("<u8", words)):
                arrays.append(np.frombuffer(content, kind, count, place))
                place += count * np.dtype(kind).itemsize
            known[Modality(name)] = _Known(*arrays)
        return cls(head, known)

    def group(self, content_hash: bytes, modality: Modality) -> int | None:
        """The number of a content's group; None where it has no twin. Of each modality its own numbers."""
        known = self.known.get(modality)
        if known is None:
            return None
        hashes = known.twins
        place = bisect_left(range(len(hashes)), content_hash, key=lambda i: hashes[i].tobytes())
        if place == len(hashes) or hashes[place].tobytes() != content_hash:
            return None
        return int(known.leader[place])

    def contents_with(self, content_hash: bytes, modality: Modality) -> list[bytes]:
        """Hashes of all contents of a content's group, ascending; none where it has no twin."""
        group = self.group(content_hash, modality)
        if group is None:
            return []
        known = self.known[modality]
        return [one.tobytes() for one in known.twins[known.leader == group]]

    def groups(self, modality: Modality) -> list[list[bytes]]:
        """Content hashes of each group, its leader first, then ascending; groups by their leader's hash."""
        known = self.known.get(modality)
        if known is None:
            return []
        found: dict[int, list[bytes]] = {}
        for place, leader in enumerate(known.leader.tolist()):
            found.setdefault(leader, []).append(known.twins[place].tobytes())
        lead = {leader: known.twins[leader].tobytes() for leader in found}
        return [
            [lead[leader], *(one for one in found[leader] if one != lead[leader])] for leader in sorted(found)
        ]


@dataclass(frozen=True, slots=True)
class TwinsDerivation:
    """Finds near-duplicates after an update. Only contents that are new to it are compared."""

    nearness: Nearness | None = field(default=None)  # None: the measured one
    modalities: tuple[Modality, ...] = tuple(Modality)

    def due(self, generation: Generation) -> bool:
        """Whether contents came or went since the groups were made, or the rule is another."""
        return bool(generation.parts) and self._key(generation) not in generation.derived

    def derive(self, snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
        """The file, where it is due; and away with the one before it."""
        if not self.due(snapshot.generation):
            return
        key = self._key(snapshot.generation)
        old = self._usable(Twins.open(snapshot), snapshot)
        found = {
            modality: _grouped(snapshot, modality, old.get(modality), self._nearness)
            for modality in self.modalities
            if snapshot.counts.get(modality)
        }
        yield key, _packed(self._head(snapshot), found)
        for one in _keys(snapshot.generation):
            yield one, b""

    @property
    def _nearness(self) -> Nearness:
        from indexer.likeness import NEARNESS

        return self.nearness or NEARNESS

    def _key(self, generation: Generation) -> str:
        """Told by what parts there are and which of their rows are deleted; names of files do not matter."""
        state = [
            [part.id for part in generation.parts],
            generation.tombstones_file,
            next(iter(generation.spaces), None),
            asdict(self._nearness),
            list(self.modalities),
        ]
        return key_of(KIND, detail=hashlib.sha256(MAGIC + json.dumps(state).encode()).hexdigest()[:16])

    def _head(self, snapshot: Snapshot) -> dict[str, Any]:
        return {"space": snapshot.space_id, "nearness": asdict(self._nearness)}

    def _usable(self, old: Twins | None, snapshot: Snapshot) -> Mapping[Modality, _Known]:
        """What was known before, where the same rule found it in the same space."""
        same = old is not None and {"modalities": old.head["modalities"], **self._head(snapshot)} == old.head
        return old.known if old is not None and same else {}


def _keys(generation: Generation) -> list[str]:
    return sorted(key for key in generation.derived if key.startswith(f"{key_of(KIND)}/"))


def _grouped(snapshot: Snapshot, modality: Modality, old: _Known | None, nearness: Nearness) -> _Known:
    """The groups of a modality, from what was known of it."""
    from indexer.grouping import NONE, grouped
    from indexer.likeness import contents_of, likeness_of

    lookup = None if old is None or modality is not Modality.TEXT else lambda hashes: _words(old, hashes)
    contents = contents_of(snapshot, modality, lookup)
    leader = np.full(len(contents), NONE)
    if old is not None:
        hashes = np.concatenate([old.twins, old.alone])
        leads = np.concatenate([old.leader, np.arange(len(old.twins), len(hashes))]).astype(np.int64)
        place, living = _lookup(contents.hashes, hashes)
        kept = living & living[leads]
        leader[place[kept]] = place[leads[kept]]
    leader = grouped(likeness_of(contents, modality, nearness), leader, np.flatnonzero(leader == NONE))
    words = contents.word[contents.first[:-1]] if modality is Modality.TEXT else np.zeros(0, np.uint64)
    return _known(contents.hashes, leader, words)


def _known(hashes: npt.NDArray[np.void], leader: IndexArray, words: npt.NDArray[np.uint64]) -> _Known:
    """Contents with twins apart from those without."""
    has = np.bincount(leader, minlength=len(leader))[leader] > 1
    place = np.cumsum(has) - 1
    order = np.concatenate([np.flatnonzero(has), np.flatnonzero(~has)])
    leads = place[leader[has]].astype("<i4")
    return _Known(hashes[has], leads, hashes[~has], words[order] if len(words) else words)


def _lookup(among: npt.NDArray[np.void], hashes: npt.NDArray[np.void]) -> tuple[IndexArray, BoolArray]:
    """Where hashes stand among sorted ones, and which do at all, both (len(hashes),)."""
    place = np.searchsorted(among, hashes).astype(np.int64)
    inside = place < len(among)
    place[~inside] = 0
    if not len(among):
        return place, inside
    return place, inside & (among[place] == hashes)


def _words(old: _Known, hashes: npt.NDArray[np.void]) -> tuple[BoolArray, npt.NDArray[np.uint64]]:
    """Which texts' words were hashed before, and their hashes, both (len(hashes),)."""
    words = np.zeros(len(hashes), np.uint64)
    found = np.zeros(len(hashes), bool)
    for among, own in ((old.twins, old.words[: len(old.twins)]), (old.alone, old.words[len(old.twins) :])):
        place, there = _lookup(among, hashes)
        words[there] = own[place[there]]
        found |= there
    return found, words


def _packed(head: Mapping[str, Any], found: Mapping[Modality, _Known]) -> bytes:
    sizes = {
        modality.value: [len(one.twins), len(one.alone), len(one.words)] for modality, one in found.items()
    }
    text = json.dumps({**head, "modalities": sizes}).encode()
    blocks = [array.tobytes() for one in found.values() for array in one]
    return b"".join([MAGIC, LENGTH.pack(len(text)), text, *blocks])
