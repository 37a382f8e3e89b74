"""Heads: the trained layers that carry a backbone's features into the shared space.

Imports torch. What a head is, how it starts and how it is described; the heads of all modalities together
stand in space.py, how one is rebuilt from its description in described.py, heads solved without a gradient in
closed_form.py. Every head is exported to ONNX as it is.

How a head starts. Outputs are normalised, so only directions and the share of a bias matter: biases start at
zero, since on unit features a usual random bias would be as long as the rest and put every vector on one
side. Matrices are normal: a linear head's has standard deviation 1/sqrt(dim) on unit features and
1/sqrt(width) otherwise; hidden layers sqrt(2/inputs) (He et al. 2015, arXiv:1502.01852); the last layer of an
MLP 1/sqrt(inputs). Before a hidden layer unit features are multiplied by sqrt(width), so that coordinates are
about one whichever input norm is chosen.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from indexer.errors import ConfigError, ModelError, TrainingError


class HeadKind(StrEnum):
    """The shape of a head."""

    LINEAR = "linear"  # one matrix and a bias
    MLP = "mlp"  # hidden layers with GELU
    RESIDUAL = "residual"  # a linear skip plus an MLP that starts at zero
    FOURIER = "fourier"  # fixed random Fourier features, then a linear layer: a kernel machine
    IDENTITY = "identity"  # nothing; the features lie in the space already


class InputNorm(StrEnum):
    """What is done to features before a head."""

    UNIT = "unit"  # each row at length one; a zero row stays zero
    LAYER = "layer"  # layer norm with a learned gain and shift
    NONE = "none"


class HiddenNorm(StrEnum):
    """What is done to a hidden layer before its GELU."""

    LAYER = "layer"
    BATCH = "batch"  # running statistics in eval mode; a training batch needs two rows or more
    NONE = "none"


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """The shape of one head. ConfigError for a value out of range."""

    kind: HeadKind = HeadKind.LINEAR
    hidden: int = 1024  # width of an MLP's hidden layers; the number of random Fourier features
    layers: int = 1  # hidden layers of mlp and residual
    dropout: float = 0.0  # in [0, 1): of a linear head's input, or after each hidden activation
    input_norm: InputNorm = InputNorm.UNIT
    hidden_norm: HiddenNorm = HiddenNorm.NONE
    bias: bool = True  # of the last layer
    gamma: float = 1.0  # fourier: the kernel is exp(-gamma |a - b|^2) of normed inputs

    def __post_init__(self) -> None:
        for name, kind in (("kind", HeadKind), ("input_norm", InputNorm), ("hidden_norm", HiddenNorm)):
            object.__setattr__(self, name, _member(kind, name, getattr(self, name)))
        for name in ("hidden", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"head.{name} is {getattr(self, name)}, expected 1 or more")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"head.dropout is {self.dropout}, expected 0 or more and less than 1")
        if not (self.gamma > 0.0 and math.isfinite(self.gamma)):
            raise ConfigError(f"head.gamma is {self.gamma}, expected a number above 0")


class Head(nn.Module):
    """Features (n, width) -> vectors (n, dim), not normalised. Made by `make_head`."""

    def __init__(self, options: HeadOptions, width: int, dim: int) -> None:
        super().__init__()
        self.options, self.width, self.dim = options, width, dim
        self.norm = _input_norm(options.input_norm, width)
        self.body = _body(options, width, dim)

    def forward(self, features: Tensor) -> Tensor:
        return self.body(self.norm(features))

    def last_layers(self) -> tuple[nn.Linear, ...]:
        """The layers whose outputs add up to the head's; none for an identity."""
        body = self.body
        if isinstance(body, Residual):
            return body.skip, body.last
        last = getattr(body, "last", None)
        return (last,) if isinstance(last, nn.Linear) else ()

    def start_at_zero(self) -> None:
        """Make the output zero for every input. TrainingError for an identity, which has nothing to train."""
        if not self.last_layers():
            raise TrainingError(
                "an identity head has no layer that could start at zero",
                hint="choose head.kind linear, mlp, residual or fourier on top of a base model",
            )
        for layer in self.last_layers():
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def describe(self) -> dict[str, Any]:
        """What described.head_from_description needs beside the tensors, as JSON."""
        return {"kind": "head", "options": asdict(self.options), "width": self.width, "dim": self.dim}


class Unit(nn.Module):
    """Rows at length one, (n, width) -> (n, width); a zero row stays zero."""

    def forward(self, x: Tensor) -> Tensor:
        return unit_rows(x)


class Affine(nn.Module):
    """Dropout, then one matrix."""

    def __init__(self, options: HeadOptions, width: int, dim: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(options.dropout)
        self.last = nn.Linear(width, dim, bias=options.bias)
        spread = dim if options.input_norm is InputNorm.UNIT else width
        _start(self.last, 1.0 / math.sqrt(spread))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(x))


class Mlp(nn.Module):
    """`layers` times (Linear, norm, GELU, dropout), then Linear."""

    def __init__(self, options: HeadOptions, width: int, dim: int) -> None:
        super().__init__()
        # Unit rows have coordinates near 1/sqrt(width), where a GELU bends little.
        self.gain = math.sqrt(width) if options.input_norm is InputNorm.UNIT else 1.0
        steps: list[nn.Module] = []
        inputs = width
        for _ in range(options.layers):
            layer = nn.Linear(inputs, options.hidden)
            _start(layer, math.sqrt(2.0 / inputs))
            norm = _hidden_norm(options.hidden_norm, options.hidden)
            steps += [layer, *norm, nn.GELU(), nn.Dropout(options.dropout)]
            inputs = options.hidden
        self.hidden = nn.Sequential(*steps)
        self.last = nn.Linear(inputs, dim, bias=options.bias)
        _start(self.last, 1.0 / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x * self.gain))


class Residual(Mlp):
    """A linear skip plus an MLP whose last layer starts at zero, so that training begins at a linear head."""

    def __init__(self, options: HeadOptions, width: int, dim: int) -> None:
        super().__init__(options, width, dim)
        self.skip = nn.Linear(width, dim, bias=options.bias)
        _start(self.skip, 1.0 / math.sqrt(dim if options.input_norm is InputNorm.UNIT else width))
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + super().forward(x)


class Fourier(nn.Module):
    """sqrt(2/F) cos(x omega + phase), F fixed random features, then Linear (Rahimi and Recht 2007).

    Their dot products tend to the kernel exp(-gamma |a - b|^2) as F grows.
    """

    omega: Tensor
    phase: Tensor

    def __init__(self, options: HeadOptions, width: int, dim: int) -> None:
        super().__init__()
        count = options.hidden
        self.register_buffer("omega", torch.randn(width, count) * math.sqrt(2.0 * options.gamma))
        self.register_buffer("phase", torch.rand(count) * (2.0 * math.pi))
        self.gain = math.sqrt(2.0 / count)
        self.dropout = nn.Dropout(options.dropout)
        self.last = nn.Linear(count, dim, bias=options.bias)
        _start(self.last, 1.0 / math.sqrt(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(torch.cos(x @ self.omega + self.phase) * self.gain))


class OnBase(nn.Module):
    """base(x) * gain + head(x): a head trained on top of a frozen one, (n, width) -> (n, dim).

    `base` gives unit vectors and is never trained or left in training mode; the head's last layer starts at
    zero, so that the first vectors are the base's own. `gain` is learned, one number.
    """

    def __init__(self, base: nn.Module, head: Head, *, gain: float = 1.0) -> None:
        super().__init__()
        if getattr(base, "dim", head.dim) != head.dim:
            raise TrainingError(f"the base gives {base.dim} numbers, the head on it {head.dim}")
        self.base = base.eval().requires_grad_(False)
        self.head = head
        self.gain = nn.Parameter(torch.tensor(float(gain)))
        self.width, self.dim = head.width, head.dim
        head.start_at_zero()

    def forward(self, features: Tensor) -> Tensor:
        return self.base(features) * self.gain + self.head(features)

    def train(self, mode: bool = True) -> OnBase:
        super().train(mode)
        self.base.eval()
        return self

    def describe(self) -> dict[str, Any]:
        """What described.head_from_description needs beside the tensors. ModelError where a base has none."""
        return {"kind": "on-base", "base": description_of(self.base), "head": self.head.describe()}


def description_of(head: nn.Module) -> dict[str, Any]:
    """A head's own description. ModelError for a module without one."""
    describe: Any = getattr(head, "describe", None)
    if describe is None:
        raise ModelError(
            f"a head of class {type(head).__name__} has no description, so it could not be saved",
            hint="make it with make_head, or give it describe()",
        )
    found: dict[str, Any] = describe()
    return found


def unit_rows(x: Tensor) -> Tensor:
    """Rows at length one, (n, d) -> (n, d); a row shorter than 1e-12 becomes zero, and its gradient is zero.

    torch's own normalize divides such a row's gradient by 1e-12, which one blank input is enough to meet.
    """
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / torch.where(length > 1e-12, length, torch.inf)


def make_head(options: HeadOptions, width: int, dim: int, *, seed: int) -> Head:
    """A head of the options' kind, float32, started as the module says; the same seed gives the same head.

    The global random state is left as it was. ConfigError where an identity's width is not its dim.
    """
    if options.kind is HeadKind.IDENTITY and width != dim:
        raise ConfigError(
            f"an identity head keeps {width} numbers, the space has {dim}",
            hint=f"choose head.kind linear, or a space of {width} dimensions",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(options, width, dim)


def _member(kind: type[StrEnum], name: str, value: str) -> StrEnum:
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigError(f"head.{name} is {value!r}, expected one of {', '.join(kind)}") from error


def _body(options: HeadOptions, width: int, dim: int) -> nn.Module:
    if options.kind is HeadKind.IDENTITY:
        return nn.Identity()
    makers = {
        HeadKind.LINEAR: Affine,
        HeadKind.MLP: Mlp,
        HeadKind.RESIDUAL: Residual,
        HeadKind.FOURIER: Fourier,
    }
    return makers[options.kind](options, width, dim)


def _input_norm(norm: InputNorm, width: int) -> nn.Module:
    if norm is InputNorm.UNIT:
        return Unit()
    return nn.LayerNorm(width) if norm is InputNorm.LAYER else nn.Identity()


def _hidden_norm(norm: HiddenNorm, width: int) -> list[nn.Module]:
    made: dict[HiddenNorm, list[nn.Module]] = {
        HiddenNorm.LAYER: [nn.LayerNorm(width)],
        HiddenNorm.BATCH: [nn.BatchNorm1d(width)],
        HiddenNorm.NONE: [],
    }
    return made[norm]


def _start(layer: nn.Linear, spread: float) -> None:
    nn.init.normal_(layer.weight, std=spread)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
