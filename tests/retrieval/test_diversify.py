"""Diversity and groups of hits: values against a naive oracle, counts, what must stay apart."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.errors import QueryError
from indexer.twins import Twins, _Known
from indexer.types import FloatArray, Modality, Range, Source
from retrieval.query.diversify import contents_of, grouped, mmr
from retrieval.types import Hit


def units(count: int, seed: int, dim: int = 8) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)) + 0.8
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive(scores: FloatArray, vectors: FloatArray, k: int, trade: float) -> list[int]:
    """As the definition reads, one number at a time."""
    count = len(scores)
    like = [
        [float(np.dot(vectors[a].astype(float), vectors[b].astype(float))) for b in range(count)]
        for a in range(count)
    ]
    apart = [like[a][b] for a in range(count) for b in range(count) if a != b]
    low, high = min(apart), max(apart)
    stretched = [[min(1.0, max(0.0, (value - low) / (high - low))) for value in row] for row in like]
    least, most = float(min(scores)), float(max(scores))
    relevance = [(float(score) - least) / (most - least) for score in scores]
    chosen: list[int] = []
    while len(chosen) < min(k, count):
        gains = {
            one: relevance[one]
            if not chosen
            else (1 - trade) * relevance[one] - trade * max(stretched[one][other] for other in chosen)
            for one in range(count)
            if one not in chosen
        }
        chosen.append(max(gains, key=lambda one: (gains[one], -one)))
    return chosen


@pytest.mark.parametrize("trade", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_mmr_is_its_definition(trade: float, seed: int) -> None:
    vectors = units(20, seed)
    scores = np.sort(np.random.default_rng(seed).random(20).astype(np.float32) ** 3)[::-1]
    assert mmr(scores, vectors, 12, trade).tolist() == naive(scores, vectors, 12, trade)


def test_mmr_puts_a_copy_last_and_keeps_the_order_without_a_trade() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 0, 1, 2]]
    scores = np.array([0.9, 0.89, 0.88, 0.8, 0.5], np.float32)
    assert mmr(scores, vectors, 5, 0.0).tolist() == [0, 1, 2, 3, 4]
    assert mmr(scores, vectors, 3, 0.6).tolist() == [0, 3, 4]


def test_mmr_does_not_mind_the_scale_of_scores() -> None:
    vectors, scores = units(15, seed=3), np.linspace(1, 0, 15, dtype=np.float32)
    expected = mmr(scores, vectors, 15, 0.4).tolist()
    assert mmr(scores * 0.01 + 0.2, vectors, 15, 0.4).tolist() == expected
    assert expected != list(range(15))


def test_mmr_of_equal_ones_and_of_few() -> None:
    same = np.tile(units(1, seed=0), (3, 1))
    assert mmr(np.ones(3, np.float32), same, 5, 0.5).tolist() == [0, 1, 2]
    assert mmr(np.ones(1, np.float32), same[:1], 5, 0.5).tolist() == [0]
    assert mmr(np.zeros(0, np.float32), same[:0], 5, 0.5).tolist() == []


@pytest.mark.parametrize("trade", [-0.1, 1.1, float("nan")])
def test_mmr_refuses_a_trade_outside(trade: float) -> None:
    with pytest.raises(QueryError, match="diversity"):
        mmr(np.ones(2, np.float32), units(2, seed=0), 2, trade)


def hit(
    item: str,
    content: str,
    *,
    modality: Modality = Modality.IMAGE,
    source: Source = Source.FILE,
    start: float | None = None,
) -> Hit:
    span = None if start is None else Range(start, start + 10)
    return Hit(0, item, f"/{item}", modality, source, 0.5, span, content_hash=digest(content))


def digest(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def twins(*names: str) -> Twins:
    """One group of pictures."""
    hashes = np.frombuffer(b"".join(sorted(map(digest, names))), "V16")
    nothing = np.zeros(0, "V16")
    return Twins(
        {}, {Modality.IMAGE: _Known(hashes, np.zeros(len(hashes), "<i4"), nothing, np.zeros(0, np.uint64))}
    )


def kept(hits: list[Hit], of: Twins | None) -> list[str]:
    return [hits[place].item_id for place in grouped(hits, of)]


def test_a_group_is_shown_once_in_order() -> None:
    hits = [hit("i1", "x"), hit("i2", "a"), hit("i3", "b"), hit("i4", "y"), hit("i5", "c"), hit("i6", "a")]
    assert kept(hits, twins("a", "b", "c")) == ["i1", "i2", "i4"]
    # Without groups only the same content is one.
    assert kept(hits, None) == ["i1", "i2", "i3", "i4", "i5"]


def test_modalities_and_hits_without_a_content_stay_apart() -> None:
    hits = [hit("i1", "a"), hit("i2", "a", modality=Modality.TEXT)]
    nameless = [Hit(0, one, None, Modality.IMAGE, Source.FILE, 0.1) for one in ("i5", "i6")]
    assert kept([*hits, *nameless], twins("a", "b")) == ["i1", "i2", "i5", "i6"]


def test_a_shared_caption_makes_no_duplicate() -> None:
    hits = [
        hit("i1", "caption", modality=Modality.TEXT, source=Source.CAPTION),
        hit("i2", "caption", modality=Modality.TEXT, source=Source.CAPTION),
        hit("i3", "b"),
    ]
    assert kept(hits, twins("a", "b")) == ["i1", "i2", "i3"]


def test_segments_of_one_item_are_no_duplicates() -> None:
    hits = [
        hit("i1", "s", modality=Modality.AUDIO, start=0),
        hit("i2", "s", modality=Modality.AUDIO, start=0),
        hit("i1", "s", modality=Modality.AUDIO, start=5),
        hit("i2", "s", modality=Modality.AUDIO, start=5),
    ]
    assert grouped(hits, None) == [0, 2]


def test_the_contents_that_a_hit_stands_for() -> None:
    def told(one: Hit, of: Twins | None) -> set[bytes]:
        found = contents_of(one, of)
        assert {key[1:] for key in found} <= {(one.modality, Source.FILE)}
        return {key[0].rstrip(b"\0") for key in found}

    group = twins("a", "b", "c")
    assert told(hit("i1", "b"), group) == {b"a", b"b", b"c"}
    assert told(hit("i1", "b"), None) == told(hit("i1", "b", modality=Modality.TEXT), group) == {b"b"}
    assert told(hit("i1", "x"), group) == {b"x"}
    assert told(hit("i1", "a", source=Source.CAPTION), group) == set()
    assert told(Hit(0, "i1", None, Modality.IMAGE, Source.FILE, 0.1), group) == set()
