"""The space that training begins at: the base model's heads, new ones, or ones solved without a gradient.

Imports torch. The closed forms themselves stand in closed_form.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from indexer.errors import ConfigError, TrainingError
from indexer.types import Modality
from retrieval.training.closed_form import (
    FourierMap,
    LinearMap,
    as_head,
    cca,
    fourier_ridge,
    procrustes,
    ridge,
)
from retrieval.training.heads import Head, HeadKind, HeadOptions, OnBase, make_head
from retrieval.training.options import Start, TrainOptions
from retrieval.training.space import SharedSpace
from retrieval.training.types import Examples, Features, Ints

MOST_PAIRS = 100_000  # a closed form is fitted on; of more, as many by chance
FITTED = (Start.RIDGE, Start.PROCRUSTES, Start.FOURIER, Start.CCA)

Floats = npt.NDArray[np.float64]
Pairs = tuple[Floats, Floats, Floats, Ints]  # inputs, targets, weights, whose input it is


def make_space(
    options: TrainOptions,
    widths: Mapping[Modality, int],
    base_heads: Mapping[Modality, nn.Module],
    features: Features,
    examples: Examples,
) -> SharedSpace:
    """The untrained space of `options.start`, with a head for each modality of `widths`.

    `examples` are training rows only: closed forms are fitted on them. Text vectors are what others are
    fitted toward: the base's, or text features themselves where there is no base head for them. The same
    arguments give the same space. ConfigError or TrainingError where widths, heads or pairs do not allow it.
    """
    if options.start in FITTED:
        heads = _fitted(options, widths, base_heads, features, examples)
    else:
        heads = {m: _head(options, m, width, base_heads.get(m)) for m, width in widths.items()}
    return SharedSpace(heads, dims=options.dims, scale=options.loss.start_scale, bias=options.loss.start_bias)


def _head(options: TrainOptions, modality: Modality, width: int, base: nn.Module | None) -> nn.Module:
    """One head of a start that needs no fitting."""
    frozen = modality in options.freeze
    if options.start is Start.RANDOM:
        return _identity(options, modality, width) if frozen else _new(options, modality, width)
    if base is None and width == options.dim:
        base = _identity(options, modality, width)  # a backbone whose features are the space
    if base is None:
        raise TrainingError(
            f"the base model has no {modality} head to start from", hint="use start=random or start=ridge"
        )
    found = getattr(base, "dim", options.dim)
    if found != options.dim:
        raise ConfigError(
            f"the base model has {found} dimensions, dim is {options.dim}", hint=f"set dim={found}"
        )
    return base.requires_grad_(False) if frozen else OnBase(base, _new(options, modality, width))


def _fitted(
    options: TrainOptions,
    widths: Mapping[Modality, int],
    base_heads: Mapping[Modality, nn.Module],
    features: Features,
    examples: Examples,
) -> dict[Modality, nn.Module]:
    """Text first, then each modality toward it; one without texts toward one that is fitted already."""
    if Modality.TEXT not in widths:
        raise ConfigError(
            f"start={options.start} fits toward text vectors, and the rows have no text",
            hint="use start=base or start=random",
        )
    text = base_heads.get(Modality.TEXT)
    if text is None or getattr(text, "dim", options.dim) != options.dim:
        text = _identity_module(widths[Modality.TEXT])
    heads: dict[Modality, nn.Module] = {}
    if options.start is Start.CCA and Modality.IMAGE in widths:
        image, written = _both(options, features, examples)
        heads = {Modality.TEXT: _finish(options, Modality.TEXT, written)}
        heads[Modality.IMAGE] = _finish(options, Modality.IMAGE, image)
    elif getattr(text, "dim", widths[Modality.TEXT]) != options.dim:
        raise ConfigError(
            f"text vectors have {widths[Modality.TEXT]} dimensions, dim is {options.dim}",
            hint=f"set dim={widths[Modality.TEXT]}, or start=cca",
        )
    else:
        heads[Modality.TEXT] = text.requires_grad_(False)
    for modality in (m for m in Modality if m in widths and m not in heads):
        anchors = [
            m for m in (Modality.TEXT, Modality.IMAGE) if m in heads and _paired(examples, modality, m)
        ]
        if not anchors:
            raise TrainingError(
                f"no training row has a {modality} beside a text or a fitted modality",
                hint=f"start={options.start} cannot fit a {modality} head: use start=random",
            )
        pairs = _pairs(features, examples, modality, anchors[0], options.seed)
        targets = _vectors(heads[anchors[0]], pairs[1])
        heads[modality] = _finish(options, modality, _map(options, (pairs[0], targets, *pairs[2:])))
    return heads


def _map(options: TrainOptions, pairs: Pairs) -> LinearMap | FourierMap:
    inputs, targets, weights, groups = pairs
    if options.start is Start.FOURIER:
        return fourier_ridge(
            inputs,
            targets,
            features=options.head.hidden,
            penalty=options.start_penalty or "loo",
            seed=options.seed % 2**32,
        )
    if options.start is Start.PROCRUSTES:
        return procrustes(inputs, targets)
    if options.start_penalty:
        return ridge(inputs, targets, penalty=options.start_penalty, weights=weights)
    return ridge(inputs, targets, weights=weights, groups=groups if len(np.unique(groups)) > 1 else None)


def _both(options: TrainOptions, features: Features, examples: Examples) -> tuple[LinearMap, LinearMap]:
    """CCA's maps of pictures and of texts."""
    if not _paired(examples, Modality.IMAGE, Modality.TEXT):
        raise TrainingError(
            "no training row has a picture and a text", hint="use start=ridge or start=random"
        )
    images, texts, _, _ = _pairs(features, examples, Modality.IMAGE, Modality.TEXT, options.seed)
    found = cca(images, texts, dim=options.dim, penalty=options.start_penalty or 1.0, power=1.0)
    return found.first, found.second


def _finish(options: TrainOptions, modality: Modality, found: LinearMap | FourierMap) -> nn.Module:
    """A fitted map as the head that is trained: itself, or a linear one under a head that starts at zero."""
    head = as_head(found)
    if modality in options.freeze:
        return head.requires_grad_(False)
    if isinstance(found, FourierMap) or options.head.kind in (HeadKind.LINEAR, HeadKind.IDENTITY):
        return head
    return OnBase(head, _new(options, modality, len(found.weight)))


def _pairs(features: Features, examples: Examples, a: Modality, b: Modality, seed: int) -> Pairs:
    """Features of both, a pair a text; a row's weight is shared by its pairs."""
    first, second = examples.contents[a], examples.contents[b]
    left = np.repeat(first, second.shape[1], axis=1)
    right = np.tile(second, (1, first.shape[1]))
    both = (left >= 0) & (right >= 0)
    weights = examples.weights if len(examples.weights) else np.ones(len(examples))
    shares = np.broadcast_to((weights / np.maximum(both.sum(axis=1), 1))[:, None], both.shape)[both]
    left, right = left[both], right[both]
    if len(left) > MOST_PAIRS:
        kept = np.sort(np.random.default_rng(seed).choice(len(left), MOST_PAIRS, replace=False))
        left, right, shares = left[kept], right[kept], shares[kept]
    inputs, targets = features[a][left].astype(np.float64), features[b][right].astype(np.float64)
    return inputs, targets, shares.astype(np.float64), left


def _paired(examples: Examples, a: Modality, b: Modality) -> bool:
    return bool((examples.has(a) & examples.has(b)).any())


@torch.no_grad()
def _vectors(head: nn.Module, features: Floats) -> Floats:
    """Unit vectors of a head, float64."""
    found = head.eval()(torch.from_numpy(features.astype(np.float32))).double().numpy()
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))


def _new(options: TrainOptions, modality: Modality, width: int) -> Head:
    seed = options.seed * len(Modality) + list(Modality).index(modality)
    return make_head(options.head, width, options.dim, seed=seed % 2**63)


def _identity(options: TrainOptions, modality: Modality, width: int) -> nn.Module:
    if width != options.dim:
        raise ConfigError(
            f"{modality} is frozen at random: its features have {width} dimensions and dim is {options.dim}",
            hint=f"set dim={width}, or leave {modality} out of freeze",
        )
    return _identity_module(width)


def _identity_module(width: int) -> nn.Module:
    return make_head(HeadOptions(HeadKind.IDENTITY), width, width, seed=0)
