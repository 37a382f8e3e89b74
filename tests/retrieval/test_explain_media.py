"""What parts of pictures, sounds and texts add: against plain loops, and where the answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from indexer.types import DecodeHint, FloatArray, Modality, Range
from retrieval.query.explain import masks
from retrieval.query.explain.image import Fill, masked, picture_heat, shrunk
from retrieval.query.explain.sound import BANDS, band_edges, silenced, sound_heat
from retrieval.query.explain.text import MOST, word_spans, words_heat
from retrieval.query.explain.types import positive_share, scaled
from tests.toy import ToyEncoder, word_vector

RATE = 8_000
FIRST = np.array([[1.0, 0.0, 0.0]], np.float32)


@dataclass(frozen=True)
class AsItIs:
    """A preparer that leaves media as they are."""

    modality: Modality
    hint: DecodeHint = field(default=DecodeHint(sample_rate=RATE))

    def plan(self, text: str) -> Sequence[Range]:
        return [Range(0, len(text))]

    def tensor(self, media: Any) -> npt.NDArray[Any]:
        return np.asarray(media)[None]


@dataclass
class Measured:
    """An encoder whose vectors say how much a medium has of two things; `seen` counts passes."""

    modality: Modality
    space_id: str = "measured"
    dim: int = 3
    batch_size: int = 7
    precision: str = "f32"
    seen: int = 0

    @property
    def preparer(self) -> AsItIs:
        return AsItIs(self.modality)

    def warm(self) -> None:
        """Nothing to load."""

    def encode(self, tensors: Sequence[npt.NDArray[Any]]) -> FloatArray:
        assert len(tensors) <= self.batch_size
        self.seen += len(tensors)
        measure = _red_and_blue if self.modality is Modality.IMAGE else _high_and_low
        rows = np.array([[*measure(one[0]), 0.5] for one in tensors])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _red_and_blue(picture: npt.NDArray[np.uint8]) -> tuple[float, float]:
    red, green, blue = (picture[..., channel].astype(float) for channel in range(3))
    return ((red > 200) & (green < 50)).mean() * 8, ((blue > 200) & (green < 50)).mean() * 8


def _high_and_low(pcm: FloatArray) -> tuple[float, float]:
    power = np.abs(np.fft.rfft(pcm)) ** 2 / len(pcm) ** 2
    edge = round(1000 * len(pcm) / RATE)
    return power[edge:].sum() * 20, power[:edge].sum() * 20


# Masks


@pytest.mark.parametrize(("shape", "count"), [((8, 8), 148), ((2, 8), 20 + 28), ((6, 1), 8 + 10)])
def test_the_plan_hides_and_shows_every_window_once(shape: tuple[int, int], count: int) -> None:
    plan = masks.plan(shape)
    assert sum(map(len, plan)) == count
    for hide, show in zip(plan[::2], plan[1::2], strict=True):
        assert np.array_equal(hide, 1 - show)
        assert len({one.tobytes() for one in show}) == len(show)
        assert (show.sum(axis=0) > 0).all()  # no cell is left out


def test_effects_equal_a_plain_loop() -> None:
    plan = masks.plan((4, 5))
    draw = np.random.default_rng(0)
    scores = [draw.standard_normal(len(one)).astype(np.float32) for one in plan]
    expected = np.zeros((4, 5))
    for keep, score in zip(plan, scores, strict=True):
        for y in range(4):
            for x in range(5):
                kept = [float(s) for s, mask in zip(score, keep, strict=True) if mask[y, x] == 1]
                hidden = [float(s) for s, mask in zip(score, keep, strict=True) if mask[y, x] == 0]
                expected[y, x] += (np.mean(kept) - np.mean(hidden)) / len(plan)
    assert np.allclose(masks.effects(plan, scores), expected, atol=1e-6)


def test_a_cell_that_every_mask_keeps_tells_nothing() -> None:
    keep = np.ones((3, 1, 2), np.float32)
    keep[0, 0, 0] = 0
    effect = masks.effects([keep], [np.array([0.0, 1.0, 1.0], np.float32)])
    assert effect[0, 0] == pytest.approx(1.0)
    assert effect[0, 1] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("size", "grid"), [((100, 100), (8, 8)), ((50, 100), (4, 8)), ((400, 9), (8, 2))])
def test_cells_are_nearly_square(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert masks.grid_of(*size, 8) == grid


def test_shares_of_the_heat() -> None:
    effect = np.array([[3.0, -5.0], [0.0, 1.0]], np.float32)
    assert positive_share(effect, [True, False]) == pytest.approx(0.75)
    assert positive_share(-np.abs(effect), [True, False]) == 0.5
    assert scaled(effect).tolist() == [[pytest.approx(0.6), -1.0], [0.0, pytest.approx(0.2)]]
    assert not scaled(np.zeros((2, 2), np.float32)).any()


# Pictures


def page(height: int = 64, width: int = 64) -> npt.NDArray[np.uint8]:
    """White, with a red square at the upper left and a blue one at the lower right."""
    found = np.full((height, width, 3), 255, np.uint8)
    found[8:16, 8:16] = (255, 0, 0)
    found[-16:-8, -16:-8] = (0, 0, 255)
    return found


@pytest.mark.parametrize("fill", Fill)
def test_heat_falls_on_what_was_asked_for(fill: Fill) -> None:
    encoder = Measured(Modality.IMAGE)
    queries = np.eye(3, dtype=np.float32)[:2]
    red, blue = picture_heat(page(), encoder, queries, fill=fill)
    assert encoder.seen == red.passes == blue.passes == 148  # both from the same passes
    assert int(np.argmax(red.effect)) == 1 * 8 + 1
    assert int(np.argmax(blue.effect)) == 6 * 8 + 6
    assert red.effect[6, 6] < 0  # the blue square takes away from red
    assert red.heat.max() == 1.0


def test_a_picture_that_is_not_square() -> None:
    found = picture_heat(page(32, 96), Measured(Modality.IMAGE), FIRST)[0]
    assert found.effect.shape == (3, 8)
    assert np.argmax(found.effect.max(axis=0)) in (0, 1)


def test_masked_pictures_are_the_picture_and_the_fill() -> None:
    picture = page()
    keep = np.array([[1, 0], [0.5, 1]], np.float32)
    found = next(masked(picture, iter([keep]), Fill.BORDER))
    assert np.array_equal(found[:32, :32], picture[:32, :32])
    assert (found[:32, 32:] == 255).all()
    assert np.array_equal(found[32:, 32:], picture[32:, 32:])
    grey = np.full((8, 8, 3), 10, np.uint8)
    grey[2:6, 2:6] = 110
    mean = next(masked(grey, iter([np.zeros((2, 2), np.float32)]), Fill.MEAN))
    assert (mean == 35).all()


def test_a_large_picture_is_shrunk_to_what_the_tower_sees() -> None:
    picture = np.zeros((700, 1000, 3), np.uint8)
    assert shrunk(picture, 224).shape == (234, 334, 3)
    assert shrunk(picture, 0) is picture
    assert shrunk(picture, 400) is picture


# Sounds


def beeps(seconds: float = 2.0) -> FloatArray:
    """A low tone throughout, a high one in the last quarter."""
    time = np.arange(int(seconds * RATE)) / RATE
    high = np.sin(2 * np.pi * 2500 * time) * (time >= seconds * 0.75)
    return (0.3 * np.sin(2 * np.pi * 200 * time) + 0.5 * high).astype(np.float32)


def test_nothing_silenced_gives_the_sound_back() -> None:
    pcm = np.random.default_rng(0).standard_normal(5001).astype(np.float32)
    found = next(silenced(pcm, [np.ones((3, 4), np.float32)], RATE))
    assert np.allclose(found, pcm, atol=1e-5)


def test_a_silenced_cell_is_silent_and_the_rest_stays() -> None:
    pcm = beeps()
    band = int(np.searchsorted(band_edges(RATE), 2500) - 1)
    keep = np.ones((BANDS, 4), np.float32)
    keep[band] = 0
    found = next(silenced(pcm, [keep], RATE))
    high, low = _high_and_low(found)
    before = _high_and_low(pcm)
    assert high < 0.02 * before[0]
    assert low == pytest.approx(before[1], rel=0.02)
    assert not next(silenced(pcm, [np.zeros((2, 2), np.float32)], RATE)).any()


def test_heat_falls_on_the_seconds_and_band_of_a_tone() -> None:
    encoder = Measured(Modality.AUDIO)
    found = sound_heat(beeps(), Range(10.0, 12.0), encoder, FIRST)[0]
    band, part = np.unravel_index(np.argmax(found.effect), found.effect.shape)
    assert found.hertz[band] < 2500 < found.hertz[band + 1]
    assert found.seconds[part] >= 11.4
    assert found.seconds.tolist() == [10 + 0.25 * n for n in range(9)]
    assert found.passes == encoder.seen
    low = int(np.searchsorted(found.hertz, 200) - 1)
    assert (found.effect[low, :6] < 0).all()  # the low tone takes away


def test_a_very_short_sound_has_few_slices() -> None:
    found = sound_heat(beeps(0.15), Range(0, 0.15), Measured(Modality.AUDIO), FIRST)[0]
    assert found.effect.shape == (BANDS, 1)
    assert np.isfinite(found.effect).all()


# Texts


def test_words_equal_leaving_each_out() -> None:
    encoder = ToyEncoder(Modality.TEXT)
    text, query = "a red, red boat", word_vector("red")
    found = words_heat(text, encoder, query[None])[0]
    assert [word.text for word in found.words] == ["a", "red", "red", "boat"]

    def cosine(*words: str) -> float:
        mean = np.mean([word_vector(word) for word in words], axis=0)
        return float(mean @ query / np.linalg.norm(mean))

    whole = cosine("a", "red", "red", "boat")
    without = [cosine("red", "red", "boat"), *[cosine("a", "red", "boat")] * 2, cosine("a", "red", "red")]
    assert [word.effect for word in found.words] == pytest.approx([whole - one for one in without], abs=1e-5)
    assert encoder.encoded == found.passes == 5


def test_the_only_word_adds_all() -> None:
    found = words_heat("Red!", ToyEncoder(Modality.TEXT), word_vector("red")[None])[0]
    assert [word.effect for word in found.words] == pytest.approx([1.0])


def test_a_long_text_goes_by_groups_of_words() -> None:
    text = " ".join(f"w{n}" for n in range(600))
    spans = word_spans(text)
    assert len(spans) == 200 <= MOST
    assert text[slice(*spans[0])] == "w0 w1 w2"
    assert word_spans("...") == []
    assert word_spans("don't re-enter") == [(0, 5), (6, 14)]
