"""The columns that a filter may name: one typed table, and its form for people.

What a column is called, what type it has in SQL and what it means stands here and nowhere else; where its
values come from is the business of pairs.py. Opens no file.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum


class Of(StrEnum):
    """What a column tells of. A filter sees both: a row is a segment and an item that has it."""

    ITEM = "item"
    SEGMENT = "segment"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a filter."""

    name: str
    type: str  # in SQL
    about: str  # what it means, in a line
    of: Of = Of.ITEM
    fact: bool = False  # read from the medium when it was indexed, and kept with the part


COLUMNS = (
    Column("path", "VARCHAR", "the file, absolute, as results show it; of several the first that was read"),
    Column("name", "VARCHAR", "the file's name, ending included"),
    Column("folder", "VARCHAR", "the folder that the file lies in, absolute, without a slash at its end"),
    Column("ext", "VARCHAR", "the ending of the file's name, in small letters, without its dot"),
    Column("root", "VARCHAR", "the folder, manifest or file that was indexed"),
    Column("size", "BIGINT", "bytes of the file"),
    Column("modified", "TIMESTAMP", "when the file was last changed, in this machine's local time"),
    Column("kind", "VARCHAR", "the medium that the item is named for: image, text or audio"),
    Column("label", "VARCHAR", "metadata['label'], of a manifest's row"),
    Column("split", "VARCHAR", "metadata['split'], of a manifest's row"),
    Column("metadata", "MAP(VARCHAR, VARCHAR)", "every other column of a manifest's row: metadata['author']"),
    Column("caption", "VARCHAR", "the caption of a picture or sound, its first segment"),
    Column("modality", "VARCHAR", "image, text or audio: what the segment is", Of.SEGMENT),
    Column("source", "VARCHAR", "file or caption: where in the item the segment comes from", Of.SEGMENT),
    Column("start", "DOUBLE", "where the segment begins: seconds, or characters of a text", Of.SEGMENT),
    Column("end_at", "DOUBLE", "where it ends; the whole medium has neither", Of.SEGMENT),
    Column("text", "VARCHAR", "the segment's own words", Of.SEGMENT),
    Column("width", "BIGINT", "pixels of the picture, as it is shown", fact=True),
    Column("height", "BIGINT", "pixels of the picture, as it is shown", fact=True),
    Column("duration", "DOUBLE", "seconds of the sound", fact=True),
    Column("sample_rate", "BIGINT", "Hz of the sound", fact=True),
    Column("channels", "BIGINT", "channels of the sound", fact=True),
    Column("taken_at", "TIMESTAMP", "when the picture was taken, by the camera's clock", fact=True),
    Column("camera", "VARCHAR", "maker and model of the camera", fact=True),
    Column("latitude", "DOUBLE", "where the picture was taken: degrees, north is positive", fact=True),
    Column("longitude", "DOUBLE", "where the picture was taken: degrees, east is positive", fact=True),
    Column("title", "VARCHAR", "the title that the file itself gives", fact=True),
    Column("artist", "VARCHAR", "the artist that the file itself names", fact=True),
    Column("album", "VARCHAR", "the album that the file itself names", fact=True),
    Column("genre", "VARCHAR", "the genre that the file itself names", fact=True),
    Column("year", "BIGINT", "the year that a sound's tags give", fact=True),
    Column("words", "VARCHAR", "keywords, descriptions and comments in the file, one a line", fact=True),
)
BY_NAME = {column.name: column for column in COLUMNS}


def nearest(name: str) -> str | None:
    """The column whose name is most like `name`; None where none is."""
    close = difflib.get_close_matches(name.lower(), BY_NAME, n=1, cutoff=0.5)
    return close[0] if close else None


def markdown() -> str:
    """The columns as the table that docs/filters.md shows."""
    lines = ["| column | type | of | what it is |", "|---|---|---|---|"]
    lines += [f"| `{one.name}` | {one.type} | {one.of} | {one.about} |" for one in COLUMNS]
    return "\n".join(lines) + "\n"
