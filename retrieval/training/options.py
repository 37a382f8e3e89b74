"""What a training run may be told: options, their ranges, and how they are read from TOML and `key=value`.

Imports no torch until options are made: the shapes of heads and losses stand beside what they configure.
Nothing here trains.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from indexer.errors import ConfigError
from indexer.types import Modality
from retrieval.training.types import PairKind

if TYPE_CHECKING:
    from retrieval.training.heads import HeadOptions
    from retrieval.training.losses import LossOptions

NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
Options = TypeVar("Options")


class Optimizer(StrEnum):
    """How gradients move weights."""

    ADAMW = "adamw"
    SGD = "sgd"


class Schedule(StrEnum):
    """How the learning rate goes on after the warm-up."""

    COSINE = "cosine"  # down to zero at the last step
    CONSTANT = "constant"


class Precision(StrEnum):
    """What a step's matrices are multiplied in; weights and their sums stay float32."""

    AUTO = "auto"  # f32 on a CPU; on a GPU bf16 where it has it, otherwise fp16
    F32 = "f32"
    BF16 = "bf16"
    FP16 = "fp16"  # with a loss scale that adapts; GPUs only


class Device(StrEnum):
    """Where to train."""

    AUTO = "auto"  # a GPU where there is one
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Start(StrEnum):
    """Which space training begins at."""

    BASE = "base"  # the base model's own heads, with a trained one added that starts at zero
    RANDOM = "random"
    RIDGE = "ridge"  # linear heads fitted toward text vectors without a gradient
    PROCRUSTES = "procrustes"  # the rotation of features onto text vectors
    FOURIER = "fourier"  # ridge on random Fourier features, head.hidden of them: kernel ridge, nearly
    CCA = "cca"  # the projections of features and text vectors that correlate most


@dataclass(frozen=True, slots=True)
class PairWeights:
    """How much each kind of pair counts in the loss, 0 or more; 0 leaves the kind out."""

    image_text: float = 1.0
    image_audio: float = 1.0
    text_audio: float = 1.0

    def of(self, kind: PairKind) -> float:
        """The weight of a kind of pair, in Modality's order."""
        return float(getattr(self, f"{kind[0]}_{kind[1]}"))


def _default_head() -> HeadOptions:
    from retrieval.training.heads import HeadOptions

    return HeadOptions()


def _default_loss() -> LossOptions:
    from retrieval.training.losses import LossOptions

    return LossOptions()


@dataclass(frozen=True)
class TrainOptions:
    """One run's options. ConfigError names the option, what came and what it takes."""

    epochs: int = 30  # times through the training rows
    batch_size: int = 1024  # rows a step, over all ranks together
    lr: float = 1e-3  # the highest learning rate
    weight_decay: float = 0.01  # of matrices; biases, norms, scale and bias of the loss have none
    optimizer: Optimizer = Optimizer.ADAMW
    momentum: float = 0.9  # of sgd
    warmup: float = 0.05  # share of all steps in which the learning rate rises from zero
    schedule: Schedule = Schedule.COSINE
    clip: float = 1.0  # longest that all gradients together may be; 0: no bound
    ema: float = 0.0  # decay a step of the averaged weights that are validated and kept; 0: none
    precision: Precision = Precision.AUTO
    device: Device = Device.AUTO
    chunk: int = 0  # contents of a modality encoded at a time (gradient caching); 0: all at once
    hard_negatives: int = 0  # mined for each content of a batch, anew every epoch; 0: none
    hard_margin: float = 0.05  # a mined negative is this share less like its query than the best positive
    pairs: PairWeights = field(default_factory=PairWeights)
    balance: float = 1.0  # temperature T: pair kinds and labels are drawn like count^(1/T); 1: each row once
    modality_dropout: float = 0.0  # chance that a row with three modalities loses one for a step
    patience: int = 5  # epochs without a better validation before it stops; 0: never
    metric_k: int = 10  # validation is the mean of R@k over the directions
    validation: float = 0.1  # share of the rows without a split of their own that validates
    test: float = 0.1  # and that is held out for testing
    seed: int = 0
    freeze: tuple[Modality, ...] = ()  # modalities whose heads are left as they start
    start: Start = Start.BASE
    start_penalty: float = 0.0  # of ridge (0: by leave-one-out) and cca (0: one)
    dim: int = 0  # of the shared space; 0: the base model's
    matryoshka: tuple[int, ...] = ()  # smaller dimensions trained along, each less than dim
    workers: int = 0  # processes that decode media while a backbone is trained; 0: as many as cores
    save_steps: int = 0  # steps between checkpoints; 0: at the end of an epoch only
    wandb: bool = False  # log to Weights & Biases, too
    head: HeadOptions = field(default_factory=_default_head)
    loss: LossOptions = field(default_factory=_default_loss)

    def __post_init__(self) -> None:
        for name, (low, high, what) in RANGES.items():
            value = _reach(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"{name} is {value}, expected {what}")
        bad = [dim for dim in self.matryoshka if not 0 < dim < (self.dim or math.inf)]
        if bad or len(set(self.matryoshka)) != len(self.matryoshka):
            below = f" and below dim={self.dim}" if self.dim else ""
            raise ConfigError(
                f"matryoshka is {list(self.matryoshka)}, expected numbers above 0{below}, each once"
            )
        if self.chunk and self.head.hidden_norm == "batch":
            raise ConfigError(
                "chunk with head.hidden_norm=batch: statistics of a chunk are not those of the batch",
                hint="use head.hidden_norm=layer, or chunk=0",
            )
        if self.device is Device.CPU and self.precision is Precision.FP16:
            raise ConfigError("precision is fp16 on a CPU, which has none", hint="use precision=bf16 or f32")

    def in_space(self, dim: int) -> TrainOptions:
        """The same options with the base model's dimension, unless they name one. ConfigError."""
        return self if self.dim else replace(self, dim=dim)

    @property
    def dims(self) -> tuple[int, ...]:
        """Every dimension of the space, descending, dim first."""
        return (self.dim, *sorted(self.matryoshka, reverse=True))

    def to_json(self) -> dict[str, Any]:
        """Plain values, nested as the options are; `options_from` reads them back."""
        return typing.cast(dict[str, Any], _plain(self))

    def digest(self) -> str:
        """SHA-256 of the options, 64 hex digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


_TINY = 5e-324  # the least number above zero
_BELOW_ONE = math.nextafter(1.0, 0.0)
RANGES: Mapping[str, tuple[float, float, str]] = {  # option -> least, most, in words
    "epochs": (1, 1e6, "1 or more"),
    "batch_size": (2, 1e7, "2 or more: a loss compares rows of one batch"),
    "lr": (_TINY, 10.0, "more than 0, at most 10"),
    "weight_decay": (0.0, 10.0, "0 to 10"),
    "momentum": (0.0, _BELOW_ONE, "0 or more and less than 1"),
    "warmup": (0.0, 1.0, "a share of the steps, 0 to 1"),
    "clip": (0.0, math.inf, "0 (no bound) or more"),
    "ema": (0.0, _BELOW_ONE, "0 (none) or more and less than 1"),
    "chunk": (0, 1e9, "0 (all at once) or more"),
    "hard_negatives": (0, 1000, "0 (none) to 1000"),
    "hard_margin": (0.0, _BELOW_ONE, "0 or more and less than 1"),
    "pairs.image_text": (0.0, 1e6, "0 or more"),
    "pairs.image_audio": (0.0, 1e6, "0 or more"),
    "pairs.text_audio": (0.0, 1e6, "0 or more"),
    "balance": (1.0, 1e6, "1 (as the rows are) or more (more equal)"),
    "modality_dropout": (0.0, _BELOW_ONE, "a chance, 0 or more and less than 1"),
    "patience": (0, 1e9, "0 (never) or more"),
    "metric_k": (1, 1e6, "1 or more"),
    "validation": (0.0, _BELOW_ONE, "a share of the rows, 0 or more and less than 1"),
    "test": (0.0, _BELOW_ONE, "a share of the rows, 0 or more and less than 1"),
    "seed": (0, 2**63 - 1, "0 or more"),
    "start_penalty": (0.0, 1e12, "0 (chosen) or more"),
    "dim": (0, 1e5, "0 or more"),
    "workers": (0, 1e4, "0 (as many as cores) or more"),
    "save_steps": (0, 1e12, "0 (ends of epochs only) or more"),
}


def parse_overrides(texts: Iterable[str], base: TrainOptions | None = None) -> TrainOptions:
    """`base` with `key=value` settings on top, such as `loss.margin=0.2`; a later one wins. ConfigError."""
    tree = (base or TrainOptions()).to_json()
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} sets nothing", hint="write key=value, such as lr=0.0005")
        _set(tree, key.strip(), value.strip())
    return options_from(tree)


def load_options(path: Path, base: TrainOptions | None = None) -> TrainOptions:
    """Options of a TOML file: top-level keys, and the tables [head], [loss] and [pairs]. ConfigError."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", hint="mend the file") from None
    tree = (base or TrainOptions()).to_json()
    _merge(tree, found, prefix="")
    return options_from(tree)


def options_from(tree: Mapping[str, Any]) -> TrainOptions:
    """Options of plain values, nested as `TrainOptions.to_json` gives them. ConfigError."""
    return _build(TrainOptions, tree, prefix="")


def _merge(tree: dict[str, Any], found: Mapping[str, Any], *, prefix: str) -> None:
    for key, value in found.items():
        whole = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value, prefix=f"{whole}.")
        elif key in tree and not isinstance(tree[key], dict):
            tree[key] = value
        else:
            raise _unknown(whole)


def _set(tree: dict[str, Any], key: str, value: str) -> None:
    *folders, leaf = key.split(".")
    for folder in folders:
        below = tree.get(folder)
        if not isinstance(below, dict):
            raise _unknown(key)
        tree = below
    if leaf not in tree or isinstance(tree[leaf], dict):
        raise _unknown(key)
    tree[leaf] = value


def option_names() -> list[str]:
    """Every option's full name, such as `loss.margin`."""

    def walk(tree: Mapping[str, Any], prefix: str) -> Iterable[str]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield prefix + key

    return list(walk(TrainOptions().to_json(), ""))


def _unknown(key: str) -> ConfigError:
    names = option_names()
    inside = [name for name in names if name.startswith(f"{key}.")]
    if inside:
        return ConfigError(f"{key} is a group of options", hint=f"set one of {', '.join(inside)}")
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    near = near or [name for name in names if name.endswith(f".{key}")][:1]
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"there is no option {key!r}", hint=hint)


def _build(kind: type[Options], tree: Mapping[str, Any], *, prefix: str) -> Options:
    wanted = _types(kind)
    unknown = tree.keys() - wanted.keys()
    if unknown:
        raise _unknown(f"{prefix}{min(unknown)}")
    values = {name: _convert(f"{prefix}{name}", wanted[name], value) for name, value in tree.items()}
    return kind(**values)


def _types(kind: type) -> dict[str, Any]:
    """Each field's type; those of heads and losses are known only once their modules are loaded."""
    names: dict[str, Any] = {}
    if kind is TrainOptions:
        from retrieval.training.heads import HeadOptions
        from retrieval.training.losses import LossOptions

        names = {"HeadOptions": HeadOptions, "LossOptions": LossOptions}
    hints = typing.get_type_hints(kind, localns=names)
    return {entry.name: hints[entry.name] for entry in fields(kind)}  # type: ignore[arg-type]


def _convert(name: str, wanted: Any, value: Any) -> Any:
    """A plain value, or the text of one, as the option's type. ConfigError."""
    if is_dataclass(wanted):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {value!r}, expected a table of options")
        return _build(typing.cast(type, wanted), value, prefix=f"{name}.")
    inner = typing.get_args(wanted)
    if typing.get_origin(wanted) in (types.UnionType, typing.Union):
        if value is None or value == "none":
            return None
        return _convert(name, next(one for one in inner if one is not type(None)), value)
    if typing.get_origin(wanted) is tuple:
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ConfigError(f"{name} is {value!r}, expected a list")
        return tuple(_convert(name, inner[0], part) for part in parts if part != "")
    return _scalar(name, wanted, value)


def _scalar(name: str, wanted: Any, value: Any) -> Any:
    if isinstance(wanted, type) and issubclass(wanted, StrEnum):
        if value not in list(wanted):
            raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(wanted)}")
        return wanted(value)
    if wanted is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    numeric = wanted in (int, float) and not isinstance(value, bool)
    if numeric and isinstance(value, int | float | str):
        try:
            number = float(value)
            if wanted is float:
                return number
            if isinstance(value, str):
                return int(value)
            if number.is_integer():
                return int(value)
        except (ValueError, OverflowError):
            pass
    if wanted in (bool, str) and isinstance(value, wanted):
        return value
    raise ConfigError(f"{name} is {value!r}, expected {NOUNS.get(wanted, wanted)}")


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _reach(options: TrainOptions, name: str) -> int | float:
    value: Any = options
    for part in name.split("."):
        value = getattr(value, part)
    return typing.cast(int | float, value)
