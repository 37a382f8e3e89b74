"""Explanations over a real index made with the toy encoder, and how they are shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
from indexer.build import update
from indexer.errors import ConfigError, QueryError
from indexer.snapshot import Snapshot
from indexer.types import Modality, Range
from retrieval.query import session
from retrieval.query.explain.explain import explain
from retrieval.query.explain.types import PictureHeat, SoundHeat, Word, Words
from retrieval.query.search import search
from retrieval.query.searcher import Searcher
from retrieval.render.heat import explanation_json, explanation_lines, heat_lines, words_line
from retrieval.types import AllOf, Expression, Lexical, LexicalScore, Not, Query, Request, Term
from tests.retrieval.test_search import tone
from tests.toy import ToyModel, toy_encoders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (48, 32), colour).save(folder / f"{colour}.png")
    (folder / "red.txt").write_text("a boat")  # the caption of red.png
    (folder / "note.md").write_text("red boat at sea")
    tone(folder / "low.wav", 200, 21.0)
    tone(folder / "high.wav", 1500, 2.0)
    update(folder / ".triptych", [folder], encoders=toy_encoders())
    return folder


@pytest.fixture
def searcher(folder: Path) -> Iterator[Searcher]:
    model: Any = ToyModel()
    with Snapshot.open(folder / ".triptych") as snapshot:
        yield Searcher(snapshot, model)


def words(text: str) -> Term:
    return Term(Query(Modality.TEXT, text=text))


def request(expression: Expression, **options: Any) -> Request:
    return Request(expression, lexical=Lexical.OFF, **options)


def test_stages_are_those_of_the_search(searcher: Searcher, folder: Path) -> None:
    asked = request(words("green boat"), k=100, modalities=(Modality.IMAGE,))
    found = explain(searcher, asked, str(folder / "green.png"))
    [expected] = [h for h in searcher.search(asked).hits if h.path == str(folder / "green.png")]
    assert found.hit == expected
    assert found.indexed
    [term] = found.terms
    assert isinstance(term.heat, PictureHeat)
    assert term.heat.effect.shape == (5, 8)
    assert term.asked is not None
    effects = {word.text: word.effect for word in term.asked.words}
    assert effects["green"] > 0.1 > effects["boat"]


def test_each_term_of_a_composed_request_is_explained(searcher: Searcher, folder: Path) -> None:
    asked = request(AllOf((words("sea"), Not(words("red"), 1.0), words("boat"))))
    found = explain(searcher, asked, str(folder / "note.md"))
    assert [(term.label, term.wanted) for term in found.terms] == [
        ("sea", True),
        ("red", False),
        ("boat", True),
    ]
    for term, stage in zip(found.terms, found.hit.stages.terms, strict=True):
        assert term.cosine == stage.cosine
        assert isinstance(term.heat, Words)
        best = max(term.heat.words, key=lambda word: word.effect)
        assert best.text == term.label
    assert found.best.label in ("sea", "boat")


def test_an_item_that_a_search_would_not_reach(searcher: Searcher, folder: Path) -> None:
    """A search in pictures alone never shows a sound; it is explained all the same, without a rank."""
    asked = request(words("high"), modalities=(Modality.IMAGE,))
    found = explain(searcher, asked, str(folder / "high.wav"))
    assert (found.hit.rank, found.hit.modality, found.indexed) == (0, Modality.AUDIO, True)
    [expected] = [
        h
        for h in searcher.search(request(words("high"), modalities=(Modality.AUDIO,))).hits
        if h.path == found.hit.path
    ]
    assert found.hit.stages == expected.stages
    assert isinstance(found.terms[0].heat, SoundHeat)


def test_words_of_an_item_that_was_alone_have_no_rank(
    searcher: Searcher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worded(*given: Any) -> Any:
        """A search whose every hit has words, as where the index has lists of them."""
        result = search(*given)
        told = LexicalScore(1.5, 1, ("red", "boat"))
        hits = [replace(hit, stages=replace(hit.stages, lexical=told, fused=0.1)) for hit in result.hits]
        return replace(result, hits=tuple(hits))

    monkeypatch.setattr("retrieval.query.explain.explain.search", worded)
    asked = request(words("red boat"), modalities=(Modality.IMAGE,))
    alone = explain(searcher, asked, str(folder / "note.md"))
    assert (alone.hit.rank, alone.hit.stages.lexical) == (0, LexicalScore(1.5, 0, ("red", "boat")))
    assert alone.hit.stages.fused is None
    assert explanation_lines(alone, colour=False)[2] == "   words: red, boat; BM25 1.50"
    among = explanation_lines(explain(searcher, asked, str(folder / "red.png")), colour=False)
    assert among[2:4] == ["   words: red, boat; BM25 1.50, rank 1", "   ranks fused: 0.1000"]


def test_a_file_that_the_index_does_not_know(searcher: Searcher, folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (250, 3, 3)).save(tmp_path / "new.png")
    found = explain(searcher, request(words("red")), str(tmp_path / "new.png"))
    assert not found.indexed
    assert found.hit.stages.terms[0].cosine > 0.8
    assert found.terms[0].asked is not None
    assert found.terms[0].asked.words[0].effect == pytest.approx(found.terms[0].cosine, abs=1e-5)


def test_a_hit_of_the_last_search_by_its_number(searcher: Searcher, folder: Path, home: Path) -> None:
    asked = request(words("low"), k=3, segments=True, modalities=(Modality.AUDIO,))
    result = searcher.search(asked)
    session.save(result)
    found = explain(searcher, asked, "2")
    assert (found.hit.range, found.hit.rank) == (result.hits[1].range, 2)
    assert found.hit.range is not None
    assert isinstance(found.terms[0].heat, SoundHeat)
    assert found.terms[0].heat.seconds[0] == found.hit.range.start
    with pytest.raises(QueryError, match="no hit 9"):
        explain(searcher, asked, "9")


def test_a_file_that_is_gone_keeps_its_numbers(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for colour in ("red", "green"):
        Image.new("RGB", (16, 16), colour).save(media / f"{colour}.png")
    update(media / ".triptych", [media], encoders=toy_encoders())
    (media / "red.png").unlink()
    model: Any = ToyModel()
    with Snapshot.open(media / ".triptych") as snapshot:
        found = explain(Searcher(snapshot, model), request(words("red")), str(media / "red.png"))
    assert found.terms[0].heat is None
    assert found.note is not None
    assert "red.png" in found.note
    assert found.hit.stages.terms[0].cosine > 0.8
    assert found.note in explanation_lines(found, colour=False)


def test_what_nothing_is_called(searcher: Searcher) -> None:
    with pytest.raises(QueryError, match=r"nowhere\.png is no file"):
        explain(searcher, request(words("red")), "nowhere.png")


def test_json_holds_every_number(searcher: Searcher, folder: Path) -> None:
    found = explain(searcher, request(words("red boat")), str(folder / "red.png"))
    told = json.loads(json.dumps(explanation_json(found), allow_nan=False))
    assert told["hit"]["stages"]["terms"][0]["cosine"] == pytest.approx(found.terms[0].cosine, abs=1e-6)
    heat = found.terms[0].heat
    assert isinstance(heat, PictureHeat)
    assert np.allclose(told["terms"][0]["heat"]["effect"], heat.effect, atol=1e-6)
    assert [word["word"] for word in told["terms"][0]["asked"]["words"]] == ["red", "boat"]


# How they are shown


def heat(height: int = 40, width: int = 80) -> PictureHeat:
    effect = np.zeros((4, 8), np.float32)
    effect[1, 6], effect[3, 0] = 0.2, -0.1
    return PictureHeat(effect, np.full((height, width, 3), 255, np.uint8), 10)


def test_shades_stand_where_the_heat_is() -> None:
    lines = heat_lines(heat(), colour=False)
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 12  # a character is twice as high as wide, and a frame
    hot = [(row, column) for row, line in enumerate(lines) for column, char in enumerate(line) if char == "@"]
    rows, columns = zip(*hot, strict=True)
    assert 3 <= min(rows) <= max(rows) <= 6
    assert (min(columns), max(columns)) == (31, 35)
    assert all(char in " @+-|" for line in lines for char in line)


def test_colours_fill_every_line() -> None:
    lines = heat_lines(heat(), colour=True)
    assert [line.count("▀") for line in lines] == [40] * 10
    assert all(line.endswith("\x1b[0m") for line in lines)


def test_a_tall_picture_stays_within_the_terminal() -> None:
    assert len(heat_lines(heat(400, 40), colour=False)) <= 32


def sound() -> SoundHeat:
    effect = np.zeros((3, 4), np.float32)
    effect[2, 1] = 1.0
    seconds, hertz = np.linspace(5, 7, 5, dtype=np.float32), np.array([0, 500, 1500, 4000], np.float32)
    return SoundHeat(effect, seconds, hertz, 9, np.zeros((6, 8), np.float32))


def test_a_sound_shows_bands_and_seconds() -> None:
    lines = heat_lines(sound(), colour=False)
    assert lines[0].startswith("  1500-4000   Hz |")
    assert lines[0].index("@") == 18 + 7
    assert "@" not in "".join(lines[1:])
    assert lines[-1].split() == ["0:05", "0:05.5", "0:06", "0:06.5", "0:07"]


def test_words_that_add_most_are_marked() -> None:
    text = "a red\x1b[31m boat"
    told = Words(text, (Word("a", 0, 1, -0.3), Word("red", 2, 5, 0.4), Word("boat", 11, 15, 0.1)), 4)
    assert words_line(told, colour=False) == "a [red]\\x1b[31m boat"
    assert words_line(told, colour=True) == "a \x1b[4;1mred\x1b[0m\\x1b[31m boat"


# The command


def test_the_command(searcher: Searcher, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Searcher, "open", classmethod(lambda *_, **__: searcher))
    monkeypatch.setattr(searcher, "close", lambda: None)
    target, index = str(folder / "red.png"), str(folder / ".triptych")
    drawn = home / "heat.png"
    args = ["explain", "a red", "+", "boat", target, "--index", index]
    done = CliRunner().invoke(cli.app, [*args, "--png", str(drawn)])
    assert done.exit_code == 0, done.output
    assert "asked: a [red]" in done.stdout
    assert "\x1b" not in done.stdout
    assert Image.open(drawn).format == "PNG"
    told = json.loads(CliRunner().invoke(cli.app, [*args, "--json"]).stdout)
    assert [term["label"] for term in told["terms"]] == ["a red", "boat"]
    nothing = CliRunner().invoke(
        cli.app, ["explain", "sea", str(folder / "note.md"), *args[-2:], "--png", "x"]
    )
    assert isinstance(nothing.exception, ConfigError)  # a text is not drawn
    assert "asked: sea" in nothing.stdout
    session.save(searcher.search(request(words("blue"), modalities=(Modality.IMAGE,))))
    again = json.loads(CliRunner().invoke(cli.app, ["explain", "1", "--json"]).stdout)
    assert again["query"] == "blue"
    assert again["hit"]["path"] == str(folder / "blue.png")


def test_a_picture_without_a_folder_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    args = ["explain", "red", "red.png", "--png", str(tmp_path / "none" / "heat.png")]
    done = CliRunner().invoke(cli.app, [*args, "--index", str(tmp_path / "no-index")])
    assert isinstance(done.exception, ConfigError)
    assert "there is no folder" in str(done.exception)


def test_a_moved_copy_is_drawn_from_where_it_was_named(
    searcher: Searcher, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere.png"
    shutil.copy(folder / "green.png", copy)
    found = explain(searcher, request(words("green")), str(copy))
    assert found.indexed
    assert found.hit.path == str(copy)
    assert found.hit.range is None or isinstance(found.hit.range, Range)
