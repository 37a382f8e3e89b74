"""Debian's Noto Color Emoji as a manifest: some thousand small drawings, each with its Unicode name.

    python data/noto_emoji.py [--out DIR]

Brings the Debian package fonts-noto-color-emoji without root, draws each emoji that shows a thing on white,
and writes DIR/manifest.parquet (by default data/cache/noto-emoji): id (the code point), image, text. Arrows,
clock faces, letters in boxes and the like are left out: their names are of signs, not of what is seen. The
font is under the SIL Open Font License 1.1.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import debian_packages as debian

PACKAGE = "fonts-noto-color-emoji"
FONT = Path(PACKAGE, "usr", "share", "fonts", "truetype", "noto", "NotoColorEmoji.ttf")
FIRST = 0x2000  # below stand digits and marks that only become emoji in sequences
STRIKE = 109  # pixels: the one size that the font's pictures have
SIDE = 160  # pixels of a drawing
# Words in the names of signs.
SIGNS = {
    *("arrow", "arrows", "button", "buttons", "black", "circle", "circled", "clock", "combining"),
    *("curved", "dotted", "heavy", "ideograph", "indicator", "joiner", "katakana", "latin", "mahjong"),
    *("modifier", "moon", "part", "regional", "selector", "sign", "square", "squared", "symbol"),
    *("tag", "triangle", "variation", "white", "zodiac"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the manifest."""

    id: str
    image: str
    text: str


def phrase(code: int) -> str:
    """The code point's Unicode name in lower case; empty for one that is no drawing of a thing."""
    name = unicodedata.name(chr(code), "").lower()
    return "" if code < FIRST or SIGNS & set(name.replace("-", " ").split()) else name


def draw(font: Path, code: int, path: Path) -> None:
    """One emoji on white as a PNG file of SIDE x SIDE pixels."""
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(str(font), STRIKE)
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(picture)
    left, top, right, bottom = pen.textbbox((0, 0), chr(code), font=face, embedded_color=True)
    place = ((SIDE - (right - left)) / 2 - left, (SIDE - (bottom - top)) / 2 - top)
    pen.text(place, chr(code), font=face, embedded_color=True)
    picture.save(path)


def build(out: Path) -> Path:
    """Bring the font, draw, write the manifest, return its path; does nothing where it is there already."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from fontTools.ttLib import TTFont

    manifest = out / "manifest.parquet"
    if manifest.exists():
        debian.say(f"the emoji are there already: {manifest}")
        return manifest
    debian.unpack([PACKAGE], out, cache=debian.CACHE)
    (out / "drawings").mkdir(exist_ok=True)
    rows = []
    for code in sorted(TTFont(str(out / FONT)).getBestCmap()):
        if text := phrase(code):
            image = Path("drawings", f"{code:x}.png")
            draw(out / FONT, code, out / image)
            rows.append(Row(f"{code:x}", image.as_posix(), text))
    beside = manifest.with_suffix(".writing")
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), beside)
    beside.replace(manifest)
    debian.say(f"{len(rows)} drawings; wrote {manifest}")
    return manifest


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with the reason on stderr."""
    return debian.run_recipe(build, __doc__, "noto-emoji", words)


if __name__ == "__main__":
    sys.exit(main())
