"""Tables of items: .parquet, .csv and .jsonl with any of the columns image, text, audio.

Nothing is decoded here; files are only looked at (size and time). The rules, all of them:

- A row is an item of up to three members, in the order image, audio, text. `image` and `audio` are paths,
  relative to the manifest's folder or absolute, and stay as they are written; a path may lead out of the
  folder, since whoever names a manifest can read what it names. `text` is the text itself. It is the
  caption of a row that has a picture or a sound, else a text of its own. Null and "" mean: none.
- The row's key is its `id` column (a text or an integer), else a hash of its paths and its text. The
  same id twice is a problem of the second row. Rows alike in all three columns and without an id are
  told apart by their order ("-2" is put after the second one's key).
- Every other column is metadata, as text: texts as they are, booleans `true` and `false`, numbers as Python
  writes them, times in ISO 8601, bytes in base64, lists and structs as compact JSON with sorted keys, nulls
  left out. A column named like a field of a search result (RESERVED) is kept as `manifest.<name>`; two
  columns that end up with one name are an error.
- A file that is not there is a member with an error; the row's other members count. Where the index has
  that file's content already, the row stays as the index knows it, as for a folder that is not mounted.
- A table without rows is said to be empty, and what the index knows of it is kept, as for an empty folder.
- A table that cannot be parsed to its end is an error as a whole: half a manifest would delete the other
  half's items.
"""

from __future__ import annotations

import base64
import csv
import datetime
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from indexer.errors import ManifestError, NotATable
from indexer.fsio import hash_bytes
from indexer.scan import FoundItem, FoundMember, Scan, root_id_of
from indexer.types import Modality, Source

MEDIA_COLUMNS = ("image", "audio", "text")
RESERVED = frozenset(
    {"rank", "score", "item", "path", "root", "modality", "source", "start", "end", "segment", "error"}
)
ONE_A_LINE = "each line is one JSON object"
EMPTY = "nothing to index, and what the index knows of it is kept without --prune"
_LONGEST_FIELD = 1 << 24  # characters of one .csv field
_PARQUET = b"PAR1"  # the first and the last four bytes of a Parquet file
_LOOK = 4096  # bytes from the beginning that tell a text from something else

Row = Mapping[str, Any]


class _BadRow(Exception):
    """Why one row gives no item."""


def read_manifest(path: Path) -> Scan:
    """A manifest's rows as items, sorted by key.

    A manifest that is not there gives a Scan with `missing` set, one without rows a Scan with `empty` set.
    Raises ManifestError for a table that cannot be read: with the row's number, counted from 1 without the
    header, where a row is to blame.
    """
    real = os.path.realpath(path)
    root_id, base = root_id_of(real), str(Path(real).parent)
    if not os.path.lexists(real):
        problem = (real, "no such manifest: what the index knows of it is kept")
        return Scan(
            root_id,
            real,
            base,
            kind="manifest",
            missing=True,
            unknown=frozenset({""}),
            problems=(problem,),
        )
    reader = _Reader(real, base)
    reader.read()
    return Scan(
        root_id,
        real,
        base,
        items=sorted(reader.items.values(), key=lambda item: item.path),
        kind="manifest",
        problems=tuple(reader.problems),
        empty=reader.rows == 0,
        away=reader.away,
    )


class _Reader:
    """The state of one reading: items by key, and what was wrong with rows."""

    def __init__(self, path: str, base: str) -> None:
        self.path = path
        self.base = base
        self.items: dict[str, FoundItem] = {}
        self.away: dict[str, tuple[str, str]] = {}  # by key: a row whose files are not there, and why
        self.problems: list[tuple[str, str]] = []
        self.rows = 0

    def read(self) -> None:
        names: dict[str, str] = {}
        rows = table_rows(self.path)
        while True:
            try:
                row = next(rows, None)
                if row is None:
                    break
                for column in row.keys() - names.keys():
                    _add_name(column, names)
            except NotATable as error:
                raise ManifestError(f"{self.path}: {error.message}", hint=error.hint) from error
            except ManifestError as error:
                where = f"{self.path}, row {self.rows + 1}"
                raise ManifestError(f"{where}: {error.message}", hint=error.hint) from error
            self.rows += 1
            try:
                self._add(row, names)
            except _BadRow as error:
                self.problems.append((self._where(), str(error)))
        if not self.rows:
            self.problems.append((self.path, f"{_nothing_in(self.path)}: {EMPTY}"))
        elif not names.keys() & set(MEDIA_COLUMNS):
            columns = ", ".join(sorted(names)) or "none"
            raise ManifestError(
                f"{self.path} has no column image, text or audio; its columns are: {columns}",
                hint="rename the columns that hold the paths or the texts",
            )

    def _where(self) -> str:
        return f"{self.path}, row {self.rows}"

    def _add(self, row: Row, names: Mapping[str, str]) -> None:
        image, audio = _path_of(row, "image"), _path_of(row, "audio")
        text = _text_of(row)
        if image is None and audio is None and text is None:
            raise _BadRow("image, text and audio are all empty")
        key = self._key(row, (image, audio, text))
        files = [(Modality.IMAGE, image), (Modality.AUDIO, audio)]
        members = [self._file(modality, name) for modality, name in files if name is not None]
        lacks = [f"{one.modality} {one.path!r}: {one.error}" for one in members if one.error is not None]
        if lacks:
            self.away[key] = (self._where(), f"{'; '.join(lacks)}: what the index knows of the row is kept")
        if text is not None:
            source = Source.CAPTION if members else Source.FILE
            data = text.encode()
            members.append(FoundMember(None, Modality.TEXT, source, len(data), 0, text, hash_bytes(data)))
        metadata = {names[column]: written for column in row if (written := _written(row, names, column))}
        self.items[key] = FoundItem(key, tuple(members), metadata)

    def _key(self, row: Row, content: tuple[str | None, ...]) -> str:
        given = row.get("id")
        if given is not None and given != "":
            if isinstance(given, bool) or not isinstance(given, str | int):
                raise _BadRow(f"id is {given!r}, not a text or an integer")
            key = well_formed(str(given))
            if key in self.items:
                raise _BadRow(f"the id {key!r} belongs to an earlier row")
            return key
        data = json.dumps(content).encode()
        key = plain = hash_bytes(data).hex()
        copies = 1
        while key in self.items:
            copies += 1
            key = f"{plain}-{copies}"
        return key

    def _file(self, modality: Modality, name: str) -> FoundMember:
        try:
            status = os.stat(os.path.join(self.base, name))  # noqa: PTH116, PTH118 - names stay bytes-exact
        except (OSError, ValueError) as error:  # ValueError: a zero byte
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            return FoundMember(name, modality, Source.FILE, 0, 0, error=reason)
        if not stat.S_ISREG(status.st_mode):
            return FoundMember(name, modality, Source.FILE, 0, 0, error="not a file")
        return FoundMember(name, modality, Source.FILE, status.st_size, status.st_mtime_ns)


def well_formed(text: str) -> str:
    """The text with halves of surrogate pairs, which no file can hold as UTF-8, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _add_name(column: str, names: dict[str, str]) -> None:
    """Note what a column's metadata is called; media columns and `id` stand for themselves."""
    plain = well_formed(column)
    name = f"manifest.{plain}" if plain in RESERVED else plain
    if name in names.values():
        raise ManifestError(f"two columns are named {name!r}", hint="rename one of them")
    names[column] = name


def _path_of(row: Row, column: str) -> str | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        return as_path(value, column)
    except ValueError as error:
        raise _BadRow(str(error)) from None


def as_path(value: Any, column: str) -> str:
    """A column's value as a path. ValueError where it can be none, with the reason."""
    if not isinstance(value, str):
        raise ValueError(f"{column} holds {type(value).__name__}, not a path")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueError(f"{column} {value!r} can be no file's name") from None
    return value


def _text_of(row: Row) -> str | None:
    value = row.get("text")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _BadRow(f"text holds {type(value).__name__}, not a text")
    return well_formed(value)


def _written(row: Row, names: Mapping[str, str], column: str) -> str | None:
    value = row[column]
    if value is None or column == "id" or column in MEDIA_COLUMNS:
        return None
    return well_formed(as_text(value))


def as_text(value: Any) -> str:
    """A column's value as metadata keeps it; the rules stand at the top of this module."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=as_text)
    return str(value)


def table_rows(path: str) -> Iterator[Row]:
    """A table's rows in order, by column name, unchecked.

    NotATable for a file that is no such table as a whole, ManifestError where the next row cannot be parsed.
    """
    suffix = Path(path).suffix.lower()
    readers = {".parquet": _parquet_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if suffix not in readers:
        raise NotATable("no manifest by its name", hint="it must end in .parquet, .csv or .jsonl")
    try:
        yield from readers[suffix](path)
    except OSError as error:
        raise NotATable(f"cannot be read: {(error.strerror or str(error)).lower()}") from error


def _nothing_in(path: str) -> str:
    """Why a table that can be read gives no row."""
    if not Path(path).stat().st_size:
        return "the file is empty, 0 bytes"
    return "a header and no rows" if path.lower().endswith(".csv") else "no rows"


def _require_text(path: str, kind: str) -> None:
    """NotATable for a file that holds no text, with what it is instead."""
    with open(path, "rb") as file:
        head = file.read(_LOOK)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise NotATable(f"UTF-16, where {kind} in UTF-8 was expected", hint="save it as UTF-8")
    if head.startswith(_PARQUET):
        raise NotATable(f"a Parquet file, not {kind}", hint="rename it to .parquet")
    if b"\0" in head:
        raise NotATable(f"a binary file, not {kind}: it has zero bytes", hint=f"name a file that is {kind}")


def _csv_rows(path: str) -> Iterator[Row]:
    _require_text(path, "CSV")
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                return
            if len(set(header)) < len(header):
                raise NotATable(f"the header names a column twice: {', '.join(header)}")
            for fields in reader:
                if not fields:
                    continue  # an empty line
                if len(fields) != len(header):
                    raise ManifestError(f"{len(fields)} fields, but the header has {len(header)}")
                yield dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise ManifestError(f"not a table: {error}") from error


def _jsonl_rows(path: str) -> Iterator[Row]:
    _require_text(path, "JSON lines")
    with open(path, "rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig", "surrogateescape"))
            except (ValueError, RecursionError) as error:
                raise ManifestError(f"not JSON: {error}", hint=ONE_A_LINE) from error
            if not isinstance(row, dict):
                raise ManifestError(f"a JSON object was expected, {type(row).__name__} came", hint=ONE_A_LINE)
            yield row


def _require_parquet(path: str) -> None:
    """NotATable, with what is wrong, for a file without the two marks of a Parquet file."""
    with open(path, "rb") as file:
        head = file.read(len(_PARQUET))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_PARQUET)))
        tail = file.read()
    if not size:
        raise NotATable("not Parquet: the file is empty, 0 bytes", hint="write the table again")
    if head != _PARQUET:
        raise NotATable(
            f"not Parquet: it begins with {head!r}, a Parquet file with {_PARQUET!r}",
            hint="if it is CSV or JSON lines, rename it to .csv or .jsonl",
        )
    if tail != _PARQUET or size < 3 * len(_PARQUET):
        raise NotATable(
            f"a Parquet file that is cut off: it has {size} bytes and no end", hint="copy or write it again"
        )


def _parquet_rows(path: str) -> Iterator[Row]:
    _require_parquet(path)
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if len(set(names)) < len(names):
                raise NotATable(f"two columns have one name: {', '.join(names)}")
            wanted = [name for name in names if not name.startswith("__index_level_")]  # pandas' own
            for batch in table.iter_batches(columns=wanted, batch_size=4096):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a damaged page
        raise NotATable(f"a Parquet file that is damaged: {error}", hint="write the table again") from error
