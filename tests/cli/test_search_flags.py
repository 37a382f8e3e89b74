"""The flags of a search and the commands about it, as a person types them, on photographs and the starter.

Commands run inside this process through the program's own entry point, which takes a twentieth of the time;
a few start the program itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli import app
from retrieval.query.filters.columns import COLUMNS
from tests.media import photographs
from tests.retrieval.test_search import tone

TRIPTYCH = Path(sys.executable).parent / "triptych"
CORNERS = ("top left", "top right", "bottom left", "bottom right")
CAPTIONS = {
    "astronaut": "an astronaut in an orange space suit",
    "coffee": "a cup of coffee",
    "chelsea": "a cat",
    "rocket": "a rocket at its launch",
    "motorcycle_left": "a motorcycle",
    "hubble_deep_field": "galaxies in space",
    "ihc": "cells under a microscope",
    "retina": "the retina of an eye",
}
NOTES = {
    "invoice-2023.md": "Repairs to the roof, to be paid by the end of the month.",
    "soup.md": "A recipe for onion soup with bread and cheese.",
    "train.md": "Timetable of the night train to Vienna.",
    "kitten.md": "How to look after a cat and her kittens.",
}
EXIF, TAKEN = 0x8769, 0x9003
HISTORY = "last-search.json"
pytestmark = pytest.mark.starter


@dataclass(frozen=True)
class Done:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def hits(self) -> list[dict[str, Any]]:
        return json.loads(self.out)["hits"]

    @property
    def names(self) -> list[str]:
        return [Path(hit["path"]).name for hit in self.hits]


Run = Callable[..., Done]


def process(*arguments: str | Path, home: Path, cwd: Path | None = None) -> Done:
    done = subprocess.run(
        [str(TRIPTYCH), *map(str, arguments)],
        env=os.environ | {"TRIPTYCH_HOME": str(home)},
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def place(starter_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `media`, indexed, `texts`, of notes only, indexed, and files of no index beside them."""
    folder = tmp_path_factory.mktemp("flags")
    home, media = folder / "home", folder / "media"
    home.mkdir()
    (home / "cache").symlink_to(starter_home / "cache", target_is_directory=True)
    (media / "Holiday").mkdir(parents=True)
    for name, pixels in photographs().items():
        picture = Image.fromarray(pixels)
        picture.thumbnail((240, 240))
        picture.save(media / f"{name}.png")
        across, down = picture.width // 2, picture.height // 2
        for number, corner in enumerate(CORNERS):
            left, top = number % 2 * across, number // 2 * down
            picture.crop((left, top, left + across, top + down)).save(media / f"{name}{number}.png")
            (media / f"{name}{number}.txt").write_text(f"{CAPTIONS[name]}, {corner}")
        if name == "coffee":
            taken = Image.Exif()
            taken.get_ifd(EXIF)[TAKEN] = "2024:07:01 12:00:00"
            wide = Image.fromarray(pixels).resize((1000, 667))
            wide.save(media / "Holiday" / "mug.jpg", exif=taken)
        if name == "chelsea":
            picture.resize((200, 133)).save(media / "chelsea-small.jpg")
    for name, words in NOTES.items():
        (media / name).write_text(words)
    tone(media / "low.wav", 440, 2.0)
    tone(media / "high.wav", 3000, 3.0)
    (folder / "texts").mkdir()
    (folder / "texts" / "soup.md").write_text(NOTES["soup.md"])
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not much of a picture")
    for name in ("media", "texts"):
        done = process("index", folder / name, home=home)
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def triptych(
    place: Path,
    home_with_starter: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs a command in the indexed folder, as `triptych` does, with a home of this test's own."""
    monkeypatch.chdir(place / "media")
    (home_with_starter / "data").mkdir()
    for kept in (place / "home" / "data").iterdir():  # the list of indexes
        if kept.name != HISTORY:
            shutil.copy(kept, home_with_starter / "data")

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["triptych", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Done(code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def own_index(place: Path, tmp_path: Path) -> Path:
    """A copy of the index, to be changed."""
    return shutil.copytree(place / "media" / ".triptych", tmp_path / "own")


# What the issue shows


def test_the_program_itself(place: Path) -> None:
    """Composed of words, a picture and what must not match; and nothing good, which it says."""
    home, media = place / "home", place / "media"
    asked = ["search", "a cup of coffee", "+", "./coffee.png", "-", "a cat", "--in", "image"]
    found = process(*asked, "-k", "3", "--json", home=home, cwd=media)
    assert found.code == 0, found.err
    assert json.loads(found.out)["query"] == "a cup of coffee + coffee.png - a cat"
    assert found.names[0] in ("coffee.png", "mug.jpg")
    assert [one["term"] for one in found.hits[0]["stages"]["terms"]] == [
        "a cup of coffee",
        "coffee.png",
        "a cat",
    ]
    nothing = process(
        "search", "../noise.png", "--in", "audio,text", "--min-score", "0.5", home=home, cwd=media
    )
    assert (nothing.code, nothing.out) == (1, "")
    assert "nothing is likely enough: the best hit has a probability of 0." in nothing.err
    assert "--min-score 0 shows it" in nothing.err


def test_explain(triptych: Run, tmp_path: Path) -> None:
    done = triptych("explain", "a cat", "chelsea.png", "--json", "--png", tmp_path / "heat.png")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    (term,) = told["terms"]
    assert told["indexed"]
    assert told["hit"]["stages"]["terms"][0]["cosine"] == pytest.approx(term["cosine"], abs=1e-3)
    assert term["heat"]["kind"] == "picture"
    assert np.array(term["heat"]["effect"]).shape == (term["heat"]["rows"], term["heat"]["columns"])
    with Image.open(tmp_path / "heat.png") as heat:
        heat.verify()


def test_a_negated_term_pushes_down(triptych: Run) -> None:
    asked = ["search", "something in space", "--in", "image", "-k", "200", "--json"]
    wanted, without = triptych(*asked), triptych(*asked, "-", "an astronaut")
    assert set(wanted.names) == set(without.names)
    assert without.names.index("astronaut.png") > wanted.names.index("astronaut.png")
    assert triptych(*asked, "--not", "an astronaut").names == without.names
    both = triptych("search", "--add", "something in space", "--not", "an astronaut", *asked[2:])
    assert both.names == without.names
    heavy = triptych(*asked, "--not", "an astronaut", "--weight", "5")
    assert heavy.names.index("astronaut.png") >= without.names.index("astronaut.png")
    assert [hit["score"] for hit in heavy.hits] != [hit["score"] for hit in without.hits]


def test_a_filter_of_the_issue(triptych: Run) -> None:
    where = "width >= 1000 and year(taken_at) = 2024 and path like '%/Holiday/%'"
    asked = ["search", "2*red", "car", "--in", "image", "--min-score", "0", "--json"]
    assert triptych(*asked, "--where", where).names == ["mug.jpg"]
    for short, one in (
        (["--under", "Holiday"], {"mug.jpg"}),
        (["--since", "2024-07-01", "--before", "2024-07-02"], {"mug.jpg"}),
    ):
        assert set(triptych(*asked, "-k", "50", *short).names) == one
    every = triptych(*asked, "-k", "200").names
    assert len(every) > 40
    assert every.count("mug.jpg") == 1


def test_files_of_a_type(triptych: Run) -> None:
    asked = ["search", "a cat", "--in", "image", "--min-score", "0", "--json", "-k", "50"]
    both = {"mug.jpg", "chelsea-small.jpg"}
    assert set(triptych(*asked, "--type", "jpg").names) == both
    assert set(triptych(*asked, "--type", "jpg,png").names) > both


def test_a_filter_still_gives_as_many_as_are_wanted(triptych: Run) -> None:
    asked = ["search", "a cat", "--in", "image", "--min-score", "0", "--json", "-k", "5"]
    assert all(name.startswith("retina") for name in triptych(*asked, "--where", "name LIKE 'retina%'").names)
    assert len(triptych(*asked, "--where", "name LIKE 'retina%'").names) == 5
    assert not any(name.startswith("retina") for name in triptych(*asked).names)


def test_words_in_a_name_count(triptych: Run) -> None:
    asked = ["search", "invoice 2023", "--min-score", "0", "-k", "4", "--json"]
    auto = triptych(*asked, "--lexical", "auto")
    assert "invoice-2023.md" in auto.names[:2]
    (hit,) = [hit for hit in auto.hits if hit["path"].endswith("invoice-2023.md")]
    assert hit["stages"]["lexical"]["words"] == ["invoice", "2023"]
    assert hit["stages"]["lexical"]["rank"] == 1
    assert hit["stages"]["fused"] > 1 / 11
    only = triptych(*asked, "--lexical", "only")
    assert only.names == ["invoice-2023.md"]
    off = triptych(*asked, "--lexical", "off")
    assert all("lexical" not in hit["stages"] and "fused" not in hit["stages"] for hit in off.hits)


def test_near_duplicates_once_and_unlike_hits(triptych: Run) -> None:
    asked = ["search", "a cat", "--in", "image", "--min-score", "0", "-k", "12", "--json"]
    plain = triptych(*asked)
    both = {"chelsea.png", "chelsea-small.jpg"}
    assert both <= set(plain.names)
    grouped = triptych(*asked, "--diverse", "--group-duplicates")
    assert len(grouped.hits) == 12
    assert len(both & set(grouped.names)) == 1
    (hit,) = [hit for hit in grouped.hits if Path(hit["path"]).name in both]
    assert hit["duplicates"] >= 1
    assert grouped.names[0] == plain.names[0]
    assert triptych(*asked, "--group-duplicates").names != grouped.names


def test_a_concept_is_learned_and_searched(triptych: Run, own_index: Path) -> None:
    examples = ["--yes", "astronaut.png", "astronaut0.png", "--no", "coffee.png", "rocket.png"]
    learned = triptych("concept", "learn", "my-suit", *examples, "--index", own_index)
    assert learned.code == 0, learned.err
    assert "my-suit  image, 2 good, 2 bad" in learned.err
    found = triptych("search", "concept:my-suit", "--in", "image", "-k", "3", "--json", "--index", own_index)
    assert set(found.names) & {"astronaut.png", "astronaut0.png"}
    assert all("probability" in hit["stages"]["terms"][0] for hit in found.hits)
    mixed = triptych("search", "concept:my-suit", "-", "a face", "--json", "--index", own_index)
    assert [one["term"] for one in mixed.hits[0]["stages"]["terms"]] == ["concept:my-suit", "a face"]
    none = triptych("search", "concept:my-suit", "--min-score", "1", "--index", own_index)
    assert (none.code, none.out) == (1, "")


# Other commands, other flags


def test_json_carries_every_stage(triptych: Run) -> None:
    asked = ["search", "invoice 2023", "--rerank", "reciprocal", "--hubness", "--min-score", "0", "--json"]
    told = json.loads(triptych(*asked, "-k", "60").out)
    assert set(told["milliseconds"]) >= {"encode", "context", "search", "words", "rerank", "vary"}
    assert told["searched"] == ["image", "text", "audio"]
    assert {key for hit in told["hits"] for key in hit["stages"]} == {"terms", "lexical", "fused", "reranked"}
    pictures = [hit for hit in told["hits"] if hit["modality"] == "image"]
    assert any("adjusted" in hit["stages"]["terms"][0] for hit in pictures)
    for hit in told["hits"]:
        (term,) = hit["stages"]["terms"]
        assert term["term"] == "invoice 2023"
        assert 0 <= hit["probability"] == term["probability"] <= 1


def test_schema_lists_the_columns(triptych: Run) -> None:
    rows = json.loads(triptych("schema", "--json").out)
    assert [row["name"] for row in rows] == [column.name for column in COLUMNS]
    assert {row["name"]: row["example"] for row in rows}["taken_at"].startswith("2024-07-01")
    assert triptych("schema").out.startswith("column ")


def test_duplicates_are_listed(triptych: Run, place: Path) -> None:
    groups = json.loads(triptych("duplicates", "--in", "image", "--json").out)
    names = [[Path(file["path"]).name for file in group["files"]] for group in groups]
    assert ["chelsea.png", "chelsea-small.jpg"] in names
    rest = triptych("duplicates", "--in", "image", "--paths")
    assert str(place / "media" / "chelsea-small.jpg") in rest.out.splitlines()
    assert str(place / "media" / "chelsea.png") not in rest.out.splitlines()
    none = triptych("duplicates", "--in", "audio")
    assert (none.code, none.out, "no duplicates" in none.err) == (1, "", True)


def test_calibrate_keeps_a_dry_run_does_not_and_forget_goes_back(triptych: Run, own_index: Path) -> None:
    def told() -> list[float]:
        asked = ["search", "a cat", "--in", "image", "--min-score", "0", "--json", "--index", own_index]
        return [hit["probability"] for hit in triptych(*asked).hits]

    before = told()
    dry = triptych("calibrate", "--dry-run", "--index", own_index)
    assert (dry.code, "text to image: " in dry.err) == (0, True)
    assert told() == before
    kept = triptych("calibrate", "--index", own_index)
    assert kept.err.splitlines()[:-1] == dry.err.splitlines()[:-1]
    assert (dry.err.splitlines()[-1], "kept in the index" in kept.err) == ("nothing was changed", True)
    assert told() != before
    assert triptych("calibrate", "--forget", "--index", own_index).code == 0
    assert told() == before


def test_like_and_repeat_go_on_from_the_last_search(triptych: Run) -> None:
    asked = ["search", "a cup of coffee", "--in", "image", "--lexical", "off", "--min-score", "0", "--json"]
    first = triptych(*asked, "-k", "6")
    second = triptych("search", "--repeat", "-k", "3", "--offset", "3", "--json")
    assert second.hits == first.hits[3:]
    assert [hit["rank"] for hit in second.hits] == [4, 5, 6]
    like = triptych("search", "--like", "5", "--in", "image", "--min-score", "0", "-k", "3", "--json")
    assert like.hits[0]["item"] == first.hits[4]["item"]
    assert like.hits[0]["score"] == pytest.approx(1, abs=1e-3)
    again = triptych("search", "--repeat", "--json")  # also what was like a hit
    assert again.hits == like.hits
    file = triptych(
        "search", "--like", "rocket.png", "--in", "image", "--min-score", "0", "-k", "3", "--json"
    )
    assert file.names[0] == "rocket.png"
    past = triptych("search", "--repeat", "--offset", "1000")
    assert (past.code, past.out) == (1, "")
    assert "1000 were to be left out" in past.err


def test_no_history_keeps_nothing(triptych: Run, home_with_starter: Path) -> None:
    kept = home_with_starter / "data" / HISTORY
    before = sorted((home_with_starter / "data").iterdir())
    assert triptych("search", "a cat", "--no-history").code == 0
    assert sorted((home_with_starter / "data").iterdir()) == before
    nothing = triptych("search", "--repeat")
    assert (nothing.code, "no last search" in nothing.err) == (2, True)
    assert triptych("search", "a cat").code == 0
    data = kept.read_bytes()
    assert kept.stat().st_mode & 0o077 == 0
    assert triptych("search", "a dog", "--no-history").code == 0
    assert kept.read_bytes() == data


def test_the_query_that_json_shows_can_be_asked_again(triptych: Run) -> None:
    asked = ["--in", "image", "--min-score", "0", "-k", "3", "--json", "--index", "."]
    composed = triptych("search", "2*a cat", "-", Path.cwd() / "coffee.png", *asked)
    like = triptych("search", "--like", "2", *asked)
    for first in (composed, like):
        written = json.dumps(json.loads(first.out)["query_json"])
        assert triptych("search", "--query-json", written, *asked).hits == first.hits


def test_what_the_index_lacks_is_said_beside_the_data(triptych: Run) -> None:
    done = triptych("search", "soup", "--in", "audio,text", "--index", "../texts", "--json")
    assert done.err == "the index has no audio: only text is searched\n"
    assert done.names == ["soup.md"]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([""], "the query is empty"),
        ([], "nothing to search for"),
        (["-", "a cat"], "only negated terms"),
        (["--not", "a cat"], "only negated terms"),
        (["0*red"], "a weight of 0 is not positive (column 1)"),
        (["nan*red"], "a weight is not a number (column 1)"),
        (["car", "1e9*red"], "a weight of 1e+09 is too large (column 5)"),
        (["--add", "red", "--weight", "0"], "--add red: a weight of 0 is not positive"),
        (["--add", "red", "--weight", "nan"], "--add red: a weight is not a number"),
        (["--add", "red", "--weight", "1e9"], "--add red: a weight of 1e+09 is too large"),
        (["--add", "red", "--weight", "1", "--weight", "2"], "2 of --weight for 1 of --add"),
        (["../broken.png"], "broken.png: broken PNG"),
        (["red", "+", "../broken.png"], "broken.png: broken PNG"),
        (["red", "--where", "width >"], "the filter is no condition in SQL"),
        (["red", "--where", "1; DROP TABLE items"], "filter"),
        (["red", "--where", "(SELECT 1) = 1"], "filter"),
        (["red", "--where", "read_text('/etc/passwd') = ''"], "read_text"),
        (["red", "--where", "width"], "the filter gives BIGINT, not true or false"),
        (["red", "--where", "widht > 1000"], "there is no column 'widht'\n  did you mean width?"),
        (["red", "--since", "yesterday"], "--since is 'yesterday', which is no day"),
        (["red", "--lexical", "some"], "--lexical is 'some'\n  it takes off, auto, only"),
        (["coffee.png", "--lexical", "only"], "--lexical only needs words in the query"),
        (["red", "--rerank", "maybe"], "--rerank is 'maybe'"),
        (["red", "--min-score", "2"], "--min-score"),
        (["red", "--min-score", "nan"], "--min-score"),
        (["red", "--like", "none.png"], "none.png"),
        (["red", "--repeat"], "--repeat and a query"),
        (["concept:none"], "the index has no concept 'none'"),
        (["red", "--in", "audio", "--index", "../texts"], "the index has no audio\n  it has text"),
        (["red", "--in", ""], "--in is ''\n  it takes one or more of image,text,audio"),
    ],
)
def test_bad_input_is_named(triptych: Run, arguments: list[str], part: str) -> None:
    done = triptych("search", *arguments)
    assert (done.code, done.out) == (2, "")
    assert part in done.err
    assert "Traceback" not in done.err


def test_a_concept_of_one_side_is_refused(triptych: Run, own_index: Path) -> None:
    done = triptych("concept", "learn", "cup", "--no", "coffee.png", "--index", own_index)
    assert done.code == 2
    assert "error: cup has no good example, only bad ones" in done.err
    assert "no concept 'cup'" in triptych("search", "concept:cup", "--index", own_index).err


def test_a_filter_that_matches_nothing_is_an_empty_list(triptych: Run) -> None:
    done = triptych("search", "red", "--where", "width > 100000")
    assert (done.code, done.out) == (1, "")
    assert "nothing in the index matches the filter width > 100000" in done.err
    told = json.loads(triptych("search", "red", "--where", "width > 100000", "--json").out)
    assert (told["hits"], told["nothing"]) == ([], "nothing in the index matches the filter width > 100000")


def test_calibrate_without_captions_says_so(triptych: Run, place: Path) -> None:
    done = triptych("calibrate", "--index", place / "texts")
    assert done.code == 2
    assert "no item of the index has both a caption and a picture or a sound" in done.err
