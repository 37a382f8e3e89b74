"""Debian's Open Clip Art as a manifest: several thousand drawings with a title and keywords.

    python data/openclipart.py [--out DIR]

Brings the Debian package openclipart-svg without root and writes DIR/manifest.parquet (by default
data/cache/openclipart): id, image, text, keywords (a list) and label (the folder), one row a drawing whose
metadata or file name says what it shows. The drawings were given to the public domain by their authors;
the few whose metadata does not say so are left out, as are series in which hundreds of near-identical
pictures share a name (polygon stars, colour gradients, playing cards).
"""

from __future__ import annotations

import html
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import debian_packages as debian

PACKAGE = "openclipart-svg"
BELOW = Path(PACKAGE, "usr", "share", "openclipart", "svg")
SERIES = ("shapes/stars/", "special/gradients/", "recreation/games/cards/", "unsorted/duplicates/")
COMMON = 6  # a title that more drawings share than this names a collection, not a drawing
# Keywords that say how a file was made or filed, not what it shows.
FILING = {
    *(
        "action",
        "actions",
        "app",
        "application",
        "apps",
        "clip art",
        "clipart",
        "color",
        "coloring",
        "computer",
    ),
    *("device", "devices", "filesystem", "filesystems", "geometry", "hash", "icon", "icons", "icontheme"),
    *("lemon_theme_icon", "magick", "mapsym", "menu", "mime-types", "mimetypes", "misc", "recreation"),
    *("shape", "shapes", "sign", "signs_and_symbols", "simple", "special", "stock", "symbol", "theme"),
    *("united_nations_member", "unsorted", "various", "webpage", "work"),
}
NOT_NAMES = {"svg", "bw", "b", "w", "and", "net", "final", "new", "drawn", "various", "clipart", "cliparts"}
METADATA_BYTES = 1 << 19  # metadata stands at a drawing's beginning

WORK = re.compile(r"<(?:\w+:)?Work\b.*?</(?:\w+:)?Work>", re.S)
AGENTS = re.compile(r"<dc:(publisher|creator|rights|contributor|source)\b.*?</dc:\1>", re.S)
CREATOR = re.compile(r"<dc:creator\b.*?</dc:creator>", re.S)
TITLE = re.compile(r"<dc:title[^>]*>(.*?)</dc:title>", re.S)
SUBJECT = re.compile(r"<dc:subject[^>]*>(.*?)</dc:subject>", re.S)
KEYWORD = re.compile(r"<rdf:li[^>]*>(.*?)</rdf:li>", re.S)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What one file's metadata says."""

    id: str  # path below svg/, without its ending
    title: str
    keywords: tuple[str, ...]
    author: str
    free: bool  # the metadata says public domain


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the manifest."""

    id: str
    image: str
    text: str
    keywords: list[str]
    label: str


def read_drawing(name: str, svg: str) -> Drawing:
    """A drawing's metadata, found in the source of the SVG (its beginning is enough)."""
    found = WORK.search(svg)
    work = found.group(0) if found else ""
    own = AGENTS.sub("", work)
    title = TITLE.search(own)
    subject = SUBJECT.search(own)
    creator = CREATOR.search(work)
    author = TITLE.search(creator.group(0)) if creator else None
    keywords = [_plain(word) for word in KEYWORD.findall(subject.group(1))] if subject else []
    return Drawing(
        id=name,
        title=_plain(title.group(1)) if title else "",
        keywords=tuple(word for word in keywords if word and word.lower() not in FILING),
        author=_plain(author.group(1)) if author else "",
        free="publicdomain" in work.lower().replace(" ", "").replace("/", ""),
    )


def describe(drawing: Drawing, shared: Counter[str]) -> str:
    """The drawing's name as a phrase; empty where neither title nor file name says anything.

    `shared` counts how many drawings carry each lower-case title.
    """
    title = re.sub(r"(?i)^(clip ?art|clip art design) by [\w. ]+? - ", "", drawing.title)
    if title != drawing.title or shared[drawing.title.lower()] > COMMON or _words(title) in ([], ["various"]):
        return " ".join(_words(drawing.id.rpartition("/")[2], without=drawing.author))
    return " ".join(_words(title, without=drawing.author))


def rows_of(drawings: Iterable[Drawing], folder: Path) -> list[Row]:
    """The manifest's rows: free drawings with a name, in order; pictures' paths start with `folder`."""
    drawings = [drawing for drawing in drawings if drawing.free and not drawing.id.startswith(SERIES)]
    shared = Counter(drawing.title.lower() for drawing in drawings)
    rows = []
    for drawing in drawings:
        text = describe(drawing, shared)
        if not text and drawing.keywords:
            text = drawing.keywords[0].replace("_", " ")
        if text:
            keywords = [" ".join(word.replace("_", " ").split()) for word in drawing.keywords]
            image = (folder / f"{drawing.id}.svg").as_posix()
            rows.append(Row(drawing.id, image, text, keywords, drawing.id.rpartition("/")[0]))
    return rows


def build(out: Path) -> Path:
    """Bring the package, write the manifest, return its path; does nothing where it is there already."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = out / "manifest.parquet"
    if manifest.exists() and (out / BELOW).is_dir():
        debian.say(f"the drawings are there already: {manifest}")
        return manifest
    debian.unpack([PACKAGE], out, cache=debian.CACHE)
    drawings = []
    for path in sorted((out / BELOW).rglob("*.svg")):
        if not path.is_symlink():  # a link is a second name of a drawing that is there already
            with path.open("rb") as file:
                svg = file.read(METADATA_BYTES).decode("utf-8", "replace")
            drawings.append(read_drawing(path.relative_to(out / BELOW).with_suffix("").as_posix(), svg))
    rows = rows_of(drawings, BELOW)
    beside = manifest.with_suffix(".writing")
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), beside)
    beside.replace(manifest)
    debian.say(f"{len(drawings)} drawings, {len(rows)} with a name and a clear licence; wrote {manifest}")
    return manifest


def _plain(text: str) -> str:
    return " ".join(html.unescape(text).split())


def _words(name: str, *, without: str = "") -> list[str]:
    """A title's or file name's words in lower case, without numbers and the author's (perhaps cut) name."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    name = re.sub(r"\([^)]*\)|\d+", " ", name.replace("_", " ").replace("-", " "))
    words = [word for word in re.split(r"[^\w']+", name.lower()) if word]
    author = [word for word in re.split(r"[\W_]+", without.lower()) if word]
    kept = [word for word in words if not any(_is_cut(word, part) for part in author)]
    return [word for word in kept if word not in NOT_NAMES and (len(word) > 1 or len(kept) == 1)]


def _is_cut(word: str, whole: str) -> bool:
    """Whether `word` is `whole`, or the beginning that file names of this collection cut it to."""
    return word == whole or (len(word) >= 3 and whole.startswith(word))


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with the reason on stderr."""
    return debian.run_recipe(build, __doc__, "openclipart", words)


if __name__ == "__main__":
    sys.exit(main())
