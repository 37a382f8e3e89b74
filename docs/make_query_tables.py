"""Fill the tables of docs/quality.md, draw docs/reliability.svg. `--check` only compares, for the tests."""

from __future__ import annotations

import math
import sys
from itertools import groupby

from tables import HERE, Json, ranged, read, short, table, write

PLOT = HERE / "reliability.svg"
WAYS = ("dense", "lexical", "fused", "auto")
KINDS = {
    "A and not cartoon": "a folder, not 'a cartoon'",
    "A and not B": "a folder, not one inside it",
    "A and not a word": "a folder, not a word of captions",
    "A and B": "a folder and a word of captions",
    "A or B": "one of two folders",
    "picture and cartoon": "a picture and 'a cartoon'",
    "picture and not cartoon": "a picture, not 'a cartoon'",
    "picture and its class": "a picture and its folder",
}


def change(numbers: list[float]) -> str:
    """A difference in points with its 95 % interval."""
    value, low, high = (100 * one + 0.0 for one in numbers)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


# The whole


def steps() -> str:
    """What each step of the whole is."""
    return table(["step", "what it is"], [[name, what] for name, what in read("quality")["steps"].items()])


def _whole(target: str) -> str:
    rows = [
        [
            f"{each['direction']}, {each['queries']} of {each['gallery']}",
            each["step"],
            *(ranged(each[measure]) for measure in ("R@1", "R@5", "R@10", "MRR")),
            short(each["shown"]),
        ]
        for each in read("quality")["rows"]
        if each["direction"].endswith(f"to {target}")
    ]
    return table(
        ["direction, queries of gallery", "step", "R@1", "R@5", "R@10", "MRR", "right one shown"], rows
    )


def whole_image() -> str:
    """Every step, where pictures are searched."""
    return _whole("image")


def whole_text() -> str:
    """Every step, where captions are searched."""
    return _whole("text")


def whole_audio() -> str:
    """Every step, where sounds are searched."""
    return _whole("audio")


# Hubness


def hubness_gains() -> str:
    """What the way chosen on the training half gains on the test half."""
    rows = []
    for direction, each in read("hubness")["directions"].items():
        chosen, gain = each["chosen on the training half"], each["gain of the chosen way"]
        way = chosen["way"] + (f" at {chosen['temperature']}" if "temperature" in chosen else "")
        csls = each["gain of CSLS"]["R@10"]
        rows.append([direction, way, change(gain["R@1"]), change(gain["R@10"]), change(csls)])
    return table(["direction", "chosen way", "R@1, points", "R@10, points", "CSLS: R@10, points"], rows)


def hubness_banks() -> str:
    """CSLS with three sizes of the bank, with skewness."""
    rows = []
    for direction, each in read("hubness")["directions"].items():
        cells = [f"{size.split()[-1]}: {_skewed(found)}" for size, found in each["csls"].items()]
        rows.append([direction, _skewed(each["cosine"]), *cells])
    return table(["direction", "cosine", "smallest bank", "middle bank", "largest bank"], rows)


def hubness_ways() -> str:
    """Ways and temperatures at text to image, by size of the bank."""
    found = read("hubness")["directions"]["text to image"]
    ways = ["csls", *(name for name in found if name.startswith(("softmax", "dynamic")))]
    rows = [["cosine", *[_both(found["cosine"])] * len(found["csls"])]]
    rows += [[way, *(_both(each) for each in found[way].values())] for way in ways]
    return table(["way", *found["csls"]], rows)


def _skewed(found: Json) -> str:
    return f"{short(found['R@10'])} ({found['skewness']:.1f})"


def _both(found: Json) -> str:
    return f"{short(found['R@1'])}, {short(found['R@10'])} ({found['skewness']:.1f})"


# Calibration


def calibration() -> str:
    """How far probabilities can be believed, by pair of modalities."""
    rows = [
        [
            pair,
            str(each["shown"]),
            *(short(each[name]) for name in ("base rate", "calibration error", "Brier skill", "cut")),
        ]
        for pair, each in read("calibration")["pairs"].items()
    ]
    return table(["query to hit", "hits", "base rate", "calibration error", "Brier skill", "cut-off"], rows)


def mixed() -> str:
    """Lists of pictures and sounds."""
    found = read("calibration")["mixed lists"]
    ways = found["both among ten of the mixed list, of those"]
    head = [
        "captions",
        "both in their own ten",
        *(f"of those, by {way}" for way in ways),
        "sounds in the list",
    ]
    row = [str(found["queries"]), str(found["both among ten of their own lists"]), *map(short, ways.values())]
    return table(head, [[*row, short(found["sounds' share of the mixed list"])]])


def empty() -> str:
    """Lists that are empty, and right hits that stay."""
    rows = []
    for size, searched in read("calibration")["by size of the collection"].items():
        for what, found in searched.items():
            usual, half = found["default"], found["0.5"]
            told = [each[name] for name in ("absent: empty", "of those kept") for each in (usual, half)]
            rows.append([size, what, *map(short, told), str(usual["true hits among ten"])])
    head = ["stamps", "searched", "absent, empty: default", "at 0.5", "right hits kept: default", "at 0.5"]
    return table([*head, "right hits"], rows)


# Words


def words() -> str:
    """Words beside vectors: MRR of each way."""
    found = read("lexical")
    rows = []
    for name, each in found["test half"].items():
        constant = found["settings"]["constant"]
        ways = [each[way if way in each else f"{way}, {constant}"] for way in WAYS]
        taken = short(each["share that auto takes words for"])
        cells = [ranged(way["MRR"]) for way in ways]
        rows.append([name, str(each["queries"]), *cells, change(ways[-1]["MRR gained"]), taken])
    head = ["words of, queries", "queries", "vectors", "words", "both, always", "auto", "auto gains, points"]
    return table([*head, "auto takes words"], rows)


def engines() -> str:
    """Engines that could keep the words."""
    rows = []
    for name, each in read("lexical_engines")["engines"].items():
        times = [each["open_and_first_ms"], *each["queries_ms"][1:]]
        rows.append([name, f"{each['build_s']:.1f} s", f"{each['megabytes']:.1f} MB", *map(_ms, times)])
    return table(["engine", "build", "size", "open and first query", "second", "third"], rows)


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


# Second stage and composition


def rerank() -> str:
    """k-reciprocal re-ranking against the cosine."""
    rows = []
    for direction, each in read("rerank")["directions"].items():
        chosen = each["train"]["chosen"]
        rows.append(
            [
                direction,
                f"{chosen['k1']}, {chosen['k2']}, {chosen['trade']}",
                ranged(each["plain"]["MRR"]),
                ranged(each["re-ranked"]["MRR"]),
                change(each["difference"]["MRR"]),
                change(each["difference_with_the_papers_numbers"]["MRR"]),
            ]
        )
    head = ["direction", "k1, k2, share", "MRR, cosine", "re-ranked", "difference, points"]
    return table([*head, "with the paper's numbers"], rows)


def composed() -> str:
    """The default against the plain sum, by kind of query."""
    rows = [
        [
            KINDS[kind],
            str(each["queries"]),
            *(change(each["default minus plain sum"][name]) for name in ("mAP@10", "R@1", "R@10")),
        ]
        for kind, each in read("composed")["by kind"].items()
    ]
    return table(["queries", "", "mAP@10, points", "R@1, points", "R@10, points"], rows)


def combinations() -> str:
    """The mean over kinds of query of every way to combine terms."""
    found = read("composed")
    rows = [
        [way, f"{found['train'][way]:.3f}", f"{found['test'][way]:.3f}"]
        for way in sorted(found["test"], key=lambda way: (-found["test"][way], way))
        if way != "geometric mean"  # with the constants in use, it is the default
    ]
    return table(["way", "mAP@10, training half", "test half"], rows)


# Concepts, explanations, duplicates, speed


def concepts() -> str:
    """Concepts against the mean of their examples and against words."""
    rows = []
    for each in read("concepts")["test"]:
        half = each["at one half"]
        rows.append(
            [
                str(each["examples"]),
                str(each["folders"]),
                *map(ranged, each["average precision"].values()),
                change(each["concept less"]["text"]),
                f"{short(half['precision'])}, {short(half['recall'])}",
                ranged(each["Brier skill"]),
            ]
        )
    head = [
        "examples",
        "folders",
        "concept",
        "mean of examples",
        "folder's name",
        "concept less name, points",
    ]
    return table([*head, "at 0.5: precision, recall", "Brier skill"], rows)


def explain() -> str:
    """Where the heat falls."""
    found = read("explain")["test half"]
    rows = [
        [name, str(each["passes"]), ranged(each["right"]), short(each["heat on the right half"])]
        for name, each in found.items()
        if isinstance(each, dict)
    ]
    return table(["way", "passes", "right", "heat on the right half"], rows)


def copies() -> str:
    """Copies that are found."""
    found = read("duplicates")
    rows = []
    for kind, called in (("image", "picture"), ("audio", "sound")):
        test = found[kind]["test"]
        photos = test.get("recall_of_photographs", {})
        for name, share in test["recall"].items():
            photo = short(photos[name]) if name in photos else ""
            rows.append(
                [f"{called}, {name}", short(found[kind]["train"]["recall"][name]), short(share), photo]
            )
    return table(["copy", "training half", "test half", "photographs of it"], rows)


def joined() -> str:
    """Different media that the rule takes for copies."""
    found = read("duplicates")
    places = {
        f"{called}, {half} half": found[kind][half.replace("ing", "")]
        for kind, called in (("image", "pictures"), ("audio", "sounds"))
        for half in ("training", "test")
    }
    rows = [[n, str(one["different_pairs"]), str(one["different_ones_joined"])] for n, one in places.items()]
    rows += [[n, str(one["different_pairs"]), str(one["joined"])] for n, one in found["drawings"].items()]
    return table(["among", "pairs", "joined"], rows)


def made() -> str:
    """Time to group made pictures."""
    found = read("duplicates")["made"]
    counts = [f"{found[name]:,}" for name in ("pictures", "planted")]
    times = [f"{found[name]:.1f} s" for name in ("seconds", "seconds_of_1_percent_more")]
    row = [*counts, short(found["recall"]), str(found["others_grouped"]), *times]
    return table(["pictures", "copies", "found", "others grouped", "all", "1 % more"], [row])


def speed() -> str:
    """The median of each way to search, and its stages."""
    found = read("query")
    counted, stages = found["words count: p50_ms"], found["words count: stages_ms"]["default"]
    rows = [
        _timed(way, took, found["p50_ms"]["plain"], found["stages_ms"][way])
        for way, took in sorted(found["p50_ms"].items(), key=lambda pair: pair[1])
    ]
    rows.append(_timed("default, words count", counted["default"], counted["plain"], stages))
    return table(["way", "p50", "against plain", "encode", "search", "words", "all other stages"], rows)


def _timed(way: str, took: float, plain: float, stages: Json) -> list[str]:
    named = [stages[name] for name in ("encode", "search", "words")]
    rest = sum(stages.values()) - sum(named)
    return [way, f"{took:.1f} ms", f"{took / plain:.2f}x", *(f"{one:.1f}" for one in (*named, rest))]


# The plot

SIDE, GAP, LEFT, TOP = 170, 56, 46, 42  # of a panel, between panels, and before the first, in pixels
TICKS = (0.0, 0.05, 0.2, 0.5, 1.0)
ACROSS = 3


def plot() -> str:
    """Reliability: a panel a pair of modalities, both axes square roots, a point a bin of equal mass."""
    pairs = read("calibration")["pairs"]
    ordered = [list(group) for _, group in groupby(pairs, key=lambda pair: pair.split()[0])]
    width, height = LEFT + ACROSS * (SIDE + GAP), TOP + len(ordered) * (SIDE + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11" fill="#222">',
        "<title>Reliability of probabilities, by modality of the query and of the hit</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="16">Across: probability that was told. Up: share that was right, '
        "with 95 % intervals.</text>",
    ]
    for down, group in enumerate(ordered):
        for across, pair in enumerate(group):
            left, top = LEFT + across * (SIDE + GAP), TOP + down * (SIDE + GAP)
            lines += [f'<g transform="translate({left} {top})">', *panel(pair, pairs[pair]), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def panel(pair: str, found: Json) -> list[str]:
    """One pair's frame, diagonal and points."""
    lines = [
        f'<text x="0" y="-6" font-weight="bold">{pair}</text>',
        f'<rect width="{SIDE}" height="{SIDE}" fill="none" stroke="#888"/>',
        f'<line x1="0" y1="{SIDE}" x2="{SIDE}" y2="0" stroke="#bbb" stroke-dasharray="4 3"/>',
    ]
    for tick in TICKS:
        lines.append(f'<text x="{place(tick)}" y="{SIDE + 14}" text-anchor="middle">{tick:g}</text>')
        lines.append(f'<text x="-5" y="{place(tick, up=True)}" dy="4" text-anchor="end">{tick:g}</text>')
    for count, told, right in found["reliability"]:
        low, high = wilson(right, count)
        x = place(told)
        lines.append(
            f'<line x1="{x}" y1="{place(low, up=True)}" x2="{x}" y2="{place(high, up=True)}" stroke="#8ab"/>'
        )
        lines.append(f'<circle cx="{x}" cy="{place(right, up=True)}" r="3" fill="#146"/>')
    return lines


def place(share: float, *, up: bool = False) -> str:
    """Where a share in [0, 1] stands on an axis, in pixels; from below if `up`."""
    far = SIDE * math.sqrt(share)
    return f"{SIDE - far if up else far:.1f}"


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count`, within [0, 1]."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def draw() -> None:
    """Write the plot, or with `--check` exit 1 where it is stale."""
    drawn = plot()
    if "--check" not in sys.argv:
        PLOT.write_text(drawn, encoding="utf-8")
    elif not PLOT.is_file() or PLOT.read_text(encoding="utf-8") != drawn:
        sys.exit(1)


WHOLE = (steps, whole_image, whole_text, whole_audio)
STAGES = (hubness_gains, hubness_banks, hubness_ways, calibration, mixed, empty, words, engines, rerank)
OTHERS = (composed, combinations, concepts, explain, copies, joined, made, speed)

if __name__ == "__main__":
    draw()
    write(HERE / "quality.md", {each.__name__: each for each in (*WHOLE, *STAGES, *OTHERS)})
