"""The starter's calibration: how a cosine becomes a probability, fitted on the stamps' training half.

    python data/fit_calibration.py [--dry-run]

Writes retrieval/models/starter/calibration.json; benchmarks/calibration.py measures it on the test half. A
hit is relevant where it is of the query's own stamp, or of one whose caption says nearly the same; between
media of one kind also where it is of the same folder, and there a query's own stamp is left out. The vectors
are those of heads that have not seen the row.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import debian_packages as debian
import numpy as np
import numpy.typing as npt
import starter_features as features
from starter_data import SAME_CAPTION, load_stamps
from starter_fit import Array
from unseen_stamps import unseen

from indexer.types import Modality
from retrieval.models.registry import load_model
from retrieval.query.scores.bank import shipped_phrases
from retrieval.query.scores.calibrate import SHIPPED, Pair
from retrieval.query.scores.calibration_fit import Answers, fitted

Rows = npt.NDArray[np.intp]
Sides = dict[Modality, tuple[Array, Rows]]  # vectors, and the row of each


def answers_between(
    queries: Sides, galleries: Sides, captions: Array, labels: Sequence[str], phrases: Array
) -> dict[Pair, Answers]:
    """Queries against galleries for every pair of modalities; rows are those of `captions` and `labels`."""
    alike = captions @ captions.T >= SAME_CAPTION
    np.fill_diagonal(alike, True)
    kinds = np.array(labels)[:, None] == np.array(labels)[None, :]
    found = {}
    for one, (asked, asking) in queries.items():
        bank, owner = asked, asking
        if one is Modality.TEXT:
            bank = np.concatenate([asked, phrases])
            owner = np.concatenate([asking, np.full(len(phrases), -1)])
        for other, (segments, item) in galleries.items():
            same = asking[:, None] == item[None, :]
            relevant = alike[np.ix_(asking, item)]
            if one is other:
                relevant = relevant | kinds[np.ix_(asking, item)]
            found[one, other] = Answers(
                asked,
                segments,
                item,
                relevant & ~same if one is other else relevant,
                same if one is other else np.zeros_like(same),
                bank,
                owner[:, None] != item[None, :],
            )
    return found


def training_answers() -> dict[Pair, Answers]:
    """The training half against itself."""
    stamps, seen = load_stamps(), unseen()
    rows = [stamps.rows[row] for row in stamps.train]
    every = np.arange(len(rows))
    sides: Sides = {
        Modality.IMAGE: (seen.image, every),
        Modality.TEXT: (seen.text, every),
        Modality.AUDIO: (seen.audio, seen.audio_row),
    }
    phrases = features.texts(shipped_phrases())
    return answers_between(sides, sides, seen.text, [row["label"] for row in rows], phrases)


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="fit and print, write nothing")
    dry = parser.parse_args(words).dry_run
    try:
        found = fitted(training_answers())
    except debian.RecipeError as error:
        debian.say(f"error: {error}")
        return 2
    said = {
        "space_id": load_model("starter").space_id,
        "made from": "Tux Paint stamps, training half, vectors of heads that have not seen the row",
    }
    data = type(found)(found.lines, {**found.said, **said}).to_json()
    if not dry:
        Path(SHIPPED).write_bytes(data)
    sys.stdout.write(data.decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
