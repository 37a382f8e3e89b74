"""`make demo`: bring real media, index them, search them in four directions, show what comes back.

With `--media DIR` it does the same with the user's own folder. Each command is shown as it is run, so that it
does the same when it is copied into the same terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE / "cache"
STAMPS = CACHE / "tuxpaint-stamps"
TRIPTYCH = Path(sys.executable).parent / "triptych"


def program() -> str:
    """What to type for this environment's `triptych`: its name where the shell finds it, else its path."""
    found = shutil.which(TRIPTYCH.name)
    return TRIPTYCH.name if found and Path(found).resolve() == TRIPTYCH.resolve() else from_here(TRIPTYCH)


def from_here(path: Path) -> str:
    """A path as it is shortest to type here: relative below this folder, else absolute; never a bare name."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow the environment's links
    if not path.is_relative_to(Path.cwd()):
        return str(path)
    below = path.relative_to(Path.cwd())
    return str(below) if len(below.parts) > 1 else f"./{below}"


def triptych(*arguments: str) -> int:
    """Run the real command as a person would, and show how it is called."""
    command = [program(), *arguments]
    print(f"\n$ {shlex.join(command)}", flush=True)
    return subprocess.run(command, check=False).returncode


def stamps_demo(index: Path) -> int:
    """Four directions on the Tux Paint stamps."""
    recipe = subprocess.run([sys.executable, str(HERE / "tuxpaint_stamps.py")], check=False)
    if recipe.returncode:
        return recipe.returncode
    start = time.perf_counter()
    named = ("--index", from_here(index))
    if triptych("index", from_here(STAMPS / "manifest.parquet"), *named):
        return 2
    cow, violin = stamp("animals/mammals/bovines/cow"), stamp("hobbies/music/string/violin", "audio")
    for title, arguments in (
        ("words -> pictures", ("search", "a singing bird", "--in", "image")),
        ("words -> sounds", ("search", "fireworks exploding", "--in", "audio")),
        ("a picture -> words", ("search", cow, "--in", "text")),
        ("a sound -> pictures and words", ("search", violin, "--in", "image,text")),
    ):
        print(f"\n--- {title}", end="")
        if triptych(*arguments, "-k", "4", *named):
            return 2
    print(
        f"\nindexed and searched in {time.perf_counter() - start:.0f} s; now your own: "
        f"{shlex.quote(program())} index ~/Media"
    )
    return 0


def stamp(name: str, column: str = "image") -> str:
    """A stamp's file, as it is typed here."""
    import pyarrow.parquet as pq

    rows = pq.read_table(STAMPS / "manifest.parquet", columns=["id", column]).to_pylist()
    found = [row[column] for row in rows if row["id"] == name and row[column]]
    if not found:
        raise SystemExit(f"the stamps hold no {column} called {name}")
    return from_here(STAMPS / found[0])


def folder_demo(media: Path, index: Path) -> int:
    """One search with an item of each kind that the folder holds."""
    if not media.is_dir():
        print(f"error: {media} is no folder\n  call it as make demo MEDIA=DIR", file=sys.stderr)
        return 2
    named = ("--index", from_here(index))
    if triptych("index", from_here(media), *named):
        return 2
    triptych("info", *named)
    listing = subprocess.run(
        [str(TRIPTYCH), "search", "a photograph", "--json", "-k", "3", *named],
        capture_output=True,
        text=True,
        check=False,
    )
    hits = json.loads(listing.stdout)["hits"] if listing.returncode == 0 else []
    triptych("search", "a photograph", "-k", "5", *named)
    for path in dict.fromkeys(hit["path"] for hit in hits if "path_bytes" not in hit):
        triptych("search", f"file:{from_here(Path(path))}", "-k", "5", *named)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--media", type=Path, help="your own folder, in place of the stamps")
    options = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    index = CACHE / ("stamps.triptych" if options.media is None else "own.triptych")
    shutil.rmtree(index, ignore_errors=True)  # of an earlier demo, perhaps with an earlier model
    if options.media is None:
        return stamps_demo(index)
    return folder_demo(options.media.expanduser().absolute(), index)


if __name__ == "__main__":
    sys.exit(main())
