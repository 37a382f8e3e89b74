"""Search over a real index made with the toy encoder, against a plain loop over all vectors."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer.build import update
from indexer.errors import QueryError
from indexer.snapshot import Snapshot
from indexer.types import Modality, Source
from retrieval.query.compose import compose
from retrieval.query.search import search
from retrieval.types import Query, SearchResult
from tests.toy import asked, toy_encoders

WORDS = ["red boat", "green hill", "blue sea", "black cat", "white snow", "red red red"]


def tone(path: Path, hertz: float, seconds: float) -> None:
    pcm = np.sin(2 * np.pi * hertz * np.arange(int(8000 * seconds)) / 8000)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes((pcm * 20000).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (32, 32), colour).save(folder / f"{colour}.png")
        Image.new("RGB", (30, 30), colour).save(folder / f"{colour}-twin.bmp")
    (folder / "red.txt").write_text("a boat")  # the caption of red.png
    for number, words in enumerate(WORDS):
        (folder / f"note{number}.md").write_text(words)
    tone(folder / "low.wav", 200, 21.0)
    tone(folder / "high.wav", 1500, 2.0)
    update(folder / ".triptych", [folder], encoders=toy_encoders())
    return folder / ".triptych"


@pytest.fixture
def snapshot(index: Path) -> Iterator[Snapshot]:
    with Snapshot.open(index) as opened:
        yield opened


def ask(snapshot: Snapshot, text: str, **options: object) -> SearchResult:
    query = Query(Modality.TEXT, text=text)
    vector = compose(query, toy_encoders()[Modality.TEXT])
    return search(snapshot, asked(query, vector, **options))


def names(result: SearchResult) -> list[str]:
    return [Path(hit.path).name for hit in result.hits]


def test_words_find_pictures_and_sounds(snapshot: Snapshot) -> None:
    assert set(names(ask(snapshot, "green", modalities=[Modality.IMAGE], k=2))) == {
        "green.png",
        "green-twin.bmp",
    }
    assert names(ask(snapshot, "high", modalities=[Modality.AUDIO], k=1)) == ["high.wav"]


def test_every_modality_has_its_turn(snapshot: Snapshot) -> None:
    result = ask(snapshot, "red", k=3)
    assert {hit.modality for hit in result.hits} == set(Modality)
    assert result.searched == tuple(Modality)
    assert [hit.rank for hit in result.hits] == [1, 2, 3]


def test_a_caption_finds_its_picture(snapshot: Snapshot) -> None:
    (hit,) = ask(snapshot, "a boat", modalities=[Modality.TEXT], k=1).hits
    assert (Path(hit.path).name, hit.source, hit.text) == ("red.png", Source.CAPTION, "a boat")


def test_items_come_once_and_segments_all(snapshot: Snapshot) -> None:
    items = ask(snapshot, "low", modalities=[Modality.AUDIO])
    assert sorted(names(items)) == ["high.wav", "low.wav"]
    segments = ask(snapshot, "low", modalities=[Modality.AUDIO], segments=True)
    assert sorted(names(segments)) == ["high.wav", *["low.wav"] * 4]
    ranges = {(hit.range.start, hit.range.end) for hit in segments.hits if hit.range}
    assert {(0.0, 10.0), (5.0, 15.0), (10.0, 20.0), (0.0, 2.0)} <= ranges


@pytest.mark.parametrize("k", [1, 2, 4, 7, 50])
def test_equals_a_plain_loop(snapshot: Snapshot, k: int) -> None:
    query = compose(Query(Modality.TEXT, text="red cat"), toy_encoders()[Modality.TEXT])
    for modality in Modality:
        best: dict[str, float] = {}
        for table, vectors in snapshot.vectors(modality):
            for content, source, vector in zip(
                table["content_hash"].to_pylist(), table["source"].to_pylist(), vectors, strict=True
            ):
                for item in snapshot.items_of({(content, modality, Source(source))})[
                    content, modality, Source(source)
                ]:
                    best[item.id] = max(best.get(item.id, -2.0), float(vector @ query))
        plain = sorted(best.items(), key=lambda pair: (-round(pair[1], 5), pair[0]))[:k]
        found = ask(snapshot, "red cat", modalities=[modality], k=k).hits
        assert [round(hit.score, 5) for hit in found] == pytest.approx(
            [round(s, 5) for _, s in plain], abs=2e-5
        )
        assert {hit.item_id for hit in found} <= set(best)
        assert len(found) == min(k, len(best))


def test_a_modality_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("words")
    update(tmp_path / ".triptych", [tmp_path], encoders=toy_encoders())
    with Snapshot.open(tmp_path / ".triptych") as snapshot:
        with pytest.raises(QueryError, match="no image") as caught:
            ask(snapshot, "x", modalities=[Modality.IMAGE])
        assert "text" in (caught.value.hint or "")


def test_an_empty_index_gives_no_hits(tmp_path: Path) -> None:
    update(tmp_path / ".triptych", [tmp_path], encoders=toy_encoders())
    with Snapshot.open(tmp_path / ".triptych") as snapshot:
        assert ask(snapshot, "x").hits == ()
