"""Sound effects whose file names say what they are, from Debian's games and desktop sounds, as a manifest.

    python data/named_sounds.py [--out DIR]

Brings 39 Debian packages (1.9 GB to download) without root and writes DIR/manifest.parquet (by default
data/cache/named-sounds): id, audio, text (the phrase that the name makes), label (the package). Music,
speech, interface sounds that are named for what the program does, and test signals are left out. A package
that this release of Debian has under another name, or not at all, is named on stderr and left out. Which
packages, and what is said of their names, stands in sound_sources.py.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import debian_packages as debian
from sound_archives import unpack_sounds
from sound_sources import (
    ANIMALS,
    DROPPED,
    FOLDERS,
    MATERIALS,
    MODS,
    PLAIN,
    SOURCES,
    SPLIT,
    UNSAID,
    USES,
    VOICED,
    Source,
)

SOUNDS = {".ogg", ".oga", ".wav", ".flac", ".mp3"}
UNPACKED = "unpacked"  # the folder in a package's folder for what lay in containers
ALIKE = 4  # of a package's sounds with one name, how many are taken
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of camel case too


def phrase(name: str, folder: str = "") -> str:
    """What a sound's file name says, as a phrase: `magic-holy-2` -> `magic holy`; empty where nothing.

    `folder` is that of the file where it belongs to the name: `footsteps`, `grass` -> `footsteps grass`.
    """
    words = _words(name)
    while len(words) > 1 and words[0] in MODS:
        words = words[1:]
    if not words or words[0] in USES or DROPPED.intersection(words) or "miss" in words:
        return ""
    if set(words) & VOICED:  # what a unit says when it is chosen: a word, unless it is an animal
        words = [word for word in words if word not in VOICED]
        if not set(words) & ANIMALS:
            return ""
    if "hit" in words and MATERIALS.intersection(words):
        words = ["impact" if word == "hit" else word for word in words]
    known = {word.rstrip("s") for word in words}
    before = [word for word in _words(folder) if word.rstrip("s") not in known and word not in FOLDERS]
    said = [PLAIN.get(word, word) for word in before + words if word not in UNSAID]
    return " ".join(word for word in said if word)


def _words(name: str) -> list[str]:
    """Words of two letters and more, in lower case: camel case, hyphens, underscores and digits part them."""
    spread = [SPLIT.get(word.lower(), word) for word in re.split(r"[\W_]+|\d+", name) if word]
    found = [part.lower() for words in spread for word in words.split() for part in WORD.findall(word)]
    return [word for word in found if len(word) > 1]


def find_sounds(root: Path, base: Path, source: Source) -> list[dict[str, str]]:
    """A row for each sound of a package below `root` whose name is a phrase; paths from `base`."""
    rows: list[dict[str, str]] = []
    taken: Counter[str] = Counter()
    for path in sorted(root.rglob("*")):
        below = path.relative_to(root).as_posix()
        if path.suffix.lower() not in SOUNDS or not re.search(source.keep, below):
            continue
        if source.leave and re.search(source.leave, below):
            continue
        name = re.sub(source.strip, "", path.stem)
        text = phrase(name, re.sub(r"\.oc[gd]$", "", path.parent.name) if source.folder else "")
        taken[text] += 1
        if text and taken[text] <= ALIKE:
            row = {"id": f"{source.package}/{Path(below).with_suffix('').as_posix()}"}
            row |= {"audio": path.relative_to(base).as_posix(), "text": text, "label": source.package}
            rows.append(row)
    return rows


def bring(source: Source, out: Path) -> list[dict[str, str]]:
    """The rows of one package, which is brought and whose containers are opened first. RecipeError."""
    (folder,) = debian.unpack([source.package], out, cache=debian.CACHE)
    opened = folder / UNPACKED
    if source.containers and not opened.is_dir():
        beside = folder / f".{UNPACKED}"
        for pattern in source.containers:
            for archive in sorted(folder.rglob(pattern)):
                unpack_sounds(archive, beside / archive.stem)
        if beside.is_dir():
            beside.rename(opened)
    return find_sounds(folder, out, source)


def build(out: Path) -> Path:
    """Bring the packages, write the manifest, return its path; does nothing where it is there already."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = out / "manifest.parquet"
    if manifest.exists() and set(pq.read_table(manifest).schema.metadata or {}) >= {_version()}:
        debian.say(f"the sounds are there already: {manifest}")
        return manifest
    rows = []
    for source in SOURCES:
        try:
            found = bring(source, out)
        except debian.RecipeError as error:
            debian.require_tools()
            debian.say(f"left out: {error}")
            continue
        debian.say(f"{len(found)} named sounds in {source.package}")
        rows += found
    if not rows:
        raise debian.RecipeError("none of the packages could be had; is a Debian package source configured?")
    beside = manifest.with_suffix(".writing")
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata({_version(): b""}), beside)
    beside.replace(manifest)
    debian.say(f"wrote {manifest}")
    return manifest


def _version() -> bytes:
    """Stamps a manifest, so that one of other packages or rules is written anew."""
    import hashlib

    folder = Path(__file__).parent
    rules = b"".join((folder / name).read_bytes() for name in ("named_sounds.py", "sound_sources.py"))
    return b"rules-" + hashlib.sha256(rules).hexdigest()[:16].encode()


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with the reason on stderr."""
    return debian.run_recipe(build, __doc__, "named-sounds", words)


if __name__ == "__main__":
    sys.exit(main())
