"""Curves of a run for TensorBoard, and for Weights & Biases where asked."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from indexer.errors import TrainingError
from retrieval.training.options import TrainOptions


class Logs:
    """Scalars by step, in a folder that TensorBoard reads. A context manager; `close` writes what is left."""

    def __init__(self, folder: Path, options: TrainOptions, *, step: int = 0) -> None:
        """`step` is where a resumed run goes on: what an earlier one logged beyond it is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._run = _wandb_run(options, folder) if options.wandb else None
        self._writer = SummaryWriter(str(folder), purge_step=step or None)

    def add(self, step: int, **values: float | None) -> None:
        """Log values at a step; None is left out."""
        known = {name.replace("_", "/", 1): value for name, value in values.items() if value is not None}
        for name, value in known.items():
            self._writer.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(known, step=step)

    def close(self) -> None:
        self._writer.close()
        if self._run is not None:
            self._run.finish()

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_wandb() -> None:
    """TrainingError where Weights & Biases is not installed."""
    from importlib.util import find_spec

    if find_spec("wandb") is None:
        raise TrainingError(
            "wandb=true, and Weights & Biases is not installed",
            hint="pip install 'triptych[wandb]', or leave wandb=false: TensorBoard logs are written always",
        )


def _wandb_run(options: TrainOptions, folder: Path) -> Any:
    check_wandb()
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(project="triptych", dir=str(folder), config=options.to_json(), resume="allow")
