"""How many near-duplicates a hit is said to have: the same however many hits were looked at or are shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from indexer.build import BuildOptions, update
from indexer.snapshot import Snapshot
from indexer.twins import Twins
from indexer.types import Modality
from retrieval.indexing import derivations
from retrieval.query.context import Context
from retrieval.query.scores import bank as banks
from retrieval.query.searcher import Searcher
from retrieval.query.second import counted
from retrieval.types import Hit, Lexical, Query, Request, Term
from tests.retrieval.test_query_stages import MANY, SEA, ToyModel, opened, page_by_page, pattern
from tests.retrieval.test_search import tone
from tests.toy import toy_encoders

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO
COPIES, NEAR = 12, 2  # items of one red picture, further contents near it
RED = COPIES + NEAR - 1  # beside the one that is shown


def write(folder: Path) -> None:
    """Copies of a red picture in two folders, the last with a caption; pictures near it, others, sounds."""
    places = [folder / "sea", folder / "land"]
    for place in places:
        place.mkdir(parents=True)
    for number in range(COPIES):
        Image.new("RGB", (32, 32), "red").save(places[number % 2] / f"copy{number}.png")
    (places[(COPIES - 1) % 2] / f"copy{COPIES - 1}.txt").write_text("red")
    for side in range(NEAR):
        Image.new("RGB", (20 + side, 20 + side), "red").save(places[0] / f"near{side}.png")
    for number in range(20):
        pattern(places[number % 2] / f"pattern{number}.png", number, ("green", "blue")[number % 2])
    tone(places[0] / "tone.wav", 200, 14.0)
    for number in range(2):
        shutil.copy(places[0] / "tone.wav", places[1] / f"tone{number}.wav")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alike")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_HOME", str(folder / "home"))
        patch.setattr(banks, "PHRASES", 60)
        write(folder / "media")
        model: Any = ToyModel(folder)
        options = BuildOptions(model="toy", derivations=derivations(model), workers=1)
        update(folder / "index", [folder / "media"], encoders=toy_encoders(), options=options)
    return folder / "index"


@pytest.fixture
def searcher(made: Path) -> Iterator[Searcher]:
    with opened(made, made.parent) as one:
        yield one


def asked(text: str = "red", **options: Any) -> Request:
    chosen: dict[str, Any] = {"lexical": Lexical.OFF, "group_duplicates": True, "modalities": (IMAGE,)}
    return Request(Term(Query(TEXT, text=text)), **chosen | options)


def the_reds(hits: Sequence[Hit]) -> list[Hit]:
    return [hit for hit in hits if Path(str(hit.path)).stem.startswith(("copy", "near"))]


@pytest.mark.parametrize("k", [1, 2, 20, MANY])
@pytest.mark.parametrize("lexical", [Lexical.OFF, Lexical.AUTO])
@pytest.mark.parametrize("diverse", [None, 0.5])
def test_the_count_does_not_hang_on_how_many_are_shown(
    searcher: Searcher, k: int, lexical: Lexical, diverse: float | None
) -> None:
    """All items of all contents of the group count: those of one content, and the near ones."""
    request = asked(k=MANY, lexical=lexical, diverse=diverse)
    every = searcher.search(request).hits
    assert [hit.duplicates for hit in the_reds(every)] == [every[0].duplicates] == [RED]
    assert searcher.search(replace(request, k=k)).hits == every[:k]


def test_copies_are_counted_where_no_groups_are_known(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Twins, "open", lambda _: None)
    for k in (1, 2, MANY):
        hits = the_reds(searcher.search(asked(k=k)).hits)
        told = {Path(str(hit.path)).stem[:4]: hit.duplicates for hit in hits}
        assert told.items() <= {"copy": COPIES - 1, "near": 0}.items()
    assert len(hits) == 1 + NEAR


def test_pages_say_what_one_list_says(searcher: Searcher) -> None:
    request = asked(modalities=())
    every = searcher.search(replace(request, k=12)).hits
    assert sum(hit.duplicates > 0 for hit in every) >= 2  # pictures and sounds
    for size in (1, 3, 4):
        assert page_by_page(searcher, request, size, 12 // size) == every


def test_only_what_the_filter_allows_counts(searcher: Searcher) -> None:
    for k in (1, MANY):
        in_sea = the_reds(searcher.search(asked(k=k, where=SEA)).hits)
        assert [hit.duplicates for hit in in_sea] == [COPIES // 2 + NEAR - 1]
        small = the_reds(searcher.search(asked(k=k, where="width < 32")).hits)
        assert [hit.duplicates for hit in small] == [NEAR - 1]
    everything = searcher.search(asked(k=MANY, where="width > 0")).hits
    assert everything == searcher.search(asked(k=MANY)).hits


def test_an_item_that_its_caption_found_is_no_other_picture(searcher: Searcher) -> None:
    """It is shown by its caption, which says of no other item that it is alike, and counts as a picture."""
    hits = searcher.search(asked(modalities=(IMAGE, TEXT), k=MANY)).hits
    told = {hit.modality: hit.duplicates for hit in the_reds(hits)}
    assert told == {TEXT: 0, IMAGE: RED}


def test_every_segment_of_an_item_has_its_count(searcher: Searcher) -> None:
    for k in (1, 2, MANY):
        hits = searcher.search(asked("low", k=k, segments=True, modalities=(AUDIO,))).hits
        assert [hit.duplicates for hit in hits] == [2] * len(hits)
        assert len({hit.item_id for hit in hits}) == 1
    assert len(hits) == 2


def test_nothing_is_counted_that_is_not_shown_or_not_grouped(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def noted(snapshot: Snapshot, context: Context, hits: Sequence[Hit]) -> list[Hit]:
        seen.append(len(hits))
        return counted(snapshot, context, hits)

    monkeypatch.setattr("retrieval.query.search.counted", noted)
    searcher.search(asked(k=3, offset=2))
    plain = searcher.search(asked(k=4, group_duplicates=False)).hits
    assert [count for count in seen if count] == [3, 4]  # a first look may find too few for the page
    assert {hit.duplicates for hit in plain} == {0}


def test_items_that_tie_at_the_end_of_a_page_do_not_read_the_whole_index(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = []
    search_many = searcher.snapshot.search_many
    monkeypatch.setattr(
        searcher.snapshot,
        "search_many",
        lambda *args, **options: asks.append(args[2]) or search_many(*args, **options),
    )
    hits = searcher.search(asked(k=4, group_duplicates=False)).hits
    assert asks == [16]
    every = searcher.search(asked(k=MANY, group_duplicates=False)).hits
    assert len({hit.score for hit in every[:COPIES]}) == 1
    assert hits == every[:4]
