"""The search: seeded, starts from what was given, and survives trials that fail."""

from __future__ import annotations

import importlib.util
import math

import pytest

from indexer.errors import TrainingError
from retrieval.training.options import TrainOptions, parse_overrides
from retrieval.training.tune import Trial, tune

GIVEN = parse_overrides(["lr=0.009", "head.kind=linear"])


def score(options: TrainOptions, _: int) -> float:
    """Best at lr 1e-3."""
    return 1.0 / (1.0 + abs(math.log10(options.lr / 1e-3)))


def test_it_finds_better_than_what_was_given_and_the_same_again() -> None:
    seen: list[Trial] = []
    found = tune(14, GIVEN, score, on_trial=seen.append)
    assert found.trials == tuple(seen)
    assert seen[0].options == GIVEN
    assert found.recall == max(trial.recall or 0.0 for trial in seen) > score(GIVEN, 0)
    assert score(found.best, 0) == found.recall
    assert tune(14, GIVEN, score) == found
    assert len({trial.options.lr for trial in seen}) == 14
    assert all(trial.options.epochs == GIVEN.epochs for trial in seen)
    assert len({trial.options.loss.init_scale for trial in seen}) == 14


def test_a_triplet_search_varies_the_margin() -> None:
    given = parse_overrides(["loss.kind=triplet"])
    trials = tune(4, given, score).trials
    assert len({trial.options.loss.margin for trial in trials}) == 4
    assert {trial.options.loss.init_scale for trial in trials} == {None}


def test_failed_trials_are_told_and_left_out() -> None:
    def fails(options: TrainOptions, number: int) -> float:
        if number != 2:
            raise TrainingError(f"trial {number} diverged")
        return 0.5

    found = tune(4, GIVEN, fails)
    assert [trial.failure for trial in found.trials] == [
        "trial 0 diverged",
        "trial 1 diverged",
        "",
        "trial 3 diverged",
    ]
    assert found.best == found.trials[2].options
    with pytest.raises(TrainingError, match="each of 2 trials failed, the first with: trial 0 diverged"):
        tune(2, GIVEN, fails)


def test_it_wants_validation_a_count_and_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="needs validation rows"):
        tune(2, GIVEN, lambda _o, _n: None)
    with pytest.raises(TrainingError, match="0 trials"):
        tune(0, GIVEN, score)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TrainingError, match="Optuna") as caught:
        tune(1, GIVEN, score)
    assert "triptych[tune]" in (caught.value.hint or "")
