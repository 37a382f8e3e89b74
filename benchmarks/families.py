"""Pretrained families on a CPU: export parity, and the forward pass's items/s against the library's own loop.

One model of each kind at full size: open_clip's ViT-B-32, a ConvNeXt, MobileCLIP2-S0 and a SigLIP, with
random weights that keep different inputs apart; the real MiniLM; CLAP's audio tower with random weights. Each
is exported as `triptych models pull` exports it, and run by ONNX Runtime in f32 and by OpenVINO in f32, bf16
and int8, against the library's network in torch, eager, batches of 32. One run a model, all of its runtimes
in turns. Quantising runs in a process of its own; one that takes longer than --quantise-s is a result too.

What an item costs is counted by torch, and the rates are set against those of one large matrix product in
OpenVINO: a library that reaches 40 % of it in float32 cannot be outrun three times in float32 on these cores.

Distances are a share of the median distance between different inputs. What int8 and bf16 cost on random
weights says little; see precision.py for real ones.

    python benchmarks/families.py [--only ViT-B-32] [--rounds 5] [--quantise-s 40]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Budget, median, save, say
from family_subjects import ITEMS, SUBJECTS, Subject
from torch.utils.flop_counter import FlopCounterMode

from indexer.types import FloatArray
from retrieval.models.quantize import import_nncf, quantized, save_graph
from retrieval.runtime.onnx import OnnxRuntime
from retrieval.runtime.openvino import OpenVinoRuntime, capabilities
from retrieval.runtime.protocol import Runtime

BATCH = 32  # of the library's loop
CALIBRATING = 24  # inputs of an int8 graph
QUANTISE_S = 40.0
TIMED_S = 30.0  # no round of a model's runtimes begins later than so long after its first
FEWEST = 2  # rounds
GOALS = {"openvino f32": 3.0, "openvino bf16": 6.0, "openvino int8": 10.0}
MATRIX = 4096  # side of the product that tells the machine's rate
PARITY = 0.02  # of the median distance between different inputs, in f32


def quantise(work: Path) -> None:
    """In the process that may be ended: tower.onnx's int8 graph, calibrated with inputs.npz."""
    graph = Path((work / "graph").read_text())
    with np.load(work / "inputs.npz") as file:
        joined = {name: file[name] for name in file.files}
    rows = len(next(iter(joined.values())))
    inputs = [{name: array[row] for name, array in joined.items()} for row in range(rows)]
    save_graph(quantized(import_nncf(), graph, inputs, seconds=0), work / "small.xml")


def small_graph(subject: Subject, work: Path, limit_s: float) -> Path | str:
    """The int8 graph, or why there is none."""
    if limit_s <= 0:
        return "not asked for"
    some = subject.inputs[:CALIBRATING]
    np.savez(work / "inputs.npz", **{name: np.stack([one[name] for one in some]) for name in some[0]})
    (work / "graph").write_text(str(subject.graph))
    command = [sys.executable, __file__, "--quantise-folder", str(work)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"quantising took longer than {limit_s:.0f} s"
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        return f"quantising failed ({done.returncode}): {said[-1][:200]}"
    return work / "small.xml"


def runtimes(subject: Subject, small: Path | None, threads: int) -> dict[str, Callable[[], Runtime]]:
    """What opens each runtime on the exported graph."""
    graph, group = subject.graph, subject.group if subject.views else 0
    paths = {"f32": graph} | ({"bf16": graph} if "BF16" in capabilities() else {})
    if small is not None:
        paths["int8"] = small
    opened: dict[str, Callable[[], Runtime]] = {
        "onnx f32": lambda: OnnxRuntime.open(graph, threads=1, prepack=subject.views)
    }
    for precision, path in paths.items():
        opened[f"openvino {precision}"] = lambda path=path, precision=precision: OpenVinoRuntime.open(
            path, precision=precision, threads=threads, group=group
        )
    return opened


def encoded(runtime: Runtime, subject: Subject, threads: int) -> FloatArray:
    """All items' vectors, groups beside each other as a tower runs them."""
    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, ITEMS, subject.group)
        found = list(
            pool.map(lambda at: runtime.run(subject.batch(at, at + subject.group))["vectors"], starts)
        )
    return np.concatenate(found)


def library_vectors(subject: Subject) -> FloatArray:
    """The library's own, brought to unit length."""
    with torch.inference_mode():
        found = [subject.library(first, first + BATCH) for first in range(0, ITEMS, BATCH)]
        return torch.nn.functional.normalize(torch.cat(found), dim=1).numpy()


def parity(found: FloatArray, expected: FloatArray) -> dict[str, float]:
    """How far vectors are from the library's; distances as a share of the median between different inputs."""
    gaps = np.linalg.norm(expected[:, None] - expected[None], axis=2)
    usual = float(np.median(gaps[~np.eye(len(gaps), dtype=bool)]))
    apart = np.linalg.norm(found - expected, axis=1)
    cosines = (found * expected).sum(axis=1)
    return {
        "median_distance_between_inputs": round(usual, 4),
        "median_distance_share": round(float(np.median(apart)) / usual, 6),
        "worst_distance_share": round(float(apart.max()) / usual, 6),
        "max_abs": float(f"{np.abs(found - expected).max():.3g}"),
        "cosine_median": round(float(np.median(cosines)), 6),
        "cosine_worst": round(float(cosines.min()), 6),
    }


def gflop(subject: Subject) -> float:
    """Of one item in the library's network: what torch counts of matrix products and convolutions."""
    torch.backends.mha.set_fastpath_enabled(False)  # its one fused operation is not counted
    try:
        with (
            torch.enable_grad(),
            FlopCounterMode(display=False) as counter,
        ):  # it follows modules by gradients
            subject.library(0, 1)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() / 1e9


def matrix_rate(precision: str, threads: int) -> float:
    """GFLOP/s of a large matrix product in OpenVINO: the best of nine, as others may share the cores."""
    import openvino
    from openvino import opset13 as ops

    side = np.random.default_rng(0).standard_normal((MATRIX, MATRIX)).astype(np.float32)
    rows = ops.parameter([MATRIX, MATRIX], np.float32)
    product = openvino.Model([ops.matmul(rows, ops.constant(side), False, False)], [rows])
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    request = openvino.compile_model(product, "CPU", options).create_infer_request()
    request.infer({0: side})
    rates = []
    for _ in range(9):
        start = time.perf_counter()
        request.infer({0: side})
        rates.append(2 * MATRIX**3 / (time.perf_counter() - start) / 1e9)
    return max(rates)


def cost(subject: Subject, per_s: dict[str, float], matrix: dict[str, float]) -> dict[str, Any]:
    """What an item costs, and what share of the machine's float32 rate each runtime's items/s are."""
    work = gflop(subject)
    shares = {one: round(value * work / matrix["f32"], 2) for one, value in per_s.items()}
    return {"gflop_an_item": round(work, 3), "share_of_f32_matrix_rate": shares}


def measured(
    title: str, rounds: int, threads: int, quantise_s: float, matrix: dict[str, float]
) -> dict[str, Any]:
    """One family's numbers."""
    make, architecture = SUBJECTS[title]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        start = time.perf_counter()
        subject = make(architecture, work)
        say(f"  exported in {time.perf_counter() - start:.0f} s")
        expected = library_vectors(subject)
        start = time.perf_counter()
        small = small_graph(subject, work, quantise_s)
        say(
            f"  quantised in {time.perf_counter() - start:.0f} s" if isinstance(small, Path) else f"  {small}"
        )
        opened, starts = {}, {}
        for runtime, open_one in runtimes(
            subject, small if isinstance(small, Path) else None, threads
        ).items():
            start = time.perf_counter()
            opened[runtime] = open_one()
            starts[runtime] = round(time.perf_counter() - start, 2)
        found, rates = timed(subject, opened, rounds, threads)
    middle = {one: median(values) for one, values in rates.items()}
    return {
        "architecture": architecture or "as published",
        "per_s": {one: round(value, 1) for one, value in middle.items()},
        "times_torch_eager": {one: round(middle[one] / middle["torch eager"], 2) for one in opened},
        **cost(subject, middle, matrix),
        "rounds": len(rates["torch eager"]),
        "open_s": starts,
        "parity": {one: parity(found[one], expected) for one in opened},
        "without int8": "" if isinstance(small, Path) else small,
    }


def timed(
    subject: Subject, opened: dict[str, Runtime], rounds: int, threads: int
) -> tuple[dict[str, FloatArray], dict[str, list[float]]]:
    """Every runtime's vectors, and its items/s of each round; they take turns, the library first."""
    work: dict[str, Callable[[], FloatArray]] = {"torch eager": lambda: library_vectors(subject)}
    for title, runtime in opened.items():
        work[title] = lambda runtime=runtime: encoded(runtime, subject, threads)
    rates: dict[str, list[float]] = {title: [] for title in work}
    # Not timed: first runs prepare. The library's was when its vectors were first asked for.
    found = {title: encoded(runtime, subject, threads) for title, runtime in opened.items()}
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= FEWEST and time.perf_counter() - begun > TIMED_S:
            break
        for title, one in work.items():
            start = time.perf_counter()
            one()
            rates[title].append(ITEMS / (time.perf_counter() - start))
    return found, rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=sorted(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quantise-s", type=float, default=QUANTISE_S, help="0: no int8")
    parser.add_argument("--quantise-folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quantise_folder:
        quantise(options.quantise_folder)
        return
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads)
    matrix = {
        name: round(matrix_rate(name, threads), 1)
        for name, word in (("f32", "FP32"), ("bf16", "BF16"))
        if word in capabilities()
    }
    results = {}
    for title in options.only or SUBJECTS:
        say(title)
        results[title] = measured(title, options.rounds, threads, options.quantise_s, matrix)
        say(f"  {results[title]['per_s']}")
    if options.only:
        print(results)
        return
    save(
        "families",
        {
            "items": ITEMS,
            "threads": threads,
            "computes in": ", ".join(capabilities()),
            "matrix_gflop_per_s": matrix,
            "families": results,
            "budgets": [budget.as_dict() for budget in budgets(results)],
        },
    )


def budgets(results: dict[str, Any]) -> list[Budget]:
    """Rates against the library's, and the distance of float32 vectors from its."""
    rates = [
        Budget(f"{title}, {name} / torch eager", entry["times_torch_eager"][name], goal, at_most=False)
        for title, entry in results.items()
        for name, goal in GOALS.items()
        if name in entry["times_torch_eager"]
    ]
    distances = [
        Budget(f"{title}, {name}, worst distance", found["worst_distance_share"], PARITY, unit="")
        for title, entry in results.items()
        for name, found in entry["parity"].items()
        if name.endswith("f32")
    ]
    return rates + distances


if __name__ == "__main__":
    main()
