"""COCO captions files: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.

Called by manifest.py. Where the pictures lie is not in such a file, so usual places are tried.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from indexer.errors import ManifestError
from indexer.manifest import well_formed
from retrieval.training.rows import SPLIT_WORDS, RowCollector, Said
from retrieval.training.types import PairSet, Split

MAX_BYTES = 4 << 30  # of a file; COCO's own has 92 MB
SAMPLE = 50  # pictures that are looked for to find their folder
_SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation|dev|test|testing)(\d*)(?![a-z])")
_SHAPE = 'a COCO captions file has "images" (id, file_name) and "annotations" (image_id, caption)'


def read_coco(name: str) -> PairSet:
    """A row an image that has captions; the row's id is the image's. ManifestError.

    Every row is of the split that the file's name says (captions_val2017.json), if it names exactly one.
    """
    path = Path(os.path.realpath(name))
    document = _document(name, path)
    images = _images(name, document)
    captions = _captions(name, document, images)
    # Relative to the file, so that the digest stays the same when the data set is moved.
    folder = os.path.relpath(_folder(name, path, images), path.parent)
    split = split_of_name(path.stem)
    collector = RowCollector(name, str(path.parent))
    unknown = [image_id for image_id in captions if image_id not in images]
    for image_id in unknown:
        collector.problem(f"image {image_id}", "has a caption, but is not among the images")
    for image_id, file_name in images.items():
        collector.add(
            Said(
                f"image {image_id}",
                image=os.path.normpath(os.path.join(folder, file_name)),  # noqa: PTH118
                texts=tuple(captions.get(image_id, ())),
                key=image_id,
                split=split,
            )
        )
    return collector.finish(what="images")


def split_of_name(stem: str) -> Split | None:
    """The split that a file's name tells of, None where it names none or several."""
    words = {SPLIT_WORDS[match[1]] for match in _SPLIT.finditer(stem.lower())}
    return words.pop() if len(words) == 1 else None


def _document(name: str, path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{name} has more than {MAX_BYTES >> 30} GB", hint="split it into several")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ManifestError(f"{name} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{name} is not JSON: {error}", hint=_SHAPE) from error
    if not (
        isinstance(document, dict)
        and isinstance(document.get("images"), list)
        and isinstance(document.get("annotations"), list)
    ):
        raise ManifestError(
            f"{name} is JSON, but no COCO captions file",
            hint=f"{_SHAPE}; one object a line goes into a .jsonl",
        )
    return document


def _images(name: str, document: dict[str, Any]) -> dict[str, str]:
    """File names by image id."""
    images: dict[str, str] = {}
    for place, image in enumerate(document["images"]):
        known = (
            isinstance(image, dict) and isinstance(image.get("file_name"), str) and _is_id(image.get("id"))
        )
        if not known:
            raise ManifestError(f"{name}, images[{place}] has no id and file_name", hint=_SHAPE)
        if str(image["id"]) in images:
            raise ManifestError(
                f"{name}, images[{place}] has the id {image['id']!r}, which an earlier image has",
                hint="make the ids unique",
            )
        images[str(image["id"])] = image["file_name"]
    if not images:
        raise ManifestError(f"{name} has no images", hint=_SHAPE)
    return images


def _captions(name: str, document: dict[str, Any], images: Iterable[str]) -> dict[str, dict[str, None]]:
    """Captions by image id, in order, each once. The file may also hold annotations without a caption."""
    captions: dict[str, dict[str, None]] = {}
    for place, annotation in enumerate(document["annotations"]):
        if not isinstance(annotation, dict) or not _is_id(annotation.get("image_id")):
            raise ManifestError(f"{name}, annotations[{place}] has no image_id", hint=_SHAPE)
        text = annotation.get("caption")
        if isinstance(text, str) and text.strip():
            captions.setdefault(str(annotation["image_id"]), {})[well_formed(text.strip())] = None
    if not captions:
        raise ManifestError(
            f"none of the {len(document['annotations'])} annotations of {name} has a caption",
            hint="an instances or keypoints file has none; take the captions file of the same split",
        )
    return captions


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _folder(name: str, path: Path, images: dict[str, str]) -> Path:
    """The usual place that holds most of the first pictures; ManifestError that lists where it looked."""
    base = path.parent
    # captions_train2017 -> train2017
    tokens = [match[0] for match in _SPLIT.finditer(path.stem)] if path.stem else []
    places = [base, base / "images"]
    for token in tokens:
        places += [base / token, base / "images" / token, base.parent / token, base.parent / "images" / token]
    places += [base.parent / "images", base.parent]
    sample = list(images.values())[:SAMPLE]
    found = Counter({place: sum(os.path.lexists(place / one) for one in sample) for place in places})
    best, count = max(found.items(), key=lambda entry: entry[1])
    if not count:
        looked = ", ".join(str(place) for place in dict.fromkeys(places))
        raise ManifestError(
            f"{name}: its pictures ({sample[0]!r} is the first) lie in none of these folders: {looked}",
            hint="put the JSON file beside its pictures, or the pictures into a folder 'images' beside it",
        )
    return best
