"""Fill the tables of docs/starter.md. `--check` only compares, for the tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tables import HERE, Json, ranged, read, short, table, write

WAYS = ("text to image", "image to text")


def pictures(quality: Json, _sounds: Json, _heads: Json) -> str:
    """Text and image, on the plain split."""
    image = quality["image"]
    rows = [
        [
            way,
            *(ranged(image["test"][way][cut]) for cut in ("R@1", "R@5", "R@10")),
            ranged(image["test, no near-duplicate in training"][way]["R@10"]),
            ranged(image["test, closed form"][way]["R@10"]),
            ranged(image["test, ConSE alone"][way]["R@10"]),
        ]
        for way in WAYS
    ]
    grouped = "R@10, near-duplicates kept apart"
    return table(["direction", "R@1", "R@5", "R@10", grouped, "R@10, closed form", "R@10, ConSE alone"], rows)


def photographs(quality: Json, _sounds: Json, _heads: Json) -> str:
    """What the head remembers of photographs."""
    rows = [
        [
            name,
            str(each["pictures"]),
            *(short(each[who][way]) for way in WAYS for who in ("ConSE alone", "head")),
        ]
        for name, each in quality["image"]["photographs"].items()
    ]
    head = ["pictures", "", "name to picture: ConSE", "head", "picture to name: ConSE", "head"]
    return table(head, rows)


def sounds(_quality: Json, sounds: Json, _heads: Json) -> str:
    """Sounds among the test stamps, and of packages left out."""
    rows = []
    for kind in ("text-audio", "image-audio"):
        other = kind.split("-")[0]
        for way in (f"{other} to audio", f"audio to {other}"):
            cells = [ranged(sounds["test"][who][kind][way]["R@10"]) for who in METHODS]
            rows.append(["stamps' test half, 46", way, *cells])
    for place, called in (
        ("all packages, each its own gallery", "each package left out"),
        ("qabcs-data left out", "qabcs-data left out"),
    ):
        for way in ("text to audio", "audio to text"):
            cells = [ranged(sounds["packages left out"][place][who][way]["R@10"]) for who in METHODS]
            rows.append([called, way, *cells])
    for way in ("text to audio", "audio to text"):
        cells = [ranged(sounds["held-out third"][who][way]["R@10"]) for who in METHODS]
        rows.append([f"a third of all names, {sounds['held-out third']['sounds']}", way, *cells])
    return table(["gallery", "direction", "R@10", "ridge alone", "ConSE alone"], rows)


METHODS = ("shipped", "ridge alone", "ConSE alone")


def everyday(_quality: Json, sounds: Json, _heads: Json) -> str:
    """Ten everyday classes of packages left out."""
    found = sounds["packages left out"]["everyday"]
    rows = [[who, ranged(found[who]["right"]), short(found[who]["mean over classes"])] for who in METHODS]
    return table(["head", f"right, of {found['shipped']['sounds']}", "mean over classes"], rows)


def heads(_quality: Json, _sounds: Json, heads: Json) -> str:
    """Ways to fit a head on the same features."""
    rows = [[each["way"], *(ranged(each[way]["R@10"]) for way in WAYS)] for each in heads["ways"]]
    return table(["head", "text to image, R@10", "image to text, R@10"], rows)


TABLES: dict[str, Callable[[Json, Json, Json], str]] = {
    "pictures": pictures,
    "photographs": photographs,
    "sounds": sounds,
    "everyday": everyday,
    "heads": heads,
}


if __name__ == "__main__":
    results = [read(name) for name in ("starter_quality", "starter_sounds", "compare_heads")]
    write(HERE / "starter.md", {name: partial(make, *results) for name, make in TABLES.items()})
