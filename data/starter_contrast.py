"""The contrastive step of the starter's heads: a fitted head trained further, or a new one from nothing.

Arrays and torch; no files. The losses are those of retrieval.training.losses; the closed form that
training begins at is starter_fit.py's. Runs are short (half a minute), so there are no checkpoints; a seed
gives the same numbers on the same machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from starter_fit import Array, Fitted, Pairs, conse, unit
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.training.losses import Loss, LossOptions, Pair, make_loss

SAME_TEXT = 0.95  # cosine of two texts from which either is right for the other's picture
WARM = 0.1  # share of the steps in which the rate rises
INFONCE = LossOptions(init_scale=20.0)


@dataclass(frozen=True, slots=True)
class Contrast:
    """How a head is trained. The numbers were chosen by cross-validation on the stamps' training half."""

    loss: LossOptions = INFONCE
    epochs: float = 15.0  # passes over as many pairs as there are
    batch: int = 512
    rate: float = 1e-3  # AdamW's largest
    dropout: float = 0.3  # of features
    pull: float = 1e-2  # times the squared distance of the residual's matrix from where it began
    home: float = 4.0  # how much more often a pair from the collection itself is drawn
    after: bool = True  # whether the matrix that evens out the text space is trained along
    seeds: int = 1  # heads trained and averaged, number by number


class Trainable(nn.Module):
    """A fitted head with its numbers free: (unit features, ConSE vectors) -> vectors, not normalised."""

    def __init__(self, start: Fitted, options: Contrast) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start.weight, dtype=torch.float32))
        self.bias = nn.Parameter(torch.tensor(start.bias, dtype=torch.float32))
        self.gain = nn.Parameter(torch.tensor(start.recipe.gain))
        self.after = nn.Parameter(torch.tensor(start.after, dtype=torch.float32), requires_grad=options.after)
        self.first = self.weight.detach().clone()
        self.strength = options.pull

    def forward(self, inputs: Tensor, mixed: Tensor) -> Tensor:
        return (self.gain * mixed + inputs @ self.weight + self.bias) @ self.after.T

    def pull(self) -> Tensor:
        """The penalty for having left the start, a scalar."""
        return self.strength * (self.weight - self.first).square().sum()


def contrasted(start: Fitted, pairs: Pairs, options: Contrast, *, seed: int = 0) -> Fitted:
    """The head that training from `start` ends at; the mean of `options.seeds` runs, which is linear too."""
    ends = [_contrasted(start, pairs, options, seed + number) for number in range(options.seeds)]
    numbers = (np.mean([getattr(end, name) for end in ends], axis=0) for name in ("weight", "bias", "after"))
    gain = float(np.mean([end.recipe.gain for end in ends]))
    return Fitted(replace(start.recipe, gain=gain), start.classes, *numbers)


def _contrasted(start: Fitted, pairs: Pairs, options: Contrast, seed: int) -> Fitted:
    recipe = start.recipe
    mixed = conse(pairs.logits, start.classes, top=recipe.top, temperature=recipe.temperature)
    head = Trainable(start, options)
    train(head, (unit(pairs.features), mixed), pairs, options, seed=seed)
    found = {name: value.detach().numpy().copy() for name, value in head.named_parameters()}
    return Fitted(
        replace(recipe, gain=float(found["gain"])),
        start.classes,
        found["weight"],
        found["bias"],
        found["after"],
    )


def train(
    head: nn.Module, inputs: Sequence[Array], pairs: Pairs, options: Contrast, *, seed: int
) -> nn.Module:
    """Train `head` in place toward the pairs' texts; returns it in eval mode.

    `inputs` are what it takes, each (n, width) float32; dropout falls on the first. A head may have a
    `pull()`, a penalty. Texts stay as they are: only the picture's side learns. Pairs whose texts are all
    but the same are each other's positives.
    """
    tables = [torch.tensor(table, dtype=torch.float32) for table in inputs]
    texts = torch.tensor(pairs.targets, dtype=torch.float32)
    random = torch.Generator().manual_seed(seed)
    loss = make_loss(options.loss, generator=random)
    scale = nn.Parameter(torch.tensor(math.log(options.loss.start_scale)))
    shift = nn.Parameter(torch.tensor(options.loss.start_bias))
    learned = [value for value in head.parameters() if value.requires_grad] + [scale, shift]
    odds = torch.where(torch.tensor(pairs.home), options.home, 1.0)
    batch = min(options.batch, len(texts))
    steps = max(1, round(options.epochs * len(texts) / batch))
    optimizer = torch.optim.AdamW(learned, lr=options.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.rate, total_steps=steps + 1, pct_start=WARM
    )
    head.train()
    for _ in range(steps):
        rows = torch.multinomial(odds, batch, replacement=False, generator=random)
        kept = torch.rand(batch, tables[0].shape[1], generator=random) >= options.dropout
        seen = [tables[0][rows] * kept / (1.0 - options.dropout), *(table[rows] for table in tables[1:])]
        value = _value(loss, head(*seen), texts[rows], scale, shift)
        if isinstance(head, Trainable):
            value = value + head.pull()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


def _value(loss: Loss, raw: Tensor, texts: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    same = texts @ texts.T > SAME_TEXT
    same.fill_diagonal_(True)
    return loss(Pair(a=F.normalize(raw, dim=1), b=texts, positive=same, scale=scale.exp(), bias=shift))


def settings(options: Contrast) -> dict[str, object]:
    """The options as JSON, the loss by its name."""
    plain = {field.name: getattr(options, field.name) for field in fields(options) if field.name != "loss"}
    return {"loss": options.loss.kind.value, "scale": options.loss.start_scale, **plain}
