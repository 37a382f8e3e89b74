"""Near-duplicates: how many copies made for it are found, what else is taken for one, and how long it takes.

    .venv/bin/python benchmarks/duplicates.py [--pictures 90] [--made 100000]

Stamps of the training half and half of the photographs that packages carry are copied in the ways below, and
the thresholds are chosen on what is found of these copies and on what else is joined, also among symbols and
emoji, which are in neither half; the other halves tell what that gives. Files are deleted by such a list, so
that few wrong pairs count for more than the last copy. Pairs of different pictures that the rule joins are
listed with their names, as some are true twins. The time is of made vectors.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from common import save, say
from PIL import Image, ImageEnhance

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import made_twins
import stamps

from indexer.likeness import NEARNESS, Nearness
from indexer.media.image import read_image
from indexer.media.prepare import prepare_file
from indexer.types import FloatArray, Modality

PICTURE_RULES = tuple(product((0.75, 0.8, 0.85, 0.9), (4, 6, 8), (0.93, 0.95, 0.97), (10, 12, 14)))
SOUND_RULES = tuple(product((0.6, 0.7, 0.8, 0.9, 0.95), (8, 12, 16, 24, 64), (0.9, 0.97)))
LISTED = 40  # pairs that are written out
LEAST = 0.5  # cosine below which two different ones are not looked at


class Medium(NamedTuple):
    """One file as the index sees it."""

    name: str
    copy: str  # how it was made of its original; "" for the original
    vectors: FloatArray  # (windows, dim)
    words: tuple[int | None, ...]  # of each window
    end: float  # seconds; 0 for a picture


def picture_copies(picture: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Ways in which pictures are passed on, each with the file's bytes."""
    width, height = picture.size
    across, down = max(1, round(width * 0.025)), max(1, round(height * 0.025))
    half = picture.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.LANCZOS)
    cut = picture.crop((across, down, width - across, height - down))
    warm = ImageEnhance.Color(ImageEnhance.Brightness(picture).enhance(1.08)).enhance(1.2)
    for name, made, form, options in (
        ("png", picture, "PNG", {}),
        ("jpeg 75", picture, "JPEG", {"quality": 75}),
        ("jpeg 50", picture, "JPEG", {"quality": 50}),
        ("half the size", half, "JPEG", {"quality": 85}),
        ("cropped by 5 %", cut, "JPEG", {"quality": 85}),
        ("recoloured", warm, "JPEG", {"quality": 85}),
    ):
        file = io.BytesIO()
        made.save(file, form, **options)
        yield name, file.getvalue()


def sound_copies(path: Path) -> Iterator[tuple[str, bytes]]:
    """The same of sounds."""
    pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
    for name, made, at, form, subtype in (
        ("wav", pcm, rate, "WAV", "PCM_16"),
        ("vorbis", pcm, rate, "OGG", "VORBIS"),
        ("mp3", pcm, rate, "MP3", "MPEG_LAYER_III"),
        ("22 kHz", soxr.resample(pcm, rate, 22_050), 22_050, "WAV", "PCM_16"),
        ("half as loud", pcm * 0.5, rate, "WAV", "PCM_16"),
    ):
        file = io.BytesIO()
        try:
            soundfile.write(file, made, at, subtype, format=form)
        except (soundfile.LibsndfileError, ValueError):
            continue  # a rate that the format does not have
        yield name, file.getvalue()


def media(paths: Sequence[Path], modality: Modality, *, copied: bool = True) -> list[Medium]:
    """Originals and, if wanted, their copies, each through the index's own reader, preparer and tower."""
    tower = stamps.model().tower(modality)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(paths):
            copies = [("", path)]
            made: Iterable[tuple[str, bytes]] = ()
            if copied and modality is Modality.IMAGE:
                made = picture_copies(Image.fromarray(read_image(path)))
            elif copied:
                made = sound_copies(path)
            for place, (name, data) in enumerate(made):
                file = Path(folder, f"{number}-{place}")
                file.write_bytes(data)
                copies.append((name, file))
            for name, file in copies:
                prepared = list(prepare_file(file, modality, tower.preparer))
                vectors = tower.encode([one.tensor for one in prepared]).astype(np.float16)
                end = prepared[-1].range.end if prepared[-1].range else 0.0
                words = tuple(one.phash for one in prepared)
                found.append(Medium(path.stem, name, vectors.astype(np.float32), words, end))
                if file != path:
                    file.unlink()
    return found


def pairs_of(found: Sequence[Medium], slack: float) -> dict[str, Any]:
    """Numbers of every pair that could be near: cosine, differing bits, and what copy it is of."""
    rows = []
    for a, one in enumerate(found):
        for b, other in enumerate(found[:a]):
            if one.vectors.shape != other.vectors.shape or abs(one.end - other.end) > slack:
                continue
            cosine = float((one.vectors * other.vectors).sum(axis=1).min())
            if cosine < LEAST and one.name != other.name:
                continue
            both = [
                (x ^ y).bit_count() for x, y in zip(one.words, other.words, strict=True) if None not in (x, y)
            ]
            rows.append((a, b, cosine, float(np.mean(both)) if both else -1.0))
    a, b, cosine, bits = (np.array(column) for column in zip(*rows, strict=True))
    return {"a": a, "b": b, "cosine": cosine, "bits": bits}


def near(kind: str, pairs: dict[str, Any], rule: Sequence[float]) -> Any:
    """Which pairs a rule joins: of pictures two cosines, each with its bits; of sounds one without bits."""
    cosine, bits = pairs["cosine"], pairs["bits"]
    if kind == "audio":
        least, most, alone = rule
        return np.where(bits < 0, cosine >= alone, (cosine >= least) & (bits <= most))
    first, few, close, more = rule
    return ((cosine >= first) & (bits <= few)) | ((cosine >= close) & (bits <= more))


def judged(
    found: Sequence[Medium], pairs: dict[str, Any], joined: Any
) -> tuple[dict[str, float], list[tuple[float, float, str, str]]]:
    """The share of each kind of copy that is near its original, and the different originals that are near."""
    asked = [one.copy for one in found if one.copy]
    hits, wrong = dict.fromkeys(asked, 0), []
    columns = (pairs[name][joined].tolist() for name in ("a", "b", "cosine", "bits"))
    for a, b, close, apart in zip(*columns, strict=True):
        one, other = found[a], found[b]
        if one.name == other.name and not other.copy:
            hits[one.copy] += 1
        elif one.name != other.name and not one.copy and not other.copy:
            wrong.append((round(close, 4), apart, other.name, one.name))
    return {name: round(count / asked.count(name), 4) for name, count in hits.items()}, sorted(wrong)[::-1]


def table(found: Sequence[Medium], kind: str, rules: Sequence[Sequence[float]], slack: float) -> list[Any]:
    """A row a rule: its numbers, the mean recall over kinds of copies, how many different ones it joins."""
    pairs, rows = pairs_of(found, slack), []
    for rule in rules:
        recall, wrong = judged(found, pairs, near(kind, pairs, rule))
        rows.append([*rule, round(float(np.mean(list(recall.values()))), 4), len(wrong)])
    return rows


def report(found: Sequence[Medium], kind: str, rule: Sequence[float], slack: float) -> dict[str, Any]:
    """What the rule that is in use does; photographs apart, which most collections are."""
    pairs = pairs_of(found, slack)
    recall, wrong = judged(found, pairs, near(kind, pairs, rule))
    count = sum(not one.copy for one in found)
    result = {
        "originals": count,
        "recall": recall,
        "recall_mean": round(float(np.mean(list(recall.values()))), 4),
        "different_pairs": count * (count - 1) // 2,
        "different_ones_joined": len(wrong),
        "which": wrong[:LISTED],
    }
    photos = {path.stem for path in photographs()}
    own = [one for one in found if one.name in photos]
    if own:
        pairs = pairs_of(own, slack)
        result["recall_of_photographs"] = judged(own, pairs, near(kind, pairs, rule))[0]
    return result


def stamp_files(half: Any, kind: str, count: int | None) -> list[Path]:
    """Files of a half, spread over it."""
    files = [stamps.STAMPS / row[kind] for row in stamps.rows_of(half) if row[kind]]
    return files[:: max(1, len(files) // count)][:count] if count else files


def photographs() -> list[Path]:
    """Those that packages carry."""
    import skimage
    import sklearn

    names = (
        "astronaut.png brick.png chelsea.png coffee.png coins.png grass.png gravel.png moon.png rocket.jpg"
    )
    found = [Path(skimage.__file__).parent / "data" / name for name in names.split()]
    found += [
        Path(sklearn.__file__).parent / "datasets/images" / name for name in ("china.jpg", "flower.jpg")
    ]
    return [path for path in found if path.exists()]


def made(count: int, nearness: Nearness) -> dict[str, Any]:
    """Time and recall on made vectors."""
    with tempfile.TemporaryDirectory() as folder:
        return made_twins.measured(Path(folder), count, nearness)


def measured(of: Callable[[str, str], list[Medium]]) -> dict[str, Any]:
    """A table of the training half, and what the rule in use gives on both."""
    use = NEARNESS
    picture = (use.image_cosine, use.image_bits, use.image_close, use.image_close_bits)
    sound = (use.audio_cosine, use.audio_bits, use.audio_cosine_alone)
    result: dict[str, Any] = {}
    for kind, rules, slack, rule in (
        ("image", PICTURE_RULES, 0.0, picture),
        ("audio", SOUND_RULES, use.audio_seconds, sound),
    ):
        found = {half: of(kind, half) for half in ("train", "test")}
        result[kind] = {
            "rule": rule,
            **{half: report(own, kind, rule, slack) for half, own in found.items()},
            "train_table": table(found["train"], kind, rules, slack),
        }
    return result


def crowd(found: Sequence[Medium], rules: Sequence[Sequence[float]]) -> dict[str, Any]:
    """How many pairs of different pictures rules join, and which the one in use does, of one number each."""
    vectors = np.concatenate([one.vectors for one in found])
    words = np.array([one.words[0] for one in found], np.uint64)
    a, b = np.triu_indices(len(found), 1)
    pairs = {
        "cosine": (vectors @ vectors.T)[a, b],
        "bits": np.bitwise_count(words[:, None] ^ words[None, :])[a, b],
    }
    joined = np.flatnonzero(near("image", pairs, rules[0])).tolist()
    which = sorted((round(float(pairs["cosine"][i]), 4), found[a[i]].name, found[b[i]].name) for i in joined)
    return {
        "pictures": len(found),
        "different_pairs": len(a),
        "joined": len(joined),
        "which": which[::-1][:LISTED],
        "joined_by_others": [[*rule, int(near("image", pairs, rule).sum())] for rule in rules[1:]],
    }


def drawings() -> dict[str, list[Path]]:
    """Pictures that are easily taken for one another: all stamps, and emoji where the machine has them."""
    emoji = sorted((stamps.ROOT / "data/cache/noto-emoji").rglob("*.png"))
    return {"all stamps": stamp_files("all", "image", None), "emoji": emoji}


def gathered(pictures: int, kind: str, half: str) -> list[Medium]:
    """Originals of a half with copies of them; of pictures more originals, without copies, come after."""
    start = time.perf_counter()
    files = stamp_files(half, kind, pictures if kind == "image" else None)
    more: list[Path] = []
    if kind == "image":
        own = photographs()
        more = [path for path in stamp_files(half, kind, None) if path not in set(files)]
        files += own[::2] if half == "train" else own[1::2]
    found = media(files, Modality(kind)) + media(more, Modality(kind), copied=False)
    say(f"{kind}, {half}: {len(found)} files, {time.perf_counter() - start:.0f} s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=90, help="stamps of each half")
    parser.add_argument("--made", type=int, default=100_000, help="made pictures; 0 for none")
    asked = parser.parse_args()

    result = measured(lambda kind, half: gathered(asked.pictures, kind, half))
    use = NEARNESS
    rule = (use.image_cosine, use.image_bits, use.image_close, use.image_close_bits)
    result["drawings"] = {
        name: crowd(media(files, Modality.IMAGE, copied=False), [rule, *PICTURE_RULES[::6]])
        for name, files in drawings().items()
        if files
    }
    if asked.made:
        result["made"] = made(asked.made, NEARNESS)
    result["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    save("duplicates", result)


if __name__ == "__main__":
    main()
