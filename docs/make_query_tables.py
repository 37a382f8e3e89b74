"""Fill the tables of docs/quality.md, draw docs/reliability.svg. `--check` only compares, for the tests."""

from __future__ import annotations

from reliability import draw
from tables import HERE, Json, ranged, read, short, table, write

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


def few() -> str:
    """Error and skill in collections of few, by pair of modalities and by how many there are of each."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for each in read("few_segments")["rows"]:
        asked, hits = each["of the query's"], each["of the hits'"]
        cell = f"{short(each['few']['calibration error'])}, {short(each['few']['Brier skill'])}"
        places = ("as few", str(hits)) if asked > 29 else ("as few" if hits == asked else str(hits),)
        for place in places:
            found.setdefault((each["pair"], place), {})[min(asked, 30)] = cell
    rows = [
        [pair, hits, *(cells.get(size, "") for size in (10, 20, 29, 30))]
        for (pair, hits), cells in sorted(found.items())
        if 10 in cells
    ]
    return table(["query to hit", "of the hits' kind", "10 of the query's", "20", "29", "46 or 120"], rows)


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


def concept_kinds() -> str:
    """Concepts from examples of one modality and of two."""
    rows = []
    for other, called in (("audio", "sounds"), ("text", "captions")):
        found = read("concept_terms")["test"]["examples of two modalities"][other]
        for name, examples in (("pictures", "3 pictures"), (other, f"3 {called}"), ("both", "both")):
            cells = [
                f"{short(each['average precision'])}; {short(each['precision'])}, {short(each['recall'])}"
                for each in (found[name]["image"], found[name][other])
            ]
            rows.append([f"pictures and {called}, {found['folders']}", examples, *cells])
    return table(["what is searched, folders", "examples", "pictures", "sounds or captions"], rows)


def concept_words() -> str:
    """A concept beside a word of captions."""
    found = read("concept_terms")["test"]["beside words"]
    ways = [way for way in found["and"] if way not in ("folders", "concept and word less concept")]
    rows = [
        [
            way,
            ranged(found["and"][way]),
            ranged(found["not"][way]),
            short(found["not"][f"{way}: forbidden"][0]),
        ]
        for way in ways
    ]
    return table(["ranked by", "and a word, mAP@10", "not a word, mAP@10", "forbidden among ten"], rows)


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


WHOLE = (steps, whole_image, whole_text, whole_audio)
STAGES = (hubness_gains, hubness_banks, hubness_ways, calibration, few, mixed, empty, words, engines, rerank)
OTHERS = (
    composed,
    combinations,
    concepts,
    concept_kinds,
    concept_words,
    explain,
    copies,
    joined,
    made,
    speed,
)

if __name__ == "__main__":
    draw()
    write(HERE / "quality.md", {each.__name__: each for each in (*WHOLE, *STAGES, *OTHERS)})
