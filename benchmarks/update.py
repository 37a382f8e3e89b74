"""What bringing an index up to date costs, as shares of building it.

A tree of 20,000 small pictures is indexed with the starter; then rescanned unchanged, touched, renamed,
and with 1 % changed. Apart from that, an unchanged rescan of 100,000 files, whose index is made with
vectors of no model, since a rescan encodes nothing.

    python benchmarks/update.py [--files 20000] [--rescan-files 100000]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Budget, save, say
from PIL import Image

from indexer.build import BuildOptions, UpdateReport, update
from indexer.twins import TwinsDerivation
from indexer.types import Modality
from indexer.words import WordLists
from retrieval.indexing import derivations
from retrieval.models.registry import load_model

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.toy import ToyEncoder


def make_pictures(folder: Path, count: int) -> None:
    """`count` different small JPEGs in folders of 200."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // 200:03d}"
        place.mkdir(parents=True, exist_ok=True)
        make_picture(place / f"{number:06d}.jpg", rng)


def make_picture(file: Path, rng: np.random.Generator) -> None:
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC).save(file, quality=85)


def timed(work: Callable[[], UpdateReport]) -> tuple[float, UpdateReport]:
    start = time.perf_counter()
    report = work()
    return time.perf_counter() - start, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rescan-files", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        seconds, counts = measure(Path(name), options.files)
        rescan = rescan_seconds(Path(name), options.rescan_files)
    full = seconds["full build"]
    budgets = [
        Budget("update of 1 % changed / full build", seconds["1 % changed"] / full, 0.03),
        Budget(f"unchanged rescan of {options.rescan_files:,} files", rescan, 2.0, unit=" s"),
    ]
    save(
        "update",
        {
            "files": options.files,
            "seconds": {key: round(value, 3) for key, value in seconds.items()},
            "share_of_full_build": {key: round(value / full, 4) for key, value in seconds.items()},
            "encoded": counts,
            "rescan_files": options.rescan_files,
            "budgets": [budget.as_dict() for budget in budgets],
        },
    )


def measure(folder: Path, files: int) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds and encoded segments of each kind of update."""
    media, index = folder / "media", folder / "index"
    say(f"making {files:,} pictures")
    make_pictures(media, files)
    model = load_model("starter")
    tower, options = model.tower(Modality.IMAGE), BuildOptions(derivations=derivations(model))
    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}

    def step(kind: str) -> None:
        say(kind)
        seconds[kind], report = timed(
            lambda: update(index, [media], encoders={Modality.IMAGE: tower}, options=options)
        )
        counts[kind] = sum(report.encoded.values())

    step("full build")
    time.sleep(3)  # so that no file is younger than a file system's clock can tell
    step("settle")
    step("unchanged")
    touched = sorted(media.rglob("*.jpg"))
    for file in touched:
        file.touch()
    old = time.time() - 60
    for file in touched:
        os.utime(file, (old, old))
    step("touched")
    for place in sorted(media.iterdir()):
        place.rename(place.with_name(f"moved-{place.name}"))
    step("renamed")
    rng = np.random.default_rng(1)
    for file in sorted(media.rglob("*.jpg"))[::100]:
        make_picture(file, rng)
        os.utime(file, (old + 1, old + 1))
    step("1 % changed")
    assert counts["touched"] == counts["renamed"] == counts["unchanged"] == 0, counts
    assert counts["1 % changed"] == len(touched[::100]), counts
    return seconds, counts


def rescan_seconds(folder: Path, files: int) -> float:
    """Median seconds of three unchanged rescans of a tree of small text files."""
    media, index = folder / "texts", folder / "text-index"
    say(f"making {files:,} texts")
    old = time.time() - 60
    for number in range(files):
        place = media / f"{number // 500:03d}"
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{number:06d}.txt"
        file.write_text(f"note {number}")
        os.utime(file, (old, old))
    encoder = ToyEncoder(Modality.TEXT)
    options = BuildOptions(derivations=(WordLists(), TwinsDerivation()))

    def scan() -> UpdateReport:
        return update(index, [media], encoders={Modality.TEXT: encoder}, options=options)

    say("indexing them")
    scan()
    say("rescanning")
    return sorted(timed(scan)[0] for _ in range(3))[1]


if __name__ == "__main__":
    main()
