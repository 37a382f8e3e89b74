"""What a sentence-transformers model does to pictures: read from the loaded model, and compared with it.

`model` is the library's SentenceTransformer throughout. Torch is imported in functions only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import ModelError
from retrieval.encoders.library_image import Interpolation, LibraryImagePreparer, Pair, Resize, Rounding

if TYPE_CHECKING:
    from retrieval.models.families.sentence_network import ImageNetwork

# Those of transformers that resize, crop at the centre, scale, normalise, and do nothing else.
PROCESSORS = ("CLIP", "ChineseCLIP", "Siglip", "ViT", "DeiT", "Bit", "Blip")
INTERPOLATIONS = {
    0: Interpolation.NEAREST,
    1: Interpolation.LANCZOS,
    2: Interpolation.BILINEAR,
    3: Interpolation.BICUBIC,
    4: Interpolation.BOX,
    5: Interpolation.HAMMING,
}
PROBES = ((40, 300), (300, 200))  # height and width, in pixels
LEVELS = 3.0  # of 255 by which a pixel may differ: both round after resizing, in their own arithmetic
OTHER = "pull a model whose pictures are resized, cropped and normalised only"


def image_preparer(model: Any) -> LibraryImagePreparer:
    """What the library's processor does to a decoded picture. ModelError for a processor not known here."""
    from retrieval.models.families.sentence_network import steps_of_both

    first: Any = steps_of_both(model, "image")[0]
    processor = getattr(first, "processor", None)
    processor = getattr(processor, "image_processor", processor)
    named = type(processor).__name__
    kind = named.removesuffix("Fast").removesuffix("Pil").removesuffix("ImageProcessor")
    if kind not in PROCESSORS or kind == named:
        raise ModelError(f"the model's pictures are prepared by {named}, which is not known here", hint=OTHER)
    given = getattr(first, "processing_kwargs", {})
    if given.get("image") or given.get("common"):
        raise ModelError("the model changes its picture processor's settings at every call", hint=OTHER)
    return _read(processor, named)


def _read(processor: Any, named: str) -> LibraryImagePreparer:
    off = [flag for flag in ("do_resize", "do_rescale") if not getattr(processor, flag, False)]
    scale = float(processor.rescale_factor or 0)
    if off or getattr(processor, "do_pad", False) or not np.isclose(scale, 1 / 255, rtol=1e-4):
        raise ModelError(
            f"the model's {named} has settings that are not repeated here: "
            f"{', '.join(f'no {flag}' for flag in off) or f'padding, or a scale of {scale}'}",
            hint=OTHER,
        )
    size, resize = _size(processor.size, named)
    cropped = bool(getattr(processor, "do_center_crop", False))
    if resize is Resize.SHORTEST and not cropped:
        raise ModelError(f"the model's {named} gives pictures of any shape", hint=OTHER)
    crop = _size(processor.crop_size, named)[0] if cropped else size
    normal = bool(processor.do_normalize)
    return LibraryImagePreparer(
        size=size,
        crop=crop,
        mean=_triple(processor.image_mean if normal else 0.0),
        std=_triple(processor.image_std if normal else 1.0),
        resize=resize,
        interpolation=INTERPOLATIONS[int(processor.resample)],
        rounding=Rounding.DOWN,
    )


def _size(said: Any, named: str) -> tuple[Pair, Resize]:
    """Height and width, and whether a picture keeps its shape on the way there."""
    height, width, shortest = (_get(said, key) for key in ("height", "width", "shortest_edge"))
    if height and width:
        return (int(height), int(width)), Resize.SQUASH
    if shortest and not _get(said, "longest_edge"):
        return (int(shortest), int(shortest)), Resize.SHORTEST
    raise ModelError(f"the model's {named} resizes to {said}, which is not repeated here", hint=OTHER)


def _get(said: Any, key: str) -> Any:
    return said.get(key) if hasattr(said, "get") else getattr(said, key, None)


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (values,) * 3 if isinstance(values, int | float) else values
    return float(red), float(green), float(blue)


def image_network(model: Any) -> ImageNetwork:
    """Views to embeddings, with what `image_preparer` says of mean and std inside."""
    from retrieval.models.families.sentence_network import ImageNetwork, steps_of_both

    preparer = image_preparer(model)
    steps = steps_of_both(model, "image")
    return ImageNetwork(steps, dim=model.truncate_dim, mean=preparer.mean, std=preparer.std)


def compare_pictures(model: Any) -> int:
    """The dimension, after our pixels and vectors of noise were found to be the library's. ModelError."""
    import torch
    from PIL import Image

    preparer, network = image_preparer(model), image_network(model).eval()
    noise = np.random.default_rng(0)
    dim = 0
    for height, width in PROBES:
        pixels = noise.integers(0, 256, (height, width, 3), np.uint8)
        picture = Image.fromarray(pixels)
        expected = model.preprocess([picture])["pixel_values"]
        found = network.normalised(torch.from_numpy(preparer.tensor(pixels).copy()))
        same = found.shape == expected.shape
        if not same or float(((found - expected).abs() * network.std).max()) * 255 > LEVELS:
            raise ModelError(
                "our preparation of a picture differs from the model's own processor", hint=OTHER
            )
        vector = torch.from_numpy(model.encode_document([picture], show_progress_bar=False))
        with torch.inference_mode():
            ours = network.embed(expected)
        if ours.shape != vector.shape or not torch.allclose(ours, vector, rtol=1e-3, atol=1e-4):
            raise ModelError("the model makes another vector of a picture than its library does", hint=OTHER)
        dim = int(ours.shape[1])
    return dim
