"""A bridge between two spaces that share only language, learned from texts alone.

Model A knows pictures and texts, model B sounds and texts. A bank of captions is encoded by both, and a map
is fitted from B's texts to A's; put behind B's audio tower it brings sounds into A's space, where they meet
pictures that no sound was ever paired with (C-MCR: Wang et al. 2023, arXiv:2305.14381). The map is linear:
what it meets in use are sounds, not texts, and hidden layers may do anything with vectors unlike
those that it was fitted on. Against the gap between sounds and texts there are noise on the inputs and, where
a user gives sounds, their centring. benchmarks/bridge.py found little for or against centring, and C-MCR's
soft mean of the nearest texts worse than nothing, so that it is not here.

Imports torch. How a joined model is written stands in join.py.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from indexer.errors import TrainingError
from indexer.types import FloatArray
from retrieval.encoders.tower import units
from retrieval.evaluation.intervals import intervals
from retrieval.evaluation.metrics import PerQuery, Relevance, score_direction
from retrieval.models.bridge_types import (
    KS,
    METHODS,
    WAYS,
    BridgeOptions,
    BridgeReport,
    Method,
    MethodScore,
    Share,
)
from retrieval.models.bundle import canonical_json
from retrieval.models.captions.bank import captions
from retrieval.training.closed_form import as_head, procrustes, ridge
from retrieval.training.heads import Affine, Head, unit_rows
from retrieval.training.losses import LossOptions, Pair, make_loss
from retrieval.training.options import Schedule
from retrieval.training.schedule import lr_share

FEWEST = 200  # captions that a bridge is fitted from
Encode = Callable[[Sequence[str]], FloatArray]  # texts -> unit vectors (n, dim)
Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Bridge:
    """A fitted map and what is known of it."""

    # Vectors of B (n, width) -> vectors in A's space (n, dim), not normalised; linear, in eval mode.
    heads: Mapping[Method, Head]  # of each method that was fitted
    report: BridgeReport
    mean: FloatArray  # (width,) of B's unit vectors of the captions that it was fitted on

    @property
    def head(self) -> Head:
        """That of the chosen method."""
        return self.heads[self.report.chosen]

    def for_media(self, vectors: FloatArray) -> Head:
        """The head for media of B, whose own mean is moved to the mean of B's texts first.

        A tower's sounds and texts lie in different corners of its space; what they have in common is how they
        lie about their means. `vectors` (n, width) are sounds that need no texts: the user's own will do.
        """
        found = units(vectors).mean(axis=0)
        head = copy.deepcopy(self.head)
        body = head.body
        assert isinstance(body, Affine)
        with torch.no_grad():
            # (x + shift) W + b = x W + (shift W + b), so that the head stays what it is.
            moved = torch.from_numpy(self.mean - found).float() @ body.last.weight.T
            body.last.bias.add_(moved)
        return head


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Vectors of captions in both spaces, and the number of each caption's group."""

    b: FloatArray
    a: FloatArray
    groups: npt.NDArray[np.int64]

    def take(self, mask: Mask) -> _Rows:
        return _Rows(self.b[mask], self.a[mask], self.groups[mask])

    def __len__(self) -> int:
        return len(self.b)


def fit_bridge(
    texts: Sequence[str] | None,
    encode_a: Encode,
    encode_b: Encode,
    options: BridgeOptions | None = None,
    *,
    names: tuple[str, str] = ("a", "b"),
    progress: Progress | None = None,
) -> Bridge:
    """The map from B's space to A's by `texts`, or by the bank that ships where there are none.

    Captions are split by their group, so that no word of the bank is both fitted on and measured. Each method
    is fitted on the first part, the second chooses, the third is what the report shows. The same arguments
    give the same numbers. TrainingError for too few texts or unusable vectors.
    """
    options, say = options or BridgeOptions(), progress or (lambda _step, _share: None)
    lines, groups = _bank(texts)
    say(f"encoding {len(lines)} captions with {names[1]}", 0.0)
    from_b = _checked(encode_b(lines), len(lines), names[1])
    say(f"encoding {len(lines)} captions with {names[0]}", 0.3)
    to_a = _checked(encode_a(lines), len(lines), names[0])
    numbers = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    rows = _Rows(from_b, to_a, numbers)
    fitted, held, test = (rows.take(mask) for mask in split(groups, options))
    say("fitting the bridge", 0.6)
    heads = _fit(fitted, held, options)
    tested = [method for method in METHODS if options.method in (Method.AUTO, method)]
    scores: dict[Method, MethodScore] = {
        method: _score(heads[method], held, test, options.seed) for method in tested
    }
    chosen, why = _choose({method: score.validation for method, score in scores.items()}, options)
    report = BridgeReport(
        a=names[0],
        b=names[1],
        captions={"fitted": len(fitted), "validation": len(held), "test": len(test)},
        bank=hashlib.sha256(canonical_json(list(lines))).hexdigest(),
        chosen=chosen,
        why=why,
        scores=scores,
        chance=min(1.0, max(KS) / len(test)),
        options=asdict(options) | {"method": options.method.value},
    )
    return Bridge(heads, report, fitted.b.mean(axis=0))


def split(groups: Sequence[str], options: BridgeOptions) -> tuple[Mask, Mask, Mask]:
    """Which captions are fitted on, choose, and test: (n,) each, by a hash of the group. TrainingError."""
    place = {g: int(hashlib.sha256(f"{options.seed}/{g}".encode()).hexdigest()[:13], 16) for g in set(groups)}
    share = np.array([place[group] / 16.0**13 for group in groups])
    test, held = share < options.test, share >= 1.0 - options.validation
    parts = (~test & ~held, held, test)
    if any(len({g for g, inside in zip(groups, part, strict=True) if inside}) < 2 for part in parts):
        raise TrainingError(
            "the captions cannot be split into three parts of two or more groups",
            hint="give more captions, or larger shares for validation and test",
        )
    return parts


def recalls(queries: FloatArray, gallery: FloatArray) -> PerQuery:
    """Ranks of each query (n, dim) among the gallery (n, dim), of which its own row is right."""
    own = np.arange(len(queries), dtype=np.int64)
    return score_direction(queries, gallery, Relevance(np.arange(len(own) + 1, dtype=np.int64), own))


def mean_recall(mapped: FloatArray, a: FloatArray) -> float:
    """The mean of R@1, R@5 and R@10 over both ways, in [0, 1]: what choices are made by."""
    both = recalls(mapped, a), recalls(a, mapped)
    return float(np.mean([found.hit(k).mean() for found in both for k in KS]))


@torch.inference_mode()
def through(head: Head, vectors: FloatArray) -> FloatArray:
    """B's vectors (n, width) brought into A's space, unit, (n, dim) float32."""
    return np.asarray(unit_rows(head(torch.from_numpy(np.ascontiguousarray(vectors)))).numpy())


def _bank(texts: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Every caption once, and its group: its word for the bank's, itself for a user's."""
    if texts is None:
        bank = captions()
        return [one.text for one in bank], [one.group for one in bank]
    lines = list(dict.fromkeys(line for text in texts if (line := " ".join(text.split()))))
    if len(lines) < FEWEST:
        raise TrainingError(
            f"{len(lines)} different captions, expected {FEWEST} or more",
            hint="give more texts, one a line, or none at all: a bank of captions comes with triptych",
        )
    return lines, [line.lower() for line in lines]


def _checked(vectors: FloatArray, count: int, name: str) -> FloatArray:
    if vectors.ndim != 2 or len(vectors) != count or not np.isfinite(vectors).all():
        raise TrainingError(
            f"{name} gives vectors of shape {vectors.shape} for {count} captions, or not finite ones"
        )
    return units(vectors.astype(np.float32, copy=False))


def _fit(fitted: _Rows, held: _Rows, options: BridgeOptions) -> dict[Method, Head]:
    """A head by each method that is asked for; the contrastive one needs the others to start from."""
    wanted = set(METHODS) if options.method in (Method.AUTO, Method.CONTRASTIVE) else {options.method}
    heads: dict[Method, Head] = {}
    if Method.RIDGE in wanted:
        heads[Method.RIDGE] = as_head(ridge(fitted.b, fitted.a, groups=fitted.groups))
    if Method.PROCRUSTES in wanted:
        heads[Method.PROCRUSTES] = as_head(procrustes(fitted.b, fitted.a))
    if Method.CONTRASTIVE in wanted:
        start = max(heads.values(), key=lambda head: mean_recall(through(head, held.b), held.a))
        heads[Method.CONTRASTIVE] = _contrast(start, fitted, held, options)
    return heads


def _contrast(start: Head, fitted: _Rows, held: _Rows, options: BridgeOptions) -> Head:
    """Train a copy of `start` on with InfoNCE and noisy inputs; the epoch that validates best, the first of
    equals, which may be the start itself.
    """
    head = copy.deepcopy(start)
    random = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=options.rate, weight_decay=0.0)
    x, y = torch.from_numpy(fitted.b), torch.from_numpy(fitted.a)
    size = min(options.batch, len(x))
    steps = options.epochs * (len(x) // size)
    best, kept = mean_recall(through(head, held.b), held.a), copy.deepcopy(head.state_dict())
    for epoch in range(options.epochs):
        order = torch.randperm(len(x), generator=random)
        for number in range(len(x) // size):
            rows = order[number * size : (number + 1) * size]
            step = epoch * (len(x) // size) + number
            for group in optimizer.param_groups:
                group["lr"] = options.rate * lr_share(
                    step, steps=steps, warmup=0.05, schedule=Schedule.COSINE
                )
            loss = _loss(head, x[rows], y[rows], options, random)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if (found := mean_recall(through(head, held.b), held.a)) > best:
            best, kept = found, copy.deepcopy(head.state_dict())
    head.load_state_dict(kept)
    return head.eval()


def _loss(head: Head, x: Tensor, y: Tensor, options: BridgeOptions, random: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=random) * (options.noise / x.shape[1] ** 0.5)
    mapped = unit_rows(head(x + noise))
    same = torch.eye(len(x), dtype=torch.bool)
    scale, bias = torch.tensor(options.scale), torch.tensor(0.0)
    return make_loss(LossOptions())(Pair(a=mapped, b=y, positive=same, scale=scale, bias=bias))


def _score(head: Head, held: _Rows, test: _Rows, seed: int) -> MethodScore:
    mapped = through(head, test.b)
    asked = dict(zip(WAYS, (recalls(mapped, test.a), recalls(test.a, mapped)), strict=True))
    table = {way: intervals(found, test.groups, ks=KS, seed=seed) for way, found in asked.items()}
    shares = {
        way: {f"R@{k}": Share(row[f"R@{k}"].value, row[f"R@{k}"].low, row[f"R@{k}"].high) for k in KS}
        for way, row in table.items()
    }
    return MethodScore(mean_recall(through(head, held.b), held.a), shares)


def _choose(found: dict[Method, float], options: BridgeOptions) -> tuple[Method, str]:
    """The method that validates best, or a simpler one within the margin of it; and why, in words."""
    if options.method is not Method.AUTO:
        return options.method, "as asked"
    best = max(found, key=lambda method: found[method])
    chosen = next(method for method in METHODS if found[method] >= found[best] - options.margin)
    if chosen is best:
        return chosen, f"with the best mean recall on validation captions, {100 * found[chosen]:.1f} %"
    return chosen, (
        f"simpler than {best.value} and within {100 * options.margin:g} points of its mean recall "
        f"on validation captions, {100 * found[best]:.1f} %"
    )
