"""Where rows come from: `read_pairs` for tables, folders with captions, COCO files and shards.

Nothing is decoded here; files are only looked at. What holds for rows of every source stands in rows.py, COCO
files in coco.py, shards in shards.py, an index's items in from_index.py. The rules of tables:

- Columns: image and audio (paths, relative to the table's folder or absolute), text (a text, or in Parquet
  and JSONL a list of texts), id, label, group, split, weight. A row needs two of image, text and audio.
- A column that is none of these is not used, and a note says so; one that looks like a misspelt one
  (`imgae`, where there is no `image`) is an error: training without that column is not what was meant.
- A split, a weight or an id that means nothing is an error, not a problem of its row: to go on would put
  the row into a split by chance.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from indexer.errors import ManifestError, MediaError, NotATable
from indexer.manifest import as_path, as_text, table_rows, well_formed
from indexer.media.text import read_text
from indexer.scan import MANIFEST_SUFFIXES, FoundItem, FoundMember, scan
from indexer.types import Modality
from retrieval.training.coco import read_coco
from retrieval.training.rows import (
    ADDRESS,
    RowCollector,
    Said,
    is_none,
    parse_split,
    parse_weight,
    require_trainable,
)
from retrieval.training.shards import is_pattern, read_shards, shards_in
from retrieval.training.types import PairSet

__all__ = ["read_pairs", "require_trainable"]

MEDIA = ("image", "text", "audio")
COLUMNS = (*MEDIA, "id", "label", "group", "split", "weight")
CLOSE = 0.8  # difflib's ratio from which a column is a misspelt one: one letter too many, or two swapped
EXPECTED = (
    "a table (.parquet, .csv, .jsonl), a COCO captions file (.json), a .tar of samples, a pattern of them "
    "such as 'shards-{000..012}.tar', or a folder of media with captions beside them"
)


def read_pairs(source: str | Path, *, cache: Path) -> PairSet:
    """The rows of a source, by what it is; shards are unpacked below `cache`.

    Raises ManifestError for a source that is not there or cannot be read to its end, for columns that cannot
    be used, for ids given twice, and where no row is a pair of media that are there. What is wrong with
    single rows is in the result's `problems`.
    """
    name = os.fspath(source)
    if ADDRESS.match(name):
        raise ManifestError(
            f"{name} is an address or a pipe; only files on this machine are read",
            hint="download it first, then give its path",
        )
    path = Path(name)
    if path.is_dir():
        return _read_folder(name, path, cache)
    suffix = path.suffix.lower()
    if suffix == ".tar" and (path.exists() or is_pattern(name)):
        return read_shards(name, cache=cache)
    if not path.exists():
        raise ManifestError(f"there is no {name}", hint=f"give {EXPECTED}")
    if suffix in MANIFEST_SUFFIXES:
        return read_table(name)
    if suffix == ".json":
        return read_coco(name)
    raise ManifestError(f"{name} is no source of pairs by its name", hint=f"give {EXPECTED}")


def read_table(name: str) -> PairSet:
    """Rows of a .parquet, .csv or .jsonl file; see the top of this module. Raises ManifestError."""
    real = os.path.realpath(name)
    collector = RowCollector(name, str(Path(real).parent))
    columns: dict[str, None] = {}
    rows = table_rows(real)
    number = 0
    while True:
        try:
            row = next(rows, None)
        except NotATable as error:
            raise NotATable(f"{name}: {error.message}", hint=error.hint) from error
        except ManifestError as error:
            raise ManifestError(f"{name}, row {number + 1}: {error.message}", hint=error.hint) from error
        if row is None:
            break
        number += 1
        columns |= dict.fromkeys(row)
        _add(collector, row, number)
    if number:
        _check_columns(collector, tuple(columns))
    return collector.finish()


def _add(collector: RowCollector, row: Mapping[str, Any], number: int) -> None:
    where = f"row {number}"
    try:
        split, weight = parse_split(row.get("split")), parse_weight(row.get("weight"))
        key = _word(row.get("id"), "id")
    except ValueError as error:
        raise ManifestError(f"{collector.source}, {where}: {error}", hint="correct the table") from None
    try:
        said = Said(
            where,
            image=_path(row.get("image"), "image"),
            texts=_texts(row.get("text")),
            audio=_path(row.get("audio"), "audio"),
            key=key,
            label=_word(row.get("label"), "label"),
            group=_word(row.get("group"), "group"),
            split=split,
            weight=weight,
        )
    except ValueError as error:
        collector.seen += 1
        collector.problem(where, str(error))
        return
    collector.add(said)


def _check_columns(collector: RowCollector, columns: tuple[str, ...]) -> None:
    """ManifestError for a misspelt column or too few to make a pair; a note for those not used."""
    came = ", ".join(columns)
    unused = [column for column in columns if column not in COLUMNS]
    for column in unused:
        meant = _meant(column, columns)
        if meant:
            raise ManifestError(
                f"{collector.source} has a column {column!r} and no {meant!r}; its columns are: {came}",
                hint=f"rename it to {meant!r}, or drop it if it is something else",
            )
    if len(set(columns) & set(MEDIA)) < 2:
        raise ManifestError(
            f"{collector.source} has no two of the columns {', '.join(MEDIA)}; its columns are: {came}",
            hint=f"rename the columns that hold paths and texts; known are {', '.join(COLUMNS)}",
        )
    if unused:
        collector.notes.append(f"columns not used: {', '.join(unused)}")


def _meant(column: str, columns: tuple[str, ...]) -> str | None:
    """The known column, absent from the table, that this one looks like; two letters resemble too much."""
    plain = column.strip().lower()
    absent = [known for known in COLUMNS if known not in columns]
    if plain in absent:
        return plain
    long = [known for known in absent if len(known) > 2]
    return next(iter(difflib.get_close_matches(plain, long, n=1, cutoff=CLOSE)), None)


def _path(value: Any, column: str) -> str | None:
    return None if is_none(value) else as_path(value, column)


def _texts(value: Any) -> tuple[str, ...]:
    """A row's texts, blanks left out; each once."""
    values = value if isinstance(value, list | tuple) else [value]
    texts: dict[str, None] = {}
    for one in values:
        if is_none(one):
            continue
        if not isinstance(one, str):
            raise ValueError(f"text holds {type(one).__name__}, not a text or a list of texts")
        texts[well_formed(one)] = None
    return tuple(texts)


def _word(value: Any, column: str) -> str | None:
    """A label, a group or an id as text; a whole float, which pandas makes of an integer, as an integer."""
    if is_none(value):
        return None
    if column == "id" and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        raise ValueError(f"id {value!r}, where a text or an integer is expected")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return well_formed(as_text(value)).strip()


def _read_folder(name: str, folder: Path, cache: Path) -> PairSet:
    shards = shards_in(folder)
    found = scan(folder)
    media = [item for item in found.items if item.members[0].modality is not Modality.TEXT]
    if shards and media:
        raise ManifestError(
            f"{name} holds both shards ({shards[0].name}) and media ({media[0].path})",
            hint=f"name the shards, as in '{name}/*.tar' written out, or move one kind elsewhere",
        )
    if shards:
        return read_shards(name, cache=cache)
    collector = RowCollector(name, found.base)
    for where, why in found.problems:
        collector.problem(where, why.partition(": what the index")[0])
    _add_items(collector, media)
    alone = len(found.items) - len(media)
    if alone:
        collector.notes.append(f"{alone} texts that no picture or sound has the name of")
    return collector.finish(what="pictures and sounds")


def _add_items(collector: RowCollector, items: list[FoundItem]) -> None:
    """Rows of a folder: a picture and a sound of one name are one row, a text of that name is its caption."""
    pictures: dict[str, FoundItem] = {}  # by path without ending; the first of several
    for item in items:
        if item.members[0].modality is Modality.IMAGE:
            pictures.setdefault(os.path.splitext(item.path)[0], item)  # noqa: PTH122 - bytes-exact
    partners: dict[str, list[FoundItem]] = {}
    for item in items:
        stem = os.path.splitext(item.path)[0]  # noqa: PTH122
        if item.members[0].modality is Modality.AUDIO and stem in pictures:
            partners.setdefault(pictures[stem].path, []).append(item)
    joined = {sound.path for sounds in partners.values() for sound in sounds[:1]}
    captions: dict[str, tuple[str, ...]] = {}  # one text may caption two media; it is read once
    for item in items:
        if item.path in joined:
            continue
        mine = [item, *partners.get(item.path, [])[:1]]
        members = [member for one in mine for member in one.members]
        texts = [text for member in members for text in _caption(collector, member, captions)]
        paths = {member.modality: member.path for member in members if member.modality is not Modality.TEXT}
        collector.add(
            Said(
                item.path,
                image=paths.get(Modality.IMAGE),
                texts=tuple(dict.fromkeys(texts)),
                audio=paths.get(Modality.AUDIO),
                key=well_formed(item.path),
            )
        )


def _caption(
    collector: RowCollector, member: FoundMember, known: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """A caption file's whole text, as the index takes it, or nothing with a problem noted."""
    if member.modality is not Modality.TEXT or member.path is None:
        return ()
    if member.path not in known:
        known[member.path] = ()
        try:
            text = read_text(f"{collector.base}/{member.path}")
        except MediaError as error:
            collector.problem(member.path, error.message)
        except OSError as error:
            collector.problem(member.path, (error.strerror or str(error)).lower())
        else:
            known[member.path] = (text.strip(),)
    return known[member.path]
