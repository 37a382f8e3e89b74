"""Photographs that packages carry, with what a person would search them by: is anything forgotten?

scikit-image, scikit-learn, and the Debian packages opencv-doc (its samples) and scratch (its backgrounds that
are photographs). None is fitted on. Files in, backbone features and names out.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import debian_packages as debian

PYTHON = {  # path below the folder that Python packages lie in
    "skimage/data/astronaut.png": "an astronaut",
    "skimage/data/brick.png": "a brick wall",
    "skimage/data/chelsea.png": "a cat",
    "skimage/data/clock_motion.png": "a clock",
    "skimage/data/coffee.png": "a cup of coffee",
    "skimage/data/coins.png": "coins",
    "skimage/data/grass.png": "grass",
    "skimage/data/gravel.png": "gravel",
    "skimage/data/horse.png": "a horse",
    "skimage/data/moon.png": "the surface of the moon",
    "skimage/data/motorcycle_left.png": "a motorcycle",
    "skimage/data/rocket.jpg": "a rocket launch",
    "sklearn/datasets/images/china.jpg": "a Chinese temple",
    "sklearn/datasets/images/flower.jpg": "a flower",
}
OPENCV = Path("opencv-doc", "usr", "share", "doc", "opencv-doc", "examples", "data")
SCRATCH = Path("scratch", "usr", "share", "scratch", "Media", "Backgrounds")
DEBIAN = {
    OPENCV: {
        "aero1.jpg": "an aerial photograph of a city",
        "aloeL.jpg": "a potted plant",
        "apple.jpg": "an apple",
        "baboon.jpg": "a baboon",
        "board.jpg": "a circuit board",
        "building.jpg": "an office building",
        "butterfly.jpg": "a butterfly",
        "chicky_512.png": "a dog",
        "fruits.jpg": "fruit",
        "home.jpg": "a palace",
        "leuvenA.jpg": "a street in an old town",
        "licenseplate_motion.jpg": "a car",
        "messi5.jpg": "a football player",
        "orange.jpg": "an orange",
        "squirrel_cls.jpg": "a squirrel",
        "sudoku.png": "a sudoku puzzle",
    },
    SCRATCH: {
        "Indoors/clothing-store.jpg": "a clothing store",
        "Indoors/hall.jpg": "a hallway",
        "Indoors/kitchen.jpg": "a kitchen",
        "Nature/beach-malibu.jpg": "a beach",
        "Nature/canyon.jpg": "a canyon",
        "Nature/flower-bed.jpg": "a flower bed",
        "Nature/forest.jpg": "a forest",
        "Nature/garden-rock.jpg": "a rock in a garden",
        "Nature/lake.jpg": "a lake in the woods",
        "Nature/tree.jpg": "a tree trunk",
        "Nature/water-and-rocks.jpg": "a stream with rocks",
        "Nature/wave.jpg": "a wave in the sea",
        "Outdoors/atom-playground.jpg": "a playground",
        "Outdoors/bench-with-view.jpg": "a park bench",
        "Outdoors/boardwalk.jpg": "a boardwalk by the sea",
        "Outdoors/castle.jpg": "a castle",
        "Outdoors/city-with-water2.jpg": "the skyline of a city",
        "Outdoors/graffiti.jpg": "graffiti",
        "Outdoors/hay_field.jpg": "hay bales in a field",
        "Outdoors/mansion.jpg": "a mansion",
        "Outdoors/parking-ramp.jpg": "a parking garage",
        "Outdoors/pool.jpg": "a swimming pool",
        "Outdoors/route66.jpg": "a road",
        "Outdoors/train-tracks1.jpg": "railway tracks",
        "Outdoors/wooden-house.jpg": "a wooden shack",
        "Sports/baseball-field.jpg": "a baseball stadium",
        "Sports/basketball-court1-a.jpg": "a basketball court",
        "Sports/football-field.jpg": "a football field",
    },
}


def photographs(out: Path = debian.CACHE / "photographs") -> list[tuple[Path, str]]:
    """Every photograph that is there, with its name; the Debian packages are brought first. RecipeError."""
    debian.unpack([folder.parts[0] for folder in DEBIAN], out, cache=debian.CACHE)
    found = []
    for name, text in PYTHON.items():
        spec = find_spec(name.partition("/")[0])
        if spec is not None and spec.origin is not None:
            found.append((Path(spec.origin).parent.parent / name, text))
    for folder, names in DEBIAN.items():
        found += [(out / folder / name, text) for name, text in names.items()]
    return [(path, text) for path, text in found if path.is_file()]
