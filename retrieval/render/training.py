"""A training run at a terminal, on stderr: a bar with loss, recall, rate and time left, a line an epoch.

Where stderr is no terminal there is no bar, only the lines.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from retrieval.render.escape import printable
from retrieval.training.events import CheckpointSaved, EpochDone, EpochStart, StepDone
from retrieval.training.features import FeatureProgress
from retrieval.training.run import Event, Note, Step, TrainReport


class TrainProgress:
    """Shows the events of a run. Call it with each; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[more]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._epochs = 0
        self._recall = ""

    def __enter__(self) -> TrainProgress:
        if self.console.is_terminal:
            self._bars.start()
            self._task = self._bars.add_task("reading", total=None, more="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            self._line(printable(event.text))
        elif isinstance(event, Step):
            self._show(printable(event.text), event.share, "")
        elif isinstance(event, FeatureProgress):
            known = f", {event.reused} known" if event.reused else ""
            failed = f", {event.failed} failed" if event.failed else ""
            share = event.done / event.total if event.total else None
            self._show("features", share, f"{event.done} of {event.total}{known}{failed}")
        elif isinstance(event, EpochStart):
            self._epochs = event.epochs
        elif isinstance(event, StepDone):
            loss = f"loss {event.loss:.4f}{self._recall}"
            left = f"{event.rate:,.0f} pairs/s  {_duration(event.eta_s)} left"
            self._show(f"epoch {event.epoch} of {self._epochs}", event.step / event.steps, f"{loss}  {left}")
        elif isinstance(event, EpochDone):
            self._epoch(event)
        else:
            assert isinstance(event, CheckpointSaved)  # nothing to show of it

    def _epoch(self, event: EpochDone) -> None:
        found = "" if event.recall is None else f", validation recall {event.recall:.3f}"
        self._recall = "" if event.recall is None else f"  recall {event.recall:.3f}"
        if event.epoch == 0:
            self._line(f"before training: validation recall {event.recall or 0.0:.3f}")
            return
        best = " (best so far)" if event.best and event.recall is not None else ""
        self._line(f"epoch {event.epoch:3d} of {self._epochs}: loss {event.loss:.4f}{found}{best}")

    def _show(self, what: str, share: float | None, more: str) -> None:
        if self._task is not None:
            total = None if share is None else 1.0
            self._bars.update(self._task, description=what, completed=share or 0.0, total=total, more=more)

    def _line(self, text: str) -> None:
        self._bars.console.print(Text(text), soft_wrap=True)


def report_lines(report: TrainReport) -> list[str]:
    """What came of a run, and what to do with it."""
    rows = ", ".join(f"{count} {split}" for split, count in report.rows.items())
    kinds = ", ".join(f"{count} {a}-{b}" for (a, b), count in report.pairs.items())
    lines = [f"trained on {rows} rows; pairs: {kinds}"]
    result = report.result
    if result.best is not None:
        before = "" if result.start is None else f" (before training {result.start:.3f})"
        name = f"R@{report.options.metric_k}"
        found = f"in epoch {result.best_epoch}{before}"
        if not result.best_epoch:
            found = "before training, which made nothing better: the model is what it started as"
        lines.append(f"validation mean {name} {result.best:.3f} {found}")
    if report.failures:
        lines.append(f"{len(report.failures)} rows or files could not be used")
    spec = report.bundle.spec
    lines.append(f"{spec.name}: {', '.join(spec.modalities)} in space {spec.space_id[:12]}")
    if without := spec.provenance.get("left out"):
        lines.append(
            f"left out: {', '.join(without)}; nothing was trained for it, and the base's vectors of it "
            "do not fit this space"
        )
    lines.append(f"model: {report.bundle.folder}")
    lines.append(f"logs:  {report.run_folder / 'logs'}  (tensorboard --logdir ...)")
    return [printable(line) for line in lines]


def report_json(report: TrainReport) -> dict[str, Any]:
    """The same for programs."""
    result = report.result
    return {
        "model": str(report.bundle.folder),
        "name": report.bundle.spec.name,
        "space_id": report.bundle.spec.space_id,
        "modalities": list(report.bundle.spec.modalities),
        "rows": {split.value: count for split, count in report.rows.items()},
        "pairs": {f"{a}-{b}": count for (a, b), count in report.pairs.items()},
        "validation": {
            "k": report.options.metric_k,
            "before": result.start,
            "mean_recall": result.best,
            "epoch": result.best_epoch,
        },
        "epochs": result.epochs,
        "steps": result.steps,
        "stopped": result.stopped.value,
        "failures": [{"where": where, "why": why} for where, why in report.failures],
        "run_folder": str(report.run_folder),
    }


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
