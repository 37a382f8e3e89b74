"""Near pairs against a full matrix, by brute force and by inverted lists; groups that stay bounded."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.types import Modality
from retrieval.training import duplicates
from retrieval.training.duplicates import group_near, near_pairs

WIDTH = 32


def clustered(seed: int, *, centres: int = 150, each: int = 3, spread: float = 0.05) -> np.ndarray:
    """Features with near-duplicates: `each` around every centre, lengths from 1 to 100, float16."""
    rng = np.random.default_rng(seed)
    middle = np.repeat(rng.standard_normal((centres, WIDTH)), each, axis=0)
    vectors = middle + spread * rng.standard_normal(middle.shape)
    return (vectors * rng.uniform(0.2, 20, (len(vectors), 1))).astype(np.float16)


def oracle(features: np.ndarray, threshold: float) -> dict[tuple[int, int], float]:
    wide = features.astype(np.float64)
    with np.errstate(invalid="ignore"):
        units = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        cosine = units @ units.T
    return {
        (a, b): cosine[a, b]
        for a in range(len(wide))
        for b in range(a + 1, len(wide))
        if cosine[a, b] >= threshold
    }


@pytest.mark.parametrize("listed", [False, True])
def test_near_pairs_equal_the_full_matrix(monkeypatch: pytest.MonkeyPatch, listed: bool) -> None:
    features = clustered(1)
    features[7] = 0
    features[11] = np.nan
    features[12] = np.inf
    monkeypatch.setattr(duplicates, "QUERY_BLOCK", 50)
    monkeypatch.setattr(duplicates, "GALLERY_BLOCK", 64)
    if listed:
        monkeypatch.setattr(duplicates, "EXACT_MULTIPLICATIONS", 1)
    everyone = np.arange(len(features))
    found = near_pairs(features, everyone, everyone, threshold=0.98)
    expected = oracle(np.where(np.isfinite(features), features, 0), 0.98)
    assert 300 < len(expected) < 500
    assert set(zip(found.a.tolist(), found.b.tolist(), strict=True)) == set(expected)
    for a, b, cosine in zip(*found, strict=True):
        assert cosine == pytest.approx(expected[int(a), int(b)], abs=1e-5)
    assert (np.diff(found.cosine) <= 0).all()


def test_queries_and_gallery_are_parts() -> None:
    features = clustered(2, centres=20, each=2)
    queries, gallery = np.arange(0, 40, 2), np.arange(1, 40, 2)
    found = near_pairs(features, queries, gallery, threshold=0.95)
    assert list(zip(sorted(found.a.tolist()), sorted(found.b.tolist()), strict=True)) == [
        (i, i + 1) for i in range(0, 40, 2)
    ]
    assert len(near_pairs(features, queries[:0], gallery, threshold=0.9).a) == 0
    assert len(near_pairs(features, queries[:1], queries[1:], threshold=0.95).a) == 0


def test_many_copies_are_one_group_though_few_neighbours_are_looked_at() -> None:
    features = np.repeat(np.eye(2, WIDTH), 60, axis=0).astype(np.float16)
    contents = {Modality.AUDIO: np.arange(120)[:, None]}
    grouping = group_near({Modality.AUDIO: features}, contents, cap=0.6)
    assert grouping.numbers.tolist() == [0] * 60 + [1] * 60
    assert not grouping.notes


def test_a_chain_does_not_swallow_everything() -> None:
    angles = np.arange(200) * 0.02  # each near the next, the first far from the last
    features = np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float16)
    contents = {Modality.IMAGE: np.arange(200)[:, None]}
    grouping = group_near({Modality.IMAGE: features}, contents, cap=0.1)
    sizes = np.bincount(grouping.numbers)
    assert sizes.max() <= 20
    assert len(sizes) < 60, "most are still linked to something"
    assert "more than 20 of 200 rows" in grouping.notes[0]


def test_the_same_content_joins_whatever_the_bound() -> None:
    contents = {Modality.IMAGE: np.array([0, 0, 0, 1, 0, -1, 0, 0, 0, 0, 0, 0])[:, None]}
    features = {Modality.IMAGE: np.eye(2, WIDTH).astype(np.float16)}
    grouping = group_near(features, contents, cap=0.01)
    assert grouping.numbers.tolist() == [0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0]
