"""Hyper-parameter search with Optuna, behind `--tune N`, judged by validation alone: no test rows come here.

Imports optuna inside `tune`, and no torch: what a trial does is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from indexer.errors import TrainingError, TrainingStopped
from retrieval.training.options import TrainOptions

if TYPE_CHECKING:
    import optuna

Objective = Callable[[TrainOptions, int], float | None]  # options, trial from 0 -> validation mean R@k
HIDDEN = (256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of options that was tried."""

    number: int  # from 0; the first has the options that were given
    options: TrainOptions
    recall: float | None  # validation's mean R@k; None where it failed
    failure: str = ""  # why it failed


@dataclass(frozen=True, slots=True)
class Tuned:
    """A search's outcome."""

    best: TrainOptions
    recall: float
    trials: tuple[Trial, ...]  # in the order tried


def tune(
    count: int,
    options: TrainOptions,
    objective: Objective,
    *,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> Tuned:
    """Try `count` sets of options and return the best; the first is `options` as given.

    Searches learning rate, weight decay, the loss's scale or margin, and the head's kind, width and dropout,
    with a tree-structured Parzen estimator (Bergstra et al. 2011) seeded by `options.seed`. `objective`
    trains and returns validation's mean R@k, higher is better; a TrainingError in it fails that trial only.
    TrainingError where Optuna is not installed, `count` is below 1, or every trial failed.
    """
    check_tune(count)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=options.seed % 2**32)
    )
    trials: list[Trial] = []
    for number in range(count):
        asked = study.ask()
        # The first runs what was given, which may lie outside the ranges; so the search is not told of it.
        drawn = _suggest(asked, options)
        tried = drawn if number else options
        trial = _try(objective, tried, number)
        if number:
            state = optuna.trial.TrialState.FAIL if trial.recall is None else None
            study.tell(asked, trial.recall, state=state)
        else:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        trials.append(trial)
        on_trial(trial)
    done = [trial for trial in trials if trial.recall is not None]
    if not done:
        raise TrainingError(
            f"each of {count} trials failed, the first with: {trials[0].failure}",
            hint="train once without --tune to see what is wrong",
        )
    best = max(done, key=lambda trial: (trial.recall or 0.0, -trial.number))
    return Tuned(best.options, best.recall or 0.0, tuple(trials))


def check_tune(count: int) -> None:
    """TrainingError where a search cannot be done."""
    from importlib.util import find_spec

    if count < 1:
        raise TrainingError(f"{count} trials were asked for, expected 1 or more")
    if find_spec("optuna") is None:
        raise TrainingError(
            "a search needs Optuna, which is not installed", hint="pip install 'triptych[tune]'"
        )


def _try(objective: Objective, options: TrainOptions, number: int) -> Trial:
    try:
        recall = objective(options, number)
    except TrainingStopped:
        raise
    except TrainingError as error:
        return Trial(number, options, None, error.message)
    if recall is None:
        raise TrainingError("a search needs validation rows to judge by", hint="give validation rows")
    return Trial(number, options, recall)


def _suggest(trial: optuna.Trial, options: TrainOptions) -> TrainOptions:
    """One draw of the search space."""
    from retrieval.training.heads import HeadKind
    from retrieval.training.losses import LossKind

    kinds = [kind.value for kind in (HeadKind.LINEAR, HeadKind.MLP, HeadKind.RESIDUAL)]
    head: dict[str, Any] = {"kind": HeadKind(trial.suggest_categorical("head.kind", kinds))}
    head["dropout"] = trial.suggest_float("head.dropout", 0.0, 0.5)
    if head["kind"] is not HeadKind.LINEAR:
        head["hidden"] = trial.suggest_categorical("head.hidden", HIDDEN)
    loss: dict[str, Any] = {}
    if options.loss.kind is LossKind.TRIPLET:
        loss["margin"] = trial.suggest_float("loss.margin", 0.05, 0.5)
    else:
        loss["init_scale"] = trial.suggest_float("loss.init_scale", 5.0, 50.0, log=True)
    return replace(
        options,
        lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-4, 1.0, log=True),
        head=replace(options.head, **head),
        loss=replace(options.loss, **loss),
    )
