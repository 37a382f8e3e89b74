"""Towers of open_clip's models against the library's own loading, transforms and encoders.

Architectures are the library's own with few layers; their weights are made up, see openclip_models.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.errors import ModelError
from indexer.media.image import read_image
from indexer.types import FloatArray, Modality
from retrieval.encoders.described import preparer_of
from retrieval.encoders.library_image import LibraryImagePreparer, normalised
from retrieval.encoders.tower import text_inputs
from retrieval.models.families import openclip
from retrieval.models.families.openclip_config import read_config
from tests.conformance import PARITY
from tests.media import RGB, photographs
from tests.retrieval.families.openclip_models import MODELS, WIDTH, register_timm, write_model

TEXTS = (
    "",
    "a red hat",
    "A LIGHTHOUSE on a rock, in the evening; 'waves'",
    "rain &amp; wind &lt;b&gt;",
    "word " * 120,
    "🐸 ضفدع שלום",
    "<end_of_text> and more",
)
# In a place of their own: the library fails on these where it resizes the longer side.
THIN = ((20, 3000), (3000, 20))


@dataclass(frozen=True)
class Reference:
    """The library's own view of a folder."""

    folder: Path
    model: Any
    transform: Callable[[Any], Any]
    tokenize: Callable[[list[str]], Any]

    def pixels(self, pictures: list[RGB]) -> Any:
        import torch
        from PIL import Image

        return torch.stack([self.transform(Image.fromarray(picture)) for picture in pictures])

    def images(self, pixels: Any) -> FloatArray:
        import torch

        with torch.inference_mode():
            return unit(self.model.encode_image(pixels).numpy())

    def texts(self, texts: list[str]) -> FloatArray:
        import torch

        with torch.inference_mode():
            return unit(self.model.encode_text(self.tokenize(texts)).numpy())


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """The model of a name, written once and loaded by the library once."""
    kept: dict[str, Reference] = {}
    root = tmp_path_factory.mktemp("openclip")

    def reference(name: str) -> Reference:
        if name not in kept:
            kept[name] = _reference(write_model(root / name, name))
        return kept[name]

    return reference


def _reference(folder: Path) -> Reference:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    text = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    changed: dict[str, Any] = {}
    if "hf_model_name" in text:  # a hub's name; here its configuration lies in the folder
        changed = {"text_cfg": text | {"hf_model_name": str(folder), "hf_model_pretrained": False}}
    model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True, **changed).eval()
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return Reference(folder, model, transform, open_clip.get_tokenizer(f"local-dir:{folder}"))


def unit(vectors: FloatArray) -> FloatArray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def median_distance(vectors: FloatArray) -> float:
    gaps = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    return float(np.median(gaps[~np.eye(len(vectors), dtype=bool)]))


def share(found: FloatArray, expected: FloatArray) -> float:
    """The largest distance, as a share of the median distance between different inputs."""
    return float(np.linalg.norm(found - expected, axis=1).max()) / median_distance(expected)


def pictures(*, thin: bool = True) -> list[RGB]:
    noise = np.random.default_rng(1)
    shapes = ((1, 1), (333, 501), (97, 65), *(THIN if thin else ()))
    made = [noise.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    return [*list(photographs().values())[:4], *made]


def run_pictures(network: Any, views: Any) -> FloatArray:
    import torch

    with torch.inference_mode():
        return unit(network(torch.from_numpy(views)).numpy())


def run_texts(network: Any, tensors: list[Any]) -> FloatArray:
    import torch

    inputs = text_inputs(tensors)
    with torch.inference_mode():
        return unit(
            network(*(torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask"))).numpy()
        )


def preparers(folder: Path) -> dict[Modality, Any]:
    out = folder / "written-tokenizer.json"
    if not out.is_file():
        openclip.write_tokenizer(folder, out)
    return {
        tower.modality: preparer_of(tower.modality, tower.preprocessing, tower.window, tokenizer=str(out))
        for tower in openclip.describe(folder, name="openclip:toy")
    }


@pytest.mark.parametrize("name", sorted(MODELS))
def test_pictures_as_the_library_sees_them(name: str, references: Callable[[str], Reference]) -> None:
    reference = references(name)
    media = pictures(thin=name != "clipa")
    preparer = preparers(reference.folder)[Modality.IMAGE]
    views = np.concatenate([preparer.tensor(one) for one in media])
    expected_pixels = reference.pixels(media)
    levels = np.abs(normalised(views, mean=preparer.mean, std=preparer.std) - expected_pixels.numpy())
    assert levels.max() * 255 * max(preparer.std) <= 1.1  # one level
    assert (levels > 1e-5).mean() < 1e-3
    expected = reference.images(expected_pixels)
    assert median_distance(expected) > 0.05
    network = openclip.load(reference.folder, Modality.IMAGE)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    found = run_pictures(network, views)
    assert found.shape == (len(media), WIDTH)
    assert share(found, expected) < PARITY


@pytest.mark.parametrize("name", sorted(MODELS))
def test_texts_as_the_library_reads_them(name: str, references: Callable[[str], Reference]) -> None:
    reference = references(name)
    preparer = preparers(reference.folder)[Modality.TEXT]
    tensors = [preparer.tensor(text) for text in TEXTS]
    for tensor, ids in zip(tensors, reference.tokenize(list(TEXTS)).tolist(), strict=True):
        assert [*tensor.tolist(), *[preparer.pad_id] * (len(ids) - len(tensor))] == ids
    expected = reference.texts(list(TEXTS))
    network = openclip.load(reference.folder, Modality.TEXT)
    assert np.abs(run_texts(network, tensors) - expected).max() < 1e-5
    # Alone a short text has few tokens, where the library always runs all of them.
    alone = np.concatenate([run_texts(network, [tensor]) for tensor in tensors])
    assert np.abs(alone - expected).max() < 1e-5
    assert median_distance(expected) > 0.05
    free = {"clip", "resnet", "convnext", "pe", "worldwide", "xlm-roberta"}
    assert (preparer.pad_to == 0) == (name in free)
    assert (len(tensors[1]) < 12) == (name in free)


def test_what_is_not_the_library_s_is_seen(references: Callable[[str], Reference], tmp_path: Path) -> None:
    from PIL import Image

    reference = references("clip")
    preparer: LibraryImagePreparer = preparers(reference.folder)[Modality.IMAGE]
    network = openclip.load(reference.folder, Modality.IMAGE)
    media = pictures()
    expected = reference.images(reference.pixels(media))

    def compare(**changed: Any) -> float:
        return share(run_pictures(network, prepared(media, **changed)), expected)

    def prepared(shown: list[RGB], **changed: Any) -> Any:
        description = preparer.describe() | changed
        other = LibraryImagePreparer.from_description(description)
        return np.concatenate([other.tensor(one) for one in shown])

    assert compare() < PARITY
    assert compare(resize="squash") > 5 * PARITY
    assert compare(interpolation="nearest") > 5 * PARITY
    swapped = np.ascontiguousarray(prepared(media)[..., ::-1])
    assert share(run_pictures(network, swapped), expected) > 5 * PARITY
    network.mean[:] = 0.5
    assert share(run_pictures(network, prepared(media)), expected) > 5 * PARITY

    network = openclip.load(reference.folder, Modality.IMAGE)
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(media[0][:300]).save(path, quality=95, exif=exif)
    upright = read_image(path)
    with Image.open(path) as stored:
        as_stored = np.asarray(stored.convert("RGB"))
    assert upright.shape != as_stored.shape
    compared = [upright, *media[1:4]]
    expected = reference.images(reference.pixels(compared))
    assert share(run_pictures(network, prepared(compared)), expected) < PARITY
    assert share(run_pictures(network, prepared([as_stored, *media[1:4]])), expected) > 5 * PARITY


def test_grey_and_transparent_files(references: Callable[[str], Reference], tmp_path: Path) -> None:
    from PIL import Image

    reference = references("siglip")
    preparer = preparers(reference.folder)[Modality.IMAGE]
    picture = Image.fromarray(pictures()[0])
    picture.convert("L").save(tmp_path / "grey.png")
    seen = picture.convert("RGBA")
    seen.putalpha(Image.linear_gradient("L").resize(picture.size))
    seen.save(tmp_path / "clear.png")
    media = [read_image(tmp_path / name) for name in ("grey.png", "clear.png")]
    views = np.concatenate([preparer.tensor(one) for one in media])
    pixels = reference.pixels(media).numpy()
    np.testing.assert_allclose(normalised(views, mean=preparer.mean, std=preparer.std), pixels, atol=1e-6)


def test_texts_that_are_not_cleaned_or_padded_are_seen(references: Callable[[str], Reference]) -> None:
    from dataclasses import replace

    reference = references("mobileclip")
    preparer = preparers(reference.folder)[Modality.TEXT]
    network = openclip.load(reference.folder, Modality.TEXT)
    texts = list(TEXTS[1:4])
    expected = reference.texts(texts)

    def compare(**changed: Any) -> float:
        other = replace(preparer, **changed)
        return share(run_texts(network, [other.tensor(text) for text in texts]), expected)

    assert compare() < 1e-5
    assert compare(clean="none") > 5 * PARITY  # no lower case
    assert compare(pad_to=0) > 5 * PARITY  # every token sees every other
    assert compare(pad_id=5) > 5 * PARITY


def test_branches_are_folded_without_changing_vectors(references: Callable[[str], Reference]) -> None:
    reference = references("mobileclip")
    network = openclip.load(reference.folder, Modality.IMAGE)
    before, after = (
        sum(type(module).__name__ == "BatchNorm2d" for module in one.modules())
        for one in (reference.model.visual, network)
    )
    assert after < before / 2
    views = np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), np.uint8)
    import torch

    pixels = torch.from_numpy(views).permute(0, 3, 1, 2) / 255
    assert np.abs(run_pictures(network, views) - reference.images(pixels)).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "modality"),
    [("mobileclip", Modality.IMAGE), ("pe", Modality.TEXT)],
)
def test_graphs_take_any_batch(
    name: str, modality: Modality, references: Callable[[str], Reference], tmp_path: Path
) -> None:
    from retrieval.models.export import export_tower
    from retrieval.runtime.onnx import OnnxRuntime

    folder = references(name).folder
    preparer = preparers(folder)[modality]
    network = openclip.load(folder, modality)
    export_tower(network, tmp_path / "tower.onnx", preparer)
    runtime = OnnxRuntime.open(tmp_path / "tower.onnx", threads=2)
    if modality is Modality.IMAGE:
        views = np.concatenate([preparer.tensor(one) for one in pictures()])
        expected = run_pictures(network, views)
        batch = runtime.run({"views": views, "pool": np.eye(len(views), dtype=np.float32)})["vectors"]
        one = runtime.run({"views": views[:1], "pool": np.ones((1, 1), np.float32)})["vectors"]
    else:
        tensors = [preparer.tensor(text) for text in TEXTS]
        expected = run_texts(network, tensors)
        batch = runtime.run(text_inputs(tensors))["vectors"]
        one = runtime.run(text_inputs(tensors[:1]))["vectors"]
    assert np.abs(batch - expected).max() < 1e-5
    assert np.abs(one - expected[:1]).max() < 1e-5


def test_what_a_model_is_described_as(references: Callable[[str], Reference]) -> None:
    folder = references("xlm-roberta").folder
    assert openclip.matches(folder)
    image, text = openclip.describe(folder, name="openclip:toy")
    assert (image.modality, text.modality) == (Modality.IMAGE, Modality.TEXT)
    assert (image.dim, image.family, image.graph) == (WIDTH, "openclip", None)
    assert {one.source for one in (*image.weights, *text.weights)} == {"openclip:toy"}
    named = {one.name for one in text.weights}
    assert {"open_clip_model.safetensors", "open_clip_config.json", "config.json", "tokenizer.json"} <= named
    assert "tokenizer.json" not in {one.name for one in image.weights}
    own = openclip.describe(references("clip").folder, name="openclip:toy")[1]
    assert "bpe_simple_vocab_16e6.txt.gz" in {one.name for one in own.weights}


def rewritten(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a model's folder with another configuration."""
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).symlink_to(path)
    config = json.loads((source / "open_clip_config.json").read_text())
    change(config)
    (target / "open_clip_config.json").unlink()
    (target / "open_clip_config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="hf-hub:a/b"), "leads elsewhere"),
        (lambda c: c["model_cfg"]["text_cfg"].update(hf_model_name="../b"), "leads elsewhere"),
        (
            lambda c: c["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True}),
            "trust_remote_code",
        ),
        (lambda c: c["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"clean": "shout"}), "shout"),
        (lambda c: c["preprocess_cfg"].update(resize_mode="cover"), "cover"),
        (lambda c: c["preprocess_cfg"].update(mean=[1, 2]), "three numbers"),
        (lambda c: c["model_cfg"].pop("text_cfg"), "vision_cfg and text_cfg"),
        (lambda c: c["model_cfg"]["text_cfg"].update(hf_model_name="xlm-roberta-base"), "configuration"),
    ],
)
def test_configurations_that_are_refused(
    change: Callable[[dict[str, Any]], None],
    said: str,
    references: Callable[[str], Reference],
    tmp_path: Path,
) -> None:
    folder = rewritten(references("clip").folder, tmp_path / "model", change)
    with pytest.raises(ModelError, match=said):
        openclip.describe(folder, name="openclip:toy")


def test_weights_that_are_refused(references: Callable[[str], Reference], tmp_path: Path) -> None:
    source = references("clip").folder
    config = (source / "open_clip_config.json").read_text()
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(config)
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"not read")
    with pytest.raises(ModelError, match=r"open_clip_pytorch_model\.bin.*run any code") as caught:
        openclip.describe(folder, name="openclip:toy")
    assert "open_clip_model.safetensors" in str(caught.value.hint)
    # The library would take the pickle before this one.
    (folder / "model.safetensors").symlink_to(source / "open_clip_model.safetensors")
    network = openclip.load(folder, Modality.IMAGE)
    other = openclip.load(source, Modality.IMAGE)
    views = np.zeros((1, 64, 64, 3), np.uint8)
    assert np.array_equal(run_pictures(network, views), run_pictures(other, views))
    wrong = rewritten(source, tmp_path / "wrong", lambda c: c["model_cfg"]["vision_cfg"].update(width=32))
    with pytest.raises(ModelError, match="cannot read the model"):
        openclip.load(wrong, Modality.IMAGE)
    with pytest.raises(ModelError, match="no audio tower"):
        openclip.load(source, Modality.AUDIO)


def test_the_configuration_decides_no_less_than_the_library(references: Callable[[str], Reference]) -> None:
    """Size, mean, std, filter and fill of every model, as the library itself ends up with them."""
    register_timm()
    for name in ("clip", "mobileclip", "clipa", "worldwide"):
        reference = references(name)
        told = reference.model.visual.preprocess_cfg
        ours = read_config(reference.folder).pictures()
        size = told["size"]
        assert ours.crop == (tuple(size) if isinstance(size, tuple | list) else (size, size))
        assert (ours.mean, ours.std) == (tuple(told["mean"]), tuple(told["std"]))
        assert (ours.resize, ours.fill) == (told["resize_mode"], told["fill_color"])
