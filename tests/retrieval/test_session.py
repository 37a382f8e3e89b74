"""The last search: kept, read back, pointed into, and gone without harm."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import QueryError
from indexer.snapshot import Snapshot
from indexer.types import Modality
from retrieval.query import session
from retrieval.query.search import search
from retrieval.query.session import last, like_query, repeated, request_from, request_json, save
from retrieval.types import AllOf, AnyOf, Lexical, Not, Query, Request, Rerank, SearchResult, Term
from tests.indexer.indexes import segments_of, unit
from tests.indexer.indexes import update as update_world
from tests.toy import asked

WORLD = {f"{letter}.png": f"image{letter}" for letter in "abcdefgh"} | {"s.wav": "audio", "t.txt": "text"}

EVERYTHING = Request(
    expression=AllOf(
        (
            Term(Query(Modality.TEXT, text="a hat"), 2.0),
            Not(Term(Query(Modality.IMAGE, name="like b", vector=unit("imageb"))), 0.5),
            AnyOf((Term(Query(Modality.TEXT, concept="boat", name="concept:boat")),), 3.0),
        )
    ),
    k=7,
    offset=3,
    modalities=(Modality.AUDIO, Modality.IMAGE),
    segments=True,
    where="width > 3",
    lexical=Lexical.ONLY,
    hubness=True,
    min_score=0.25,
    diverse=0.5,
    group_duplicates=True,
    rerank=Rerank.RECIPROCAL,
    rerank_top=50,
    reranker="another",
)


@pytest.fixture
def index(tmp_path: Path, home: Path) -> Path:
    update_world(tmp_path / "index", WORLD)
    return tmp_path / "index"


def found(index: Path, word: str = "imageb", **options: object) -> SearchResult:
    """The result of a search for one of the world's vectors, kept."""
    with Snapshot.open(index) as snapshot:
        query = Query(Modality.TEXT, text=word)
        result = search(snapshot, asked(query, unit(word), lexical=Lexical.OFF, **options))
    save(result)
    return result


def test_every_field_of_a_request_comes_back() -> None:
    plain = Request(Term(Query(Modality.TEXT, text="a")))
    unsaid = [
        one.name for one in fields(Request) if getattr(EVERYTHING, one.name) == getattr(plain, one.name)
    ]
    assert not unsaid, "a new field belongs into EVERYTHING, and into request_from if it is no plain value"
    assert request_from(json.loads(json.dumps(request_json(EVERYTHING)))) == EVERYTHING
    assert request_from(json.loads(json.dumps(request_json(plain)))) == plain


def test_vectors_come_back_to_the_bit_and_concepts_by_name() -> None:
    vector = unit("anything")
    pair = AllOf(
        (
            Term(Query(Modality.IMAGE, name="like a", vector=vector)),
            Term(Query(Modality.IMAGE, concept="boat", vector=vector)),
        )
    )
    first, second = request_from(json.loads(json.dumps(request_json(Request(pair))))).terms
    assert np.array_equal(first.query.vector, vector)  # type: ignore[arg-type]
    assert second.query.vector is None
    assert second.query.concept == "boat"


def test_a_file_that_went_is_said(index: Path, tmp_path: Path) -> None:
    result = found(index)
    file = tmp_path / "a\udcff.png"
    file.write_bytes(b"")
    save(replace(result, request=Request(Term(Query(Modality.IMAGE, path=file)))))
    kept = repeated()[0].query
    assert kept is not None
    assert kept.path == file
    file.unlink()
    with pytest.raises(QueryError, match=r"cannot be asked again: the query.file: .*does not exist"):
        repeated()


def test_a_search_is_repeated_on_the_index_as_it_is_now(index: Path) -> None:
    result = found(index, k=3, modalities=(Modality.IMAGE,))
    request, place = repeated()
    assert (request, place) == (result.request, index)
    assert [hit.item_id for hit in last().hits] == [hit.item_id for hit in result.hits]


def test_more_like_a_hit_is_its_very_segment(index: Path) -> None:
    result = found(index, "audio+second", k=4, offset=1, modalities=(Modality.AUDIO,), segments=True)
    (hit,) = result.hits
    assert hit.rank == 2
    ranges = [segment.range for segment in segments_of("audio")[0]]
    with Snapshot.open(index) as snapshot:
        query = like_query(snapshot, "2")
        assert query.modality is Modality.AUDIO
        assert query.label == "like /media/s.wav"
        expected = segments_of("audio")[1][ranges.index(hit.range)]
        assert np.allclose(query.vector, expected, atol=1e-3)  # type: ignore[arg-type]
        for number in ("1", "3", "0"):
            with pytest.raises(QueryError, match=f"no hit {number}"):
                like_query(snapshot, number)


def test_more_like_a_file_or_an_item(index: Path, tmp_path: Path) -> None:
    with Snapshot.open(index) as snapshot:
        item = next(item for item in snapshot.item_list() if item.path == "c.png")
        for which in (item.id, "/media/c.png"):
            query = like_query(snapshot, which)
            assert np.allclose(query.vector, unit("imagec"), atol=1e-3)  # type: ignore[arg-type]
        other = tmp_path / "other.txt"
        other.write_text("words that the index does not have")
        assert like_query(snapshot, str(other)) == Query(Modality.TEXT, path=other)
        with pytest.raises(QueryError, match="nothing of that name"):
            like_query(snapshot, "a red hat")


def test_a_last_search_without_hits_has_no_hit_to_point_at(index: Path) -> None:
    save(replace(found(index), hits=()))
    with (
        Snapshot.open(index) as snapshot,
        pytest.raises(QueryError, match="found nothing, so it has no hit 1"),
    ):
        like_query(snapshot, "1")


def test_a_hit_that_went_and_another_index_are_said(index: Path, tmp_path: Path) -> None:
    found(index, "imageb", k=2, modalities=(Modality.IMAGE,))
    update_world(tmp_path / "other", WORLD)
    with (
        Snapshot.open(tmp_path / "other") as other,
        pytest.raises(QueryError, match="the last search was in"),
    ):
        like_query(other, "1")
    update_world(index, {path: word for path, word in WORLD.items() if path != "b.png"})
    with Snapshot.open(index) as snapshot:
        with pytest.raises(QueryError, match="hit 1 of the last search is not in the index any more"):
            like_query(snapshot, "1")
        assert like_query(snapshot, "2").vector is not None


def test_vectors_of_another_model_are_not_repeated(index: Path) -> None:
    result = found(index)
    like = replace(result.request, expression=Term(Query(Modality.IMAGE, name="x", vector=unit("imagea"))))
    save(replace(result, request=like))
    assert repeated()[0] == like
    save(replace(result, request=like, space_id="another"))
    with pytest.raises(QueryError, match="another model"):
        repeated()


def test_standard_input_cannot_be_read_again(index: Path) -> None:
    result = found(index)
    piped = Term(Query(Modality.IMAGE, path=Path("/tmp/gone"), name="-"))
    save(replace(result, request=Request(piped)))
    assert last().hits  # they can still be pointed at
    with pytest.raises(QueryError, match="standard input"):
        repeated()


def test_it_is_for_its_owner_alone(index: Path, home: Path) -> None:
    previous = os.umask(0)
    try:
        found(index)
    finally:
        os.umask(previous)
    file = home / "data" / session.FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [session.FILE]
    session.forget()
    session.forget()
    with pytest.raises(QueryError, match="no last search"):
        last()


def test_no_more_than_so_many_hits_are_kept(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MOST", 2)
    result = found(index, k=5, modalities=(Modality.IMAGE,))
    assert [hit.rank for hit in last().hits] == [hit.rank for hit in result.hits[:2]]


def test_what_cannot_be_written_fails_nothing(index: Path, home: Path) -> None:
    (home / "data").write_text("a file where the folder would be")
    assert found(index).hits
    with pytest.raises(QueryError, match="cannot be read"):
        last()


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"version": 1, "hits": 3}', b'{"version": 9}']
)
def test_what_cannot_be_read_is_said(home: Path, data: bytes) -> None:
    (home / "data").mkdir()
    (home / "data" / session.FILE).write_bytes(data)
    with pytest.raises(QueryError, match="cannot be read") as error:
        last()
    assert error.value.hint == "search once more"


def test_a_request_of_nonsense_is_said(index: Path, home: Path) -> None:
    found(index)
    file = home / "data" / session.FILE
    document = json.loads(file.read_bytes())
    for key, value in (("modalities", ["smell"]), ("expression", {"weight": 1}), ("lexical", "loud")):
        spoiled = document | {"request": document["request"] | {key: value}}
        file.write_text(json.dumps(spoiled))
        with pytest.raises(QueryError, match=r"the last search cannot be (read|asked again: the query says)"):
            repeated()
