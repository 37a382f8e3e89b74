"""Long work at a terminal: a bar with rate and time left, a line for each file that gave nothing. On stderr.

Where stderr is no terminal there is no bar, only the lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from indexer.report import Event, FileFailed, Planned, Progress, Skipped, Warned
from retrieval.render.escape import printable

STARTER = "building the starter model"
BuildStep = Callable[[str, float], None]  # what is being done, and how much of all is done, in [0, 1]


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f}/s" if speed else "")


class UpdateProgress:
    """Shows the events of an update. Call it with each; use it as a context manager.

    `title` says what is done to files once they are found.
    """

    def __init__(self, console: Console, *, title: str = "indexing") -> None:
        self.console = console
        self.title = title
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> UpdateProgress:
        if self.console.is_terminal:  # elsewhere rich would leave an empty line behind
            self._bars.start()
            self._task = self._bars.add_task("scanning", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, FileFailed):
            self._line(f"{printable(event.path)}: {printable(event.reason)}")
        elif isinstance(event, Warned):
            hint = f"\n  {printable(event.hint)}" if event.hint else ""
            self._line(f"warning: {printable(event.message)}{hint}")
        elif isinstance(event, Skipped):
            files = f"{event.count} {event.modality} file{'s' * (event.count != 1)}"
            self._line(f"{files} skipped: the model has no tower for them (see `triptych models show`)")
        elif self._task is not None and isinstance(event, Planned):
            self._bars.update(self._task, description=self.title, total=event.total)
        elif self._task is not None and isinstance(event, Progress):
            self._bars.update(self._task, description=self.title, completed=event.done, total=event.total)

    def _line(self, text: str) -> None:
        self._bars.console.print(Text(text), soft_wrap=True)


@contextmanager
def build_progress(console: Console, *, title: str | None = STARTER) -> Iterator[BuildStep]:
    """A callback that shows how the building of a model goes; shows nothing until it is called.

    `title` says what all of it is, and is all that is said where stderr is no terminal; without one each step
    speaks for itself, a line each.
    """
    bars = Bars(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
    )
    task: list[TaskID] = []
    said: set[str] = set()

    def show(step: str, fraction: float) -> None:
        step = printable(step)
        if not console.is_terminal:
            line = step if title is None else f"{title}, once (under a minute)"
            if line not in said:
                said.add(line)
                console.print(line, soft_wrap=True)
            return
        if not task:
            bars.start()
            task.append(bars.add_task("", total=1.0))
        bars.update(task[0], description=step if title is None else f"{title}: {step}", completed=fraction)

    try:
        yield show
    finally:
        if console.is_terminal and task:
            bars.stop()
