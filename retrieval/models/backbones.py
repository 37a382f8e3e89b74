"""The networks that heads are trained on: a typed table, their features as a fast tower, and the heads of a
model that is there already.

Imports no torch at the top. The torch modules stand in bare.py, the heads' training in retrieval/training/.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.errors import ModelError
from indexer.types import Encoder, Modality, Preparer
from retrieval.config import cache_dir
from retrieval.encoders.described import preparer_of
from retrieval.models.bundle import Bundle, ModelSpec, TowerSpec, WeightRef, canonical_json, write_bundle
from retrieval.models.starter.spec import AUDIO, IMAGE, MAX_TOKENS, TOKENIZER
from retrieval.models.starter.weights import (
    AISFX,
    LITE0,
    MINILM,
    MINILM_TOKENIZER,
    WEIGHTS,
    WeightFile,
    locate,
    verified,
)
from retrieval.runtime.protocol import Runtime, available_threads

if TYPE_CHECKING:
    from torch import nn

    from retrieval.encoders.tower import Tower
    from retrieval.models.model import Model

GRAPH_VERSION = 1  # counts changes of what the feature graphs compute
TRAINED_HEADS = "heads.safetensors"  # beside a trained model's spec
TUNED = ", fine-tuned"  # ends the name of a weight that is no longer as published


@dataclass(frozen=True)
class Backbone:
    """One pretrained network up to its features, and what is done to media before it."""

    id: str
    modality: Modality
    width: int  # of its features
    weights: tuple[WeightRef, ...]
    preprocessing: Mapping[str, Any] = field(hash=False)  # what the preparer's `describe` returns
    window: Mapping[str, float] = field(hash=False)  # how media are cut into segments
    batch_size: int  # segments that one call of the feature tower handles best
    group: int  # texts, or views, that one call of its graph sees
    make: Callable[[], nn.Module] = field(compare=False, repr=False)  # imports torch; see `load`
    tokenizer: Path | None = field(default=None, compare=False)  # of texts; None: MiniLM's
    model: Bundle | None = field(
        default=None, compare=False, repr=False
    )  # whose own graph gives its features
    exports: bool = True  # whether it can be a graph; else torch computes its features

    def preparer(self) -> Preparer:
        """What its inputs are made with; WeightsMissing where its tokenizer is not installed."""
        path = ""
        if self.modality is Modality.TEXT:
            path = str(self.tokenizer or verified(MINILM_TOKENIZER))
        return preparer_of(self.modality, self.preprocessing, self.window, tokenizer=path)

    def load(self) -> nn.Module:
        """The network as a torch module, frozen, in eval mode: prepared views -> features (n, width).

        A text's takes (ids, mask), both (n, tokens), and gives unit vectors. WeightsMissing, with the line
        that installs them, or ModelError where a file is not the pinned one.
        """
        for weight in BACKBONES[self.id].weights if self.id in BACKBONES else ():
            locate(WEIGHTS[weight.name])  # before torch loads anything
        return self.make()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, 64 hex digits, over the weights, the preprocessing, the windows and the graph version."""
        said = {
            "weights": [weight.sha256 for weight in self.weights],
            "preprocessing": dict(self.preprocessing),
            "window": dict(self.window),
            "width": self.width,
            "graph": GRAPH_VERSION,
        }
        return hashlib.sha256(canonical_json(said)).hexdigest()


def _picture() -> nn.Module:
    from retrieval.models.bare import picture_features

    return picture_features()


def _text() -> nn.Module:
    from retrieval.models.bare import text_features

    return text_features()


def _sound() -> nn.Module:
    from retrieval.models.bare import sound_features

    return sound_features()


def _ref(weight: WeightFile) -> WeightRef:
    return WeightRef(weight.name, weight.sha256, weight.licence, weight.source, weight.package)


BACKBONES: dict[str, Backbone] = {
    one.id: one
    for one in (
        Backbone(
            id=LITE0.name,
            modality=Modality.IMAGE,
            width=1280,
            weights=(_ref(LITE0),),
            preprocessing=IMAGE.describe(),
            window={},
            batch_size=128,
            group=8,
            make=_picture,
        ),
        Backbone(
            id=MINILM.name,
            modality=Modality.TEXT,
            width=384,
            weights=(_ref(MINILM), _ref(MINILM_TOKENIZER)),
            preprocessing={"kind": "tokenizer-json/1", "max_tokens": MAX_TOKENS},
            window={"max_tokens": MAX_TOKENS},
            batch_size=64,
            group=16,
            make=_text,
        ),
        Backbone(
            id=AISFX.name,
            modality=Modality.AUDIO,
            width=512,
            weights=(_ref(AISFX),),
            preprocessing=AUDIO.describe(),
            window={"window_s": AUDIO.window_s, "hop_s": AUDIO.hop_s},
            batch_size=32,
            group=8,
            make=_sound,
        ),
    )
}


def is_published(tower: TowerSpec) -> bool:
    """Whether a tower's network has its published weights, and was not fine-tuned. False if unknown."""
    if tower.family:
        return not any(weight.name.endswith(TUNED) for weight in tower.weights)
    known = BACKBONES.get(tower.backbone)
    return known is not None and [one.sha256 for one in tower.weights] == [
        one.sha256 for one in known.weights
    ]


def backbone_of(tower: TowerSpec, bundle: Bundle | None = None) -> Backbone:
    """The backbone of a model's tower, with the tower's own preprocessing and windows.

    One that was fine-tuned is served from its model's `bundle`, which holds the tensors that differ.
    A family's network is loaded from the bundle as well, and its features are its embeddings at unit length.
    ModelError where the tower's network is neither a family's nor one of BACKBONES, or no bundle is given
    where it is needed: then its features cannot be computed apart from the model.
    """
    if tower.family:
        return _of_family(tower, bundle)
    known = BACKBONES.get(tower.backbone)
    if known is None:
        raise ModelError(
            f"the {tower.modality} tower's backbone {tower.backbone!r} is unknown, expected one of "
            f"{', '.join(BACKBONES)}",
            hint="train from a model of those backbones, the starter for one",
        )
    found = replace(known, preprocessing=tower.preprocessing, window=tower.window)
    if is_published(tower):
        return found
    if bundle is None:
        raise ModelError(
            f"the {tower.modality} tower's {tower.backbone} is fine-tuned: its weights are not the published "
            "ones, so cached features of it do not exist",
            hint="train from the model that it was tuned from, or from the starter",
        )
    return replace(found, weights=tower.weights, make=partial(_tuned, bundle, tower.modality))


def _of_family(tower: TowerSpec, bundle: Bundle | None) -> Backbone:
    if bundle is None:
        raise ModelError(f"the {tower.modality} tower {tower.backbone} is in its model only")
    make = family_network if is_published(tower) else _tuned
    return Backbone(
        id=tower.backbone,
        modality=tower.modality,
        width=tower.width or tower.dim,
        weights=tower.weights,
        preprocessing=tower.preprocessing,
        window=tower.window,
        batch_size=tower.batch_size,
        group=tower.group,
        make=partial(make, bundle, tower.modality),
        tokenizer=bundle.path(tower.tokenizer),
        model=bundle if tower.head is None else None,
        exports=tower.graph is not None,
    )


def family_network(bundle: Bundle, modality: Modality) -> nn.Module:
    """A family tower's network as published, through the library's own code, at unit length. ModelError."""
    from retrieval.models.bare import UnitVectors
    from retrieval.models.families.family import family

    tower = bundle.spec.tower(modality)
    assert tower is not None
    return UnitVectors(family(tower.family).load(bundle.path(tower.source), modality)).eval()


def _tuned(bundle: Bundle, modality: Modality) -> nn.Module:
    from retrieval.models.trained import load_backbone

    return load_backbone(bundle, modality)


def base_head(model: Model | Bundle | str | Path, modality: Modality) -> nn.Module | None:
    """A model's own head on a modality's features: (n, width) -> unit vectors (n, dim), frozen, in eval mode.

    It can `describe` itself, as the heads of a space must. None where the features are the space, as the
    starter's text. ModelError where the model has no such tower
    or its head's tensors are not at hand; ModelNotFound for an unknown name.
    """
    from retrieval.models.model import Model
    from retrieval.models.registry import load_model

    if isinstance(model, Bundle):
        model = Model(model)
    elif not isinstance(model, Model):
        model = load_model(str(model))
    tower = model.bundle.spec.tower(modality)
    if tower is None:
        raise ModelError(f"the model {model.name} has no {modality} tower")
    head = _full_head(model.bundle, tower)
    if model.dim == tower.dim:
        return head
    from retrieval.training.described import AsTheyAre, Prefix

    return Prefix(head or AsTheyAre(), model.dim).eval()


def _full_head(bundle: Bundle, tower: TowerSpec) -> nn.Module | None:
    if (trained := _trained_head(bundle, tower.modality)) is not None:
        return trained
    if tower.head is None:
        return None
    from retrieval.models.starter.spec import starter_spec

    shipped = starter_spec().tower(tower.modality)
    if shipped is None or shipped.head != tower.head:
        raise ModelError(
            f"the head {tower.head.name} of the model {bundle.spec.name} is only in its graph",
            hint="train from a model of this version, the starter for one",
        )
    return starter_head(tower.modality)


def starter_head(modality: Modality) -> nn.Module:
    """The shipped head of pictures or sounds on features alone, frozen, in eval mode. ModelError."""
    from retrieval.models.bare import starter_picture_head, starter_sound_head

    return starter_picture_head() if modality is Modality.IMAGE else starter_sound_head()


def _trained_head(bundle: Bundle, modality: Modality) -> nn.Module | None:
    """The head that a trained model carries beside its graphs; a tower kept from its base has none."""
    if not (bundle.folder / TRAINED_HEADS).is_file():
        return None
    from retrieval.models.trained import load_heads
    from retrieval.training.described import Prefix

    space = load_heads(bundle)
    if modality not in space.modalities:
        return None
    return Prefix(space.heads[modality.value], space.dim).eval().requires_grad_(False)


def feature_tower(backbone: Backbone, *, threads: int = 0) -> Encoder:
    """A backbone's features through the fast runtime: float32, (n, width), a segment's views averaged.

    Its vectors are features, not of unit length but for texts, and its `space_id` is the fingerprint. The
    graph is exported once into the user's cache, but for models whose own graph gives their features.
    WeightsMissing, ModelError.
    """
    from retrieval.models.model import open_tower

    if not backbone.exports and backbone.model is None:
        return _torch_tower(backbone)
    bundle = backbone.model or feature_bundle(backbone)
    spec = bundle.spec.tower(backbone.modality)
    assert spec is not None
    tower: Tower = open_tower(
        bundle, spec, space_id=backbone.fingerprint, threads=threads or available_threads()
    )
    return tower


def _torch_tower(backbone: Backbone) -> Encoder:
    """As `feature_tower`, of a network that has no graph: torch runs it."""
    from retrieval.encoders.tower import Tower
    from retrieval.models.export import TextGraph, ViewGraph
    from retrieval.runtime.torch import TorchOptions, TorchRuntime

    def opened() -> Runtime:
        graph = TextGraph if backbone.modality is Modality.TEXT else ViewGraph
        options = TorchOptions(precision="f32", unit=False)
        return TorchRuntime.open(graph(backbone.load()).eval(), options=options)

    return Tower(
        backbone.preparer(),
        opened,
        space_id=backbone.fingerprint,
        dim=backbone.width,
        batch_size=backbone.batch_size,
        group=backbone.group,
    )


def feature_bundle(backbone: Backbone) -> Bundle:
    """The graph of a backbone alone, as a bundle of one tower in the cache; exported where it is not there.

    Two processes do not both export: the second waits and takes what the first made.
    """
    from filelock import FileLock

    parent = cache_dir() / "backbones"
    folder = parent / backbone.fingerprint[:16]

    def current() -> Bundle | None:
        try:
            bundle = Bundle.load(folder)
        except ModelError:  # none, or damaged: made again
            return None
        return bundle if bundle.spec.provenance.get("fingerprint") == backbone.fingerprint else None

    if bundle := current():
        return bundle
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / "build.lock"):
            return current() or write_bundle(folder, lambda work: _fill(work, backbone))
    except OSError as error:
        raise ModelError(
            f"the graph of {backbone.id} cannot be written to {folder}: {error.strerror or error}",
            hint="free 100 MB there, or set TRIPTYCH_HOME to another folder",
        ) from error


def _fill(work: Path, backbone: Backbone) -> ModelSpec:
    """Export the backbone's graph into an empty folder; the spec of its one tower."""
    network = backbone.load()
    from retrieval.models.export import export_tower

    graph = f"{backbone.modality.value}.onnx"
    if backbone.modality is Modality.TEXT:
        shutil.copyfile(backbone.tokenizer or verified(MINILM_TOKENIZER), work / TOKENIZER)
    export_tower(network, work / graph, backbone.preparer(), unit=False)
    return ModelSpec(
        name=backbone.id,
        towers=(
            TowerSpec(
                modality=backbone.modality,
                backbone=backbone.id,
                weights=backbone.weights,
                head=None,
                preprocessing=backbone.preprocessing,
                dim=backbone.width,
                window=backbone.window,
                batch_size=backbone.batch_size,
                group=backbone.group,
                graph=graph,
            ),
        ),
        provenance={"fingerprint": backbone.fingerprint},
    )
