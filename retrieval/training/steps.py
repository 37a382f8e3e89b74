"""One training step: encode, compare, push back. The epochs around it stand in trainer.py.

Imports torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from indexer.errors import TrainingError
from indexer.types import FloatArray, Modality
from retrieval.training.batches import Comparison, Plan, Planner, Side
from retrieval.training.distributed import Ranks
from retrieval.training.ema import Ema
from retrieval.training.gradcache import backward_in_chunks
from retrieval.training.losses import LossKind, Pair, make_loss, nested
from retrieval.training.options import Optimizer, TrainOptions
from retrieval.training.placement import Placement, placed
from retrieval.training.sampler import Batch, Sampler
from retrieval.training.schedule import lr_share
from retrieval.training.source import FeatureSource, Inputs, Source
from retrieval.training.space import SharedSpace
from retrieval.training.types import Examples, Ints, PairKind

TABLE_BYTES = 1 << 30  # most that the vectors of one frozen modality may take
ENCODED = 4096  # contents encoded together outside of training

Teacher = Mapping[Modality, npt.NDArray[Any]]  # a stronger model's unit vectors, (contents, d)


class Trainer:
    """A space, what it learns from, and an optimizer; `step` is the whole of learning.

    Vectors of a modality whose head has nothing to learn are computed once. TrainingError where no kind of
    pair has two rows, or nothing is left to train.
    """

    def __init__(
        self,
        space: SharedSpace,
        source: Source,
        examples: Examples,
        options: TrainOptions,
        *,
        placement: Placement | None = None,
        ranks: Ranks | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.space, self.source, self.options = space, source, options
        self.ranks = ranks or Ranks()
        self.placement = placement or placed(options)
        self.device = self.placement.device
        self.examples = _within(examples, space)
        self.sampler = Sampler(
            self.examples,
            batch_size=options.batch_size,
            seed=options.seed,
            balance=options.balance,
            dropout=options.modality_dropout,
        )
        self.steps = options.epochs * len(self.sampler)
        self.number = 0  # steps done
        self.mined: dict[tuple[Modality, Modality], Ints] = {}
        _freeze(space, options)
        kinds = _kinds(self.examples, space, options)
        self.planner = Planner(self.examples, kinds, by_label=options.loss.kind is LossKind.SUPCON)
        space.to(self.device)
        self.generator = torch.Generator().manual_seed(options.seed)
        loss = make_loss(options.loss, generator=self.generator)
        self.loss = nested(loss, space.dims) if len(space.dims) > 1 else loss
        self.learning = [parameter for parameter in space.parameters() if parameter.requires_grad]
        self.optimizer = _optimizer(space, options)
        self.scaler = self.placement.scaler()
        self.ema = Ema(space, options.ema) if options.ema else None
        self.teacher = {m: torch.from_numpy(np.asarray(v)).float() for m, v in (teacher or {}).items()}
        self.tables = {m: t for m in space.modalities if (t := self._table(m)) is not None}

    def step(self, batch: Batch, plan: Plan | None = None) -> Tensor | None:
        """One step of the optimizer; the loss, detached, or None where no kind of pair has two rows.

        `plan`, where it was made ahead, is `prepare`'s for this batch.
        """
        plan = plan or self.prepare(batch)
        self._set_lr()
        self.number += 1
        if not plan.comparisons:
            return None
        self._train_mode()
        self.optimizer.zero_grad(set_to_none=True)
        inputs = {m: self._inputs(m, c) for m, c in plan.contents.items() if m not in self.tables}
        loss = self._backward(inputs, plan)
        self.ranks.add_gradients(self.learning)
        self.scaler.unscale_(self.optimizer)
        if self.options.clip:
            nn.utils.clip_grad_norm_(self.learning, self.options.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.space.bound_scale()
        if self.ema is not None:
            self.ema.update()
        return loss

    def _train_mode(self) -> None:
        self.space.train()
        for modality in self.options.freeze:  # a frozen head drops nothing and counts nothing
            if modality in self.space.modalities:
                self.space.heads[modality.value].eval()

    def prepare(self, batch: Batch) -> Plan:
        """What a step of this batch will encode and compare."""
        return self.planner.plan(batch, self.mined)

    def encode(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Unit vectors (n, dim) of what the source gives; decoded media come as several tensors."""
        return self.space.encode(modality, cast(Tensor, inputs))

    def _backward(self, inputs: Mapping[Modality, Inputs], plan: Plan) -> Tensor:
        """Gradients of all that learns, scaled for fp16; the loss, detached."""

        def push(loss: Tensor) -> None:
            self.scaler.scale(loss / self.ranks.world).backward()

        if self.options.chunk and inputs:
            return backward_in_chunks(
                inputs,
                self.encode,
                lambda vectors: self.loss_of(vectors, plan),
                chunk=self.options.chunk,
                autocast=self.placement.autocast,
                backward=push,
            )
        with self.placement.autocast():
            vectors = {modality: self.encode(modality, rows) for modality, rows in inputs.items()}
            loss = self.loss_of(vectors, plan)
        push(loss)
        return loss.detach()

    def loss_of(self, vectors: Mapping[Modality, Tensor], plan: Plan) -> Tensor:
        """The weighted sum of a plan's losses, over this rank's vectors and all others'."""
        whole = {modality: self._whole(modality, vectors, c) for modality, c in plan.contents.items()}
        terms = [
            self.options.pairs.of(one.kind) * self.loss(self._pair(one, whole)) for one in plan.comparisons
        ]
        return torch.stack(terms).sum()

    def _whole(self, modality: Modality, vectors: Mapping[Modality, Tensor], contents: Ints) -> Tensor:
        if modality in self.tables:
            return self.tables[modality][self._tensor(contents)]
        own = vectors.get(modality)
        if own is None:  # more ranks than contents: this one encodes none of them
            own = torch.zeros(0, self.space.dim, device=self.device, requires_grad=True)
        return self.ranks.gather(own, len(contents))

    def _pair(self, compared: Comparison, whole: Mapping[Modality, Tensor]) -> Pair:
        a, b = (self._side(side, whole) for side in (compared.a, compared.b))
        teacher = None
        if all(modality in self.teacher for modality in compared.kind):
            first, second = (
                self.teacher[s.modality][torch.from_numpy(s.contents)] for s in (compared.a, compared.b)
            )
            teacher = (first @ second.T).to(self.device)
        return Pair(
            a=a,
            b=b,
            positive=self._tensor(compared.positive),
            scale=self.space.scale,
            bias=self.space.bias,
            ignore=None if compared.ignore is None else self._tensor(compared.ignore),
            weight=self._weight(compared.a),
            weight_b=self._weight(compared.b),
            teacher=teacher,
        )

    def _side(self, side: Side, whole: Mapping[Modality, Tensor]) -> Tensor:
        vectors = whole[side.modality]
        return vectors if side.places is None else vectors[self._tensor(side.places)]

    def _weight(self, side: Side) -> Tensor | None:
        alike = side.weights[0] > 0 and (side.weights == side.weights[0]).all()
        return None if alike else self._tensor(side.weights)

    def _tensor(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def _inputs(self, modality: Modality, contents: Ints) -> Inputs:
        found = self.source.inputs(modality, self.ranks.share(contents))
        if isinstance(found, Tensor):
            return found.to(self.device, non_blocking=True)
        return tuple(one.to(self.device, non_blocking=True) for one in found)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        share = lr_share(
            self.number, steps=self.steps, warmup=self.options.warmup, schedule=self.options.schedule
        )
        return self.options.lr * share

    def _set_lr(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group.get("lr_share", 1.0)

    @torch.no_grad()
    def vectors(self, modality: Modality, contents: Ints) -> FloatArray:
        """Unit vectors (n, dim) float32 of contents as the space is now, without dropout."""
        if modality in self.tables:
            return np.asarray(self.tables[modality][self._tensor(contents)].cpu().numpy())
        self.space.eval()
        found = [np.zeros((0, self.space.dim), np.float32)]
        size = self.options.chunk or min(ENCODED, self.options.batch_size)
        for start in range(0, len(contents), size):
            rows = self.source.inputs(modality, contents[start : start + size])
            moved = (
                rows.to(self.device) if isinstance(rows, Tensor) else tuple(r.to(self.device) for r in rows)
            )
            found.append(self.encode(modality, moved).cpu().numpy())
        return np.concatenate(found)

    def mine(self) -> None:
        """Find every training content's hardest negatives among the current vectors, for `step` to add."""
        from retrieval.training.mining import KnownPairs, Search, mine_negatives

        every = {m: np.unique(slots[slots >= 0]) for m, slots in self.examples.contents.items()}
        vectors = {m: self.vectors(m, contents) for m, contents in every.items()}
        own = self.device.type == "cuda"  # faiss on the GPU that trains, where it has a build for one
        search = Search(gpu=None if own else False, device=self.device.index or 0, note=warnings.warn)
        self.mined = {}
        for (a, b), known in self.planner.known.items():
            queries = np.intersect1d(every[a], np.flatnonzero(np.diff(known.starts)))
            indptr, listed = known.lists(queries)
            found = mine_negatives(
                vectors[a][np.searchsorted(every[a], queries)],
                vectors[b],
                KnownPairs(indptr, np.searchsorted(every[b], listed)),
                k=self.options.hard_negatives,
                relative_margin=1.0 - self.options.hard_margin,
                search=search,
            )
            table = np.full((int(every[a].max()) + 1, found.shape[1]), -1, np.int64)
            table[queries] = np.where(found >= 0, every[b][np.maximum(found, 0)], -1)
            self.mined[a, b] = table

    @torch.no_grad()
    def _table(self, modality: Modality) -> Tensor | None:
        """All vectors of a modality that learns nothing; None where it learns or they are too large."""
        source = getattr(self.source, "frozen", self.source)
        if not isinstance(source, FeatureSource) or modality not in source.features:
            return None
        count = len(source.features[modality])
        if _learns(self.space, modality) or count * self.space.dim * 4 > TABLE_BYTES:
            return None
        self.space.eval()
        parts = [
            self.space.encode(modality, source.inputs(modality, contents).to(self.device))
            for contents in np.split(np.arange(count), range(ENCODED, count, ENCODED))
        ]
        return torch.cat(parts)


def _within(examples: Examples, space: SharedSpace) -> Examples:
    """The same rows without modalities that the space has no head for."""
    kept = {m: slots for m, slots in examples.contents.items() if m in space.modalities}
    return Examples(kept, examples.labels, examples.groups, examples.weights)


def _learns(space: SharedSpace, modality: Modality) -> bool:
    backbones: Any = getattr(space, "backbones", {})
    parts: Iterable[nn.Module] = [space.heads[modality.value]]
    parts = [*parts, backbones[modality.value]] if modality.value in backbones else parts
    return any(parameter.requires_grad for part in parts for parameter in part.parameters())


def _freeze(space: SharedSpace, options: TrainOptions) -> None:
    """Leave alone what options freeze, and the scale and bias where the loss does without."""
    for modality in options.freeze:
        if modality in space.modalities:
            space.heads[modality.value].requires_grad_(False)
    loss = options.loss
    space.log_scale.requires_grad_(loss.learn_scale and loss.uses_scale)
    space.bias.requires_grad_(loss.learn_scale and loss.uses_bias)
    if not any(_learns(space, modality) for modality in space.modalities):
        raise TrainingError(
            "every head is frozen or has nothing to learn, so there is nothing to train",
            hint=f"take a modality out of freeze={','.join(options.freeze)}, or choose another head.kind",
        )


def _kinds(examples: Examples, space: SharedSpace, options: TrainOptions) -> tuple[PairKind, ...]:
    """The kinds of pairs to train on: those with two rows, a weight, and a head that learns."""
    counts = examples.pair_counts()
    told = ", ".join(f"{a}-{b}: {count}" for (a, b), count in counts.items()) or "none"
    enough = [kind for kind, count in counts.items() if count >= 2]
    if not enough:
        raise TrainingError(
            f"no kind of pair has two training rows or more ({told}), so nothing can be compared",
            hint="give more rows with two of image, text and audio",
        )
    kinds = [kind for kind in enough if options.pairs.of(kind) > 0 and any(_learns(space, m) for m in kind)]
    if not kinds:
        raise TrainingError(
            f"every kind of pair that the rows have ({told}) has weight 0 or two frozen heads",
            hint="raise one of pairs.image_text, pairs.image_audio, pairs.text_audio, or freeze less",
        )
    return tuple(kinds)


def _optimizer(space: SharedSpace, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW or SGD; one-dimensional parameters (biases, norms, scale, gain) do not decay."""
    own = getattr(space, "parameter_groups", None)
    if own is not None:
        groups = own(lr=options.lr, weight_decay=options.weight_decay)
    else:
        learning = [parameter for parameter in space.parameters() if parameter.requires_grad]
        decaying = [parameter for parameter in learning if parameter.ndim > 1]
        rest = [parameter for parameter in learning if parameter.ndim <= 1]
        pairs = ((decaying, options.weight_decay), (rest, 0.0))
        groups = [{"params": chosen, "weight_decay": decay} for chosen, decay in pairs if chosen]
    if options.optimizer is Optimizer.SGD:
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)
    fused = space.log_scale.device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=options.lr, fused=fused)
