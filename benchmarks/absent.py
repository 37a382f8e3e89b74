"""Questions about things that no Tux Paint stamp shows, says or sounds like, for benchmarks of an empty
answer.

Each is a question with the words that must occur in no caption and no label of any stamp: `check` looks for
them. What a word list cannot tell was read off the list of captions: nothing among them is what is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ABSENT: dict[str, tuple[str, ...]] = {
    "an invoice from last year": ("invoice", "bill", "receipt"),
    "a chart of the stock market": ("chart", "stock", "market"),
    "a subway map": ("subway", "map"),
    "a passport photograph": ("passport", "photograph"),
    "an x-ray of a broken rib": ("rib", "x-ray", "xray"),
    "a dentist's chair": ("dentist",),
    "a surgeon in an operating room": ("surgeon", "operating"),
    "a prison cell": ("prison", "jail"),
    "a courtroom with a judge": ("court", "courtroom", "judge"),
    "a nuclear power plant": ("nuclear", "reactor"),
    "an oil refinery": ("oil", "refinery"),
    "an assembly line in a factory": ("assembly", "factory"),
    "a tattoo on a shoulder": ("tattoo", "shoulder"),
    "a bar code": ("barcode", "bar code"),
    "graffiti on a concrete wall": ("graffiti", "concrete"),
    "the skyline of a city at night": ("skyline", "skyscraper"),
    "a roller coaster": ("coaster",),
    "a swimming pool with lanes": ("swimming", "pool"),
    "two boxers in a ring": ("boxer", "boxing"),
    "a ballet dancer on stage": ("ballet", "dancer", "stage"),
    "a sumo wrestler": ("sumo", "wrestler"),
    "people waiting in a departure lounge": ("departure", "lounge"),
    "a traffic jam on a motorway": ("jam", "motorway", "highway"),
    "a scuba diver at a wreck": ("scuba", "diver", "wreck"),
    "a mountaineer on an ice wall": ("mountaineer", "climber"),
    "a volcano that erupts": ("volcano", "lava"),
    "a plate of sushi": ("sushi",),
    "a bowl of ramen": ("ramen", "noodle"),
    "a wine cellar with barrels": ("wine", "cellar", "barrel"),
    "the front page of a newspaper": ("newspaper", "page"),
    "a spreadsheet with columns of numbers": ("spreadsheet", "columns"),
    "a fingerprint": ("fingerprint",),
    "a double helix of DNA": ("helix", "dna"),
    "a business meeting around a table": ("meeting", "business"),
    "a bride and a groom": ("bride", "groom", "wedding"),
    "a parliament in session": ("parliament", "session"),
    "an elevator with a mirror": ("elevator", "mirror"),
    "an escalator in a department store": ("escalator", "store"),
    "a sewing machine": ("sewing",),
    "a cash machine": ("atm", "cash"),
    "a firing squad": ("squad",),
    "a glass blower at a furnace": ("blower", "furnace"),
    "a yoga class": ("yoga",),
    "a library full of old books": ("library", "books"),
    "sand dunes without end": ("dune", "sand"),
    "a queue of refugees at a border": ("refugee", "border"),
    "a screenshot of an error message": ("screenshot", "error"),
    "a microscope slide of bacteria": ("microscope", "bacteria"),
}
WORD = re.compile(r"[a-z0-9-]+")


def check(captions: Iterable[str]) -> list[str]:
    """The questions of which a caption or label has a word, with that text: none is right."""
    told = [(text, set(WORD.findall(text.lower()))) for text in captions]
    found = []
    for question, words in ABSENT.items():
        wanted = {form for word in words for form in (word, f"{word}s")}
        said = next((text for text, known in told if wanted & known), None)
        if said is not None:
            found.append(f"{question}: {said}")
    return found
