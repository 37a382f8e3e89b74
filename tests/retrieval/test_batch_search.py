"""A batch of queries against one search for each: several parts, deletions, ties, duplicates, captions."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from indexer import vectors
from indexer.build import BuildOptions, update
from indexer.errors import QueryError, WeightsMissing
from indexer.nearest import Rows
from indexer.snapshot import Snapshot
from indexer.types import Modality, Source
from retrieval.query import batch
from retrieval.query.batch import Answer, read_lines, search_lines
from retrieval.query.language.jsonform import to_json
from retrieval.query.searcher import Searcher
from retrieval.runtime import bulk
from retrieval.runtime.devices import Device, Kind
from retrieval.types import Query, Request, Term
from tests.retrieval.test_search import tone
from tests.toy import DIM, toy_encoders, word_vector

WORDS = ["red", "green", "blue", "boat", "hill", "sea", "cat", "snow", "low", "high"]
LINES = [*WORDS, "red boat", "a blue sea", "green hill high", "silence", "red boat"]


def write(folder: Path, seed: int) -> None:
    """Texts of few words, so that many have one vector; twins of one content; pictures, captions, sounds."""
    noise = np.random.default_rng(seed)
    for number in range(40):
        words = noise.choice(WORDS, size=int(noise.integers(1, 4)))
        (folder / f"note{seed}-{number}.md").write_text(" ".join(words))
    for number in range(4):
        (folder / f"twin{seed}-{number}.md").write_text("red boat")
    (folder / f"long{seed}.md").write_text(" ".join(noise.choice(WORDS, size=1200)))
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (30 + seed, 30), colour).save(folder / f"{colour}{seed}.png")
    (folder / f"red{seed}.txt").write_text("a boat")
    tone(folder / f"low{seed}.wav", 200, 12.0 + seed)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts and more; of each some rows are dead."""
    folder = tmp_path_factory.mktemp("batch")
    for seed in range(3):
        write(folder, seed)
        update(folder / ".triptych", [folder], encoders=toy_encoders())
    for seed in range(3):
        for number in range(0, 40, 5):
            (folder / f"note{seed}-{number}.md").unlink()
        (folder / f"green{seed}.png").unlink()
    update(folder / ".triptych", [folder], encoders=toy_encoders(), options=BuildOptions(prune=True))
    with Snapshot.open(folder / ".triptych") as snapshot:
        assert len(snapshot.generation.parts) >= 3
        assert all(part.dead for part in snapshot.generation.parts)
    return folder / ".triptych"


def opened(index: Path) -> Searcher:
    towers = toy_encoders()
    model: Any = SimpleNamespace(tower=towers.__getitem__, dim=DIM)
    return Searcher(Snapshot.open(index), model)


@pytest.fixture
def searcher(index: Path) -> Iterator[Searcher]:
    with opened(index) as one:
        yield one


def assert_as_alone(searcher: Searcher, answers: list[Answer], lines: list[str], wanted: Request) -> None:
    assert [answer.line for answer in answers] == lines
    for answer in answers:
        alone = searcher.search(
            answer.line, k=wanted.k, modalities=wanted.modalities, segments=wanted.segments
        )
        assert answer.result is not None
        assert answer.result.hits == alone.hits
        assert answer.result.searched == alone.searched
        assert answer.result.request.query == alone.request.query


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10, 500])
def test_equals_one_search_for_each(searcher: Searcher, k: int, segments: bool) -> None:
    wanted = Request(k=k, segments=segments)
    answers = list(search_lines(searcher, LINES, wanted))
    assert_as_alone(searcher, answers, LINES, wanted)
    assert {hit.source for a in answers if a.result for hit in a.result.hits} >= {Source.FILE}


def test_ties_duplicates_and_captions_are_there(searcher: Searcher) -> None:
    """What the comparison above is worth: the index has all of them, among what is found."""
    ties, caption = list(
        search_lines(searcher, ["red boat", "a boat"], Request(k=30, modalities=(Modality.TEXT,)))
    )
    assert ties.result
    assert caption.result
    scores = [hit.score for hit in ties.result.hits]
    assert scores.count(scores[0]) > 12
    assert sum("twin" in str(hit.path) for hit in ties.result.hits) == 12
    assert caption.result.hits[0].source is Source.CAPTION


@pytest.mark.parametrize(("matches", "candidates", "group"), [(7, 50, 4), (100, 30, 3), (1, 1, 1)])
def test_small_pieces_change_nothing(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch, matches: int, candidates: int, group: int
) -> None:
    monkeypatch.setattr(batch, "MATCHES", matches)
    monkeypatch.setattr(batch, "CANDIDATES", candidates)
    monkeypatch.setattr(batch, "GROUP", group)
    for wanted in (Request(k=5), Request(k=2, modalities=(Modality.AUDIO, Modality.IMAGE))):
        assert_as_alone(searcher, list(search_lines(searcher, LINES, wanted)), LINES, wanted)


@pytest.mark.parametrize("gpu", [True, None])
def test_a_device_gives_the_same(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch, gpu: bool | None
) -> None:
    """torch's product, computed on the CPU in a device's stead."""
    made: list[Rows] = []

    class Counted(bulk.TorchFlat):
        def __init__(self, rows: Rows, device: str) -> None:
            made.append(rows)
            super().__init__(rows, device)

    monkeypatch.setattr(bulk, "TorchFlat", Counted)
    monkeypatch.setattr(batch, "search_device", lambda *_, **__: Device(Kind.MPS, ("cpu",)))
    monkeypatch.setattr(batch, "WORTH", 0)
    monkeypatch.setattr(batch, "GROUP", 6)
    wanted = Request(k=4)
    assert_as_alone(searcher, list(search_lines(searcher, LINES, wanted, gpu=gpu)), LINES, wanted)
    assert made
    assert len(made) == len({rows.name for rows in made})  # each part went there once
    assert any(rows.alive is not None for rows in made)


def test_a_few_queries_start_no_gpu(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Device:
        raise AssertionError("looked for a GPU")

    monkeypatch.setattr(batch, "search_device", refuse)
    for gpu in (None, False):
        assert len(list(search_lines(searcher, LINES, Request(k=2), gpu=gpu))) == len(LINES)


def test_without_a_gpu_one_line(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(bulk, "may_have_device", lambda: False)
    monkeypatch.setattr(batch, "GROUP", 3)
    lines: list[str] = []
    answers = list(search_lines(searcher, LINES, Request(k=3), gpu=True, note=lines.append))
    assert_as_alone(searcher, answers, LINES, Request(k=3))
    assert len(lines) == 1
    assert "no GPU" in lines[0]


def test_a_part_with_inverted_lists_is_compared_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lists of a search of its own may miss a hit; a batch never does."""
    monkeypatch.setattr(vectors, "IVF_FROM", 300)
    noise = np.random.default_rng(1)
    for number in range(500):
        (tmp_path / f"{number}.md").write_text(" ".join(noise.choice(WORDS, size=4)) + f" {number}")
    index = tmp_path / ".triptych"
    update(index, [tmp_path], encoders=toy_encoders())
    with opened(index) as searcher:
        (part,) = searcher.snapshot.generation.parts
        assert part.kinds[Modality.TEXT] == "ivf"
        (_, stored), *_ = searcher.snapshot.vectors(Modality.TEXT)
        looked: list[object] = []
        monkeypatch.setattr(vectors, "structure_candidates", lambda *one, **_: looked.append(one))
        answers = list(search_lines(searcher, LINES, Request(k=10)))
        assert not looked
        for answer in answers:
            (one,) = toy_encoders()[Modality.TEXT].encode([np.frombuffer(answer.line.encode(), np.uint8)])
            best = np.sort(stored @ one)[::-1][:10]
            assert answer.result
            np.testing.assert_allclose([hit.score for hit in answer.result.hits], best, atol=1e-5)
        searcher.search("red", k=10)
        assert looked  # the control: a search of its own asks the lists


def test_lines_that_are_no_queries_are_told_and_the_others_answered(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "blue.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setattr(batch, "MAX_LINE", 200)
    lines = ["red", "", "./none.png", "-", f"file:{tmp_path}/broken.png", "caf\udce9", "x" * 201]
    lines += [str(tmp_path / "blue.png"), "text:./none.png", "sea"]
    answers = list(search_lines(searcher, lines, Request(k=3)))
    parts = {
        1: "empty",
        2: "no file",
        3: "standard input",
        4: "",
        5: "UTF-8",
        6: "longer",
    }
    assert [number for number, answer in enumerate(answers) if answer.error is not None] == list(parts)
    for number, part in parts.items():
        assert part in (answers[number].error or "")
        assert answers[number].result is None
    good = [answer for answer in answers if answer.result]
    assert_as_alone(searcher, good, [lines[0], *lines[7:]], Request(k=3))
    assert good[1].result
    assert good[1].result.request.terms[0].query.modality is Modality.IMAGE


def test_an_object_on_a_line_is_a_query_of_any_form(searcher: Searcher, tmp_path: Path) -> None:
    both: dict[str, Any] = {"all": [{"text": "red"}, {"not": {"text": "boat"}}]}
    vector = to_json(Term(Query(Modality.TEXT, name="hill", vector=word_vector("hill"))))
    (tmp_path / "going.png").write_bytes(b"")
    gone = {"any": [{"text": "sea"}, {"file": str(tmp_path / "going.png")}]}
    told = [both, {"text": "red - boat"}, vector, {"txt": "a"}, gone]
    lines = [" " + json.dumps(one) for one in told]
    lines += ["{", '{"all": [{"text": "caf\udce9"}, {"text": "a"}]}', "red - boat", "text:{"]
    answers = list(search_lines(searcher, lines, Request(k=5)))
    assert [answer.line for answer in answers] == lines
    for number in (0, 1, 2, 7, 8):
        result = answers[number].result
        assert result is not None, answers[number].error
        assert result.hits == searcher.search(result.request).hits
        assert len(result.hits) == 5
    assert answers[0].result is not None
    assert to_json(answers[0].result.request.expression) == both
    wrong = {3: "unknown key", 4: "broken|empty", 5: "not JSON", 6: "UTF-8"}
    for number, part in wrong.items():
        assert re.search(part, answers[number].error or ""), answers[number]


def test_no_line_costs_the_others_their_answers(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "blue.png")
    towers = toy_encoders()

    def tower(modality: Modality) -> Any:
        if modality is Modality.IMAGE:
            raise WeightsMissing("the picture tower is not installed")
        return towers[modality]

    monkeypatch.setattr(searcher.model, "tower", tower)
    picture = {"file": str(tmp_path / "blue.png")}
    missing = json.dumps({"all": [{"text": "red"}, picture]})
    long = "x" * 300
    lines = ["red", missing, "~100 birds", json.dumps(picture), f"file:{long}.png", "~\0"]
    lines += [json.dumps({"any": [{"text": "sea"}, {"file": long}]})]
    lines += [json.dumps({"file": "~none/x.png"}), "sea"]
    answers = list(search_lines(searcher, lines, Request(k=3, modalities=(Modality.TEXT,))))
    assert [answer.line for answer in answers] == lines
    parts = {1: "tower", 3: "tower", 4: "cannot be read", 6: "cannot be read", 7: "does not exist"}
    assert [number for number, answer in enumerate(answers) if answer.error is not None] == list(parts)
    for number, part in parts.items():
        assert part in (answers[number].error or "")
    for number in {*range(len(lines))} - {*parts}:
        result = answers[number].result
        assert result is not None
        assert len(result.hits) == 3


def test_a_vector_of_another_length_is_told(searcher: Searcher) -> None:
    line = json.dumps(to_json(Term(Query(Modality.TEXT, name="short", vector=np.ones(3, np.float32)))))
    (answer,) = search_lines(searcher, [line], Request())
    assert answer.error == f"short has 3 dimensions, the index's vectors {DIM}"


def test_no_line_and_a_modality_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("words")
    update(tmp_path / ".triptych", [tmp_path], encoders=toy_encoders())
    with opened(tmp_path / ".triptych") as searcher:
        assert list(search_lines(searcher, [], Request(k=3))) == []
        with pytest.raises(QueryError, match="no image"):
            list(search_lines(searcher, ["x"], Request(k=3, modalities=(Modality.IMAGE,))))


def test_an_empty_index_gives_no_hits(tmp_path: Path) -> None:
    update(tmp_path / ".triptych", [tmp_path], encoders=toy_encoders())
    with opened(tmp_path / ".triptych") as searcher:
        (answer,) = search_lines(searcher, ["x"], Request(k=3))
        assert answer.result
        assert answer.result.hits == ()


def test_lines_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\xef\xbb\xbfred\r\n\nblue sea\nlast"
    assert list(read_lines(io.BytesIO(data))) == ["red", "", "blue sea", "last"]
    monkeypatch.setattr(batch, "MAX_LINE", 5)
    cut = list(read_lines(io.BytesIO(b"x" * 23 + b"\nred\n\xff\n")))
    assert cut == ["xxxxxx", "red", "\udcff"]
