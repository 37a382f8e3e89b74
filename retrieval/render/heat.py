"""Explanations as shown: each stage's numbers, heat maps in the terminal, words marked; and as JSON.

Heat maps as PNG stand in drawing.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.render.drawing import blended, over_picture
from retrieval.render.escape import near, printable
from retrieval.types import clock

if TYPE_CHECKING:
    from retrieval.query.explain.types import Explanation, Heat, PictureHeat, SoundHeat, TermEffect, Words

COLUMNS = 40  # of a picture in the terminal
MOST_ROWS = 30  # of one; a tall picture gets fewer columns
SHADES = " .:-=+*#%@"  # from no effect to the greatest
STRONG = 0.5  # share of the greatest effect from which a word is marked
CELL = 7  # columns of a cell of a sound
UNDERLINE, DIM, PLAIN = "\x1b[4;1m", "\x1b[2m", "\x1b[0m"


def explanation_lines(found: Explanation, *, colour: bool) -> list[str]:
    """Everything about a hit, as lines: its stages, then what adds to each term."""
    hit = found.hit
    name = printable(f"(row {hit.key or hit.item_id})") if hit.path is None else near(hit.path)
    place = (
        f"hit {hit.rank}" if hit.rank else "not among the best hits" if found.indexed else "not in the index"
    )
    at = f" {hit.where}" if hit.range is not None else ""
    lines = [f"{name}{at}: {hit.modality.value}, {place}, score {hit.score:.3f}", *_stage_lines(found)]
    for term in found.terms:
        lines += ["", *_term_lines(term, colour=colour)]
    return [*lines, "", printable(found.note)] if found.note else lines


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
        rank = f", rank {stages.lexical.rank:g}" if stages.lexical.rank else ""
        yield f"   words: {words}; BM25 {stages.lexical.score:.2f}{rank}"
    if stages.fused is not None:
        yield f"   ranks fused: {stages.fused:.4f}"
    if stages.reranked is not None:
        yield f"   second stage: {stages.reranked:.3f}"
    if found.hit.probability is not None and len(stages.terms) > 1:
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


def _columns(shape: tuple[int, ...]) -> int:
    """Columns of a picture in the terminal, whose characters are twice as high as wide."""
    return max(2, min(COLUMNS, round(MOST_ROWS * 2 * shape[1] / shape[0])))


def _picture_colours(heat: PictureHeat) -> list[str]:
    """Two pixels a character, one above the other."""
    height, width = heat.picture.shape[:2]
    columns = _columns((height, width))
    rows = 2 * max(1, round(columns * height / width / 2))
    pixels = over_picture(heat, (rows, columns))
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
