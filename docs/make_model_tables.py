"""Fill the tables of docs/models.md. `--check` only compares, for the tests."""

from __future__ import annotations

import sys

from tables import HERE, RESULTS, Json, ranged, read, short, table, write

sys.path.insert(0, str(HERE.parent))
from retrieval.models.families.catalogue import CATALOGUE
from retrieval.render.report import size

RUNTIMES = ("onnx f32", "openvino f32", "openvino bf16", "openvino int8")
METHODS = ("ridge", "procrustes", "contrastive")


def recommended() -> str:
    """What `models list --available` shows."""
    rows = [
        [
            f"`{row.name}`",
            ", ".join(row.modalities),
            str(row.dim),
            size(row.download_mb * 1e6),
            (row.licence or "not stated") + (" (research only)" if row.research_only else ""),
            row.good_for,
        ]
        for row in CATALOGUE
    ]
    return table(["name", "modalities", "dimensions", "download", "licence", "good for"], rows)


def measured() -> Json:
    """The families' numbers; none where the script has not run to its end yet."""
    return dict(read("families")["families"]) if (RESULTS / "families.json").is_file() else {}


def families() -> str:
    """Rates of each runtime, beside the library's own loop."""
    rows = []
    for name, each in measured().items():
        rates, times = each["per_s"], each["times_torch_eager"]
        cells = [f"{rates[one]:.0f} ({times[one]:.1f}x)" if one in times else "-" for one in RUNTIMES]
        share = f"{each['share_of_f32_matrix_rate']['openvino f32']:.0%}"
        rows.append([name, f"{rates['torch eager']:.1f}", *cells, share])
    if not rows:
        return "Not measured yet.\n"
    return table(["tower", "library, torch eager, a second", *RUNTIMES, "openvino f32 of matrix rate"], rows)


def parity() -> str:
    """Distance to the library's vectors."""
    rows = []
    for name, each in measured().items():
        found = each["parity"]
        for one in (runtime for runtime in RUNTIMES if runtime in found):
            numbers = found[one]
            rows.append(
                [
                    name,
                    one,
                    f"{numbers['max_abs']:.1e}",
                    f"{numbers['cosine_worst']:.6f}",
                    f"{100 * numbers['worst_distance_share']:.3f} %",
                ]
            )
    if not rows:
        return "Not measured yet.\n"
    return table(
        ["tower", "runtime", "max abs", "cosine, worst", "share of the median distance, worst"], rows
    )


def precision() -> str:
    """The starter's image tower on the stamps' test half."""
    rows = []
    for name, each in read("precision")["image"].items():
        if isinstance(each, dict):
            rows.append(
                [
                    name,
                    f"{each['per_s']:.0f}",
                    f"{each['stamps']['cosine_median']:.4f} ({each['stamps']['cosine_worst']:.3f})",
                    f"{each['photographs']['cosine_median']:.4f} ({each['photographs']['cosine_worst']:.3f})",
                    short(each["text to image R@10"]),
                    short(each["image to text R@10"]),
                    f"{100 * each['mean gain']:+.1f}",
                ]
            )
    head = ["runtime", "pictures a second", "cosine on stamps (worst)", "on photographs (worst)"]
    return table([*head, "text to image, R@10", "image to text, R@10", "points gained"], rows)


def bridge() -> str:
    """Held-out captions and the stamps' sounds through bridges."""
    found: Json = read("bridge")["second encoder"]
    rows = []
    for method in METHODS:
        texts = found["text to text"]["scores"][method]["test"]
        sounds = found["stamps"][method]["image-audio"]
        rows.append(
            [
                method,
                ranged(texts["b to a"]["R@1"]),
                ranged(texts["a to b"]["R@1"]),
                ranged(sounds["image to audio"]["R@10"]),
                ranged(sounds["audio to image"]["R@10"]),
            ]
        )
    own = read("bridge")["the starter itself"]["stamps"]["no bridge"]["image-audio"]
    rows.append(
        ["no bridge", "", "", *(ranged(own[way]["R@10"]) for way in ("image to audio", "audio to image"))]
    )
    head = ["bridge", "captions B to A, R@1", "captions A to B, R@1", "image to audio, R@10"]
    return table([*head, "audio to image, R@10"], rows)


if __name__ == "__main__":
    made = {each.__name__: each for each in (recommended, families, parity, precision, bridge)}
    write(HERE / "models.md", made)
