"""Tux Paint's stamps as a manifest: about 950 pictures with captions, 134 of them with a sound effect.

    python data/tuxpaint_stamps.py [--out DIR]

Brings the Debian package tuxpaint-stamps-default without root and writes DIR/manifest.parquet (by
default data/cache/tuxpaint-stamps), one row a pair of picture and caption:

    id        path below stamps/, without its ending
    image     the picture; where a stamp is there as SVG and PNG it is the SVG, as in Tux Paint itself,
              since the PNG beside it is a small fallback
    text      the first line of the .txt: the English caption
    audio     the sound effect, NAME.ogg or NAME.wav, or null. NAME_LANG.ogg below symbols/ are spoken
              names of letters and numerals, not effects, and are left out
    spoken    the spoken captions, NAME_desc*.ogg and .wav, in all languages, as a list
    label     the folder
    captions  the caption in other languages: a map from language code to text

Paths are relative to the manifest. A picture without a caption, such as a mirrored variant, is no pair
and has no row; it is counted on stderr. The drawings are by many authors under the licences that the
package's copyright file lists, public domain and GPL-2+ mostly; nothing of them is part of this project.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import debian_packages as debian

PACKAGE = "tuxpaint-stamps-default"
BELOW = Path("stamps")  # where the media end up, below the manifest's folder
PICTURES = (".svg", ".png")  # in order of preference
SOUNDS = (".ogg", ".wav")


@dataclass(frozen=True, slots=True)
class Stamp:
    """One row of the manifest."""

    id: str
    image: str
    text: str
    audio: str | None
    spoken: list[str] = field(default_factory=list)
    label: str = ""
    captions: dict[str, str] = field(default_factory=dict)


def read_caption(path: Path) -> tuple[str, dict[str, str]]:
    """The English caption and those in other languages, of lines such as `de.utf8=Ein Frosch.`"""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    others = {}
    for line in lines[1:]:
        code, separator, caption = line.partition(".utf8=")
        if separator and caption.strip():
            others[code.strip()] = caption.strip()
    return (lines[0].strip() if lines else ""), others


def find_stamps(stamps: Path, base: Path) -> tuple[list[Stamp], Counter[str]]:
    """Every pair below the folder `stamps`, sorted by id, with paths relative to `base`, and counts."""
    files = {path.relative_to(stamps).as_posix(): path for path in stamps.rglob("*") if path.is_file()}
    stems: dict[str, list[str]] = {}
    for name in sorted(files):
        stem, dot, ending = name.rpartition(".")
        if dot and f".{ending}" in PICTURES:
            stems.setdefault(stem, []).append(f".{ending}")
    spoken = _spoken(files, stems)

    rows: list[Stamp] = []
    counts: Counter[str] = Counter(pictures=len(stems))
    for stem, endings in stems.items():
        caption = files.get(f"{stem}.txt")
        text, others = read_caption(caption) if caption else ("", {})
        if not text:
            counts["without a caption"] += 1
            continue
        picture = next(ending for ending in PICTURES if ending in endings)
        sound = next((stem + ending for ending in SOUNDS if stem + ending in files), None)
        rows.append(
            Stamp(
                id=stem,
                image=_relative(files[stem + picture], base),
                text=text,
                audio=_relative(files[sound], base) if sound else None,
                spoken=[_relative(files[name], base) for name in spoken.get(stem, ())],
                label=stem.rpartition("/")[0],
                captions=others,
            )
        )
    counts.update(pairs=len(rows), effects=sum(row.audio is not None for row in rows))
    counts["spoken captions"] = sum(len(row.spoken) for row in rows)
    return rows, counts


def write_manifest(rows: Sequence[Stamp], path: Path) -> None:
    """Write the rows as Parquet, beside and then replaced."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema(
        [pa.field(name, text) for name in ("id", "image", "text", "audio")]
        + [
            pa.field("spoken", pa.list_(text)),
            pa.field("label", text),
            pa.field("captions", pa.map_(text, text)),
        ]
    )
    records = [{**asdict(row), "captions": sorted(row.captions.items())} for row in rows]
    beside = path.with_suffix(".writing")
    pq.write_table(pa.Table.from_pylist(records, schema=schema), beside)
    beside.replace(path)


def build(out: Path) -> Path:
    """Bring the package, write the manifest, return its path; does nothing where it is there already."""
    manifest = out / "manifest.parquet"
    if manifest.exists() and (out / BELOW).is_dir():
        debian.say(f"the stamps are there already: {manifest}")
        return manifest
    if not (out / BELOW).is_dir():
        (unpacked,) = debian.unpack([PACKAGE], out, cache=debian.CACHE)
        share = unpacked / "usr" / "share"
        shutil.copy(share / "doc" / PACKAGE / "copyright", out / "copyright")
        (share / "tuxpaint" / "stamps").rename(out / BELOW)
        shutil.rmtree(unpacked)
    rows, counts = find_stamps(out / BELOW, out)
    if not rows:
        raise debian.RecipeError(f"{PACKAGE} holds no stamp with a caption below {BELOW}")
    write_manifest(rows, manifest)
    debian.say(", ".join(f"{number} {what}" for what, number in counts.items()))
    debian.say(f"wrote {manifest}")
    return manifest


def _spoken(files: Iterable[str], stems: dict[str, list[str]]) -> dict[str, list[str]]:
    """Spoken captions by stamp. What precedes the last _desc names the stamp."""
    found: dict[str, list[str]] = {}
    for name in sorted(files):
        stem = name.rpartition("_desc")[0]
        if stem in stems and Path(name).suffix in SOUNDS:
            found.setdefault(stem, []).append(name)
    return found


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix()


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with the reason on stderr."""
    return debian.run_recipe(build, __doc__, "tuxpaint-stamps", words)


if __name__ == "__main__":
    sys.exit(main())
