"""Fetch Debian packages without root and unpack their files: the part that every Debian recipe shares.

apt-get keeps all of its state in data/cache/apt/, so the system's own lists and cache are neither read
nor written, and dpkg only unpacks. What a package holds is the recipes' business, not this module's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

CACHE = Path(__file__).resolve().parent / "cache"
LISTS_UPDATED = ".updated"

Say = Callable[[str], None]


class RecipeError(Exception):
    """A recipe that cannot go on. The message says what is missing and what to do."""


def say(line: str) -> None:
    """One line of progress, on stderr: stdout is for data."""
    print(line, file=sys.stderr, flush=True)


def require_tools() -> None:
    """Raise RecipeError where this machine has no apt-get or dpkg."""
    missing = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
    if missing:
        raise RecipeError(
            f"{' and '.join(missing)} not found: this recipe needs Debian or Ubuntu. "
            "On another system, run the demo on a folder of your own: make demo MEDIA=DIR"
        )


def run_recipe(
    build: Callable[[Path], object], about: str | None, folder: str, words: Sequence[str] | None
) -> int:
    """A recipe's command line: `build` into --out, by default data/cache/<folder>. Exit status 0 or 2."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=CACHE / folder, metavar="DIR")
    try:
        build(parser.parse_args(words).out)
    except RecipeError as error:
        say(f"error: {error}")
        return 2
    return 0


def unpack(packages: Sequence[str], folder: Path, *, cache: Path = CACHE, say: Say = say) -> list[Path]:
    """Bring each package and unpack it to folder/<package>; one that is there already is left alone.

    Returns the packages' folders, in order. A package is unpacked beside its place and renamed, so an
    interrupted run leaves nothing half done. Raises RecipeError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in packages if not (folder / name).is_dir()]
    if missing:
        require_tools()
        refresh_lists(cache, say=say)
    for name in missing:
        say(f"downloading {name}")
        archive = _download(name, cache)
        beside = folder / f".{name}.unpacking"
        shutil.rmtree(beside, ignore_errors=True)
        say(f"unpacking {name} ({archive.stat().st_size / 1e6:.0f} MB)")
        _run(["dpkg", "-x", str(archive), str(beside)], cwd=folder, doing=f"unpack {name}")
        beside.rename(folder / name)
        archive.unlink()
    return [folder / name for name in packages]


def refresh_lists(cache: Path = CACHE, *, say: Say = say) -> None:
    """Bring the package lists into the private folders, once a process."""
    root = cache / "apt"
    if os.environ.get("TRIPTYCH_APT_FRESH") == str(root):
        return
    for part in ("state/lists/partial", "cache/archives/partial", "debs"):
        (root / part).mkdir(parents=True, exist_ok=True)
    say("refreshing the package lists in a private folder")
    _run(["apt-get", "-q", *_private(root), "update"], cwd=root, doing="refresh the package lists")
    os.environ["TRIPTYCH_APT_FRESH"] = str(root)


def _private(root: Path) -> list[str]:
    """Options that keep apt's state below `root`, and its rights to read it when run as root."""
    options = {"Dir::State": root / "state", "Dir::Cache": root / "cache", "APT::Sandbox::User": "root"}
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _download(name: str, cache: Path) -> Path:
    """The package's archive. apt-get checks its hash, and takes up a download that was cut off."""
    debs = cache / "apt" / "debs"
    _run(
        ["apt-get", "-q", *_private(cache / "apt"), "download", name],
        cwd=debs,
        doing=f"download {name}",
    )
    found = sorted(debs.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RecipeError(f"apt-get downloaded no archive of {name}; run this again")
    return found[-1]


def _run(command: list[str], *, cwd: Path, doing: str) -> None:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines()[-6:]
        raise RecipeError("\n".join([f"could not {doing}: {command[0]} exited {result.returncode}", *said]))
