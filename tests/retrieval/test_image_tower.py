"""The starter's image tower against timm in torch with timm's own transform, and how pictures are fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from indexer.types import FloatArray, Modality
from retrieval.encoders.image import Fit, ImagePreparer
from retrieval.models.model import Model
from tests.conformance import PARITY, check_encoder, parity
from tests.media import RGB, photographs


@pytest.fixture(scope="module")
def pictures() -> list[RGB]:
    return list(photographs().values())


@pytest.fixture(scope="module")
def network() -> Any:
    from retrieval.models.starter.backbones import load_lite0

    return load_lite0()


def timm_pixels(network: Any, picture: RGB) -> Any:
    """What timm feeds this network, float32 (3, 224, 224)."""
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    return create_transform(**resolve_data_config({}, model=network.net))(Image.fromarray(picture))


def reference_vectors(network: Any, pixels: list[Any]) -> FloatArray:
    """timm's features and logits through the head, in torch."""
    import torch

    from retrieval.models.starter.heads import load_image_head

    with torch.inference_mode():
        features = network.net.forward_head(
            network.net.forward_features(torch.stack(pixels)), pre_logits=True
        )
        vectors = load_image_head()(features, network.net.get_classifier()(features))
        return torch.nn.functional.normalize(vectors, dim=1).numpy()


def encode(starter: Model, pictures: list[RGB]) -> FloatArray:
    tower = starter.tower(Modality.IMAGE)
    preparer = ImagePreparer()  # one view, as timm has it
    return tower.encode([preparer.tensor(picture) for picture in pictures])


@pytest.mark.starter
def test_meets_the_contract(starter: Model, pictures: list[RGB]) -> None:
    wide = np.ascontiguousarray(np.hstack([picture[:300, :400] for picture in pictures[:4]]))
    thin = np.full((1, 3000, 3), 90, np.uint8)
    vectors = check_encoder(starter.tower(Modality.IMAGE), [*pictures, wide, thin])
    assert vectors.shape[1] == starter.dim


def test_pixels_are_those_of_timm(network: Any, pictures: list[RGB]) -> None:
    shapes = [*pictures, pictures[0][:, :150], pictures[0][:99], pictures[2][:60, :60]]
    for picture in shapes:
        expected = np.transpose(timm_pixels(network, np.ascontiguousarray(picture)).numpy(), (1, 2, 0))
        ours = ImagePreparer().tensor(picture)[0].astype(np.float32) / 127.5 - 1.0
        # One grey level, where both round differently; where a small picture is enlarged, a few values more.
        levels = np.abs(ours - expected) * 127.5
        assert levels.max() <= 4.01
        assert (levels > 1.01).mean() <= 0.005


@pytest.fixture(scope="module")
def expected(network: Any, pictures: list[RGB]) -> FloatArray:
    return reference_vectors(network, [timm_pixels(network, picture) for picture in pictures])


@pytest.mark.starter
def test_vectors_are_those_of_timm(starter: Model, expected: FloatArray, pictures: list[RGB]) -> None:
    assert parity(encode(starter, pictures), expected) <= PARITY


@pytest.mark.starter
@pytest.mark.parametrize(
    "wrong",
    [
        lambda picture: picture[:, :, ::-1],  # BGR
        lambda picture: np.rot90(picture),  # EXIF rotation left out
        lambda picture: np.clip(picture.astype(int) + 12, 0, 255).astype(np.uint8),  # another mean
    ],
    ids=["bgr", "rotated", "mean"],
)
def test_parity_sees_a_mistake(starter: Model, expected: FloatArray, pictures: list[RGB], wrong: Any) -> None:
    assert parity(encode(starter, [wrong(picture) for picture in pictures]), expected) > PARITY


def test_classes_are_the_pictures(network: Any) -> None:
    """The weights are matched by position: a slip would give other classes, not an error."""
    import torch
    from timm.data import ImageNetInfo

    shown = photographs()
    names = ImageNetInfo().index_to_description
    views = np.concatenate([ImagePreparer().tensor(shown[name]) for name in ("coffee", "chelsea")])
    _, logits = network(torch.from_numpy(views))
    coffee, cat = (names(int(row.argmax())) for row in logits)
    assert "espresso" in coffee
    assert "cat" in cat.lower()


def test_views_follow_the_long_side() -> None:
    ramp = np.repeat(np.arange(0, 250, dtype=np.uint8)[:, None], 30, axis=1)
    tall = np.repeat(np.repeat(ramp, 4, axis=0)[:, :, None], 3, axis=2)  # 1000 x 30, dark to light
    views = ImagePreparer(fit=Fit.VIEWS).tensor(tall)
    levels = [float(view.mean()) for view in views]
    assert len(views) == ImagePreparer().max_views
    assert levels == sorted(levels)
    assert levels[0] < 10
    assert levels[-1] > 235
    crop = ImagePreparer(fit=Fit.CROP).tensor(tall)
    assert len(crop) == 1
    assert abs(float(crop.mean()) - 125) < 5
    flipped = ImagePreparer(fit=Fit.VIEWS).tensor(np.ascontiguousarray(np.swapaxes(tall, 0, 1)))
    # Pillow filters columns first, so a turned picture may round differently.
    assert np.abs(np.swapaxes(flipped, 1, 2).astype(int) - views).max() <= 2


def test_a_picture_nearly_square_has_one_view() -> None:
    picture = np.zeros((300, 500, 3), np.uint8)
    assert ImagePreparer(fit=Fit.VIEWS).tensor(picture).shape == (1, 224, 224, 3)


def test_a_letterboxed_square_is_timm_without_a_crop(network: Any, pictures: list[RGB]) -> None:
    from PIL import Image
    from timm.data import create_transform

    square = np.ascontiguousarray(pictures[0][:400, :400])
    plain = create_transform(
        (3, 224, 224), interpolation="bicubic", crop_pct=1.0, mean=(0,) * 3, std=(1,) * 3
    )
    expected = plain(Image.fromarray(square)).numpy().transpose(1, 2, 0) * 255
    ours = ImagePreparer(fit=Fit.LETTERBOX).tensor(square)[0]
    assert np.abs(ours - expected).max() <= 1.01


def test_letterbox_shows_everything() -> None:
    picture = np.zeros((100, 400, 3), np.uint8)
    picture[:, :40] = picture[:, -40:] = (255, 0, 0)
    (view,) = ImagePreparer(fit=Fit.LETTERBOX).tensor(picture)
    assert (view[0] == 255).all()
    assert (view[112, :10] == (255, 0, 0)).all()
    assert (view[112, -10:] == (255, 0, 0)).all()
    assert (view[112, 60:160] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 6000), (6000, 1), (2, 3), (224, 224), (225, 223)])
@pytest.mark.parametrize("fit", list(Fit))
def test_any_shape_gives_bounded_views(shape: tuple[int, int], fit: Fit) -> None:
    picture = np.full((*shape, 3), 77, np.uint8)
    preparer = ImagePreparer(fit=fit, pad=77)
    views = preparer.tensor(picture)
    assert 1 <= len(views) <= preparer.max_views
    assert views.shape[1:] == (224, 224, 3)
    assert (views == 77).all()
    assert ImagePreparer.from_description(preparer.describe()).describe() == preparer.describe()


@pytest.mark.starter
def test_views_are_averaged(starter: Model, pictures: list[RGB]) -> None:
    """Equal views give the vector of one; different views one between theirs."""
    tower = starter.tower(Modality.IMAGE)
    one, other = (ImagePreparer().tensor(picture) for picture in pictures[:2])
    single, twice, mixed, second = tower.encode(
        [one, np.concatenate([one, one]), np.concatenate([one, other]), other]
    )
    np.testing.assert_allclose(single, twice, atol=1e-5)
    assert mixed @ single > single @ second
    assert mixed @ second > single @ second
