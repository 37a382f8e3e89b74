"""Backbones: what their fingerprint depends on, what is refused, and that their graphs are made once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.errors import ModelError, WeightsMissing
from indexer.types import Modality
from retrieval.config import cache_dir
from retrieval.models import backbones
from retrieval.models.backbones import BACKBONES, backbone_of, base_head, feature_bundle, feature_tower
from retrieval.models.bundle import Bundle, HeadRef, ModelSpec, write_bundle
from retrieval.models.model import Model
from retrieval.models.starter import weights
from retrieval.models.starter.spec import starter_spec

ROOT = Path(__file__).parents[2]
TEXT, AUDIO = BACKBONES["all-MiniLM-L6-v2"], BACKBONES["aisfx-x-sequential-ce"]


def test_the_starters_towers_have_backbones() -> None:
    towers = starter_spec().towers
    assert {backbone_of(tower) for tower in towers} == set(BACKBONES.values())
    for tower in towers:
        known = BACKBONES[tower.backbone]
        assert (known.modality, known.batch_size, known.group) == (
            tower.modality,
            tower.batch_size,
            tower.group,
        )
        assert known.preparer().describe() == tower.preprocessing  # type: ignore[attr-defined]


def test_the_fingerprint_depends_on_what_changes_features_only() -> None:
    prints = {one.fingerprint for one in BACKBONES.values()}
    assert len(prints) == 3
    weight = replace(AUDIO.weights[0], sha256="0" * 64)
    others = [
        replace(AUDIO, weights=(weight,)),
        replace(AUDIO, preprocessing={**AUDIO.preprocessing, "mels": 64}),
        replace(AUDIO, window={**AUDIO.window, "hop_s": 2.0}),
    ]
    assert len({AUDIO.fingerprint, *(one.fingerprint for one in others)}) == 4
    assert replace(AUDIO, batch_size=1, group=1).fingerprint == AUDIO.fingerprint


def test_a_towers_own_preprocessing_is_taken() -> None:
    image = starter_spec().towers[0]
    other = backbone_of(replace(image, preprocessing={**image.preprocessing, "pad": 0}))
    assert other.preparer().pad == 0  # type: ignore[attr-defined]
    assert other.fingerprint != BACKBONES[image.backbone].fingerprint


def test_other_networks_are_refused() -> None:
    image = starter_spec().towers[0]
    with pytest.raises(ModelError, match="'clip' is unknown"):
        backbone_of(replace(image, backbone="clip"))
    tuned = replace(image.weights[0], sha256="0" * 64)
    for changed in ((tuned,), (*image.weights, tuned), ()):
        with pytest.raises(ModelError, match="fine-tuned"):
            backbone_of(replace(image, weights=changed))


def test_the_table_loads_no_torch() -> None:
    code = """
import sys
from retrieval.models.backbones import BACKBONES
import retrieval.training.features
for one in BACKBONES.values():
    one.fingerprint, one.preparer()
print(sorted({"torch", "timm", "onnxruntime", "safetensors"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_weights_are_told_before_anything_is_loaded(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda _name: None)
    monkeypatch.setattr(backbones, "_sound", lambda: pytest.fail("torch was loaded"))
    with pytest.raises(WeightsMissing) as caught:
        feature_tower(AUDIO)
    assert caught.value.hint == "uv pip install --no-deps aisfx==0.1.2"


def test_a_graph_is_exported_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again where a file of it is damaged; vectors of real length equal torch's."""
    import torch

    loads: list[str] = []
    real = AUDIO.make

    def watched() -> Any:
        loads.append("aisfx")
        return real()

    backbone = replace(AUDIO, make=watched)
    tower = feature_tower(backbone, threads=1)
    assert (tower.dim, tower.space_id, tower.modality) == (512, AUDIO.fingerprint, Modality.AUDIO)
    noise = np.random.default_rng(3)
    tensors = [tower.preparer.tensor(noise.standard_normal(n).astype(np.float32)) for n in (9000, 400_000)]
    found = tower.encode(tensors)
    with torch.inference_mode():
        network = real()
        wanted = np.stack([network(torch.from_numpy(one)).mean(0).numpy() for one in tensors])
    assert found == pytest.approx(wanted, abs=1e-4 * float(wanted.max()))
    assert not np.allclose(np.linalg.norm(found, axis=1), 1, atol=0.1)
    folder = feature_bundle(backbone).folder
    assert folder == cache_dir() / "backbones" / AUDIO.fingerprint[:16]
    assert loads == ["aisfx"]
    next(folder.glob("*.data")).unlink()
    assert feature_tower(backbone, threads=1).encode(tensors) == pytest.approx(found)
    assert loads == ["aisfx", "aisfx"]


def bundle_of(folder: Path, spec: ModelSpec, fill: Callable[[Path], None] = lambda _work: None) -> Bundle:
    def write(work: Path) -> ModelSpec:
        fill(work)
        return spec

    return write_bundle(folder, write)


def test_a_head_that_is_only_in_a_graph_is_told(tmp_path: Path) -> None:
    image = starter_spec().towers[0]
    other = replace(image, head=HeadRef("starter-image", "0" * 64))
    bundle = bundle_of(tmp_path / "old", ModelSpec("old", (other,)))
    with pytest.raises(ModelError, match="only in its graph"):
        base_head(bundle, Modality.IMAGE)
    with pytest.raises(ModelError, match="no audio tower"):
        base_head(bundle, Modality.AUDIO)


def test_a_trained_models_head_is_used(tmp_path: Path) -> None:
    """Beside towers that were kept as they were in the starter; nested dimensions are cut."""
    import torch

    from retrieval.models.trained import head_hash
    from retrieval.training.heads import HeadKind, HeadOptions, make_head
    from retrieval.training.space import SharedSpace, save_space

    image, text, _ = starter_spec().towers
    head = make_head(HeadOptions(kind=HeadKind.LINEAR), 384, 384, seed=1)
    space = SharedSpace({Modality.TEXT: head}, dims=(384, 64))
    text = replace(text, head=HeadRef("trained", head_hash(space.heads["text"])))

    def fill(work: Path) -> None:
        save_space(space, work)

    bundle = bundle_of(tmp_path / "trained", ModelSpec("trained", (image, text), nested=(64,)), fill)
    features = torch.randn(5, 384, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = space.eval().encode(Modality.TEXT, features)
        found = base_head(bundle, Modality.TEXT)
        assert found is not None
        assert not any(one.requires_grad for one in found.parameters())
        assert torch.equal(found(features), wanted)
        cut = base_head(Model(bundle).with_dim(64), Modality.TEXT)
        assert cut is not None
        short = wanted[:, :64] / wanted[:, :64].norm(dim=1, keepdim=True)
        assert torch.allclose(cut(features), short, atol=1e-6)
        pictures = torch.randn(2, 1280, generator=torch.Generator().manual_seed(0)).abs()
        kept, own = base_head(bundle, Modality.IMAGE), backbones.starter_head(Modality.IMAGE)
        assert kept is not None
        assert torch.equal(kept(pictures), own(pictures))
