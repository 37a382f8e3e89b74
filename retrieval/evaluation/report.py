"""An evaluation as JSON and as one HTML file that needs no network, no script and no other file.

Everything that came from data (texts, names, labels) reaches the page through the template's escaping.
"""

from __future__ import annotations

import base64
import io
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from indexer.errors import MediaError
from indexer.fsio import write_atomic
from indexer.types import Modality
from retrieval.evaluation import diagnosis, plots
from retrieval.evaluation.diagnosis import Miss, Similarities
from retrieval.evaluation.encode import EncodedRows
from retrieval.evaluation.intervals import Difference, Interval
from retrieval.evaluation.run import Comparison, DirectionResult, Evaluation

Json = dict[str, Any]

MISSES = 12  # of all directions together
THUMB = 160  # pixels of a thumbnail's longer side
SHOWN_TEXT = 300  # characters of a text
PACKAGES = ("triptych", "numpy", "onnxruntime", "torch")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, slots=True)
class About:
    """Where an evaluation's numbers come from."""

    model: str  # name
    space_id: str
    source: str  # of the rows, as the user named it; or the index
    digest: str | None = None  # of the manifest's rows
    split: str | None = None  # which part of it; None: all rows
    against: str | None = None  # the model that this one is compared with
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    versions: Mapping[str, str] = field(default_factory=_versions)


def to_json(
    evaluation: Evaluation,
    about: About,
    *,
    encoded: EncodedRows | None = None,
    comparison: Comparison | None = None,
) -> Json:
    """The whole of it as one JSON object; an interval that does not exist is null."""
    document: Json = {
        **{name: value for name, value in asdict(about).items() if name != "versions"},
        "versions": dict(about.versions),
        "settings": asdict(evaluation.settings),
        "rows": evaluation.rows,
        "mean_recall": evaluation.mean_recall,
        "warnings": list(evaluation.cautions),
        "directions": [_direction_json(way) for way in evaluation.directions],
    }
    if comparison is not None:
        document["comparison"] = [
            {
                "from": way.direction[0].value,
                "to": way.direction[1].value,
                "differences": {name: _numbers(value) for name, value in way.differences.items()},
            }
            for way in comparison.directions
        ]
        document["not_compared"] = [[a.value, b.value] for a, b in comparison.only_one]
    if encoded is not None:
        document["failures"] = [{"path": _shown(f.path), "error": f.reason} for f in encoded.failures]
    return document


def _direction_json(way: DirectionResult) -> Json:
    return {
        "from": way.direction[0].value,
        "to": way.direction[1].value,
        "queries": way.queries,
        "gallery": way.gallery,
        "relevant_per_query": way.relevant,
        "metrics": {name: _numbers(value) for name, value in way.metrics.items()},
        "chance": dict(way.chance),
    }


def _numbers(value: Interval | Difference) -> Json:
    return {
        name: None if isinstance(number, float) and math.isnan(number) else number
        for name, number in asdict(value).items()
    }


def write_html(
    path: Path,
    encoded: EncodedRows,
    evaluation: Evaluation,
    about: About,
    *,
    comparison: Comparison | None = None,
) -> None:
    """Write the page, whole or not at all. OSError where it cannot be written."""
    write_atomic(path, html(encoded, evaluation, about, comparison=comparison).encode("utf-8", "replace"))


def html(
    encoded: EncodedRows,
    evaluation: Evaluation,
    about: About,
    *,
    comparison: Comparison | None = None,
) -> str:
    """The page: numbers, plots, the worst failures with their pictures, settings and provenance."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    # `undefined` and no bare globals: a name that the template misspells is an error, not a blank.
    environment = Environment(
        loader=PackageLoader("retrieval.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "range": between}
    vectors, examples, seed = encoded.vectors, encoded.examples, evaluation.settings.seed
    samples = [diagnosis.similarities(vectors, way, seed=seed) for way in _one_way(evaluation)]
    return environment.get_template("report.html.j2").render(
        about=about,
        evaluation=evaluation,
        comparison=comparison,
        failures=[(_shown(failure.path), failure.reason) for failure in encoded.failures],
        recall=Markup(plots.recall_svg(evaluation.directions)),
        similarity=Markup(plots.similarity_svg(samples)),
        plane=Markup(plots.plane_svg(diagnosis.plane(vectors, examples, seed=seed))),
        separations=[_separation(sample) for sample in samples],
        gaps=diagnosis.modality_gaps(vectors, examples),
        misses=[_shown_miss(miss, encoded.names) for miss in _misses(encoded, evaluation)],
    )


def _one_way(evaluation: Evaluation) -> list[DirectionResult]:
    """One direction of each two modalities: cosines are the same both ways."""
    ways: dict[frozenset[Modality], DirectionResult] = {}
    for way in evaluation.directions:
        ways.setdefault(frozenset(way.direction), way)
    return list(ways.values())


def _separation(sample: Similarities) -> Json:
    return {
        "name": f"{sample.direction[0]} and {sample.direction[1]}",
        "pairs": float(sample.pairs.mean()),
        "others": float(sample.others.mean()) if len(sample.others) else float("nan"),
        "apart": sample.apart,
    }


def _misses(encoded: EncodedRows, evaluation: Evaluation) -> list[Miss]:
    """The worst of every direction, as many of each."""
    each = max(1, MISSES // len(evaluation.directions))
    ways = evaluation.directions
    found = [diagnosis.worst_misses(encoded.vectors, way, limit=each) for way in ways]
    return [miss for own in found for miss in own][:MISSES]


def _shown_miss(miss: Miss, names: Mapping[Modality, Sequence[str]]) -> Json:
    first, second = miss.direction
    return {
        "direction": f"{first} to {second}",
        "rank": miss.rank,
        "gallery": miss.gallery,
        "query": _content(first, names[first][miss.query]),
        "wanted": _content(second, names[second][miss.wanted]) | {"score": miss.wanted_score},
        "got": _content(second, names[second][miss.got]) | {"score": miss.got_score},
    }


def _content(modality: Modality, name: str) -> Json:
    """What is shown of a content: a text's beginning, a file's name, a picture's thumbnail."""
    if modality is Modality.TEXT:
        text = _shown(name)
        return {"text": text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…", "picture": None}
    picture = thumbnail(name) if modality is Modality.IMAGE else None
    return {"text": _shown(os.path.basename(name)), "picture": picture}  # noqa: PTH119 - bytes-exact


def _shown(name: str) -> str:
    """A name as valid Unicode: bytes that could not be decoded as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace") if not _plain(name) else name


def _plain(name: str) -> bool:
    return not any(0xD800 <= ord(char) <= 0xDFFF for char in name)


def thumbnail(path: str) -> str | None:
    """A small picture as a data URI (JPEG on white); None where the file cannot be read any more."""
    from PIL import Image

    from indexer.media.image import read_image

    try:
        picture = Image.fromarray(read_image(path, min_side=THUMB))
    except (MediaError, OSError):
        return None
    picture.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def number(name: str, value: float) -> str:
    """A metric for people: shares as a percentage with one decimal, ranks as they are."""
    if math.isnan(value):
        return "–"
    return f"{value:.1f}" if name.endswith("rank") else f"{100 * value:.1f}"


def signed(name: str, value: float) -> str:
    """As `number`, with its sign."""
    return ("+" if value >= 0 else "−") + number(name, abs(value)) if not math.isnan(value) else "–"


def between(name: str, value: Interval | Difference) -> str:
    """Both ends of an interval, or nothing where there is none."""
    if math.isnan(value.low):
        return ""
    show = signed if isinstance(value, Difference) else number
    return f"{show(name, value.low)} … {show(name, value.high)}"
