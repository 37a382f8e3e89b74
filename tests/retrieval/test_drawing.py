"""Heat maps as pictures: what is drawn where, and with what beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer.errors import ConfigError
from retrieval.query.explain.sound import band_edges, hertz_of, loudness, mels
from retrieval.query.explain.types import PictureHeat, SoundHeat, Word, Words
from retrieval.render.drawing import (
    BAND,
    LEFT,
    LINE,
    MARGIN,
    WIDE,
    blended,
    hertz_ticks,
    png_of,
    second_ticks,
    write_png,
)


def picture(height: int = 40, width: int = 80) -> PictureHeat:
    effect = np.zeros((4, 8), np.float32)
    effect[1, 6], effect[3, 0] = 0.2, -0.1
    return PictureHeat(effect, np.full((height, width, 3), 255, np.uint8), 10)


def sound(loud: float = 0.0) -> SoundHeat:
    effect = np.zeros((3, 4), np.float32)
    effect[2, 1] = 1.0
    heard = np.full((6, 8), loud, np.float32)
    return SoundHeat(effect, np.linspace(5, 7, 5, dtype=np.float32), band_edges(8000, 3), 9, heard)


def test_colours_are_red_for_and_blue_against() -> None:
    over = blended(np.full((1, 3, 3), 100, np.uint8), np.array([[1.0, -1.0, 0.0]], np.float32), cover=1.0)
    assert over[0].tolist() == [[255, 40, 0], [0, 90, 255], [100, 100, 100]]


def test_a_picture_has_its_shape_and_the_heats_colours_above_a_scale(tmp_path: Path) -> None:
    write_png(picture(), tmp_path / "heat.png")
    drawn = np.asarray(Image.open(tmp_path / "heat.png").convert("RGB")).astype(int)
    assert drawn.shape[1] == 512 + 2 * MARGIN
    inside, below = drawn[MARGIN : MARGIN + 256, MARGIN : MARGIN + 512], drawn[MARGIN + 256 :]
    red, blue = inside[96, 416], inside[224, 32]  # the middles of the two cells
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 50
    assert (inside[96, 160] == 255).all()
    strip = below[MARGIN + 2, MARGIN : MARGIN + 512]
    assert strip[0, 2] > strip[0, 0] + 100
    assert strip[-1, 0] > strip[-1, 2] + 100


def test_a_narrow_picture_has_room_for_its_scale() -> None:
    drawn = png_of(picture(400, 10))
    assert drawn.shape[1] == 300 + 2 * MARGIN


def test_a_title_takes_a_line_and_never_more_width() -> None:
    plain, titled = png_of(picture()), png_of(picture(), "a " * 200)
    assert titled.shape == (plain.shape[0] + LINE, *plain.shape[1:])
    assert (titled[MARGIN : MARGIN + LINE, MARGIN:-MARGIN] < 128).any()
    assert (titled[:, -MARGIN:] == 255).all()
    assert np.array_equal(png_of(picture(), "собака"), plain)  # the font lacks these letters


def test_a_title_stays_on_its_line() -> None:
    assert np.array_equal(png_of(picture(), "a\nb\t c\r\n"), png_of(picture(), "a b c"))
    assert np.array_equal(png_of(picture(), "\x1b"), png_of(picture(), "\\x1b"))  # spelled, not a box
    assert np.array_equal(png_of(picture(), " \n"), png_of(picture()))


def test_a_sound_has_its_bands_and_slices_with_hertz_and_seconds_beside() -> None:
    drawn = png_of(sound())
    left, bottom = MARGIN + LEFT, MARGIN + 3 * BAND
    inside = drawn[MARGIN:bottom, left : left + WIDE].astype(int)
    assert inside[10, 240, 0] > inside[10, 240, 2] + 100  # the second slice of the highest band, on top
    assert inside[10, 400].tolist() == [255, 255, 255]
    assert inside[3 * BAND - 10, 240].tolist() == [255, 255, 255]
    assert (drawn[MARGIN:bottom, MARGIN : left - 8] < 128).any()  # hertz
    assert (drawn[bottom + 8 : bottom + 8 + LINE, left:] < 128).any()  # seconds


def test_what_is_loud_is_dark_below_the_heat() -> None:
    place = MARGIN + 2 * BAND + 10, MARGIN + LEFT + 400
    assert png_of(sound(1.0))[place].max() < 100 < png_of(sound(0.0))[place].min()


def test_words_are_not_drawn(tmp_path: Path) -> None:
    told = Words("a", (Word("a", 0, 1, 0.3),), 4)
    with pytest.raises(ConfigError, match="this is a text"):
        write_png(told, tmp_path / "heat.png")
    assert not list(tmp_path.iterdir())


def test_hertz_stand_where_their_mels_are() -> None:
    found = dict(hertz_ticks(band_edges(44100), 288))
    assert list(found) == [0, 250, 1000, 2000, 4000, 8000, 16000]  # 500 would touch 250
    assert found[4000] == pytest.approx(float(mels(4000) / mels(22050)), abs=1e-6)
    assert float(hertz_of(mels(440.0))) == pytest.approx(440.0)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.0, 0.9, [0, 0.2, 0.4, 0.6, 0.8]),
        (5.0, 7.0, [5, 5.5, 6, 6.5, 7]),
        (20.0, 30.0, [20, 22, 24, 26, 28, 30]),
        (61.3, 63.0, [61.5, 62, 62.5, 63]),
    ],
)
def test_seconds_are_round(start: float, end: float, expected: list[float]) -> None:
    assert second_ticks(start, end) == pytest.approx(expected)


def test_loudness_is_where_the_tone_is() -> None:
    rate = 16000
    time = np.arange(rate) / rate
    pcm = np.where(time < 0.5, np.sin(2 * np.pi * 1000 * time), 0.0).astype(np.float32)
    told = loudness(pcm, rate)
    row = int(mels(1000) / mels(8000) * len(told))
    early, late = told[:, told.shape[1] // 4], told[:, -3]
    assert early.max() > 0.95
    assert abs(int(early.argmax()) - row) <= 1
    assert late.max() == 0.0
    assert loudness(np.zeros(10, np.float32), rate).max() == 0.0  # silent, and shorter than a frame
