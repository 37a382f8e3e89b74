"""Real pictures and made sounds for tests, all offline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer.types import FloatArray

RGB = npt.NDArray[np.uint8]

PHOTOGRAPHS = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "motorcycle_left",
    "hubble_deep_field",
    "ihc",
    "retina",
)
RATE = 44_100  # Hz


def photographs() -> dict[str, RGB]:
    """RGB photographs that scikit-image carries, by name, of several sizes and shapes."""
    import skimage.data
    from PIL import Image

    folder = Path(skimage.data.__file__).parent
    found = {}
    for name in PHOTOGRAPHS:
        path = next(folder.glob(f"{name}.*"))
        with Image.open(path) as picture:
            found[name] = np.asarray(picture.convert("RGB"))
    return found


def sounds() -> dict[str, FloatArray]:
    """Mono sounds at RATE in [-1, 1], 1 to 10 s long, none ending in silence."""
    noise = np.random.default_rng(7).standard_normal(10 * RATE).astype(np.float32)
    clock = np.arange(10 * RATE) / RATE
    clicks = np.where((np.arange(6 * RATE) % (RATE // 4)) >= RATE // 4 - 60, 0.9, 0.0)
    partials = sum(np.sin(2 * np.pi * 523 * k * clock) / k for k in (1, 2.76, 5.4, 8.93))
    return {
        "tone": _sound(0.5 * np.sin(2 * np.pi * 440 * clock[: 4 * RATE])),
        "chirp": _sound(0.7 * np.sin(2 * np.pi * (100 * clock + 700 * clock**2))),
        "noise": _sound(0.2 * noise),
        "rumble": _sound(np.convolve(noise, np.ones(400) / 40, "same")[: 7 * RATE]),
        "clicks": _sound(clicks),
        "bell": _sound(0.4 * partials * np.exp(-3 * clock)),
        "hum": _sound(0.3 * np.sign(np.sin(2 * np.pi * 110 * clock)) * (1 + np.sin(2 * np.pi * 4 * clock))),
        "short": _sound(0.8 * np.sin(2 * np.pi * 2000 * clock[:RATE]) * noise[:RATE] / 4),
    }


def _sound(samples: npt.NDArray[np.floating]) -> FloatArray:
    return np.clip(samples, -1, 1).astype(np.float32)


def write_pairs(folder: Path) -> list[dict[str, str]]:
    """48 pictures below `folder`, parts of photographs, and rows of `image` (a path from there) and `text`.

    No two captions are the same, and no two pictures nearly, so that each row is a group of its own.
    """
    from PIL import Image

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    places = ("top left", "top right", "middle left", "middle right", "bottom left", "bottom right")
    rows = []
    for name, pixels in photographs().items():
        high, wide = pixels.shape[0] // 3, pixels.shape[1] // 2
        for number, place in enumerate(places):
            down, right = number // 2 * high, number % 2 * wide
            part = Image.fromarray(pixels[down : down + high, right : right + wide])
            path = f"pictures/{name}-{number}.png"
            part.resize((96, 96)).save(folder / path)
            rows.append({"image": path, "text": f"the {place} of the {name.replace('_', ' ')} picture"})
    return rows
