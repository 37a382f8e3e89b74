"""The starter's heads: the formula, the file format, and that the shipped files are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from indexer.errors import ModelError
from retrieval.models.starter import heads
from retrieval.models.starter.heads import AudioHead, HeadShape, ImageHead


def filled(head: heads.Head, seed: int = 0) -> heads.Head:
    torch.manual_seed(seed)
    state = {n: torch.randn_like(v) * 0.1 for n, v in head.state_dict().items()}
    head.load_state_dict(state | {"temperature": torch.tensor(1.5), "conse_gain": torch.tensor(0.7)})
    return head.eval()


@torch.no_grad()
def test_image_head_is_the_formula() -> None:
    head = filled(ImageHead(HeadShape(features=6, classes=5, top=2)))
    features, logits = torch.randn(3, 6), torch.randn(3, 5)
    state = {name: value.numpy() for name, value in head.state_dict().items()}
    expected = []
    for x, z in zip(features.numpy(), logits.numpy(), strict=True):
        first, second = np.argsort(-z)[:2]
        weight = np.exp(np.array([z[first], z[second]]) / 1.5)
        mixed = (weight / weight.sum()) @ state["class_vectors"][[first, second]]
        residual = state["residual.weight"] @ (x / np.linalg.norm(x)) + state["residual.bias"]
        raw = state["after"] @ (0.7 * mixed / np.linalg.norm(mixed) + residual)
        expected.append(raw / np.linalg.norm(raw))
    np.testing.assert_allclose(head(features, logits).numpy(), np.stack(expected), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("hidden", [0, 7])
def test_a_head_survives_its_file(tmp_path: Path, hidden: int) -> None:
    shape = HeadShape(features=8, classes=5, top=3, hidden=hidden, classifier=(6, 4))
    head = filled(AudioHead(shape))
    heads.save_head(head, tmp_path / "a.safetensors", metadata={"kind": "test", "version": "9"})
    loaded = heads.load_audio_head(tmp_path / "a.safetensors")
    assert loaded.shape == shape
    features = torch.randn(4, 8)
    torch.testing.assert_close(loaded(features), head(features), atol=3e-3, rtol=0)
    assert heads.head_metadata(tmp_path / "a.safetensors") == {
        "format": heads.FORMAT,
        "kind": "test",
        "top": "3",
        "version": "9",
    }


def test_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    path.write_bytes(b"no head")
    with pytest.raises(ModelError, match="cannot be read"):
        heads.load_image_head(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "other/3"})
    with pytest.raises(ModelError, match=r"'other/3', expected 'triptych-head/1'"):
        heads.load_image_head(path)
    heads.save_head(filled(ImageHead(HeadShape(6, 5, 2))), path, metadata={})
    with pytest.raises(ModelError, match="do not fit"):
        heads.load_audio_head(path)


@torch.no_grad()
def test_shipped_heads_give_unit_vectors_whatever_the_batch() -> None:
    image, audio = heads.load_image_head(), heads.load_audio_head()
    torch.manual_seed(1)
    features, logits, sounds = torch.rand(5, 1280), torch.randn(5, 1000) * 3, torch.rand(5, 512)
    for whole, single in (
        (image(features, logits), image(features[2:3], logits[2:3])),
        (audio(sounds), audio(sounds[2:3])),
    ):
        assert whole.shape == (5, heads.DIM)
        torch.testing.assert_close(whole.norm(dim=1), torch.ones(5))
        torch.testing.assert_close(whole[2:3], single, atol=1e-5, rtol=0)
    size = sum((heads.FOLDER / f"{name}.safetensors").stat().st_size for name in ("image", "audio"))
    assert size < 8_000_000
