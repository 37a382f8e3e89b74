"""Explanations as shown: each stage's numbers, heat maps in the terminal and as PNG, words marked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ConfigError
from retrieval.render.escape import printable
from retrieval.types import clock

if TYPE_CHECKING:
    from indexer.types import FloatArray
    from retrieval.query.explain.types import Explanation, Heat, PictureHeat, SoundHeat, TermEffect, Words

COLUMNS = 40  # of a picture in the terminal
MOST_ROWS = 30  # of one; a tall picture gets fewer columns
SHADES = " .:-=+*#%@"  # from no effect to the greatest
STRONG = 0.5  # share of the greatest effect from which a word is marked
CELL = 7  # columns of a cell of a sound
PNG_SIDE = 512  # pixels, the longer side of a small picture
PNG_CELL = 64  # pixels of a cell of a sound
FOR, AGAINST = (255, 40, 0), (0, 90, 255)  # RGB of what adds and of what takes away
COVER = 0.65  # of the picture, where the effect is greatest
UNDERLINE, DIM, PLAIN = "\x1b[4;1m", "\x1b[2m", "\x1b[0m"

RGB = npt.NDArray[np.uint8]


def explanation_lines(found: Explanation, *, colour: bool) -> list[str]:
    """Everything about a hit, as lines: its stages, then what adds to each term."""
    hit = found.hit
    name = printable(f"(row {hit.key or hit.item_id})" if hit.path is None else _near(hit.path))
    place = (
        f"hit {hit.rank}" if hit.rank else "not among the best hits" if found.indexed else "not in the index"
    )
    at = f" {hit.where}" if hit.range is not None else ""
    lines = [f"{name}{at}: {hit.modality.value}, {place}, score {hit.score:.3f}", *_stage_lines(found)]
    for term in found.terms:
        lines += ["", *_term_lines(term, colour=colour)]
    return [*lines, "", printable(found.note)] if found.note else lines


def _near(path: str) -> str:
    """A path below the working folder as seen from there, any other as it is."""
    here = str(Path.cwd()).rstrip(os.sep) + os.sep
    return path.removeprefix(here)


def _stage_lines(found: Explanation) -> Iterator[str]:
    """A line a term and stage."""
    stages = found.hit.stages
    for told, term in zip(stages.terms, found.terms, strict=False):
        sign = " " if term.wanted else "-"
        line = f" {sign} {printable(told.label)}: cosine {told.cosine:.3f}"
        if told.adjusted != told.cosine:
            line += f", {told.adjusted:.3f} after hubness"
        yield line if told.probability is None else f"{line}, probability {told.probability:.2f}"
    if stages.lexical is not None:
        words = ", ".join(map(printable, stages.lexical.words))
        yield f"   words: {words}; BM25 {stages.lexical.score:.2f}, rank {stages.lexical.rank}"
    if stages.fused is not None:
        yield f"   ranks fused: {stages.fused:.4f}"
    if stages.reranked is not None:
        yield f"   second stage: {stages.reranked:.3f}"
    if found.hit.probability is not None:
        yield f"   probability in all: {found.hit.probability:.2f}"


def _term_lines(term: TermEffect, *, colour: bool) -> Iterator[str]:
    sign = "" if term.wanted else "- "
    if term.asked is not None and len(term.asked.words) > 1:
        yield f"{sign}asked: {words_line(term.asked, colour=colour)}"
    else:
        yield f"{sign}asked: {printable(term.label)}"
    if term.heat is not None:
        yield from heat_lines(term.heat, colour=colour)


def heat_lines(heat: Heat, *, colour: bool) -> list[str]:
    """A heat map for the terminal: 24-bit colours, or ASCII shades of what adds."""
    from retrieval.query.explain.types import PictureHeat, SoundHeat

    if isinstance(heat, PictureHeat):
        return _picture_colours(heat) if colour else _picture_shades(heat)
    return (
        list(_sound_lines(heat, colour=colour))
        if isinstance(heat, SoundHeat)
        else [f"found: {words_line(heat, colour=colour)}"]
    )


def words_line(words: Words, *, colour: bool) -> str:
    """The text with the words that add most marked: underlined in colour, else in brackets."""
    marks = (UNDERLINE, PLAIN) if colour else ("[", "]")
    line, end = "", 0
    text = re.sub(r"\s", " ", words.text)
    for word, share in zip(words.words, words.heat.tolist(), strict=True):
        strong = share >= STRONG
        shown = printable(text[word.start : word.end])
        line += printable(text[end : word.start]) + (f"{marks[0]}{shown}{marks[1]}" if strong else shown)
        end = word.end
    return line + printable(text[end:])


def png_of(heat: Heat) -> RGB:
    """A picture (height, width, 3) of a heat map. ConfigError for words."""
    from retrieval.query.explain.types import PictureHeat, SoundHeat

    if isinstance(heat, PictureHeat):
        return _over_picture(heat, _sized(heat.picture.shape[:2], PNG_SIDE))
    if isinstance(heat, SoundHeat):
        cells = blended(np.full((*heat.effect.shape, 3), 255, np.uint8), heat.heat, cover=1.0)[::-1]
        return np.repeat(np.repeat(cells, PNG_CELL, axis=0), PNG_CELL, axis=1)
    raise ConfigError("--png draws pictures and sounds, and this is a text", hint="leave it out")


def write_png(heat: Heat, path: Path) -> None:
    """Write `png_of` a heat map. ConfigError where its folder is not there, OSError where it cannot be."""
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {path.absolute().parent}", hint="make it first")
    from io import BytesIO

    from PIL import Image

    from indexer.fsio import write_atomic

    buffer = BytesIO()
    Image.fromarray(png_of(heat)).save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def blended(picture: RGB, heat: FloatArray, *, cover: float = COVER) -> RGB:
    """A picture (h, w, 3) under heat (h, w) in [-1, 1]: red adds, blue takes away."""
    over = np.where(heat[..., None] > 0, np.array(FOR, np.float32), np.array(AGAINST, np.float32))
    weight = cover * np.abs(heat)[..., None]
    return np.asarray(picture * (1 - weight) + over * weight + 0.5, np.float32).clip(0, 255).astype(np.uint8)


def _over_picture(heat: PictureHeat, size: tuple[int, int]) -> RGB:
    """The picture at (height, width) with its heat, smooth between the middles of cells."""
    from PIL import Image

    wide = size[1], size[0]
    picture = np.asarray(
        Image.fromarray(np.ascontiguousarray(heat.picture)).resize(wide, Image.Resampling.BICUBIC)
    )
    grey = picture.mean(axis=2, keepdims=True)
    calm = (0.5 * picture + 0.5 * grey).astype(np.uint8)  # so that its own reds are no heat
    smooth = np.asarray(Image.fromarray(heat.heat).resize(wide, Image.Resampling.BILINEAR))
    return blended(calm, smooth)


def _sized(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    scale = longest / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _columns(shape: tuple[int, ...]) -> int:
    """Columns of a picture in the terminal, whose characters are twice as high as wide."""
    return max(2, min(COLUMNS, round(MOST_ROWS * 2 * shape[1] / shape[0])))


def _picture_colours(heat: PictureHeat) -> list[str]:
    """Two pixels a character, one above the other."""
    height, width = heat.picture.shape[:2]
    columns = _columns((height, width))
    rows = 2 * max(1, round(columns * height / width / 2))
    pixels = _over_picture(heat, (rows, columns))
    return [
        "".join(f"{_code(38, top)}{_code(48, low)}▀" for top, low in zip(*pair, strict=True)) + PLAIN
        for pair in pixels.reshape(rows // 2, 2, columns, 3).tolist()
    ]


def _picture_shades(heat: PictureHeat) -> list[str]:
    height, width = heat.picture.shape[:2]
    columns = _columns((height, width))
    rows = max(1, round(columns * height / width / 2))
    across = np.arange(columns) * heat.effect.shape[1] // columns
    down = np.arange(rows) * heat.effect.shape[0] // rows
    framed = ["".join(map(_shade, line)) for line in heat.heat[np.ix_(down, across)].tolist()]
    edge = f"+{'-' * columns}+"
    return [edge, *(f"|{line}|" for line in framed), edge]


def _sound_lines(heat: SoundHeat, *, colour: bool) -> Iterator[str]:
    """A line a band, the highest first; then the seconds at which slices begin."""
    for band in range(len(heat.effect) - 1, -1, -1):
        shares = heat.heat[band].tolist()
        low, high = heat.hertz[band], heat.hertz[band + 1]
        cells = (_coloured(share) if colour else _shade(share) * CELL for share in shares)
        yield f"{low:6.0f}-{high:<6.0f} Hz |{''.join(cells)}{PLAIN if colour else ''}|"
    starts = "".join(f"{clock(float(second)):<{CELL}}" for second in heat.seconds[:-1])
    yield f"{'':17}{starts}{clock(float(heat.seconds[-1]))}"


def _shade(share: float) -> str:
    return SHADES[round(max(0.0, share) * (len(SHADES) - 1))]


def _coloured(share: float) -> str:
    pixel = blended(np.full((1, 1, 3), 32, np.uint8), np.array([[share]], np.float32), cover=1.0)[0, 0]
    return f"{_code(48, pixel.tolist())}{' ' * CELL}"


def _code(kind: int, rgb: list[int]) -> str:
    return f"\x1b[{kind};2;{rgb[0]};{rgb[1]};{rgb[2]}m"


# For programs


def explanation_json(found: Explanation) -> dict[str, Any]:
    """The whole explanation; effects in cosine, heat maps as nested lists at the grid's resolution."""
    from retrieval.render.data import hit_json

    return {
        "query": found.request.label,
        "indexed": found.indexed,
        "hit": hit_json(found.hit),
        "terms": [
            {
                "label": term.label,
                "wanted": term.wanted,
                "cosine": round(term.cosine, 6),
                "heat": None if term.heat is None else _heat_json(term.heat),
                "asked": None if term.asked is None else _heat_json(term.asked),
            }
            for term in found.terms
        ],
        "note": found.note,
    }


def _heat_json(heat: Heat) -> dict[str, Any]:
    from retrieval.query.explain.types import PictureHeat, Words

    if isinstance(heat, Words):
        words = [
            {"word": word.text, "start": word.start, "end": word.end, "effect": round(word.effect, 6)}
            for word in heat.words
        ]
        return {"kind": "words", "text": heat.text, "words": words, "passes": heat.passes}
    grid = {"effect": np.round(heat.effect.astype(np.float64), 6).tolist(), "passes": heat.passes}
    if isinstance(heat, PictureHeat):
        return {"kind": "picture", "rows": len(heat.effect), "columns": heat.effect.shape[1], **grid}
    return {
        "kind": "sound",
        "hertz": np.round(heat.hertz.astype(np.float64), 1).tolist(),
        "seconds": np.round(heat.seconds.astype(np.float64), 3).tolist(),
        **grid,
    }
