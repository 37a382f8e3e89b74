"""Two models as one: all towers of A, and those of B that A lacks, brought into A's space by a bridge.

Imports torch. How the bridge is fitted stands in bridge.py; what a bundle is in bundle.py.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from indexer.errors import ConfigError, MediaError, ModelError
from indexer.types import FloatArray, Modality
from retrieval.home import expanded
from retrieval.models.backbones import TRAINED_HEADS, backbone_of, base_head
from retrieval.models.bridge import Bridge, Progress, fit_bridge
from retrieval.models.bridge_types import BridgeOptions, BridgeReport, Method
from retrieval.models.bundle import Bundle, HeadRef, ModelSpec, TowerSpec, canonical_json, link_or_copy
from retrieval.models.cache import check_free, store
from retrieval.models.export import export_tower
from retrieval.models.families.names import is_family_name
from retrieval.models.model import Model, open_tower
from retrieval.models.registry import load_model
from retrieval.models.trained import check_name, head_hash, load_heads
from retrieval.models.versions import versions
from retrieval.training.described import Chain
from retrieval.training.space import SharedSpace, save_space

HEADS = (TRAINED_HEADS, "heads.json")
PACKAGES = ("triptych", "torch", "onnx", "onnxruntime", "numpy")
MOST_SOUNDS = 200  # of a folder, whose mean is taken; evenly spread over the names in order
MOST_WINDOWS = 4  # of a sound, from its beginning


@dataclass(frozen=True, slots=True)
class _Added:
    """A tower that comes from B: as it will stand in the joined model, and the head behind its backbone."""

    tower: TowerSpec
    theirs: TowerSpec  # in B
    head: nn.Module


def bridge_models(
    a: str,
    b: str,
    *,
    name: str,
    texts: Path | None = None,
    method: str = Method.AUTO,
    sounds: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BridgeReport:
    """Join the models that a user calls `a` and `b` as `name`, in the cache, and say how well it went.

    `texts` is a file of captions, one a line; without it the bank that ships is used. `sounds` is a folder of
    sounds, whose mean is moved to where B's texts are. With `force` the name is taken from whichever model
    has it, an earlier join of the same two or another; else ConfigError, before anything is computed.
    ModelNotFound, ModelError, TrainingError.
    """
    options = BridgeOptions(method=cast(Method, method))  # which reads it, and says what there is
    lines = None if texts is None else read_texts(texts)
    paths = None if sounds is None else sound_files(sounds)
    check_name(name)
    if not force:
        check_free(name, hint="choose another --name, or take it from that model with --force")
    first, second = load_model(a).bundle, load_model(b).bundle
    return join(first, second, name=name, texts=lines, options=options, sounds=paths, progress=progress)[1]


def join(
    a: Bundle,
    b: Bundle,
    *,
    name: str,
    texts: Sequence[str] | None = None,
    options: BridgeOptions | None = None,
    sounds: Sequence[Path] | None = None,
    progress: Progress | None = None,
) -> tuple[Bundle, BridgeReport]:
    """Write the joined model into the cache: its bundle, and how well texts find themselves through it.

    Everything of A stays as it is; B's towers of modalities that A lacks get the bridge as their last head,
    inside their graphs. Their networks' files are kept in a folder of their own, so that torch can load them.
    The same models, texts and options give the same space. ModelError where one has no texts or B adds
    nothing, or a graph differs from torch; TrainingError for unusable texts.
    """
    if not is_family_name(name):
        check_name(name)
    say = progress or (lambda _step, _share: None)
    lacking = _lacking(a, b)
    bridge = fit_bridge(
        texts, _texts_of(a), _texts_of(b), options, names=(a.spec.name, b.spec.name),
        progress=lambda step, share: say(step, 0.7 * share),
    )  # fmt: skip
    media = None
    if sounds and Modality.AUDIO in [tower.modality for tower in lacking]:
        say(f"listening to {len(sounds)} sounds", 0.7)
        media = sound_vectors(b, sounds)
    report = replace(
        bridge.report,
        towers=tuple(tower.modality.value for tower in lacking),
        centred=0 if media is None else len(media),
    )
    added = [_added(a, b, tower, bridge, media) for tower in lacking]
    kept = tuple(tower for tower in a.spec.towers if tower.usable)
    spec = ModelSpec(
        name=name,
        towers=(*kept, *(one.tower for one in added)),
        provenance=_provenance(a, b, report),
        nested=a.spec.nested,
    )
    bundle = store(spec.space_id, lambda work: _fill(work, a, b, spec, added, say))
    say("ready", 1.0)
    return bundle, report


def read_texts(path: Path) -> list[str]:
    """A file's lines, empty ones left out. ConfigError where it cannot be read."""
    try:
        lines = expanded(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the captions {path} cannot be read: {error}", hint="give UTF-8 text, a caption a line"
        ) from error
    return [line for line in lines if line.strip()]


def sound_files(folder: Path) -> list[Path]:
    """At most MOST_SOUNDS sounds of a folder and those below it, by name. ConfigError where it has none."""
    from indexer.media.kinds import AUDIO_SUFFIXES

    found = sorted(path for path in expanded(folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise ConfigError(
            f"{folder} holds no sounds", hint="name a folder with sounds like those to be searched"
        )
    picked = np.linspace(0, len(found) - 1, min(len(found), MOST_SOUNDS)).round().astype(int)
    return [found[place] for place in dict.fromkeys(picked.tolist())]


def sound_vectors(bundle: Bundle, paths: Sequence[Path]) -> FloatArray:
    """One unit vector a readable sound, the mean of its first windows', (n, dim). ModelError for none."""
    from indexer.media.audio import read_windows

    tower = Model(bundle).tower(Modality.AUDIO)
    hint, vectors = tower.preparer.hint, []
    for path in paths:
        windows = []
        try:
            for _, window in read_windows(
                path, sample_rate=hint.sample_rate, window_s=hint.window_s, hop_s=hint.hop_s
            ):
                windows.append(tower.preparer.tensor(window))
                if len(windows) == MOST_WINDOWS:
                    break
        except (MediaError, OSError):
            continue  # others speak for it
        if windows:
            vectors.append(tower.encode(windows).mean(axis=0))
    if not vectors:
        raise ModelError("none of the sounds could be read", hint="name a folder with other sounds")
    return np.stack(vectors)


def _lacking(a: Bundle, b: Bundle) -> list[TowerSpec]:
    """B's towers of modalities that A cannot encode. ModelError where there is nothing to join."""
    for whole, part in ((a, b), (b, a)):
        if part.spec.space_id in _joined_from(whole.spec.provenance):
            raise ModelError(
                f"the model {whole.spec.name} was joined from {part.spec.name}, so their texts agree already",
                hint=f"use {whole.spec.name} as it is, or join {part.spec.name} with another model",
            )
    for bundle in (a, b):
        if Modality.TEXT not in bundle.spec.modalities:
            raise ModelError(
                f"the model {bundle.spec.name} has no text tower, and a bridge is learned from texts",
                hint="join models that both know texts, such as an image-text and an audio-text one",
            )
    found = [t for t in b.spec.towers if t.usable and t.modality not in a.spec.modalities]
    if not found:
        raise ModelError(
            f"the model {b.spec.name} adds nothing: {a.spec.name} has {', '.join(a.spec.modalities)} already",
            hint="name the model whose space is kept first, and one with another modality second",
        )
    return found


def _joined_from(provenance: Mapping[str, Any]) -> set[str]:
    """The spaces that a model was joined from, and that those were."""
    return set(_spaces(provenance)).union(
        *(_joined_from(one) for one in provenance.get("provenance of both", ()))
    )


def _spaces(provenance: Mapping[str, Any]) -> list[str]:
    """Of the two that a model was joined from; none where it was not."""
    return [str(one["space_id"]) for one in provenance.get("joined", ())]


def _texts_of(bundle: Bundle) -> Callable[[Sequence[str]], FloatArray]:
    def encode(texts: Sequence[str]) -> FloatArray:
        tower = Model(bundle).tower(Modality.TEXT)
        return tower.encode([tower.preparer.tensor(text) for text in texts])

    return encode


def _added(a: Bundle, b: Bundle, tower: TowerSpec, bridge: Bridge, media: FloatArray | None) -> _Added:
    last = bridge.head if media is None or tower.modality is not Modality.AUDIO else bridge.for_media(media)
    own = base_head(b, tower.modality)
    head = Chain([own, last] if own is not None else [last])
    plain = copy.deepcopy(head).cpu().float().eval().requires_grad_(False)
    source = ""
    if tower.source:
        taken = {name.partition("/")[0] for name in a.spec.files}
        source = next(
            f"source-{letter}" for letter in "bcdefghijklmnopqrstuvwxyz" if f"source-{letter}" not in taken
        )
    written = replace(
        tower,
        head=HeadRef(f"bridge-{tower.modality.value}", head_hash(plain)),
        dim=a.spec.dim,
        width=tower.width or tower.dim if tower.family else tower.width,
        source=source,
        precision="f32",
        missing=None,
    )
    return _Added(written, tower, plain)


def _fill(
    work: Path, a: Bundle, b: Bundle, spec: ModelSpec, added: Sequence[_Added], say: Progress
) -> ModelSpec:
    unusable = {tower.graph for tower in a.spec.towers if not tower.usable}
    for name in a.spec.files:
        if name not in HEADS and name not in unusable:
            link_or_copy(a.path(name), work / name)
    for number, one in enumerate(added):
        say(f"writing the {one.tower.modality} tower", 0.75 + 0.2 * number / len(added))
        _write(work, b, one)
    _write_heads(work, a, spec, added)
    return spec


def _write(work: Path, b: Bundle, one: _Added) -> None:
    """B's files that a tower needs, and its graph with all heads inside, compared with torch."""
    tower, theirs = one.tower, one.theirs
    for name in b.spec.files:
        if theirs.source and name.startswith(f"{theirs.source}/"):
            link_or_copy(b.path(name), work / tower.source / name.removeprefix(f"{theirs.source}/"))
        elif name == f"{tower.modality.value}-tuned.safetensors":
            link_or_copy(b.path(name), work / name)
    if tower.graph is None:
        return  # torch runs it
    if (work / tower.graph).exists():
        raise ModelError(f"both models have a file {tower.graph!r}")
    network = backbone_of(theirs, b).load()
    alone = Bundle(work, ModelSpec(name="", towers=(tower,)))
    preparer = open_tower(alone, tower, space_id="", threads=1).preparer
    export_tower(network, work / tower.graph, preparer, head=one.head)


def _write_heads(work: Path, a: Bundle, spec: ModelSpec, added: Sequence[_Added]) -> None:
    """The heads that A carries and the bridges, beside the graphs: for torch, and to train on from."""
    mine = load_heads(a) if TRAINED_HEADS in a.spec.files else None
    heads = {one.tower.modality: one.head for one in added}
    if mine is not None:
        heads |= {m: mine.heads[m.value] for m in mine.modalities}
    save_space(SharedSpace(heads, dims=spec.dims), work)


def _provenance(a: Bundle, b: Bundle, report: BridgeReport) -> dict[str, Any]:
    said = {
        "joined": [{"name": one.spec.name, "space_id": one.spec.space_id} for one in (a, b)],
        "bridge": report.to_json(),
        "provenance of both": [dict(one.spec.provenance) for one in (a, b)],
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(PACKAGES),
    }
    canonical_json(said)  # it must be JSON
    return said
