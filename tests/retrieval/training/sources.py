"""Small real files for tests of training data: pictures of a colour, sounds, tables, tar files."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import wave
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def picture_bytes(colour: tuple[int, int, int] = (200, 30, 30), *, kind: str = "PNG") -> bytes:
    """An 8 x 8 picture."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, kind)
    return file.getvalue()


def sound_bytes(level: int = 1000) -> bytes:
    """A tenth of a second of a square wave as WAV, 8 kHz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(
            b"".join((level if i // 8 % 2 else -level).to_bytes(2, "little", signed=True) for i in range(800))
        )
    return file.getvalue()


def put(path: Path, data: bytes | str) -> Path:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def put_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as the table that the name says; columns are the first row's for CSV, all for the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def put_tar(path: Path, members: Iterable[tuple[str, bytes | str] | tarfile.TarInfo]) -> Path:
    """Write a shard; a TarInfo goes in without data (a link, a device)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            data = member[1].encode() if isinstance(member[1], str) else member[1]
            info = tarfile.TarInfo(member[0])
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
