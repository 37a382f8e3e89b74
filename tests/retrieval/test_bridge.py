"""A bridge finds the map between two text spaces, and says truly how well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from indexer.errors import ConfigError, TrainingError
from retrieval.encoders.tower import units
from retrieval.models.bridge import Bridge, fit_bridge, mean_recall, recalls, split, through
from retrieval.models.bridge_types import WAYS, BridgeOptions, Method
from retrieval.models.captions.bank import captions, with_article
from retrieval.training.described import head_from_description

QUICK = BridgeOptions(epochs=2, batch=64)
TEXTS = [f"caption {number}" for number in range(400)]


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows at unit length, in float32 as towers give them."""
    return units(rows.astype(np.float32))


def hidden(texts: Sequence[str], width: int, *, seed: int = 0) -> np.ndarray:
    """One unit vector a text, the same for the same text."""
    rows = [np.random.default_rng([seed, *text.encode()]).standard_normal(width) for text in texts]
    return unit(np.array(rows, np.float32) + 0.4)


def in_a(texts: Sequence[str]) -> np.ndarray:
    return hidden(texts, 24)


def in_b(texts: Sequence[str]) -> np.ndarray:
    """A's vectors turned, in a wider space, with some noise of their own."""
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((32, 32)))[0][:24]
    own = np.random.default_rng([1, len(texts)]).standard_normal((len(texts), 32))
    return unit(hidden(texts, 24) @ turn + 0.02 * own)


@pytest.fixture(scope="module")
def fitted() -> Bridge:
    return fit_bridge(TEXTS, in_a, in_b, QUICK, names=("pictures", "sounds"))


def test_every_method_finds_a_turned_space_again(fitted: Bridge) -> None:
    for method in (Method.RIDGE, Method.PROCRUSTES, Method.CONTRASTIVE):
        score = fitted.report.scores[method]
        for way in WAYS:
            assert score.test[way]["R@1"].value > 0.9, (method, way)
            assert score.test[way]["R@1"].low <= score.test[way]["R@1"].value
        new = [f"never seen {number}" for number in range(50)]
        vectors = through(fitted.heads[method], in_b(new))
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(50), abs=1e-5)
        assert mean_recall(vectors, in_a(new)) > 0.95
    assert not any(line.startswith("WARNING") for line in fitted.report.lines())


def test_unrelated_spaces_are_not_bridged() -> None:
    found = fit_bridge(TEXTS, in_a, lambda texts: hidden(texts, 32, seed=9), QUICK).report
    assert found.chance == pytest.approx(10 / found.captions["test"])
    for score in found.scores.values():
        assert score.test["b to a"]["R@10"].value < 3 * found.chance
    assert any(line.startswith("WARNING: held-out texts hardly") for line in found.lines())


def test_the_same_arguments_give_the_same_numbers(fitted: Bridge) -> None:
    again = fit_bridge(TEXTS, in_a, in_b, QUICK, names=("pictures", "sounds"))
    for method, head in fitted.heads.items():
        for name, value in head.state_dict().items():
            assert torch.equal(value, again.heads[method].state_dict()[name]), (method, name)
    assert again.report == fitted.report


def test_a_head_is_rebuilt_from_its_description(fitted: Bridge) -> None:
    copy = head_from_description(fitted.head.describe())
    copy.load_state_dict(fitted.head.state_dict())
    vectors = in_b(TEXTS[:5])
    assert through(copy.eval(), vectors) == pytest.approx(through(fitted.head, vectors))  # type: ignore[arg-type]


def test_centring_moves_sounds_to_the_texts(fitted: Bridge) -> None:
    """Sounds pushed aside, all by one vector, are found again once their mean is known."""
    new = [f"heard {number}" for number in range(200)]
    aside = np.random.default_rng(2).standard_normal((1, 32)).astype(np.float32)
    sounds = unit(in_b(new) + 1.5 * unit(aside))
    plain = mean_recall(through(fitted.head, sounds), in_a(new))
    centred = mean_recall(through(fitted.for_media(sounds[:60]), sounds), in_a(new))
    assert centred > 0.9
    assert centred > plain + 0.1
    texts = in_b(TEXTS)  # whose mean is where it belongs already
    assert through(fitted.for_media(texts), texts) == pytest.approx(through(fitted.head, texts), abs=0.05)


def test_recalls_equal_a_naive_count() -> None:
    random = np.random.default_rng(4)
    queries, gallery = (unit(random.standard_normal((30, 6)).astype(np.float32)) for _ in range(2))
    scores = queries.astype(np.float64) @ gallery.astype(np.float64).T
    expected = 1 + (scores > np.diag(scores)[:, None]).sum(axis=1)
    assert recalls(queries, gallery).rank.tolist() == expected.tolist()


def test_groups_are_not_divided() -> None:
    groups = [one.group for one in captions()]
    parts = split(groups, BridgeOptions(validation=0.2, test=0.3))
    names = [{g for g, inside in zip(groups, part, strict=True) if inside} for part in parts]
    assert sum(len(each) for each in names) == len(set(groups))
    assert (np.sum(parts, axis=0) == 1).all()
    shares = [len(each) / len(set(groups)) for each in names]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.04)
    other = split(groups, BridgeOptions(validation=0.2, test=0.3, seed=1))
    assert (other[2] != parts[2]).any()


def test_a_simpler_method_is_chosen_within_the_margin() -> None:
    one = fit_bridge(TEXTS, in_a, in_b, BridgeOptions(epochs=1, margin=1.0)).report
    assert (one.chosen, one.why.partition(" and ")[0]) == (Method.RIDGE, _simpler(one.scores))
    asked = fit_bridge(TEXTS, in_a, in_b, BridgeOptions(method=Method.PROCRUSTES)).report
    assert (asked.chosen, asked.why, list(asked.scores)) == (
        Method.PROCRUSTES,
        "as asked",
        [Method.PROCRUSTES],
    )


def _simpler(scores: object) -> str:
    assert isinstance(scores, dict)
    best = max(scores, key=lambda method: scores[method].validation)
    if best is Method.RIDGE:
        return f"with the best mean recall on validation captions, {100 * scores[best].validation:.1f} %"
    return f"simpler than {best.value}"


def test_the_report_names_spaces_counts_and_the_choice(fitted: Bridge) -> None:
    lines = fitted.report.lines()
    counts = fitted.report.captions
    assert sum(counts.values()) == 400
    assert lines[0].startswith(f"sounds -> pictures: {counts['fitted']} captions fitted")
    assert sum(line.startswith(("ridge", "procrustes", "contrastive")) for line in lines) == 6
    assert lines[-1].startswith(f"chosen: {fitted.report.chosen.value}, ")
    said = fitted.report.to_json()
    assert said["scores"]["ridge"]["test"]["b to a"]["R@1"][0] > 0.9
    assert said["chosen"] == fitted.report.chosen.value


def test_captions_are_told_apart_by_their_bank(fitted: Bridge) -> None:
    other = fit_bridge([*TEXTS[:-1], "another"], in_a, in_b, BridgeOptions(method=Method.PROCRUSTES)).report
    spaced = fit_bridge(
        [f" {t} " for t in TEXTS] * 2, in_a, in_b, BridgeOptions(method=Method.PROCRUSTES)
    ).report
    assert other.bank != fitted.report.bank
    assert spaced.bank == fitted.report.bank  # white space and repetitions do not count


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(TrainingError, match="3 different captions, expected 200"):
        fit_bridge(["a", "b", " a ", "c"], in_a, in_b)
    with pytest.raises(TrainingError, match="not finite"):
        fit_bridge(TEXTS, in_a, lambda texts: np.full((len(texts), 4), np.nan, np.float32))
    with pytest.raises(TrainingError, match="cannot be split"):
        split(["one"] * 100, BridgeOptions())
    with pytest.raises(ConfigError, match="'spline', expected one of auto, ridge"):
        BridgeOptions(method="spline")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"bridge.test is 0.9"):
        BridgeOptions(test=0.9)


def test_the_bank_that_ships() -> None:
    bank = captions()
    assert len({one.text for one in bank}) == len(bank) == 6352
    assert {"a dog", "the sound of rain falling", "someone playing the violin"} <= {one.text for one in bank}
    assert all(text == " ".join(text.split()) for text in (one.text for one in bank))
    assert not [one.text for one in bank if one.text.startswith(("a a ", "an a ", "a an "))]
    assert [with_article(noun) for noun in ("owl", "cat", "unicorn", "ukulele")] == [
        "an owl", "a cat", "a unicorn", "a ukulele",
    ]  # fmt: skip
