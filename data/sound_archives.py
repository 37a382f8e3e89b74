"""Sounds out of the containers in which some games keep them: zip, Clonk's group, Qt's rcc, OpenTTD's cat.

Bytes in, names and bytes out. Which package has which container, and what a name means, stands in
named_sounds.py. Every format is read as far as uncompressed or zlib-compressed sounds need.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

Member = tuple[str, bytes]  # its name, with folders, and what it holds
SOUNDS = (".ogg", ".oga", ".wav", ".flac")
LARGEST = 1 << 28  # bytes that one container may unfold to


def unpack_sounds(archive: Path, folder: Path) -> int:
    """Write the sounds of one container below `folder`, and return how many. ValueError for another kind."""
    count = 0
    for name, data in members(archive.name, archive.read_bytes()):
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        if not parts or not parts[-1].lower().endswith(SOUNDS):
            continue
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        count += 1
    return count


def members(name: str, data: bytes) -> Iterator[Member]:
    """What lies in a container, by the kind that its first bytes or its name show."""
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            for entry in file.infolist():
                if not entry.is_dir() and entry.filename.lower().endswith(SOUNDS):
                    yield entry.filename, file.read(entry)
    elif data[:2] == b"\x1e\x8c":
        yield from _clonk(_clonk_bytes(data), "")
    elif data[:4] == b"qres":
        yield from _rcc(data)
    elif name.endswith(".cat"):
        yield from _cat(data)
    else:
        raise ValueError(f"{name} is no known container of sounds")


def _clonk_bytes(data: bytes) -> bytes:
    """A group is gzip whose two magic bytes were changed."""
    return zlib.decompressobj(31).decompress(b"\x1f\x8b" + data[2:], LARGEST)


def _clonk(data: bytes, below: str) -> Iterator[Member]:
    """A scrambled header of 204 bytes, 316 bytes for each entry, then the files; folders are groups again."""
    header = bytearray(byte ^ 237 for byte in data[:204])
    for place in range(0, 201, 3):
        header[place], header[place + 2] = header[place + 2], header[place]
    (count,) = struct.unpack_from("<i", header, 36)
    start = 204 + 316 * count
    for number in range(count):
        entry = data[204 + 316 * number :][:316]
        name = entry[:260].partition(b"\0")[0].decode("latin-1")
        _, child, size, _, offset = struct.unpack_from("<5i", entry, 260)
        content = data[start + offset : start + offset + size]
        if child:
            inner = _clonk_bytes(content) if content[:2] == b"\x1e\x8c" else content
            yield from _clonk(inner, f"{below}{name}/")
        else:
            yield below + name, content


def _rcc(data: bytes) -> Iterator[Member]:
    """Qt's compiled resources: a tree of nodes, names in UTF-16, and files plain or compressed."""
    version, tree, blobs, names = struct.unpack_from(">4I", data, 4)
    width = 22 if version >= 2 else 14

    def walk(number: int, below: str) -> Iterator[Member]:
        at, flags = struct.unpack_from(">IH", data, tree + width * number)
        (length,) = struct.unpack_from(">H", data, names + at)
        name = data[names + at + 6 :][: 2 * length].decode("utf-16-be") if number else ""
        if flags & 2:
            count, first = struct.unpack_from(">II", data, tree + width * number + 6)
            for child in range(first, first + count):
                yield from walk(child, f"{below}{name}/")
        elif name.lower().endswith(SOUNDS) and not flags & 4:  # 4: Zstandard, which no sound needs
            (offset,) = struct.unpack_from(">I", data, tree + width * number + 10)
            (size,) = struct.unpack_from(">I", data, blobs + offset)
            content = data[blobs + offset + 4 :][:size]
            yield below + name, zlib.decompress(content[4:]) if flags & 1 else content

    yield from walk(0, "")


def _cat(data: bytes) -> Iterator[Member]:
    """OpenTTD's sound set: a table of places, each with a title in quotes and a wave file."""
    (first,) = struct.unpack_from("<I", data)
    for number in range((first & 0x7FFFFFFF) // 8):
        offset, size = struct.unpack_from("<II", data, 8 * number)
        offset &= 0x7FFFFFFF
        length = data[offset]
        label = data[offset + 1 : offset + 1 + length].decode("latin-1")
        title = re.match(r'"([^"]*)"', label)
        if title and b"RIFF" in data[offset + 1 + length :][:4]:
            plain = title[1].replace("/", " or ")
            yield f"{number:02}-{plain}.wav", data[offset + 1 + length : offset + 1 + length + size]
