"""Arrays with a few words about them, as bytes: the form of the derived files that hold numbers.

It is the safetensors format, read with numpy alone and without a copy, since a search reads such files. What
an index's files say is checked here for being well formed; what the numbers mean, their owners know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import IndexCorrupt
from indexer.generation import VERIFY_HINT

Array = npt.NDArray[Any]

DTYPES = {"F16": "<f2", "F32": "<f4", "I32": "<i4", "I64": "<i8", "U8": "u1"}
NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Arrays by name, views of the file they came from, and words by name."""

    arrays: Mapping[str, Array]
    words: Mapping[str, str]

    def array(self, name: str, shape: tuple[int | None, ...]) -> Array:
        """An array that has this shape, where None takes any length. IndexCorrupt where there is none."""
        found = self.arrays.get(name)
        if found is None or found.ndim != len(shape):
            raise _garbled(f"no {name} of {len(shape)} dimensions")
        if any(want is not None and want != have for want, have in zip(shape, found.shape, strict=True)):
            raise _garbled(f"{name} has the shape {found.shape}, not {shape}")
        return found


def packed(arrays: Mapping[str, Array], words: Mapping[str, str]) -> bytes:
    """Arrays of float16, float32, int32, int64 or uint8 with words, as the bytes of a safetensors file."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(words.items()))}
    pieces, end = [], 0
    for name, array in sorted(arrays.items()):
        whole = np.ascontiguousarray(array)
        whole = whole.astype(whole.dtype.newbyteorder("<"), copy=False)
        data = whole.tobytes()
        header[name] = {
            "dtype": NAMES[np.dtype(whole.dtype)],
            "shape": list(whole.shape),
            "data_offsets": [end, end + len(data)],
        }
        pieces.append(data)
        end += len(data)
    said = json.dumps(header, separators=(",", ":")).encode()
    said += b" " * (-len(said) % 8)
    return b"".join([len(said).to_bytes(8, "little"), said, *pieces])


def unpacked(data: memoryview) -> Packed:
    """What `packed` wrote. IndexCorrupt where it is anything else."""
    try:
        size = int.from_bytes(data[:8], "little")
        if len(data) < 8 or size > len(data) - 8:
            raise ValueError("its header is cut off")
        header = json.loads(bytes(data[8 : 8 + size]))
        words = {str(key): str(word) for key, word in header.pop("__metadata__", {}).items()}
        body = data[8 + size :]
        return Packed({name: _array(entry, body) for name, entry in header.items()}, words)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _garbled(str(error)) from error


def _array(entry: Mapping[str, Any], body: memoryview) -> Array:
    first, last = entry["data_offsets"]
    shape = tuple(int(length) for length in entry["shape"])
    if not 0 <= first <= last <= len(body) or min(shape, default=0) < 0:
        raise ValueError("an array lies outside the file")
    return np.frombuffer(body[first:last], DTYPES[entry["dtype"]]).reshape(shape)


def _garbled(why: str) -> IndexCorrupt:
    return IndexCorrupt(f"a derived file is not what it should be: {why}", hint=VERIFY_HINT)
