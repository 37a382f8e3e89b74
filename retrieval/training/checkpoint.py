"""Checkpoints: one safetensors file each, its JSON in the header; never a pickle, never half-written.

A file is written beside, flushed to disk and renamed, so that a killed run leaves whole checkpoints only;
one that cannot be read all the same is passed over for the one before. The last two are kept. What goes in
is the trainer's business; here stand the files, the flattening of an optimizer, and random states.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from indexer import fsio
from indexer.errors import TrainingError

VERSION = 1
KEEP = 2
FREE = ("workers", "wandb", "save_steps")  # options that may change between a run and its resumption


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a run needs to go on: tensors by name, and everything else as JSON values."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `name.`, without it."""
        return {
            key[len(name) + 1 :]: value for key, value in self.tensors.items() if key.startswith(f"{name}.")
        }


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, *, keep: int = KEEP) -> Path:
    """Write a checkpoint of a step into a folder, then remove all but the newest `keep`; its path."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:010d}.safetensors"
    beside = folder / f".{path.name}.{secrets.token_hex(8)}"
    header = {"triptych": json.dumps({"version": VERSION, "step": step, **checkpoint.facts})}
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    try:
        save_file(_unshared(tensors), beside, metadata=header)
        fsio.fsync_file(beside)
        fsio.step("checkpoint-written")
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    fsio.fsync_dir(folder)
    for old in _paths(folder)[keep:]:
        old.unlink(missing_ok=True)
    for left in folder.glob(".step-*"):  # of a run that was killed while it wrote
        left.unlink(missing_ok=True)
    return path


def has_checkpoint(folder: Path) -> bool:
    """Whether there is any, readable or not."""
    return bool(_paths(folder))


def latest_checkpoint(folder: Path) -> tuple[Path, Checkpoint]:
    """The newest that can be read. TrainingError where there is none, or a later version wrote it."""
    damaged: list[str] = []
    for path in _paths(folder):
        try:
            return path, _read(path)
        except (OSError, ValueError, KeyError) as error:
            damaged.append(f"{path.name}: {error}")
    if damaged:
        raise TrainingError(
            f"no checkpoint in {folder} can be read: {'; '.join(damaged)}",
            hint="remove the folder and train from the beginning",
        )
    raise TrainingError(
        f"there is no checkpoint in {folder} to go on from", hint="train from the beginning, without resuming"
    )


def _read(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["triptych"])
            if facts["version"] > VERSION:
                raise TrainingError(
                    f"{path} was written by a later version of this program", hint="resume with that version"
                )
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, facts)  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _paths(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with a memory of its own for each: safetensors refuses tensors that share theirs."""
    seen: set[int] = set()
    found = {}
    for name, value in tensors.items():
        where = value.untyped_storage().data_ptr()
        found[name] = value.clone() if where in seen else value
        seen.add(where)
    return found


def check_same(
    facts: Mapping[str, Any], *, options: Mapping[str, Any], data: str, frozen: str, world: int
) -> None:
    """Refuse to resume a run with other options, data, frozen weights or processes. TrainingError."""
    differences = list(_differences(facts["options"], options))
    if differences:
        raise TrainingError(
            f"the checkpoint was made with other options: {'; '.join(differences)}",
            hint="resume with the options it was made with, or train into another folder",
        )
    told = {
        "data": (data, "the training data, their features or their split"),
        "frozen": (frozen, "the base model"),
    }
    for key, (now, what) in told.items():
        if facts[key] != now:
            raise TrainingError(
                f"{what} changed since the checkpoint was made: {facts[key][:12]} then, {now[:12]} now",
                hint="resume with what it was made with, or train into another folder",
            )
    if facts["world"] != world:
        raise TrainingError(
            f"the checkpoint was made by {facts['world']} processes, this run has {world}",
            hint=f"launch {facts['world']} processes",
        )


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(then.keys() | now.keys()):
        name, old, new = prefix + key, then.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{name}.")
        elif old != new and name not in FREE:
            yield f"{name} was {old}, is {new}"


def flat_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors named `<parameter>.<key>`, and the rest of it as JSON values."""
    state = optimizer.state_dict()
    tensors, rest = {}, {}
    for number, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{key}"] = value
            else:
                rest[f"{number}.{key}"] = value
    return tensors, rest


def fill_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """What `flat_optimizer` took apart, put into an optimizer of the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in (*tensors.items(), *rest.items()):
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of torch's, numpy's and Python's global random numbers, as JSON values."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "torch": _text(torch.get_rng_state()),
        "numpy": [kind, [int(key) for key in keys], place, has_gauss, gauss],
        "python": random.getstate(),
    }
    if device.type == "cuda":
        found["cuda"] = _text(torch.cuda.get_rng_state(device))
    return found


def restore_random(state: Mapping[str, Any], device: torch.device) -> None:
    """Put back what `random_state` took."""
    torch.set_rng_state(_tensor(state["torch"]))
    kind, keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), place, has_gauss, gauss))
    version, inner, following = state["python"]
    random.setstate((version, tuple(inner), following))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(_tensor(state["cuda"]), device)


def generator_state(generator: torch.Generator) -> str:
    """A generator's state as text."""
    return _text(generator.get_state())


def restore_generator(generator: torch.Generator, state: str) -> None:
    """Put back what `generator_state` took."""
    generator.set_state(_tensor(state))


def _text(state: Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
