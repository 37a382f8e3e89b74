"""Rules that turn file names and metadata into captions, and the closed forms behind the heads."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import openclipart
import pytest
from starter_classes import match_classes
from starter_fit import Bank, Pairs, Recipe, conse, fit_head, folds, out_of_fold, unit
from starter_scores import mean_recall, ranks, recall_table

SVG = """<svg><metadata><cc:Work><dc:title>{title}</dc:title>
<dc:subject><rdf:Bag><rdf:li>hash</rdf:li><rdf:li>sea_bird</rdf:li></rdf:Bag></dc:subject>
<dc:publisher><cc:Agent><dc:title>Open Clip Art</dc:title></cc:Agent></dc:publisher>
<dc:creator><cc:Agent><dc:title>Gerald G.</dc:title></cc:Agent></dc:creator>
<cc:license rdf:resource="http://web.resource.org/cc/PublicDomain"/></cc:Work></metadata></svg>"""


@pytest.mark.parametrize(
    ("name", "title", "text"),
    [
        ("animals/gull_gerald_g_01", "Grey &amp; White Gull 2", "grey white gull"),
        ("animals/gull_gerald_g_01", "Various Cliparts", "gull"),
        ("people/nurse_gera_02", "", "nurse"),  # file names cut the author's name
        ("music/redDrum", "Clipart by Nicu Buculei - balloon", "red drum"),
    ],
)
def test_drawings_are_named_by_title_or_else_by_file(name: str, title: str, text: str) -> None:
    drawing = openclipart.read_drawing(name, SVG.format(title=title))
    assert drawing.free
    assert drawing.keywords == ("sea_bird",)
    rows = openclipart.rows_of([drawing], Path("svg"))
    assert [(row.text, row.keywords, row.image) for row in rows] == [(text, ["sea bird"], f"svg/{name}.svg")]


def test_a_title_that_names_a_collection_is_not_a_name() -> None:
    drawings = [
        openclipart.read_drawing(f"icons/disk_{n:02}", SVG.format(title="Nice Theme")) for n in range(9)
    ]
    assert openclipart.describe(drawings[0], Counter({"nice theme": 9})) == "disk"
    assert openclipart.describe(drawings[0], Counter({"nice theme": 2})) == "nice theme"


def test_drawings_without_a_licence_are_left_out() -> None:
    drawing = openclipart.read_drawing("a/gull", SVG.format(title="Gull").replace("PublicDomain", "by-nc"))
    assert openclipart.rows_of([drawing], Path("svg")) == []


def test_matching_finds_which_categories_are_absent() -> None:
    random = np.random.default_rng(0)
    categories = {f"C{n:02}": unit(random.normal(size=384).astype("f4")) for n in range(12)}
    present = [name for name in categories if name not in ("C03", "C08")]
    truth = random.integers(0, len(present), 400)
    probabilities = np.full((400, 10), 0.02, np.float32)
    probabilities[np.arange(400), truth] += 0.8
    noise = random.normal(size=(400, 384)).astype("f4") * 0.05
    named = unit(np.stack([categories[present[n]] for n in truth]) + noise)
    match = match_classes(probabilities, named, categories, draws=20)
    assert match.absent == ("C03", "C08")
    assert match.score > match.shuffled_mean + 5 * match.shuffled_deviation


def made_up(count: int = 80, seed: int = 0) -> tuple[Pairs, Bank]:
    """Features that are a noisy linear image of the targets, and logits that say nothing."""
    random = np.random.default_rng(seed)
    targets = unit(random.normal(size=(count, 384)).astype("f4"))
    lift = random.normal(size=(384, 512)).astype("f4")
    logits = random.normal(size=(count, 6)).astype("f4")
    classes = unit(random.normal(size=(6, 384)).astype("f4"))
    return Pairs(targets @ lift, logits, targets, np.ones(count, bool)), Bank.of(classes, targets)


def test_conse_is_the_weighted_mean_of_the_best_classes() -> None:
    classes = np.eye(4, 384, dtype=np.float32)
    logits = np.log(np.array([[8.0, 4.0, 2.0, 1.0]], np.float32))
    expected = unit(np.array([[8.0, 4.0]])) @ classes[:2]
    np.testing.assert_allclose(conse(logits, classes, top=2, temperature=1.0), expected, rtol=1e-6)
    hot = conse(logits, classes, top=2, temperature=2.0)
    np.testing.assert_allclose(hot[0, 0] / hot[0, 1], 2.0**0.5, rtol=1e-6)


def test_the_fit_equals_ridge_written_out() -> None:
    pairs, bank = made_up()
    fitted = fit_head(pairs, bank, Recipe(gain=0.0, even=0.0, penalty=0.7))
    inputs = unit(pairs.features) - unit(pairs.features).mean(0)
    expected = np.linalg.lstsq(
        np.vstack([inputs, np.sqrt(0.7) * np.eye(512)]),
        np.vstack([pairs.targets - pairs.targets.mean(0), np.zeros((512, 384))]),
        rcond=None,
    )[0]
    np.testing.assert_allclose(fitted.weight, expected, atol=1e-4)
    np.testing.assert_allclose(fitted.after, np.eye(384), atol=1e-5)


def test_a_held_out_row_does_not_see_its_own_text() -> None:
    """With targets that nothing predicts, held-out rows must do no better than chance; fitted ones would."""
    pairs, bank = made_up(count=120)
    noise = unit(np.random.default_rng(5).normal(size=(120, 384)).astype("f4"))
    pairs = dataclasses.replace(pairs, targets=noise)
    ids = [str(n) for n in range(120)]
    recipe = Recipe(gain=0.0, even=0.0, penalty=0.01)
    held = out_of_fold(pairs, pairs.take(np.arange(0)), bank, recipe, folds(ids, 4, 0))
    seen = fit_head(pairs, bank, recipe).vectors(pairs.features, pairs.logits)
    assert mean_recall(seen, noise, ids) > 0.95
    assert mean_recall(held, noise, ids) < 0.12  # chance is .044


def test_folds_keep_a_group_together() -> None:
    groups = ["a", "b", "a", "c", "b", "d"]
    fold = folds(groups, 2, 1)
    assert fold[0] == fold[2]
    assert fold[1] == fold[4]
    assert sorted(Counter(dict(zip(groups, fold, strict=True)).values()).values()) == [2, 2]


def test_ranks_count_ties_against_and_take_the_best_match() -> None:
    queries = np.array([[1.0, 0.0]], np.float32)
    gallery = np.array([[0.5, 0], [0.9, 0], [0.5, 0], [0.2, 0]], np.float32)
    assert ranks(queries, gallery, ["x"], ["x", "y", "z", "x"]).tolist() == [3.0]
    assert ranks(queries, gallery, ["y"], ["x", "y", "z", "x"]).tolist() == [1.0]
    table = recall_table(np.array([1, 3, 7, 20], np.float32))
    assert [table[cut][0] for cut in ("R@1", "R@5", "R@10")] == [0.25, 0.5, 0.75]
    assert table["R@5"][1] <= 0.5 <= table["R@5"][2]
