"""Heads on a base whose vectors are known beforehand: the same numbers, the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from indexer.types import Modality
from retrieval.training.heads import HeadKind, HeadOptions, OnBase, make_head
from retrieval.training.known_base import OnKnownBase, known_base
from retrieval.training.space import SharedSpace

WIDTH, DIM, ROWS = 12, 6, 40


def space() -> SharedSpace:
    options = HeadOptions(HeadKind.MLP, hidden=8)
    heads: dict[Modality, torch.nn.Module] = {}
    for number, modality in enumerate((Modality.IMAGE, Modality.AUDIO)):
        base = make_head(options, WIDTH, DIM, seed=number)
        heads[modality] = OnBase(base, make_head(options, WIDTH, DIM, seed=10 + number), gain=0.7)
        with torch.no_grad():
            heads[modality].head.last_layers()[0].weight.normal_(generator=torch.Generator().manual_seed(3))
    heads[Modality.TEXT] = make_head(HeadOptions(HeadKind.IDENTITY), DIM, DIM, seed=0)
    return SharedSpace(heads, dims=(DIM,))


def tables() -> dict[Modality, np.ndarray]:
    rng = np.random.default_rng(0)
    widths = {Modality.IMAGE: WIDTH, Modality.AUDIO: WIDTH, Modality.TEXT: DIM}
    return {m: rng.standard_normal((ROWS, width)).astype(np.float16) for m, width in widths.items()}


def encoded(made: SharedSpace, modality: Modality, table: np.ndarray) -> np.ndarray:
    return made.encode(modality, torch.from_numpy(np.asarray(table)).float()).detach().numpy()


@pytest.mark.parametrize("in_memory", [0, 1 << 28])
def test_the_vectors_are_the_same_and_the_heads_come_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, in_memory: int
) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    monkeypatch.setattr("retrieval.training.feature_cache.IN_MEMORY", in_memory)
    made, features = space(), tables()
    before = {m: encoded(made, m, features[m]) for m in features}
    heads = {m: made.heads[m.value] for m in features}
    with known_base(made, features, media=frozenset({Modality.AUDIO})) as known:
        assert isinstance(made.heads["image"], OnKnownBase)
        assert made.heads["audio"] is heads[Modality.AUDIO]  # its inputs are media
        assert known[Modality.IMAGE].shape == (ROWS, WIDTH + DIM)
        assert isinstance(known[Modality.IMAGE], np.memmap) is (in_memory == 0)
        assert known[Modality.AUDIO] is features[Modality.AUDIO]
        for modality in features:
            # Base vectors are rounded to float16: some 5e-4 of a unit vector.
            assert encoded(made, modality, known[modality]) == pytest.approx(before[modality], abs=1e-3)
        with torch.no_grad():
            made.heads["image"].gain += 0.1
    assert {m: made.heads[m.value] for m in features} == heads
    assert made.heads["image"].gain.item() == pytest.approx(0.8)  # what was trained is trained
