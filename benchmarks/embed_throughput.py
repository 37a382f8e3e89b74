"""Bulk image embedding: `triptych index` on 5,000 JPEGs of 512 px, end to end, in images/s.

With what `index` chooses by itself (float32), and in bf16 where the processor has it; precision.py says what
that costs. Against the usual loop (open, transform, torch eager, batches of 32) with the same backbone, also
in channels_last, and against the roofline: cores / (decode + forward core-seconds an image). One run.

    python benchmarks/embed_throughput.py [--images 5000] [--loop-images 256]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Budget, median, save, say
from PIL import Image

from indexer.build import BuildOptions, update
from indexer.media.prepare import prepare_file
from indexer.types import Modality
from retrieval.models.registry import load_model
from retrieval.models.starter.backbones import load_lite0
from retrieval.runtime.choose import Placement
from retrieval.runtime.openvino import capabilities

SIDE = 512


def photographs() -> list[Image.Image]:
    """Photographs that packages carry: scikit-image's and scikit-learn's."""
    import skimage
    import sklearn.datasets

    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "retina.jpg")
    folder = Path(skimage.__file__).parent / "data"
    files = [folder / name for name in (*names, "hubble_deep_field.jpg")]
    files += sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    return [Image.open(file).convert("RGB") for file in files]


def make_jpegs(folder: Path, count: int) -> None:
    """`count` different JPEGs of 512 x 512, quality 90: random crops of the photographs, some mirrored."""
    rng, sources = np.random.default_rng(0), photographs()
    for number in range(count):
        source = sources[number % len(sources)]
        side = int(min(source.size) * rng.uniform(0.5, 1.0))
        left, top = (int(rng.integers(0, length - side + 1)) for length in source.size)
        crop = source.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        crop.save(folder / f"{number:05d}.jpg", quality=90)


def usual_loop(files: list[Path], *, channels_last: bool) -> float:
    """Images/s of open -> timm's transform -> torch eager, batches of 32, as a script would do it."""
    import timm

    net = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)

    def embed(batch: list[Path]) -> None:
        pixels = torch.stack([transform(Image.open(file).convert("RGB")) for file in batch])
        net(pixels.to(memory_format=layout))

    with torch.inference_mode():
        embed(files[:32])
        start = time.perf_counter()
        for first in range(0, len(files), 32):
            embed(files[first : first + 32])
    return len(files) / (time.perf_counter() - start)


def core_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all its threads, for one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def roofline(files: list[Path], cores: int, precision: str) -> dict[str, float]:
    """What the cores could do if decoding and the model shared them without loss."""
    model = load_model("starter", threads=1).for_indexing(Placement("cpu", precision=precision))
    tower = model.tower(Modality.IMAGE)
    prepared = [next(iter(prepare_file(file, Modality.IMAGE, tower.preparer))) for file in files[:8]]
    tower.encode([one.tensor for one in prepared])
    tensors: list[np.ndarray] = []

    def decode() -> None:
        tensors.extend(
            one.tensor for file in files for one in prepare_file(file, Modality.IMAGE, tower.preparer)
        )

    def forward() -> None:
        for first in range(0, len(tensors), tower.batch_size):
            tower.encode(tensors[first : first + tower.batch_size])

    decoding, model = core_seconds(decode) / len(files), core_seconds(forward) / len(files)
    return {
        "decode_core_ms": round(decoding * 1e3, 3),
        "forward_core_ms": round(model * 1e3, 3),
        "images_per_s": round(cores / (decoding + model), 1),
    }


def ours(folder: Path, index: Path, precision: str) -> dict[str, object]:
    """Images/s of a whole update, from scan to commit; workers and the model started in it, too."""
    model = load_model("starter").for_indexing(Placement("cpu", precision=precision))
    encoders = {Modality.IMAGE: model.tower(Modality.IMAGE)}
    start = time.perf_counter()
    report = update(index, [folder], encoders=encoders, options=BuildOptions())
    seconds = time.perf_counter() - start
    encoded = sum(report.encoded.values())
    assert encoded + report.reused == len(list(folder.iterdir())), report
    stages = {name: round(value, 3) for name, value in report.seconds.items()}
    return {
        "runtime": model.choices()[Modality.IMAGE].engine.value,
        "images_per_s": round(encoded / seconds, 1),
        "seconds": round(seconds, 2),
        "stages": stages,
    }


def middle_rates(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Images/s of each side, the median over its own rounds, so that no round's outlier flatters another."""
    flat = [
        {name: one["images_per_s"] if isinstance(one, dict) else one for name, one in entry.items()}
        for entry in rounds
    ]
    return {name: median([entry[name] for entry in flat]) for name in flat[0]}


def named(precision: str, what: str = "triptych") -> str:
    """The key of a rate: float32 is what is meant where nothing is said."""
    return what if precision == "f32" else f"{what} {precision}"


def bf16_budgets(rates: dict[str, float]) -> list[Budget]:
    """The same two of a run with --precision bf16."""
    rate = rates["triptych bf16"]
    eager, most = rate / rates["torch eager"], rate / rates["roofline bf16"]
    return [
        Budget("bulk images/s in bf16 / usual loop, torch eager", eager, 8.0, at_most=False),
        Budget("bulk images/s in bf16 / its roofline", most, 0.85, at_most=False),
    ]


def main() -> None:
    import os

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--loop-images", type=int, default=256)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    load_lite0()  # verifies the weights that both sides use
    load_model("starter")
    precisions = ["f32", *(["bf16"] if "BF16" in capabilities() else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "pictures"
        folder.mkdir()
        say(f"making {options.images:,} JPEGs")
        make_jpegs(folder, options.images)
        files = sorted(folder.iterdir())
        rounds = []
        for number in range(3):
            say(f"round {number + 1} of 3")
            rounds.append(
                {
                    **{
                        named(precision): ours(folder, Path(name) / f"index-{number}-{precision}", precision)
                        for precision in precisions
                    },
                    "torch eager": round(usual_loop(files[: options.loop_images], channels_last=False), 1),
                    "torch channels_last": round(
                        usual_loop(files[: options.loop_images], channels_last=True), 1
                    ),
                    **{
                        named(precision, "roofline"): roofline(files[: options.loop_images], cores, precision)
                        for precision in precisions
                    },
                }
            )
    rates = middle_rates(rounds)
    rate = rates["triptych"]
    budgets = [
        Budget("bulk images/s / usual loop, torch eager", rate / rates["torch eager"], 8.0, at_most=False),
        Budget("bulk images/s / roofline", rate / rates["roofline"], 0.85, at_most=False),
    ]
    if "bf16" in precisions:
        budgets += bf16_budgets(rates)
    save(
        "embed_throughput",
        {
            "images": options.images,
            "side": SIDE,
            "images_per_s": rates,
            "rounds": rounds,
            "times_channels_last": round(rate / rates["torch channels_last"], 2),
            "budgets": [budget.as_dict() for budget in budgets],
        },
    )


if __name__ == "__main__":
    main()
