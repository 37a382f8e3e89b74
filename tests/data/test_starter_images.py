"""The image head's contrastive step, how near-duplicates are grouped, and what the reports count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import compare_heads
import debian_packages
import noto_emoji
import numpy as np
import photographs
import pytest
import starter_images
from starter_contrast import Contrast, contrasted
from starter_data import near, near_groups
from starter_fit import Bank, Fitted, Pairs, Recipe, fit_head, joined, unit
from starter_scores import gains, mean_recall

QUICK = Contrast(epochs=4.0, batch=32, dropout=0.1)


def made_up(count: int = 96, seed: int = 0, noise: float = 1.5) -> tuple[Pairs, Bank]:
    """Features that are a noisy linear image of the targets, and logits that say nothing."""
    random = np.random.default_rng(seed)
    targets = unit(random.normal(size=(count, 384)).astype("f4"))
    lift = np.random.default_rng(99).normal(size=(384, 512)).astype("f4")
    features = targets @ lift + noise * random.normal(size=(count, 512)).astype("f4")
    logits = random.normal(size=(count, 6)).astype("f4")
    classes = unit(random.normal(size=(6, 384)).astype("f4"))
    return Pairs(features, logits, targets, np.ones(count, bool)), Bank.of(classes, targets)


def test_training_lowers_what_it_minimises_and_repeats_by_seed() -> None:
    pairs, bank = made_up()
    start = fit_head(pairs, bank, Recipe(gain=0.3, top=3, penalty=100.0))
    ids = [str(n) for n in range(len(pairs.features))]
    before = start.vectors(pairs.features, pairs.logits)
    head = contrasted(start, pairs, QUICK, seed=1)
    after = head.vectors(pairs.features, pairs.logits)

    def margin(vectors: Any) -> float:
        scores = vectors @ pairs.targets.T
        return float(np.mean(np.diag(scores) - (scores - 9 * np.eye(len(scores))).max(axis=1)))

    assert margin(after) > margin(before) + 0.02
    assert mean_recall(after, pairs.targets, ids) >= mean_recall(before, pairs.targets, ids)
    again = contrasted(start, pairs, QUICK, seed=1)
    np.testing.assert_array_equal(again.weight, head.weight)
    assert again.recipe.gain == head.recipe.gain != start.recipe.gain
    assert not np.array_equal(contrasted(start, pairs, QUICK, seed=2).weight, head.weight)


def test_a_strong_pull_and_a_fixed_matrix_stay_at_the_start() -> None:
    pairs, bank = made_up()
    start = fit_head(pairs, bank, Recipe(top=3))
    loose = contrasted(start, pairs, QUICK)
    tight = contrasted(start, pairs, replace(QUICK, pull=1e4, after=False))
    np.testing.assert_array_equal(tight.after, start.after)
    assert np.abs(loose.after - start.after).max() > 1e-4
    moved = [np.linalg.norm(head.weight - start.weight) for head in (tight, loose)]
    assert moved[0] < 0.8 * moved[1]


def test_seeds_are_averaged_number_by_number() -> None:
    pairs, bank = made_up()
    start = fit_head(pairs, bank, Recipe(top=3))
    each = [contrasted(start, pairs, QUICK, seed=seed) for seed in (5, 6)]
    both = contrasted(start, pairs, replace(QUICK, seeds=2), seed=5)
    np.testing.assert_allclose(both.weight, (each[0].weight + each[1].weight) / 2, rtol=1e-6)
    np.testing.assert_allclose(both.recipe.gain, (each[0].recipe.gain + each[1].recipe.gain) / 2, rtol=1e-6)


def of(looks: list[list[float]], captions: list[list[float]]) -> Pairs:
    targets = unit(np.array(captions, np.float32))
    logits = np.zeros((len(looks), 1), np.float32)
    return Pairs(np.array(looks, np.float32), logits, targets, np.ones(len(looks), bool))


def test_near_duplicates_are_grouped_by_picture_caption_and_chains_of_both() -> None:
    far = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]
    looks = [far[0], [0.95, 0.1, 0, 0], far[1], far[2]]  # the first two look the same
    captions = [far[0], far[1], [0, 0.9, 0.3, 0], far[3]]  # the second and third say the same
    pairs = of(looks, captions)
    assert near_groups(pairs).tolist() == [0, 0, 0, 3]
    assert near(pairs, pairs.take(np.array([2]))).tolist() == [False, True, True, False]


def test_no_head_sees_the_fold_that_it_is_measured_on() -> None:
    pairs, bank = made_up(24)
    fold = np.arange(24) % 4
    mirrored = replace(pairs, features=pairs.features + 1)
    data: Any = SimpleNamespace(plain=pairs, home=joined(pairs, mirrored), bank=bank)
    seen = []

    def fit(given: Pairs) -> Fitted:
        seen.append(given.targets)
        return fit_head(given, bank, Recipe(top=3))

    vectors = starter_images.cross_fitted(data, fold, fit, away=made_up(5, 1)[0])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    for number, targets in enumerate(seen):
        assert len(targets) == 18 * 2 + 5
        assert (targets @ pairs.targets[fold == number].T).max() < 0.9


def test_gains_are_paired() -> None:
    texts = unit(np.random.default_rng(0).normal(size=(40, 384)).astype("f4"))
    labels = [str(n) for n in range(40)]
    shifted = np.roll(texts, 1, axis=0)
    found = gains(texts, texts, texts, labels)
    assert found["image to text R@10"] == [0.0, 0.0, 0.0]
    better = gains(texts, shifted, texts, labels)["text to image R@10"]
    assert 0.5 < better[0] <= 1.0
    assert better[1] <= better[0] <= better[2]


@pytest.mark.parametrize(
    ("code", "text"),
    [(0x1F404, "cow"), (0x1F69C, "tractor"), (0x1F553, ""), (0x27A1, ""), (0x35, ""), (0x1F1E6, "")],
)
def test_emoji_are_named_unless_they_are_signs(code: int, text: str) -> None:
    assert noto_emoji.phrase(code) == text


def test_photographs_are_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_packages, "unpack", lambda *_, **__: [])
    folder = tmp_path / photographs.OPENCV
    folder.mkdir(parents=True)
    (folder / "apple.jpg").write_bytes(b"jpg")
    found = photographs.photographs(tmp_path)
    assert (folder / "apple.jpg", "an apple") in found
    names = [text for _, text in found]
    assert "a cat" in names  # scikit-image's
    assert "a baboon" not in names
    assert len(set(names)) == len(names)


def test_every_photograph_has_a_name_of_its_own() -> None:
    names = [
        *photographs.PYTHON.values(),
        *(n for each in photographs.DEBIAN.values() for n in each.values()),
    ]
    assert len(set(names)) == len(names)


def test_the_comparisons_table_is_the_mean_over_seeds() -> None:
    table = compare_heads.table(np.array([[1, 2, 11, 30], [1, 12, 11, 3]], np.float32))
    assert table["R@10 by seed"] == [0.5, 0.5]
    assert table["R@1 by seed"] == [0.25, 0.25]
    assert table["R@5"][0] == pytest.approx(0.5)
    assert table["R@5"][1] <= 0.5 <= table["R@5"][2]


def test_every_way_makes_unit_vectors_of_pictures_and_texts() -> None:
    pairs, bank = made_up(450, noise=0.5)
    names = []
    for way in compare_heads.ways(bank):
        if "MLP" in way.name or "Fourier" in way.name or "from ConSE" in way.name:
            continue
        pictures, texts = way.make(pairs, way.settings[0], 0)(pairs.take(np.arange(20)))
        names.append(way.name)
        assert np.linalg.norm(pictures, axis=1) == pytest.approx(1.0, abs=1e-4)
        assert np.linalg.norm(texts, axis=1) == pytest.approx(1.0, abs=1e-4)
        assert pictures.shape == texts.shape == (20, 256 if way.name == "CCA" else 384)
    assert {"ridge", "Procrustes", "CCA", "InfoNCE, linear", "triplet, semi-hard, linear"} <= set(names)


def test_the_best_by_cross_validation_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, bank = made_up(40)
    away = made_up(30, 1)[0]
    nothing = away.take(np.arange(0))
    data: Any = SimpleNamespace(
        plain=pairs, home=joined(pairs, pairs), away=away, spare=nothing, clipart=away, bank=bank
    )
    data.ids = lambda _: [str(n) for n in range(40)]
    ruined = replace(QUICK, rate=3.0)
    monkeypatch.setattr(starter_images, "GRID", {"penalty": (1.0,), "top": (3,)})
    monkeypatch.setattr(starter_images, "VARIANTS", {"ruined": ruined, "good": QUICK})
    recipe, contrast, found = starter_images.choose_all(data)
    assert contrast == QUICK
    assert recipe.penalty in (1.0, Recipe().penalty)
    assert found["good"] > found["ruined"]
    assert list(found) == ["closed form", "ruined", "good", "good, no emoji", "good, stamps alone"]
    assert found["good, no emoji"] == found["good"]  # the drawings are all there are in either
