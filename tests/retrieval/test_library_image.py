"""The picture preparer of pretrained towers against torchvision's and transformers' own transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from indexer.errors import ModelError
from indexer.types import Modality
from retrieval.encoders.described import preparer_of
from retrieval.encoders.library_image import (
    WHOLE,
    Interpolation,
    LibraryImagePreparer,
    Resize,
    Rounding,
    normalised,
)
from tests.conformance import check_preparer
from tests.media import RGB

NO_MEAN, NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
SHAPES = ((1, 1), (20, 3000), (3000, 20), (225, 223), (333, 501))


def noise(height: int, width: int) -> RGB:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def expected_bytes(size: tuple[int, int], picture: RGB, **options: Any) -> RGB:
    """What open_clip's inference transform makes of a picture, before mean and std."""
    from open_clip.transform import image_transform
    from PIL import Image

    change = image_transform(size, is_train=False, mean=NO_MEAN, std=NO_STD, **options)
    made = change(Image.fromarray(picture)).numpy() * 255
    return np.rint(made.transpose(1, 2, 0)).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(64, 64), (64, 48), (48, 64)])
@pytest.mark.parametrize("mode", list(Resize))
@pytest.mark.parametrize("interpolation", [Interpolation.BICUBIC, Interpolation.BILINEAR])
def test_bytes_are_the_library_s(
    shape: tuple[int, int], size: tuple[int, int], mode: Resize, interpolation: Interpolation
) -> None:
    picture = noise(*shape)
    # The library forgets the filter where it resizes the shorter side of a target that is not square.
    used = Interpolation.BICUBIC if mode is Resize.SHORTEST and size[0] != size[1] else interpolation
    preparer = LibraryImagePreparer(size, size, NO_MEAN, NO_STD, resize=mode, interpolation=used, fill=7)
    found = preparer.tensor(picture)
    assert found.shape == (1, *size, 3)
    if mode is Resize.LONGEST and max(shape) / min(shape) > 100:
        return  # the library fails on a side of 0 pixels; here it is 1
    expected = expected_bytes(
        size, picture, resize_mode=mode.value, interpolation=interpolation.value, fill_color=7
    )
    off = np.abs(found[0].astype(int) - expected.astype(int))
    whole = mode is not Resize.SHORTEST or max(shape) <= 1.4 * min(shape)
    assert off.max() <= (0 if whole else 1)
    assert (off > 0).mean() < 0.002


def test_what_is_not_the_library_s_is_seen() -> None:
    picture = noise(333, 501)
    expected = expected_bytes((64, 64), picture).astype(int)

    def worst(**changed: Any) -> int:
        preparer = LibraryImagePreparer((64, 64), (64, 64), NO_MEAN, NO_STD, **changed)
        return int(np.abs(preparer.tensor(picture)[0] - expected).max())

    assert worst() == 0
    assert worst(interpolation=Interpolation.NEAREST) > 50
    assert worst(interpolation=Interpolation.BILINEAR) > 5
    assert worst(resize=Resize.SQUASH) > 50
    assert worst(resize=Resize.LONGEST) > 50


def test_a_crop_smaller_than_the_resize() -> None:
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose
    from torchvision.transforms import Resize as Shortest
    from torchvision.transforms.functional import InterpolationMode

    picture = noise(251, 310)
    change = Compose([Shortest(80, InterpolationMode.BICUBIC), CenterCrop(63)])
    preparer = LibraryImagePreparer((80, 80), (63, 63), NO_MEAN, NO_STD)
    assert np.array_equal(preparer.tensor(picture)[0], np.asarray(change(Image.fromarray(picture))))


def test_transformers_processors() -> None:
    """CLIP's and SigLIP's processors with Pillow behind them; those with torchvision's differ by a level."""
    from PIL import Image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    clip = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    siglip = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    mean, std = tuple(clip.image_mean), tuple(clip.image_std)
    ours = LibraryImagePreparer((64, 64), (64, 64), mean, std, rounding=Rounding.DOWN)
    half = (0.5, 0.5, 0.5)
    squashed = LibraryImagePreparer((64, 64), (64, 64), half, half, resize=Resize.SQUASH)
    picture = noise(121, 160)
    for processor, preparer in ((clip, ours), (siglip, squashed)):
        resample = Interpolation[Image.Resampling(processor.resample).name]
        assert resample is preparer.interpolation or processor is siglip
        if processor is siglip:
            preparer = LibraryImagePreparer(
                (64, 64), (64, 64), half, half, resize=Resize.SQUASH, interpolation=resample
            )
        expected = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"]
        found = normalised(preparer.tensor(picture), mean=preparer.mean, std=preparer.std)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_crop_that_cannot_be_centred() -> None:
    picture = noise(64, 71)  # seven columns too many
    even, down = (
        LibraryImagePreparer((64, 64), (64, 64), NO_MEAN, NO_STD, rounding=rounding).tensor(picture)[0]
        for rounding in (Rounding.EVEN, Rounding.DOWN)
    )
    assert np.array_equal(even, picture[:, 4:68])
    assert np.array_equal(down, picture[:, 3:67])


def test_long_pictures_cost_no_more_than_square_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resized as a whole the first would have 3.4 million columns, 2.2 GB."""
    from PIL import Image

    read: list[int] = []
    made: list[int] = []
    resize = Image.Image.resize

    def counted(self: Image.Image, size: tuple[int, int], *arguments: Any, **options: Any) -> Image.Image:
        read.append(self.width * self.height)
        made.append(size[0] * size[1])
        return resize(self, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", counted)
    preparer = LibraryImagePreparer((224, 224), (224, 224), NO_MEAN, NO_STD)
    for shape in ((2, 30_000), (30_000, 2), (1, 60_000)):
        assert preparer.tensor(noise(*shape)).shape == (1, 224, 224, 3)
    assert made
    assert max(made) <= WHOLE * 224 * 224
    assert max(read) <= 224 * 224


def test_grey_pictures_and_the_contract() -> None:
    preparer = LibraryImagePreparer((64, 48), (64, 48), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), fill=3)
    grey = noise(90, 70)[:, :, 0]
    assert np.array_equal(preparer.tensor(grey), preparer.tensor(np.repeat(grey[:, :, None], 3, axis=2)))
    check_preparer(preparer, [noise(1, 1), noise(40, 90), noise(90, 40)])
    assert preparer.hint.min_side == 64
    again = preparer_of(Modality.IMAGE, preparer.describe(), {}, tokenizer="")
    assert again == preparer


@pytest.mark.parametrize(
    "change",
    [{"kind": "library-rgb/9"}, {"resize": "cover"}, {"mean": [0.5]}, {"size": [0, 3]}, {"zoom": 2}],
)
def test_a_description_that_is_not_understood(change: dict[str, Any]) -> None:
    said = LibraryImagePreparer((64, 64), (64, 64), NO_MEAN, NO_STD).describe()
    with pytest.raises(ModelError):
        LibraryImagePreparer.from_description(said | change)
