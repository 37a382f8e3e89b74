"""Embedding on a GPU: items/s of ViT-B-32, ViT-L-14, a text and an audio tower, with random weights.

Against the smaller of the forward-only and the decode-only rate, open_clip's own loop in eager float32 and in
amp, and as a share of the chip's measured matrix rate. Takes some five minutes; the repository and open_clip
must be importable.

    PYTHONPATH=. python benchmarks/embed_gpu.py
    PYTHONPATH=. python benchmarks/embed_gpu.py --device cpu --quick
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import torch
from gpu import rate, rounded, say
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from indexer.media.workers import Chunk, DecodePool, Job
from indexer.types import Modality
from retrieval.encoders.library_image import LibraryImagePreparer
from retrieval.models.export import TextGraph, ViewGraph
from retrieval.runtime.protocol import Arrays
from retrieval.runtime.torch import Graph, TorchOptions, TorchRuntime, repeated

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # open_clip's default
SIDE = 512  # pixels of the JPEGs


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    seconds: float  # of one measurement
    files: int
    decoded: int  # pictures decoded in one measurement; files come several times
    loop: int  # pictures of open_clip's own loop
    matrix: int  # side of the products that tell the chip's rate
    quick: bool


FULL = Sizes(seconds=2.0, files=1000, decoded=16_000, loop=512, matrix=8192, quick=False)
QUICK = Sizes(seconds=0.01, files=6, decoded=12, loop=4, matrix=64, quick=True)


@dataclass(frozen=True)
class Subject:
    """A tower, one input for it, and how its library computes the same."""

    name: str
    graph: Graph
    one: Arrays
    library: torch.nn.Module  # takes what `library_input` gives, on the device
    library_input: Callable[[int], Any]  # so many rows
    side: int = 0  # of pictures


def pictures(name: str, quick: bool) -> Subject:
    from retrieval.models.families.openclip_network import ImageNetwork

    model = clip(name, quick)
    side = model.visual.image_size[0]
    network = ImageNetwork(model.visual, MEAN, STD)
    noise = np.random.default_rng(0)
    views = noise.integers(0, 256, (1, side, side, 3), np.uint8)
    return Subject(
        name=name,
        graph=ViewGraph(network).eval(),
        one={"views": views, "pool": np.eye(1, dtype=np.float32)},
        library=model.visual,
        library_input=lambda rows: torch.randn(rows, 3, side, side),
        side=side,
    )


def texts(name: str, quick: bool) -> Subject:
    from retrieval.models.families.openclip_network import OwnTextNetwork

    model = clip(name, quick)
    length = model.context_length
    ids = np.random.default_rng(0).integers(1, 400, (1, length))
    ids[:, -1] = model.vocab_size - 1
    return Subject(
        name=f"{name} text, {length} tokens",
        graph=TextGraph(OwnTextNetwork(model, 0)).eval(),
        one={"input_ids": ids, "attention_mask": np.ones_like(ids)},
        library=Texts(model),
        library_input=lambda rows: torch.from_numpy(np.repeat(ids, rows, axis=0)),
    )


class Texts(torch.nn.Module):
    """open_clip's encode_text as a module."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(ids)


class Sounds(torch.nn.Module):
    """transformers' own audio tower as a module."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, decibels: torch.Tensor) -> torch.Tensor:
        longer = torch.zeros(len(decibels), 1, dtype=torch.bool, device=decibels.device)
        return self.model(input_features=decibels, is_longer=longer).audio_embeds


def sounds(quick: bool) -> Subject:
    from transformers import ClapAudioConfig, ClapAudioModelWithProjection

    from retrieval.models.families.clap_networks import SoundNetwork

    config = ClapAudioConfig(**({"depths": [1, 1, 1, 1]} if quick else {}))
    model = ClapAudioModelWithProjection(config).eval()
    window = np.random.default_rng(0).normal(-30, 10, (1, 1001, config.num_mel_bins)).astype(np.float32)
    library = Sounds(model)
    return Subject(
        name="CLAP audio, windows of 10 s",
        graph=ViewGraph(SoundNetwork(model)).eval(),
        one={"views": window, "pool": np.eye(1, dtype=np.float32)},
        library=library,
        library_input=lambda rows: torch.from_numpy(np.repeat(window, rows, axis=0))[:, None],
    )


def clip(name: str, quick: bool) -> Any:
    """open_clip's model with random weights; a tiny one of the same kind for a dry run."""
    import open_clip

    torch.manual_seed(0)
    if not quick:
        return open_clip.create_model(name, pretrained=None).eval()
    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64}
    text = {"context_length": 12, "vocab_size": 500, "width": 32, "heads": 2, "layers": 2}
    return open_clip.model.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text).eval()


def flops(subject: Subject, device: str) -> int:
    """Floating-point operations of one row: products, convolutions and attention."""
    network = subject.graph.backbone.to(device)
    names = ("views",) if subject.side or "views" in subject.one else TextGraph.inputs
    inputs = [torch.from_numpy(subject.one[name]).to(device) for name in names]
    torch.backends.mha.set_fastpath_enabled(False)  # its one fused operation is not counted
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return int(counter.get_total_flops())


def measured(subject: Subject, device: str, sizes: Sizes) -> tuple[dict[str, Any], TorchRuntime]:
    """Rates of one tower without decoding, ours and its library's."""
    say(subject.name)
    notes: list[str] = []
    work = flops(subject, device)
    library = library_rates(subject, device, sizes)
    precision = "auto" if device == "cuda" else "bf16"
    options = TorchOptions(precision=precision, rows=4 if sizes.quick else 0)
    ours = TorchRuntime.open(subject.graph, device, options=options, samples=subject.one, note=notes.append)
    if sizes.quick and subject.side:  # a CPU is not probed by itself
        ours.rows = ours.probe(subject.one)
    matrix = gpu.matmul_rate(ours.precision, device=device, side=sizes.matrix, seconds=sizes.seconds)
    alone = rate(
        ours.resident(repeated(subject.one, ours.rows)), ours.rows, device=device, seconds=sizes.seconds
    )
    many = repeated(subject.one, ours.preferred_group)
    whole = rate(lambda: ours.run(many), ours.preferred_group, device=device, seconds=sizes.seconds)
    found = {
        "precision": ours.precision,
        "rows_at_once": ours.rows,
        "gflop_an_item": work / 1e9,
        "forward_only_per_s": alone,
        "from_host_memory_per_s": whole,
        "share_of_matrix_rate": alone * work / matrix,
        "matrix_tflop_per_s": matrix / 1e12,
        "library_per_s": library,
        "times_library_f32": whole / max(library["f32"].values()),
        "times_library_amp": whole / max(library["amp"].values()),
        "compiled": compiled(subject, device, sizes, rows=ours.rows),
        "notes": notes,
    }
    return found, ours


def library_rates(subject: Subject, device: str, sizes: Sizes) -> dict[str, dict[str, float]]:
    """The library's own eager forward in float32 and in amp, in batches of 32 and of 256 on the device."""
    network = subject.library.to(device)
    half = torch.bfloat16 if device == "cpu" or torch.cuda.is_bf16_supported() else torch.float16
    found: dict[str, dict[str, float]] = {}
    for kind in ("f32", "amp"):
        found[kind] = {}
        for rows in (2, 4) if sizes.quick else (32, 256):
            inputs = subject.library_input(rows).to(device)
            lower = torch.autocast(device, dtype=half) if kind == "amp" else nullcontext()
            with torch.inference_mode(), lower:
                work = lambda inputs=inputs: network(inputs)  # noqa: E731 - one line is enough for it
                found[kind][f"batches of {rows}"] = rate(work, rows, device=device, seconds=sizes.seconds)
    return found


def compiled(subject: Subject, device: str, sizes: Sizes, *, rows: int) -> dict[str, Any]:
    """The same through torch.compile: what it brings, and how long it takes to start."""
    notes: list[str] = []
    start = time.perf_counter()
    options = TorchOptions(precision="auto" if device == "cuda" else "bf16", compiled=True, rows=rows)
    runtime = TorchRuntime.open(
        subject.graph, device, options=options, samples=subject.one, note=notes.append
    )
    started = time.perf_counter() - start
    many = repeated(subject.one, runtime.rows)
    alone = rate(runtime.resident(many), runtime.rows, device=device, seconds=sizes.seconds)
    return {"start_s": started, "forward_only_per_s": alone, "notes": notes}


def make_jpegs(folder: Path, count: int) -> list[Path]:
    """Different JPEGs of 512 x 512, quality 90: noise in octaves, about as large as photographs."""
    noise = np.random.default_rng(0)
    canvas = np.zeros((2 * SIDE, 2 * SIDE, 3), np.float32)
    for octave in range(2, 11):
        small = noise.normal(0, 1, (2**octave, 2**octave, 3)).astype(np.float32)
        layers = [
            Image.fromarray(small[..., c]).resize(canvas.shape[1::-1], Image.Resampling.BICUBIC)
            for c in range(3)
        ]
        canvas += 60 * 0.55 ** (octave - 2) * np.stack([np.asarray(layer) for layer in layers], axis=2)
    pixels = np.clip(canvas + 128, 0, 255).astype(np.uint8)
    files = []
    for number in range(count):
        left, top = noise.integers(0, SIDE + 1, 2)
        crop = Image.fromarray(pixels[top : top + SIDE, left : left + SIDE])
        files.append(folder / f"{number:05d}.jpg")
        crop.save(files[-1], quality=90)
    return files


def decoded(files: list[Path], side: int, count: int, workers: int) -> Iterator[np.ndarray]:
    """Prepared pictures out of decode workers, after the workers have started."""
    preparer = LibraryImagePreparer(size=(side, side), crop=(side, side), mean=MEAN, std=STD)
    with DecodePool({Modality.IMAGE: preparer}, workers=workers) as pool:
        jobs = (Job(n, Modality.IMAGE, str(files[n % len(files)])) for n in range(count))
        for outcome in pool.run(jobs):
            if isinstance(outcome, Chunk):
                yield from (one.tensor for one in outcome.prepared)


def decode_rate(files: list[Path], side: int, sizes: Sizes, workers: int) -> float:
    """Pictures a second that the workers decode and resize, from the first that comes out on."""
    tensors = decoded(files, side, sizes.decoded, workers)
    next(tensors)
    start = time.perf_counter()
    count = sum(1 for _ in tensors)
    return count / (time.perf_counter() - start)


def whole_rate(runtime: TorchRuntime, files: list[Path], side: int, sizes: Sizes, workers: int) -> float:
    """Pictures a second from files to vectors, as an update does it: workers decode while this computes."""
    tensors = decoded(files, side, sizes.decoded, workers)
    batch = [next(tensors)]
    start, count = time.perf_counter(), 0
    size = min(runtime.preferred_group, max(2, sizes.decoded // 8))
    eye = np.eye(size, dtype=np.float32)
    for tensor in tensors:
        batch.append(tensor)
        if len(batch) == size:
            count += len(runtime.run({"views": np.concatenate(batch), "pool": eye})["vectors"])
            batch = []
    return count / (time.perf_counter() - start)


def open_clips_loop(subject: Subject, files: list[Path], device: str) -> float:
    """Pictures a second of a script: open, open_clip's own transform, encode in amp, batches of 32."""
    from open_clip.transform import image_transform

    transform = image_transform(subject.side, is_train=False, mean=MEAN, std=STD)
    network = subject.library.to(device)

    def embed(batch: list[Path]) -> None:
        pixels = torch.stack([transform(Image.open(file)) for file in batch])
        with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16):
            network(pixels.to(device)).float().cpu()

    embed(files[:2])
    start = time.perf_counter()
    for first in range(0, len(files), 32):
        embed(files[first : first + 32])
    return len(files) / (time.perf_counter() - start)


def on_device_decode(files: list[Path], side: int, device: str, seconds: float) -> dict[str, Any]:
    """Decoding by the device (nvjpeg on a GPU) and resizing there, pictures/s; or why it cannot be."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        raw = [torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in files[:64]]

        def work() -> None:
            pixels = torch.stack(decode_jpeg(raw, mode=ImageReadMode.RGB, device=device)).float()
            size = (side, side)
            torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 255).byte()

        return {"per_s": rate(work, len(raw), device=device, seconds=seconds)}
    except (ImportError, RuntimeError) as error:
        return {"failed": str(error).splitlines()[0][:200]}


def from_files(
    subject: Subject, runtime: TorchRuntime, files: list[Path], device: str, sizes: Sizes
) -> dict[str, Any]:
    """Everything with decoding in it."""
    workers = 2 if sizes.quick else len(os.sched_getaffinity(0))
    forward = rate(
        runtime.resident(repeated(subject.one, runtime.rows)),
        runtime.rows,
        device=device,
        seconds=sizes.seconds,
    )
    decode = decode_rate(files, subject.side, sizes, workers)
    whole = whole_rate(runtime, files, subject.side, sizes, workers)
    loop = open_clips_loop(subject, files[: sizes.loop], device)
    return {
        "workers": workers,
        "decode_only_per_s": decode,
        "files_to_vectors_per_s": whole,
        "share_of_the_smaller_rate": whole / min(decode, forward),
        "open_clip_script_amp_per_s": loop,
        "times_open_clip_script": whole / loop,
        "decoded_on_device": on_device_decode(files, subject.side, device, sizes.seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks and sizes: does every line run?")
    parser.add_argument(
        "--only", type=int, choices=range(4), help="one tower: 0, 1 pictures, 2 texts, 3 sounds"
    )
    options = parser.parse_args()
    if gpu.not_run("benchmarks/embed_gpu.py", options.device):
        return
    sizes = QUICK if options.quick else FULL
    if options.quick:  # traced, but not built: building takes minutes on a few cores
        torch.compile = partial(torch.compile, backend="eager")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        files = make_jpegs(Path(name), sizes.files)
        kilobytes = sum(file.stat().st_size for file in files) / len(files) / 1e3
        makers: list[Callable[[], Subject]] = [
            lambda: pictures("ViT-B-32", sizes.quick),
            lambda: pictures("ViT-L-14", sizes.quick),
            lambda: texts("ViT-B-32", sizes.quick),
            lambda: sounds(sizes.quick),
        ]
        for make in makers if options.only is None else [makers[options.only]]:
            try:
                subject = make()
            except ImportError as error:
                say(f"left out: {error}")
                continue
            found, runtime = measured(subject, options.device, sizes)
            if subject.side:
                found["from_files"] = from_files(subject, runtime, files, options.device, sizes)
            result[subject.name] = rounded(found)
    jpegs = {"side": SIDE, "kilobytes": round(kilobytes, 1), "files": len(files)}
    gpu.save("embed_gpu", options.device, {"jpegs": jpegs, "towers": result}, quick=options.quick)


if __name__ == "__main__":
    main()
