"""Hubness against what its formulas say, written out."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.snapshot import Candidates
from indexer.types import Modality
from retrieval.query.scores import hubness
from retrieval.query.scores.background import Hubs


def test_csls_is_its_formula() -> None:
    random = np.random.default_rng(0)
    bank, cosine = random.random((25, 6)).astype("f4"), random.random((2, 6)).astype("f4")
    near = hubness.neighbourhoods(bank, neighbours=3)
    for place in range(6):
        nearest = sorted(bank[:, place].tolist(), reverse=True)[:3]
        assert near[place] == pytest.approx(sum(nearest) / 3)
        assert hubness.csls(cosine, near)[1, place] == pytest.approx(cosine[1, place] - sum(nearest) / 6)


def test_what_does_not_count_is_left_out() -> None:
    bank = np.array([[0.9, -np.inf], [0.5, -np.inf], [0.1, 0.3]], np.float32)
    assert hubness.neighbourhoods(bank, neighbours=2) == pytest.approx([0.7, 0.3])
    told = hubness.normalisers(bank, temperature=0.1)
    assert told[0] == pytest.approx(np.log((np.e**9 + np.e**5 + np.e) / 3), rel=1e-4)
    assert told[1] == pytest.approx(3.0, rel=1e-5)


def test_the_inverted_softmax_orders_as_its_shares_do() -> None:
    random = np.random.default_rng(1)
    bank, cosine = random.random((30, 8)).astype("f4"), random.random(8).astype("f4")
    shares = np.exp(cosine / 0.1) / np.exp(bank / 0.1).sum(axis=0)
    told = hubness.inverted_softmax(cosine, hubness.normalisers(bank, temperature=0.1), temperature=0.1)
    assert np.argsort(told).tolist() == np.argsort(shares).tolist()


def test_only_a_query_whose_best_is_a_hub_is_changed() -> None:
    cosine = np.array([0.6, 0.5], np.float32)
    normaliser = np.array([4.0, 0.0], np.float32)
    hub = hubness.dynamic(cosine, normaliser, np.array([True, False]), temperature=0.1)
    assert hub == pytest.approx([0.2, 0.5])
    calm = hubness.dynamic(cosine, normaliser, np.array([False, True]), temperature=0.1)
    assert np.array_equal(calm, cosine)


def test_each_pair_of_modalities_has_its_way() -> None:
    """One that the background knows nothing of keeps its cosines."""
    found = Candidates(np.zeros(3, np.int64), np.arange(3), np.zeros(3, np.float32))
    near, normaliser = np.array([0.2, 0.4, 0.6], "f4"), np.array([1.0, 2.0, 3.0], "f4")

    class Known:
        def hubs(self, query: Modality, modality: Modality, found: Candidates) -> Hubs | None:
            return None if query is Modality.AUDIO else Hubs(near, normaliser)

        def active(self, query: Modality, modality: Modality, found: Candidates) -> np.ndarray:
            return np.array([True, False, False])

    cosine = np.array([[0.1, 0.5, 0.3]] * 3, np.float32)
    asked = [Modality.TEXT, Modality.IMAGE, Modality.AUDIO]
    told = hubness.adjusted(cosine, Known(), asked, Modality.IMAGE, found)  # type: ignore[arg-type]
    assert told[0] == pytest.approx(cosine[0] - hubness.TEMPERATURE * normaliser)
    assert np.array_equal(told[1], cosine[1])  # nothing was measured for like media
    scaled = hubness.adjusted(cosine, Known(), asked, Modality.IMAGE, found, way=hubness.Way.CSLS)  # type: ignore[arg-type]
    assert scaled[1] == pytest.approx(cosine[1] - near / 2)
    assert np.array_equal(told[2], cosine[2])
    calm = hubness.adjusted(cosine, Known(), asked, Modality.IMAGE, found, way=hubness.Way.DYNAMIC)  # type: ignore[arg-type]
    assert np.array_equal(calm, cosine)


def test_skewness_tells_hubs() -> None:
    random = np.random.default_rng(2)
    even = random.standard_normal((400, 60))
    hubs = even.copy()
    hubs[:, 0] += 10
    assert abs(hubness.occurrence_skewness(even, k=5)) < 1
    assert hubness.occurrence_skewness(hubs, k=5) > 3
