"""Sound effects whose file names say what they are, from Debian's games and desktop sounds, as a manifest.

    python data/named_sounds.py [--out DIR]

Brings a few Debian packages without root and writes DIR/manifest.parquet (by default
data/cache/named-sounds): id, audio, text (the phrase that the name makes), label (the package). Music,
speech, interface sounds that are named for what the program does, and test signals are left out. A package
that this release of Debian has under another name, or not at all, is named on stderr and left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import debian_packages as debian

# Package, and the folder names in which its sound effects lie. Licences: each package's copyright file.
PACKAGES = {
    "sound-theme-freedesktop": ("stereo",),  # CC0, CC-BY-SA 2.0-3.0, GPL-2
    "minetest-data": ("sounds",),  # CC-BY-SA 3.0, CC0, CC-BY 3.0
    "unknown-horizons": ("sounds",),  # GPL-2+, CC-BY-SA 3.0
    "wesnoth-1.16-data": ("sounds", "ambient"),  # GPL-2+, CC-BY-SA 4.0
}
SOUNDS = {".ogg", ".oga", ".wav", ".flac"}
# Names of a use instead of a sound, by their first word.
USES = {
    *("audio", "arrive", "build", "button", "chat", "checkbox", "click", "complete", "contract", "device"),
    *("dialog", "expand", "gamestart", "invalid", "join", "leave", "lose", "message", "miss", "network"),
    *("new", "player", "power", "receive", "refresh", "select", "service", "slider", "slowed", "success"),
    *("suspend", "timer", "ugg", "win", "window", "worker", "trash", "screen", "main", "place", "soundstuff"),
}
MODS = {"default", "doors", "dig", "carts", "env", "sounds", "xpanes", "bucket", "boats", "farming"}
PLAIN = {  # words of these names, as a person would say them
    "die": "dying",
    "hit": "hurt",
    "dug": "digging",
    "smith": "blacksmith hammering",
    "lumberjack": "lumberjack chopping wood",
    "sheepfield": "sheep",
    "stonemason": "stonemason chiselling stone",
    "chapel": "chapel bells",
    "tavern": "people in a tavern",
    "flippage": "turning a page",
    "warehouse": "warehouse",
    "bell": "bell ringing",
    "wose": "tree creature",
}


def phrase(name: str) -> str:
    """What a sound's file name says, as a phrase: `magic-holy-2` -> `magic holy`; empty where nothing."""
    words = [word for word in re.split(r"[\W_]+|\d+", name.lower()) if word]
    while len(words) > 1 and words[0] in MODS:
        words = words[1:]
    if not words or words[0] in USES or "miss" in words:
        return ""
    return " ".join(PLAIN.get(word, word) for word in words)


def find_sounds(root: Path, base: Path, folders: Sequence[str], label: str) -> list[dict[str, str]]:
    """A row for each sound below `root` in one of `folders` whose name is a phrase; paths from `base`."""
    rows = []
    for path in sorted(root.rglob("*")):
        text = phrase(path.stem) if path.suffix in SOUNDS and set(folders) & set(path.parts[:-1]) else ""
        if text:
            name = f"{label}/{path.relative_to(root).with_suffix('').as_posix()}"
            rows.append(
                {"id": name, "audio": path.relative_to(base).as_posix(), "text": text, "label": label}
            )
    return rows


def build(out: Path) -> Path:
    """Bring the packages, write the manifest, return its path; does nothing where it is there already."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = out / "manifest.parquet"
    if manifest.exists():
        debian.say(f"the sounds are there already: {manifest}")
        return manifest
    rows = []
    for package, folders in PACKAGES.items():
        try:
            (folder,) = debian.unpack([package], out, cache=debian.CACHE)
        except debian.RecipeError as error:
            debian.require_tools()
            debian.say(f"left out: {error}")
            continue
        found = find_sounds(folder, out, folders, package)
        debian.say(f"{len(found)} named sounds in {package}")
        rows += found
    if not rows:
        raise debian.RecipeError("none of the packages could be had; is a Debian package source configured?")
    beside = manifest.with_suffix(".writing")
    pq.write_table(pa.Table.from_pylist(rows), beside)
    beside.replace(manifest)
    debian.say(f"wrote {manifest}")
    return manifest


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=debian.CACHE / "named-sounds", metavar="DIR")
    try:
        build(parser.parse_args(words).out)
    except debian.RecipeError as error:
        debian.say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
