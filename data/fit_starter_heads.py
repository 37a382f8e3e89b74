"""Fit the starter's heads from nothing, measure them on stamps never used for a choice, and write both.

    python data/fit_starter_heads.py [--dry-run]

Writes retrieval/models/starter/heads/*.safetensors, and what was measured to starter_quality.json (pictures)
and starter_sounds.json in benchmarks/results/; well under an hour on two cores the first time, some minutes
with the features in data/cache/features. The split: stamps not below symbols/ whose caption no other stamp
has; one is for testing when the first byte of the SHA-256 of its id is even, and the gallery is the test
stamps. Every choice is made inside the other half. The image head stands in starter_images.py, the audio head
in starter_sounds.py. Drawings and sounds from other packages join the fit; drawings that look the same as a
stamp are taken out. The same machine gives the same heads; another rounds otherwise, and so gives heads of
another space that measure the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import debian_packages as debian
import starter_images
import starter_sounds
from starter_data import load_stamps

RESULT = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "starter_quality.json"


def machine() -> dict[str, Any]:
    packages = ("numpy", "torch", "timm", "open-clip-torch", "sentence-transformers", "resvg-py", "pillow")
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "date": datetime.now(UTC).date().isoformat(),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with the reason on stderr. The report goes to stdout as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="measure and print, write nothing")
    dry = parser.parse_args(words).dry_run
    try:
        stamps = load_stamps()
        image, about_image, bank = starter_images.fit_image(stamps)
        audio, about_audio = starter_sounds.fit_audio(stamps, bank, image)
    except debian.RecipeError as error:
        debian.say(f"error: {error}")
        return 2
    quality = {"seed": starter_images.SEED, "image": about_image} | machine()
    if not dry:
        starter_images.write_image(image, about_image)
        starter_sounds.write_audio(audio, about_audio)
        for path, report in ((RESULT, quality), (starter_sounds.RESULT, about_audio)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(quality | {"audio": about_audio}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
