"""Features on disk, by content: immutable blocks of float16 that any number of runs share.

A cache is a folder of one network's features. Blocks are written beside and renamed, under names that no two
processes choose, so that nobody needs a lock and a run that is killed leaves whole blocks only. Nothing here
knows media, rows or networks.
"""

from __future__ import annotations

import contextlib
import mmap
import secrets
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer.fsio import write_atomic
from retrieval.training.types import Ints

Halves = npt.NDArray[np.float16]
SUFFIX = ".f16"
MAGIC = b"TTCHFEA1"
HASH = 16  # bytes of a content hash
LARGEST = float(np.finfo(np.float16).max)  # what a feature may be
STALE_S = 86_400.0  # what a writer left unfinished for so long is nobody's any more
# Magic, the network's fingerprint, width, rows, CRC-32 of keys and of values; then the CRC-32 of all that.
IN_MEMORY = 1 << 28  # bytes of a table above which it lies in a file
_HEADER = struct.Struct("<8s32sIIII")
_CHECK = struct.Struct("<I")
_START = 64  # where the keys begin
Warn = Callable[[str], None]


class _Damaged(Exception):
    """A block of ours that no write leaves behind."""


@dataclass(eq=False)
class _Block:
    """One file, mapped. `checked` once its values' checksum was compared."""

    path: Path
    keys: list[bytes]
    values: Halves  # (rows, width)
    crc: int
    checked: bool = False

    def sound(self) -> bool:
        if not self.checked:
            self.checked = zlib.crc32(np.ascontiguousarray(self.values).view(np.uint8).data) == self.crc
        return self.checked


def roomy(folder: Path, rows: int, width: int) -> Halves:
    """An empty table (rows, width); a large one lies in an unnamed file in `folder`, mapped into memory."""
    if rows * width * 2 <= IN_MEMORY:
        return np.empty((rows, width), np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:  # its space is freed with the last map of it
        file.truncate(rows * width * 2)
        return np.memmap(file, np.float16, "r+", shape=(rows, width))


class FeatureCache:
    """Features (n, width) in float16 of one network, by content hash.

    `fingerprint` (64 hex digits) says whose features they are; blocks of another are not read. What is wrong
    with a block goes to `warn`, and its contents count as missing.
    """

    def __init__(self, folder: Path, *, fingerprint: str, width: int, warn: Warn | None = None) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.width = width
        self._warn = warn or (lambda _line: None)
        self._where: dict[bytes, tuple[_Block, int]] = {}

    @classmethod
    def open(cls, root: Path, *, fingerprint: str, width: int, warn: Warn | None = None) -> FeatureCache:
        """The cache of a network below `root`, with every block that is there now. OSError."""
        cache = cls(root / fingerprint[:16], fingerprint=fingerprint, width=width, warn=warn)
        cache.folder.mkdir(parents=True, exist_ok=True)
        cache._sweep()
        cache.refresh()
        return cache

    def __len__(self) -> int:
        return len(self._where)

    def refresh(self) -> None:
        """Read every block again, other processes' new ones too; of two of one content the older serves."""
        self._where = {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if block := self._read(path):
                self._enter(block)

    def missing(self, hashes: Iterable[bytes]) -> list[bytes]:
        """Those without features, each once, in order. Damaged blocks are found here, and removed."""
        wanted = list(dict.fromkeys(hashes))
        needed = {id(entry[0]): entry[0] for key in wanted if (entry := self._where.get(key))}
        damaged = [block for block in needed.values() if not block.sound()]
        for block in damaged:
            self._remove(block.path, "the checksum of its features differs")
        if damaged:
            self.refresh()
            return self.missing(wanted)  # another block may hold what the damaged one did
        return [key for key in wanted if key not in self._where]

    def gather(self, hashes: Sequence[bytes]) -> Halves:
        """Their features, (len(hashes), width), in order. KeyError for one that is missing."""
        rows: dict[int, tuple[_Block, list[int], list[int]]] = {}
        for place, key in enumerate(hashes):
            block, row = self._where[key]
            _, places, at = rows.setdefault(id(block), (block, [], []))
            places.append(place)
            at.append(row)
        found = roomy(self.folder, len(hashes), self.width)
        for block, places, at in rows.values():
            order: Ints = np.argsort(at)  # read a file from front to back
            found[np.asarray(places)[order]] = block.values[np.asarray(at)[order]]
        return found

    def add(self, hashes: Sequence[bytes], features: Halves) -> None:
        """Write a block, durably. ValueError where a shape is wrong or a feature is not finite; OSError."""
        values = np.ascontiguousarray(features, np.float16)
        if values.shape != (len(hashes), self.width) or any(len(key) != HASH for key in hashes):
            raise ValueError(f"features of shape {values.shape}, expected {(len(hashes), self.width)}")
        if not np.isfinite(values).all():
            raise ValueError("a feature is not finite")
        if not len(values):
            return
        keys, data = b"".join(hashes), values.tobytes()
        header = _HEADER.pack(
            MAGIC,
            bytes.fromhex(self.fingerprint),
            self.width,
            len(hashes),
            zlib.crc32(keys),
            zlib.crc32(data),
        )
        header += _CHECK.pack(zlib.crc32(header))
        # The time first: sorted by name, the oldest block comes first and goes on serving its contents.
        path = self.folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{SUFFIX}"
        write_atomic(path, header.ljust(_START, b"\0") + keys + data)
        if block := self._read(path):
            self._enter(block)

    def _enter(self, block: _Block) -> None:
        for row, key in enumerate(block.keys):
            self._where.setdefault(key, (block, row))

    def _read(self, path: Path) -> _Block | None:
        """A block whose header, size and keys are right; else None, after saying why."""
        try:
            with path.open("rb") as file:
                whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return self._parsed(path, whole)
        except FileNotFoundError:  # another process has just removed it
            return None
        except _Damaged as error:
            self._remove(path, str(error))
        except (OSError, ValueError, struct.error) as error:  # perhaps a later version's: it stays
            self._warn(f"{path.name} is ignored: {error}")
        return None

    def _remove(self, path: Path, why: str) -> None:
        self._warn(f"{path.name} is damaged and removed: {why}; what it held is computed again")
        with contextlib.suppress(OSError):
            path.unlink()

    def _parsed(self, path: Path, whole: mmap.mmap) -> _Block:
        magic, owner, width, rows, keys_crc, values_crc = _HEADER.unpack_from(whole)
        (check,) = _CHECK.unpack_from(whole, _HEADER.size)
        if check != zlib.crc32(whole[: _HEADER.size]) or magic != MAGIC:
            raise ValueError("not a block of features")
        if owner.hex() != self.fingerprint or width != self.width:
            raise ValueError("a block of another network")
        end = _START + rows * HASH
        if len(whole) != end + rows * width * 2:
            raise _Damaged(f"{len(whole)} bytes, expected {end + rows * width * 2}")
        keys = whole[_START:end]
        if zlib.crc32(keys) != keys_crc:
            raise _Damaged("the checksum of its keys differs")
        values = np.frombuffer(whole, np.float16, rows * width, end).reshape(rows, width)
        split = [keys[start : start + HASH] for start in range(0, len(keys), HASH)]
        return _Block(path, split, values, values_crc)

    def _sweep(self) -> None:
        """Remove what killed writers left beside the blocks."""
        for path in self.folder.glob(f".*{SUFFIX}.*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()
