"""From a trained space to a model bundle, and back: so a bundle can be what the next training starts from.

Imports torch. How a graph is exported and compared with torch stands in export.py, what a bundle is in
bundle.py. Nothing here trains or evaluates.
"""

from __future__ import annotations

import copy
import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from indexer.errors import ModelError, TrainingError
from indexer.types import Modality
from retrieval.models.backbones import BACKBONES, TUNED, family_network, is_published
from retrieval.models.bundle import (
    Bundle,
    HeadRef,
    ModelSpec,
    TowerSpec,
    WeightRef,
    canonical_json,
    link_or_copy,
    write_bundle,
)
from retrieval.models.export import TOLERANCE, export_tower
from retrieval.models.model import open_tower
from retrieval.models.registry import STARTER
from retrieval.models.versions import versions
from retrieval.training.finetune import collate, features_of
from retrieval.training.heads import unit_rows
from retrieval.training.space import NAME as HEADS
from retrieval.training.space import SharedSpace, load_space, save_space
from retrieval.training.unfreeze import merged

PACKAGES = ("triptych", "torch", "timm", "onnx", "onnxruntime", "numpy")
TUNED_FROM = re.compile(r"fine-tuned from .*? \((.*)\), SHA-256 \w+")  # a weight's source, with its first
Prepared = Sequence[npt.NDArray[Any]]  # media of one modality as its preparer makes them
Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What a training run hands over to become a bundle."""

    name: str
    base: Bundle  # the model whose preprocessing, tokenizer and untrained towers are used
    space: SharedSpace
    modules: Mapping[Modality, nn.Module] = field(default_factory=dict)  # fine-tuned; else as published
    from_base: bool = False  # whether training started from the base's own space
    provenance: Mapping[str, Any] = field(default_factory=dict)  # data, split, seed, options, metrics
    samples: Mapping[Modality, Prepared] = field(default_factory=dict)  # real media to compare towers on
    extra: Mapping[str, bytes] = field(default_factory=dict)  # further files of the bundle, by name


def check_out(out: Path) -> None:
    """TrainingError where a model could not be written to `out`; to be asked before hours are spent."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise TrainingError(f"{out} is not a folder", hint="choose another folder with --out")
    if out.is_dir() and any(out.iterdir()):
        raise TrainingError(f"the folder {out} is not empty", hint="choose another folder with --out")


def check_name(name: str) -> None:
    """TrainingError for what a model cannot be called; to be asked before hours are spent, too."""
    if not name or name == STARTER or any(sign in name for sign in "/\\\n"):
        raise TrainingError(
            f"a model cannot be called {name!r}, as its folder is",
            hint="choose another --out: a name without slashes, not 'starter'",
        )


def write_trained(out: Path, model: TrainedModel, *, progress: Progress | None = None) -> Bundle:
    """Write `model` as a bundle: a graph a tower with head and normalisation inside, heads beside.

    Every graph's vectors are compared with torch's: at export on made inputs, and on `model.samples` through
    the tower that a search uses. A modality without a trained head keeps the base's tower where training
    started from the base's space (the space is then still near the base's), and is left out otherwise;
    provenance says which. The same heads and backbones give the same space_id.

    TrainingError where `out` is not empty, or the name or provenance cannot be used; ModelError where a graph
    differs from torch or weights are missing.
    """
    check_out(out)
    _check(model)
    say = progress or (lambda _step, _share: None)
    try:
        return write_bundle(out, lambda work: _fill(work, model, say), sweep=False)
    except OSError as error:
        raise TrainingError(
            f"the model cannot be written to {out}: {error.strerror or error}",
            hint="free some space there, or choose another folder with --out",
        ) from error


def load_heads(bundle: Bundle) -> SharedSpace:
    """The heads that a trained bundle carries, in eval mode. ModelError where it has none, or broken ones."""
    space = load_space(bundle.folder)
    for modality in space.modalities:
        tower = bundle.spec.tower(modality)
        said = tower.head.sha256 if tower and tower.head else None
        if said != head_hash(space.heads[modality.value]):
            raise ModelError(
                f"the {modality} head beside the model {bundle.spec.name} is not the one in its graph",
                hint="copy the model's folder again, or train it again",
            )
    return space


def load_backbone(bundle: Bundle, modality: Modality) -> nn.Module:
    """A tower's backbone as a torch module, with the tensors that were fine-tuned; frozen, in eval mode.

    ModelError where the bundle has no such tower, or tensors that are not the ones in its graph.
    """
    tower = bundle.spec.tower(modality)
    if tower is None:
        raise ModelError(f"the model {bundle.spec.name} has no {modality} tower")
    network = _published(bundle, tower)
    path = bundle.folder / _tuned_name(modality)
    if path.is_file():
        from safetensors.torch import load_file

        tuned = load_file(path)
        if _hashes(tower.weights) != _hashes(_weights(bundle, tower, tuned)):
            raise ModelError(f"{path.name} does not hold the weights that the model's spec names")
        network.load_state_dict(network.state_dict() | tuned)
    elif not is_published(tower):
        raise ModelError(f"the fine-tuned weights of the {modality} tower are only in its graph")
    return network.eval().requires_grad_(False)


def head_hash(head: nn.Module) -> str:
    """SHA-256, 64 hex digits, over a head's description and tensors."""
    describe: Any = head.describe
    digest = hashlib.sha256(canonical_json(describe()))
    _feed(digest, head.state_dict())
    return digest.hexdigest()


def _check(model: TrainedModel) -> None:
    check_name(model.name)
    try:
        canonical_json(dict(model.provenance))
    except (TypeError, ValueError) as error:
        raise TrainingError(f"the model's provenance cannot be written as JSON: {error}") from error
    for modality in model.space.modalities:
        tower = model.base.spec.tower(modality)
        if tower is None or not (tower.family or tower.backbone in BACKBONES):
            raise TrainingError(
                f"the base {model.base.spec.name} has no {modality} tower of a known backbone",
                hint="train from the starter, or give data without that modality",
            )


def _fill(work: Path, model: TrainedModel, say: Progress) -> ModelSpec:
    towers, base_towers = [], [t for m in Modality if (t := model.base.spec.tower(m))]
    kept = [tower for tower in base_towers if _keeps(model, tower)]
    trained = [tower for tower in base_towers if tower.modality in model.space.modalities]
    for tower in (*kept, *trained):
        _copy_files(work, model.base, tower)
    for number, tower in enumerate(base_towers):
        say(f"writing the {tower.modality} tower", number / (len(base_towers) + 1))
        if tower in trained:
            towers.append(_write_tower(work, model, tower))
        elif tower in kept:
            copy_tower(work, model.base, tower)
            towers.append(tower)
    save_space(_with_kept_heads(model, kept), work)
    for name, data in model.extra.items():
        if Path(name).name != name or (work / name).exists():
            raise TrainingError(f"a model's folder cannot hold another file called {name!r}")
        (work / name).write_bytes(data)
    return ModelSpec(
        name=model.name,
        towers=tuple(towers),
        provenance=_provenance(model, kept),
        nested=model.space.dims[1:],
    )


def _keeps(model: TrainedModel, tower: TowerSpec) -> bool:
    """Whether the base's tower of a modality that nothing was trained for stays in the model."""
    if tower.modality in model.space.modalities or not model.from_base or not tower.usable:
        return False
    # A shorter prefix of its vectors is a vector of the shorter space only where the base has that space.
    return tower.dim == model.space.dim and set(model.space.dims) <= set(model.base.spec.dims)


def _write_tower(work: Path, model: TrainedModel, tower: TowerSpec) -> TowerSpec:
    modality, head = tower.modality, _plain(model.space.heads[tower.modality.value])
    tuned: dict[str, Tensor] = {}
    network = _published(model.base, tower)
    if modality in model.modules:
        pristine, network = network.state_dict(), merged(_plain(model.modules[modality]))
        tuned = _changed(pristine, network.state_dict(), tower)
    # A family's network that cannot be exported stays with torch.
    graph = None if tower.family and tower.graph is None else f"{modality.value}.onnx"
    written = replace(
        tower,
        weights=_weights(model.base, tower, tuned),
        head=HeadRef(f"{model.name}-{modality.value}", head_hash(head)),
        dim=model.space.dim,
        width=(tower.width or tower.dim) if tower.family else 0,
        precision="f32",
        graph=graph,
        quantised="",
        missing=None,
    )
    if tuned:
        from safetensors.torch import save_file

        save_file(tuned, work / _tuned_name(modality))
        (work / _tuned_name(modality)).chmod(0o644)  # the library leaves it readable by its owner alone
    if graph is not None:
        preparer = open_tower(Bundle(work, _only(written)), written, space_id="", threads=1).preparer
        export_tower(network, work / graph, preparer, head=head)
    if graph is not None and (samples := model.samples.get(modality)):
        compare(work, written, samples, lambda: encode_media(network, head, modality, samples))
    return written


def compare(
    folder: Path, tower: TowerSpec, samples: Prepared, expected: Callable[[], npt.NDArray[np.float32]]
) -> float:
    """The largest difference between a written tower's vectors of prepared media and the expected ones.

    ModelError where it exceeds export.TOLERANCE.
    """
    opened = open_tower(Bundle(folder, _only(tower)), tower, space_id="", threads=1)
    worst = float(np.abs(opened.encode(samples) - expected()).max())
    if not worst <= TOLERANCE:
        raise ModelError(
            f"the {tower.modality} tower's vectors of the samples differ from torch's by {worst:.2g}, "
            f"expected at most {TOLERANCE}",
            hint="install the versions that requirements.lock names",
        )
    return worst


@torch.inference_mode()
def encode_media(
    network: nn.Module, head: nn.Module, modality: Modality, prepared: Prepared
) -> npt.NDArray[np.float32]:
    """Unit vectors of prepared media as training computes them, (len(prepared), dim), a medium at a time."""
    rows = [unit_rows(head(features_of(network, modality, collate(modality, [one])))) for one in prepared]
    return np.asarray(torch.cat(rows).numpy())


def _only(tower: TowerSpec) -> ModelSpec:
    return ModelSpec(name="", towers=(tower,))


def copy_tower(work: Path, base: Bundle, tower: TowerSpec) -> None:
    """A base's tower as it is, in `work`: its graphs and what was fine-tuned of it."""
    graphs = [f"{graph}{end}" for graph in (tower.graph, tower.quantised) if graph for end in ("", ".data")]
    for name in (*graphs, _tuned_name(tower.modality)):
        if name in base.spec.files:
            link_or_copy(base.path(name), work / name)


def _copy_files(work: Path, base: Bundle, tower: TowerSpec) -> None:
    """What a tower is made from and used with: its tokenizer, and a family's own files."""
    wanted = [tower.tokenizer] if tower.modality is Modality.TEXT else []
    if tower.family:
        wanted += [name for name in base.spec.files if name.startswith(f"{tower.source}/")]
    for name in wanted:
        if not (work / name).exists():
            link_or_copy(base.path(name), work / name)


def _with_kept_heads(model: TrainedModel, kept: Sequence[TowerSpec]) -> SharedSpace:
    """The space to write beside the graphs: the trained heads, and those the base carries for kept towers."""
    space = copy.deepcopy(model.space).cpu()
    if kept and f"{HEADS}.safetensors" in model.base.spec.files:
        for name, head in load_heads(model.base).heads.items():
            if Modality(name) in [tower.modality for tower in kept]:
                space.heads[name] = head
    return space


def _published(bundle: Bundle, tower: TowerSpec) -> nn.Module:
    """The tower's backbone with its published weights."""
    if tower.family:
        return family_network(bundle, tower.modality)
    if tower.backbone not in BACKBONES:
        raise ModelError(
            f"the {tower.modality} tower's backbone {tower.backbone!r} is unknown, expected one of "
            f"{', '.join(BACKBONES)}",
            hint="train from the starter",
        )
    return BACKBONES[tower.backbone].load()


def _plain(module: nn.Module) -> nn.Module:
    """A frozen copy as the exporter wants it: on the CPU, float32, contiguous, in eval mode."""
    plain = copy.deepcopy(module).cpu().float().to(memory_format=torch.contiguous_format)
    return plain.eval().requires_grad_(False)


def _changed(
    pristine: Mapping[str, Tensor], state: Mapping[str, Tensor], tower: TowerSpec
) -> dict[str, Tensor]:
    """The tensors of `state` that are not the published ones; ModelError where names or shapes differ."""
    if {n: t.shape for n, t in pristine.items()} != {n: t.shape for n, t in state.items()}:
        raise ModelError(
            f"the {tower.modality} module has other tensors than {tower.backbone}",
            hint="give the module that the backbone's load() made",
        )
    return {
        name: value.detach().contiguous()
        for name, value in state.items()
        if not torch.equal(value, pristine[name].to(value.dtype))
        and not name.endswith("num_batches_tracked")  # counts batches; no vector depends on it
    }


def _weights(bundle: Bundle, tower: TowerSpec, tuned: Mapping[str, Tensor]) -> tuple[WeightRef, ...]:
    """The published weights, those of the network replaced by what fine-tuning made of them."""
    if not tower.family:
        known = BACKBONES[tower.backbone].weights
        return tuple(_tuned_ref(r, tuned) if tuned and r.name == tower.backbone else r for r in known)
    published = [_published_ref(ref, bundle, tower) for ref in tower.weights]
    return tuple(_tuned_ref(r, tuned) if tuned and r.name.endswith(".safetensors") else r for r in published)


def _published_ref(ref: WeightRef, bundle: Bundle, tower: TowerSpec) -> WeightRef:
    """A weight of a family tower as it was before any fine-tuning: the library's own file in the bundle."""
    if not ref.name.endswith(TUNED):
        return ref
    name = ref.name.removesuffix(TUNED)
    file = bundle.spec.files.get(f"{tower.source}/{name}")
    if file is None:
        raise ModelError(
            f"the model {bundle.spec.name} lacks {name}, which its {tower.modality} tower is tuned from"
        )
    said = TUNED_FROM.fullmatch(ref.source)
    return replace(ref, name=name, sha256=file.sha256, source=said[1] if said else "")


def _hashes(weights: Sequence[WeightRef]) -> list[str]:
    return [weight.sha256 for weight in weights]


def _tuned_ref(ref: WeightRef, tuned: Mapping[str, Tensor]) -> WeightRef:
    digest = hashlib.sha256(canonical_json({"fine-tuned from": ref.sha256}))
    _feed(digest, tuned)
    return replace(
        ref,
        name=f"{ref.name}{TUNED}",
        sha256=digest.hexdigest(),
        source=f"fine-tuned from {ref.name} ({ref.source}), SHA-256 {ref.sha256[:16]}",
    )


def _feed(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    """Names, types, shapes and bytes, in the order of names."""
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(canonical_json([name, str(value.dtype), list(value.shape)]))
        digest.update(value.numpy().tobytes())


def _tuned_name(modality: Modality) -> str:
    return f"{modality.value}-tuned.safetensors"


def _provenance(model: TrainedModel, kept: Sequence[TowerSpec]) -> dict[str, Any]:
    base = {tower.modality for tower in model.base.spec.towers}
    keeps = {tower.modality for tower in kept}
    return dict(model.provenance) | {
        "base": {"name": model.base.spec.name, "space_id": model.base.spec.space_id},
        "started from the base's space": model.from_base,
        "trained": _names(set(model.space.modalities)),
        "kept from the base": _names(keeps),
        "left out": _names(base - keeps - set(model.space.modalities)),
        "fine-tuned": _names(set(model.modules)),
        "dims": list(model.space.dims),
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(PACKAGES),
    }


def _names(modalities: set[Modality]) -> list[str]:
    return [modality.value for modality in Modality if modality in modalities]
