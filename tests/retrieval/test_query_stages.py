"""Every stage of a request, over one real index of toy vectors, against plain loops over all of it."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from indexer.build import BuildOptions, update
from indexer.errors import QueryError
from indexer.snapshot import Snapshot
from indexer.twins import Twins
from indexer.types import FloatArray, Item, Modality, Segment, Source
from retrieval.indexing import derivations
from retrieval.query.batch import search_lines
from retrieval.query.compose import combined, standardised
from retrieval.query.concepts.concept import Concept, Marked
from retrieval.query.concepts.concept import Line as ConceptLine
from retrieval.query.concepts.concept import save as save_concept
from retrieval.query.context import Context
from retrieval.query.ranked import Ranked, ranked
from retrieval.query.rerank import reciprocal
from retrieval.query.sample import sampled
from retrieval.query.scores import bank as banks
from retrieval.query.scores import hubness
from retrieval.query.scores.calibrate import FILE, Calibration, Line
from retrieval.query.searcher import Searcher
from retrieval.types import (
    AllOf,
    AnyOf,
    Expression,
    Hit,
    Lexical,
    Not,
    Query,
    Request,
    Rerank,
    SearchResult,
    Term,
)
from tests.retrieval.test_search import tone
from tests.toy import COLOURS, SPACE, ToyModel, word_vector

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO
WORDS = ["red", "green", "blue", "boat", "hill", "sea", "cat", "snow", "low", "high"]
SEA = "path LIKE '%/sea/%'"
MANY = 500  # more than there is
RARE = "zanzibar"  # stands in the name of one picture, whose vector is far from the word's


def pattern(path: Path, seed: int, colour: str) -> None:
    """A picture of random squares about a colour: no two are near-duplicates."""
    noise = np.random.default_rng(seed).integers(-60, 60, (4, 4, 3)) + np.array(COLOURS[colour])
    Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).resize((64, 64), 0).save(path)


def write(folder: Path) -> None:
    """Texts of few words, so that many tie; patterns and plain pictures, captions, sounds, exact copies."""
    noise = np.random.default_rng(7)
    places = [folder / "sea", folder / "land"]
    for place in places:
        place.mkdir(parents=True)
    for number in range(80):
        words = noise.choice(WORDS, size=int(noise.integers(1, 4)), replace=False)
        (places[number % 2] / f"note{number}.md").write_text(" ".join(words))
    for number in range(40):
        pattern(places[number % 2] / f"pattern{number}.png", number, list(COLOURS)[number % 5])
    for number in range(16):
        side = 20 + number
        Image.new("RGB", (side, side), ("red", "green", "blue")[number % 3]).save(
            places[number % 2] / f"plain{number}.png"
        )
    pattern(places[0] / f"{RARE}-pier.png", 99, "white")
    (places[0] / "pattern0.txt").write_text("a quixotic boat")
    for place in places:
        (place / "copy.md").write_text("red boat")  # one content, two items
    (places[1] / "long.md").write_text(" ".join(noise.choice(WORDS, size=200)))
    for number, hertz in enumerate((200, 1500, 300)):
        tone(places[number % 2] / f"tone{number}.wav", hertz, 7.0 * (number + 1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_HOME", str(folder / "home"))
        patch.setattr(banks, "PHRASES", 60)
        write(folder / "media")
        model: Any = ToyModel(folder)
        options = BuildOptions(model="toy", derivations=derivations(model))
        towers = {modality: model.tower(modality) for modality in Modality}
        update(folder / "index", [folder / "media"], encoders=towers, options=options)
    return folder / "index"


def opened(index: Path, model: Path) -> Searcher:
    toy: Any = ToyModel(model)
    return Searcher(Snapshot.open(index), toy)


@pytest.fixture
def searcher(made: Path, tmp_path: Path) -> Iterator[Searcher]:
    """A model without a calibration."""
    with opened(made, tmp_path) as one:
        yield one


Calibrated = Callable[..., Searcher]


@pytest.fixture
def calibrated(made: Path, tmp_path: Path) -> Iterator[Calibrated]:
    """Opens the index with a model that has a calibration of this cut; pictures' maps are stricter."""
    found: list[Searcher] = []

    def open_one(cut: float = 0.0, *, modalities: tuple[Modality, ...] = tuple(Modality)) -> Searcher:
        lines = {(TEXT, one): Line((0.4, 0.3), -1.0 if one is TEXT else -2.0, cut) for one in modalities}
        folder = tmp_path / f"model{len(found)}"
        folder.mkdir()
        (folder / FILE).write_bytes(Calibration(lines).to_json())
        found.append(opened(made, folder))
        return found[-1]

    yield open_one
    for one in found:
        one.close()


def words(text: str, weight: float = 1.0) -> Term:
    return Term(Query(TEXT, text=text), weight)


def ask(searcher: Searcher, expression: Expression | str, **options: Any) -> SearchResult:
    """Without words that count as they are written, unless they are asked for."""
    options = {"lexical": Lexical.OFF} | options
    if isinstance(expression, str):
        expression = words(expression)
    return searcher.search(Request(expression, **options))


def ids(result: SearchResult) -> list[str]:
    return ids_of(result.hits)


def ids_of(hits: tuple[Hit, ...]) -> list[str]:
    return [hit.item_id for hit in hits]


def names(result: SearchResult) -> list[str]:
    return [Path(str(hit.path)).name for hit in result.hits]


@dataclass(frozen=True)
class Whole:
    """Every living segment of a modality: its vector and the items that hold it."""

    segments: list[Segment]
    items: list[list[Item]]
    vectors: FloatArray  # (n, dim)


def whole(snapshot: Snapshot, modality: Modality) -> Whole:
    found = sampled(snapshot, modality, 10**9)
    segments = snapshot.segments(found)
    keys = [(one.content_hash, one.modality, one.source) for one in segments]
    items = snapshot.items_of(set(keys))
    return Whole(segments, [list(items.get(key, ())) for key in keys], snapshot.vectors_of(found))


def vector_of(expression: Term) -> FloatArray:
    """A text's own vector, made without any of the code that is tested."""
    mean = np.mean([word_vector(one) for one in str(expression.query.text).split()], axis=0)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


def by_item(every: Whole, scores: FloatArray) -> dict[str, float]:
    best: dict[str, float] = {}
    for score, items in zip(scores.tolist(), every.items, strict=True):
        for item in items:
            best[item.id] = max(best.get(item.id, -2.0), score)
    return best


RED_BOAT_NO_SEA = AllOf((words("red"), words("boat", 2.0), Not(words("sea"))))
RED_OR_BLUE = AllOf((AnyOf((words("red"), words("blue", 0.5))), Not(words("hill"), 3.0)))
NESTED = AnyOf((AllOf((words("green"), words("hill"))), AllOf((words("snow"), Not(words("cat"))))))
COMPOSED = (RED_BOAT_NO_SEA, RED_OR_BLUE, NESTED)


@pytest.mark.parametrize("expression", COMPOSED, ids=["and-not", "or-not", "nested"])
@pytest.mark.parametrize("k", [1, 6, MANY])
def test_composed_requests_equal_a_plain_loop(searcher: Searcher, expression: Expression, k: int) -> None:
    terms = np.stack([vector_of(term) for term in Request(expression).terms])
    for modality in Modality:
        every = whole(searcher.snapshot, modality)
        cosine = terms @ every.vectors.T
        values = standardised(cosine, cosine.mean(axis=1), cosine.std(axis=1))
        expected = by_item(every, combined(expression, values))
        hits = ask(searcher, expression, modalities=(modality,), k=k).hits
        assert len(hits) == min(k, len(expected))
        best = sorted(expected.values(), reverse=True)[:k]
        assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-4)
        for hit in hits:
            assert hit.score == pytest.approx(expected[hit.item_id], abs=1e-4)


def test_and_wants_both_and_not_leaves_out(searcher: Searcher) -> None:
    def told(expression: Expression) -> list[set[str]]:
        hits = ask(searcher, expression, modalities=(TEXT,), k=MANY).hits
        return [set(str(hit.text).split()) for hit in hits]

    def first(texts: list[set[str]]) -> int:
        return next(place for place, text in enumerate(texts) if {"red", "boat"} <= text)

    plain, without = told(words("red")), told(AllOf((words("red"), Not(words("boat"), 5.0))))
    assert first(told(AllOf((words("red"), words("boat"))))) == 0 < first(plain) < first(without)
    assert all("red" in text for text in without[:2])
    either = told(AnyOf((words("snow"), words("cat"))))[:5]
    assert all(text & {"snow", "cat"} for text in either)
    assert {"snow"} in either
    assert {"cat"} in either


def test_numbers_of_every_hit(searcher: Searcher) -> None:
    """Cosines are exact dot products with the shown segment; hubness takes off what hubness.py says."""
    every = {modality: whole(searcher.snapshot, modality) for modality in Modality}
    stored = {
        (one.content_hash, one.modality, one.source, one.range): vector
        for held in every.values()
        for one, vector in zip(held.segments, held.vectors, strict=True)
    }
    for expression in (words("red"), RED_BOAT_NO_SEA):
        result = ask(searcher, expression, k=MANY, hubness=False)
        assert len({hit.modality for hit in result.hits}) == 3
        for hit in result.hits:
            vector = stored[hit.content_hash, hit.modality, hit.source, hit.range]
            assert [one.label for one in hit.stages.terms] == [
                one.query.label for one in result.request.terms
            ]
            for told, term in zip(hit.stages.terms, result.request.terms, strict=True):
                assert told.cosine == pytest.approx(float(vector @ vector_of(term)), abs=1e-5)
                assert told.adjusted == told.cosine
                assert told.probability is None
            assert (hit.stages.lexical, hit.stages.fused, hit.stages.reranked) == (None, None, None)


def test_hubness_changes_the_order_to_that_of_adjusted_cosines(searcher: Searcher) -> None:
    background = searcher.background
    assert background is not None
    found = sampled(searcher.snapshot, IMAGE, MANY)
    cosine = vector_of(words("red")) @ searcher.snapshot.vectors_of(found).T
    adjusted = hubness.adjusted(cosine[None], background, [TEXT], IMAGE, found)[0]
    expected = by_item(whole(searcher.snapshot, IMAGE), adjusted)
    hits = ask(searcher, "red", modalities=(IMAGE,), k=MANY, hubness=True).hits
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-4)
    for hit in hits:
        assert hit.stages.terms[0].adjusted == pytest.approx(expected[hit.item_id], abs=1e-4)
    assert any(one.stages.terms[0].adjusted != one.stages.terms[0].cosine for one in hits)
    plain = ask(searcher, "red", modalities=(IMAGE,), k=MANY, hubness=False)
    assert all(one.stages.terms[0].adjusted == one.stages.terms[0].cosine for one in plain.hits)


# Filters

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "words": {"lexical": Lexical.AUTO},
    "only": {"lexical": Lexical.ONLY},
    "hubness": {"hubness": True},
    "segments": {"segments": True},
    "groups": {"group_duplicates": True},
    "diverse": {"diverse": 0.3},
    "reciprocal": {"rerank": Rerank.RECIPROCAL},
    "composed": {"expression": RED_BOAT_NO_SEA},
    "everything": {
        "expression": RED_BOAT_NO_SEA,
        "lexical": Lexical.AUTO,
        "hubness": True,
        "group_duplicates": True,
        "diverse": 0.3,
        "rerank": Rerank.RECIPROCAL,
    },
}


def formed(form: str, text: str = "red boat", **options: Any) -> Request:
    chosen: dict[str, Any] = {"expression": words(text), "lexical": Lexical.OFF} | FORMS[form] | options
    return Request(**chosen)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("predicate", "fits"),
    [
        (SEA, lambda hit: "/sea/" in str(hit.path)),
        ("modality = 'text' AND text LIKE '%red%'", lambda hit: "red" in str(hit.text)),
    ],
)
def test_a_filter_holds_in_every_stage(
    searcher: Searcher, form: str, predicate: str, fits: Callable[[Hit], bool]
) -> None:
    every = searcher.search(formed(form, k=MANY)).hits
    wanted = [hit for hit in every if fits(hit)]
    assert 0 < len(wanted) < len(every)
    found = searcher.search(formed(form, k=MANY, where=predicate)).hits
    assert all(map(fits, found))
    if not formed(form).group_duplicates:
        assert {hit.item_id for hit in found} >= {hit.item_id for hit in wanted}
    if form in ("plain", "hubness"):  # in one modality the order stays as well
        texts = searcher.search(formed(form, k=MANY, modalities=(TEXT,))).hits
        some = searcher.search(formed(form, k=MANY, modalities=(TEXT,), where=predicate)).hits
        assert ids_of(some) == [hit.item_id for hit in texts if fits(hit)]
    for k in (1, 4, len(found) - 1, len(found)):
        some = searcher.search(formed(form, k=k, where=predicate)).hits
        assert len(some) == k
        assert all(map(fits, some))


def test_of_one_content_only_the_item_that_matches_is_shown(searcher: Searcher) -> None:
    copies = [hit for hit in ask(searcher, "red boat", k=MANY).hits if str(hit.path).endswith("copy.md")]
    assert len(copies) == 2
    assert copies[0].content_hash == copies[1].content_hash
    for form in ("plain", "words", "only", "segments", "groups"):
        found = searcher.search(formed(form, k=MANY, where=f"{SEA} AND name = 'copy.md'")).hits
        assert [Path(str(hit.path)).parts[-2:] for hit in found] == [("sea", "copy.md")]
        assert found[0].duplicates == 0


def test_words_do_not_bring_what_a_filter_leaves_out(searcher: Searcher) -> None:
    options: dict[str, Any] = {"lexical": Lexical.ONLY, "k": MANY}
    assert names(ask(searcher, RARE, **options)) == [f"{RARE}-pier.png"]
    assert names(ask(searcher, RARE, where=SEA, **options)) == [f"{RARE}-pier.png"]
    assert ask(searcher, RARE, where=f"NOT {SEA}", **options).hits == ()
    assert f"{RARE}-pier.png" not in names(ask(searcher, RARE, where=f"NOT {SEA}", lexical=Lexical.AUTO))
    assert ask(searcher, RARE, modalities=(TEXT,), **options).hits == ()


# Probabilities


def test_a_least_probability_takes_a_calibration(searcher: Searcher) -> None:
    with pytest.raises(QueryError, match=r"--min-score 0\.5 is a probability") as caught:
        ask(searcher, "red", min_score=0.5)
    assert "triptych calibrate" in str(caught.value.hint)
    assert ask(searcher, "red", min_score=0.0).hits


def test_probabilities_are_the_maps_own_and_merge_the_modalities(calibrated: Calibrated) -> None:
    searcher = calibrated()
    assert searcher.calibration is not None
    assert searcher.background is not None
    hits = ask(searcher, "red", k=MANY).hits
    for hit in hits:
        (told,) = hit.stages.terms
        cosine = np.array([told.cosine], np.float32)
        expected = searcher.calibration.probabilities(
            cosine, TEXT, hit.modality, searcher.background, vector_of(words("red"))
        )
        assert expected is not None
        assert hit.probability == told.probability == pytest.approx(float(expected[0]), abs=1e-5)
    told_all = [hit.probability or 0.0 for hit in hits]
    assert told_all == sorted(told_all, reverse=True)
    assert len({hit.modality for hit in hits}) == 3
    assert [hit.modality for hit in hits[:3]] != list(Modality)  # as they would take turns


def test_without_a_map_for_one_modality_they_take_turns(calibrated: Calibrated) -> None:
    hits = ask(calibrated(modalities=(TEXT, IMAGE)), "red", k=6).hits
    assert [hit.modality for hit in hits] == [*Modality, *Modality]
    assert {hit.probability is None for hit in hits if hit.modality is AUDIO} == {True}
    assert all(hit.probability is not None for hit in hits if hit.modality is not AUDIO)


def test_min_score_leaves_out_single_hits(calibrated: Calibrated) -> None:
    searcher = calibrated(cut=0.99)
    every = ask(searcher, "red", k=MANY, min_score=0.0).hits
    middle = float(np.median([hit.probability or 0.0 for hit in every]))
    kept = ask(searcher, "red", k=MANY, min_score=middle).hits
    assert [hit.item_id for hit in kept] == [
        hit.item_id for hit in every if (hit.probability or 0.0) >= middle
    ]
    assert 0 < len(kept) < len(every)
    nothing = ask(searcher, "red", min_score=0.999)
    best = max(hit.probability or 0.0 for hit in every)
    assert nothing.hits == ()
    assert f"the best hit has a probability of {best:.2f}" in str(nothing.nothing)
    assert "--min-score 0" in str(nothing.nothing)


def test_a_cut_empties_a_list_or_leaves_it_whole(calibrated: Calibrated) -> None:
    options: dict[str, Any] = {"modalities": (TEXT,), "k": MANY}
    every = ask(calibrated(), "red", **options).hits
    best = max(hit.probability or 0.0 for hit in every)
    assert ask(calibrated(cut=best - 0.001), "red", **options).hits == every
    emptied = ask(calibrated(cut=best + 0.001), "red", **options)
    assert emptied.hits == ()
    assert emptied.nothing == (
        f"nothing is likely enough: the best hit has a probability of {best:.2f}; --min-score 0 shows it"
    )
    assert ask(calibrated(cut=best + 0.001), "red", min_score=0.0, **options).hits == every


def test_a_cut_judges_each_modality_and_never_a_small_one(calibrated: Calibrated) -> None:
    searcher = calibrated(cut=0.99)
    assert searcher.snapshot.counts[AUDIO] < 50 < searcher.snapshot.counts[IMAGE]
    assert {hit.modality for hit in ask(searcher, "red", k=MANY).hits} == {AUDIO}
    both = AllOf((words("red"), words("boat")))  # what several terms make likely was never fitted
    assert {hit.modality for hit in ask(searcher, both, k=MANY).hits} == set(Modality)


# Words


def test_an_item_that_only_words_find_comes_with_the_numbers_of_every_stage(searcher: Searcher) -> None:
    pier = f"{RARE}-pier.png"
    assert pier not in names(ask(searcher, RARE, modalities=(IMAGE,), k=30))
    found = ask(searcher, RARE, k=5, lexical=Lexical.AUTO)
    (hit,) = [hit for hit in found.hits if Path(str(hit.path)).name == pier]
    assert hit.modality is IMAGE
    assert hit.stages.lexical is not None
    assert (hit.stages.lexical.rank, hit.stages.lexical.words) == (1, (RARE,))
    assert hit.stages.lexical.score > 0
    assert hit.stages.fused == pytest.approx(1 / 11)
    (dense,) = [one for one in ask(searcher, RARE, k=MANY).hits if one.item_id == hit.item_id]
    assert hit.stages.terms == dense.stages.terms
    assert hit.score == dense.score


def test_an_item_that_only_words_find_has_a_probability(calibrated: Calibrated) -> None:
    found = ask(calibrated(), RARE, k=5, lexical=Lexical.AUTO)
    (hit,) = [hit for hit in found.hits if RARE in str(hit.path)]
    assert hit.probability == hit.stages.terms[0].probability
    assert hit.probability is not None


def test_ranks_are_fused_where_words_count_by_themselves(searcher: Searcher) -> None:
    dense = {item: rank for rank, item in enumerate(ids(ask(searcher, "quixotic boat", k=MANY)), start=1)}
    hits = ask(searcher, "quixotic boat", k=20, lexical=Lexical.AUTO).hits
    assert hits[0].text == "a quixotic boat" or Path(str(hits[0].path)).name == "pattern0.png"
    fused = [hit.stages.fused or 0.0 for hit in hits]
    assert fused == sorted(fused, reverse=True)
    for hit in hits:
        shares = [1 / (10 + dense[hit.item_id])] if dense[hit.item_id] <= 30 else []
        if hit.stages.lexical is not None:
            shares.append(1 / (10 + hit.stages.lexical.rank))
        assert hit.stages.fused == pytest.approx(sum(shares))
    assert any(hit.stages.lexical is None for hit in hits)


def test_off_and_words_that_no_item_holds_leave_the_order_alone(searcher: Searcher) -> None:
    off = ask(searcher, "nowhere written", k=20)
    auto = ask(searcher, "nowhere written", k=20, lexical=Lexical.AUTO)
    assert off.hits == auto.hits
    assert ask(searcher, RARE, k=20).hits != ask(searcher, RARE, k=20, lexical=Lexical.AUTO).hits


def test_only_gives_what_the_word_lists_give(searcher: Searcher) -> None:
    assert searcher.lexicon is not None
    meant = ids(ask(searcher, "red boat", k=30))
    told = searcher.lexicon.search("red boat", limit=MANY, prefer=meant)
    hits = ask(searcher, "red boat", k=MANY, lexical=Lexical.ONLY).hits
    assert [hit.item_id for hit in hits] == [one.item_id for one in told]
    assert [hit.stages.lexical and hit.stages.lexical.score for hit in hits] == [one.score for one in told]
    assert all(set(one.words) & {"red", "boat"} for one in told)


@pytest.mark.parametrize("lexical", [Lexical.AUTO, Lexical.ONLY])
def test_items_that_hold_the_same_words_come_as_they_are_meant(searcher: Searcher, lexical: Lexical) -> None:
    meant = ids(ask(searcher, "boat quixotic", k=30))
    hits = ask(searcher, "boat quixotic", k=MANY, lexical=lexical).hits
    tied: dict[float, list[str]] = {}
    for hit in hits:
        if hit.stages.lexical is not None and hit.item_id in meant:
            tied.setdefault(hit.stages.lexical.score, []).append(hit.item_id)
    assert max(map(len, tied.values())) > 2
    for own in tied.values():
        assert own == sorted(own, key=meant.index)


def test_words_that_must_not_match_are_not_looked_for(searcher: Searcher) -> None:
    expression = AllOf((words("boat"), Not(words(RARE))))
    hits = ask(searcher, expression, k=MANY, lexical=Lexical.ONLY).hits
    assert hits
    assert not any(RARE in str(hit.path) for hit in hits)


def test_only_without_words_or_lists_is_refused(searcher: Searcher, made: Path, tmp_path: Path) -> None:
    picture = Term(Query(IMAGE, path=next((made.parent / "media" / "sea").glob("*.png"))))
    with pytest.raises(QueryError, match="needs words in the query"):
        ask(searcher, picture, lexical=Lexical.ONLY)
    with pytest.raises(QueryError, match="lists items, not segments"):
        ask(searcher, "red", lexical=Lexical.ONLY, segments=True)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "a.md").write_text("red boat")
    model: Any = ToyModel(tmp_path)
    towers = {modality: model.tower(modality) for modality in Modality}
    update(tmp_path / "bare-index", [tmp_path / "bare"], encoders=towers, options=BuildOptions(workers=1))
    with Searcher(Snapshot.open(tmp_path / "bare-index"), model) as bare:
        assert bare.lexicon is None
        with pytest.raises(QueryError, match="no lists of words") as caught:
            ask(bare, "red", lexical=Lexical.ONLY)
        assert "triptych index" in str(caught.value.hint)
        assert ask(bare, "red", lexical=Lexical.AUTO).hits


# Pages


def page_by_page(searcher: Searcher, request: Request, size: int, pages: int) -> tuple[Hit, ...]:
    found: list[Hit] = []
    for page in range(pages):
        found += searcher.search(replace(request, k=size, offset=page * size)).hits
    return tuple(found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", ["red boat", "red", f"{RARE} snow"])
def test_three_pages_are_one_of_three_times_the_size(searcher: Searcher, form: str, text: str) -> None:
    one = searcher.search(formed(form, text, k=9)).hits
    assert page_by_page(searcher, formed(form, text), 3, 3) == one
    assert [hit.rank for hit in one] == list(range(1, len(one) + 1))


@pytest.mark.parametrize("form", FORMS)
def test_pages_of_the_usual_size_go_on_where_the_last_ended(calibrated: Calibrated, form: str) -> None:
    searcher = calibrated()
    one = searcher.search(formed(form, k=40)).hits
    found = page_by_page(searcher, formed(form), 10, 4)
    assert [(hit.rank, hit.item_id, hit.range) for hit in found] == [
        (hit.rank, hit.item_id, hit.range) for hit in one
    ]


def test_min_score_and_words_leave_no_hit_out_between_pages(calibrated: Calibrated) -> None:
    searcher = calibrated()
    request = formed("words", "quixotic boat", min_score=0.3)
    every = searcher.search(replace(request, k=MANY)).hits
    assert len(searcher.search(replace(request, k=len(every))).hits) == len(every)
    assert [hit.item_id for hit in page_by_page(searcher, request, 3, 3)] == [hit.item_id for hit in every]


def test_only_gives_as_many_as_are_wanted_where_nothing_else_is_likely(calibrated: Calibrated) -> None:
    options: dict[str, Any] = {"lexical": Lexical.ONLY, "k": MANY, "modalities": (TEXT,)}
    every = ids(ask(calibrated(), "red boat", **options))
    assert len(every) > 30
    assert ids(ask(calibrated(cut=0.99), "red boat", **options)) == every


# Near-duplicates, diversity, the second look


def test_groups_come_once_with_their_count(searcher: Searcher) -> None:
    """Every group of the plain list is there once, by its first hit, which counts the others."""
    twins = Twins.open(searcher.snapshot)
    assert twins is not None
    plain = ask(searcher, "red", k=MANY).hits
    groups: dict[object, list[str]] = defaultdict(list)
    for hit in plain:
        number = twins.group(hit.content_hash, hit.modality) if hit.source is Source.FILE else None
        alone = hit.content_hash if hit.source is Source.FILE else hit.item_id
        groups[(hit.modality, alone if number is None else number)].append(hit.item_id)
    found = ask(searcher, "red", k=MANY, group_duplicates=True).hits
    assert {hit.item_id: hit.duplicates for hit in found} == {own[0]: len(own) - 1 for own in groups.values()}
    assert ids(ask(searcher, "red", k=MANY, group_duplicates=True)) == [own[0] for own in groups.values()]
    assert max(hit.duplicates for hit in found if hit.modality is IMAGE) >= 4  # plain pictures of a colour
    assert max(hit.duplicates for hit in found if hit.modality is TEXT) >= 1  # one content, two items
    assert all(hit.duplicates == 0 for hit in plain)


def test_grouping_still_fills_the_page(searcher: Searcher) -> None:
    every = ask(searcher, "red", modalities=(IMAGE,), k=MANY, group_duplicates=True).hits
    for k in (1, 5, 12):
        some = ask(searcher, "red", modalities=(IMAGE,), k=k, group_duplicates=True).hits
        assert [hit.item_id for hit in some] == [hit.item_id for hit in every[:k]]


def test_what_is_held_back_is_not_looked_for_deeper(
    calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups ask for more only where more would be shown."""
    depths: list[int] = []

    def noted(snapshot: Snapshot, context: Context, modality: Modality, depth: int) -> list[Ranked]:
        depths.append(depth)
        return ranked(snapshot, context, modality, depth)

    monkeypatch.setattr("retrieval.query.search.ranked", noted)
    grouped: dict[str, Any] = {"modalities": (TEXT,), "k": 2, "group_duplicates": True}
    assert ask(calibrated(cut=1.0), "red", **grouped).hits == ()
    assert ask(calibrated(), "red", min_score=1.0, **grouped).hits == ()
    assert len(depths) == 2


@pytest.mark.parametrize("text", ["red", "quixotic boat"])
def test_diversity_changes_the_order_only(calibrated: Calibrated, text: str) -> None:
    searcher = calibrated()
    for lexical in (Lexical.OFF, Lexical.AUTO):
        plain = ask(searcher, text, k=MANY, lexical=lexical).hits
        varied = ask(searcher, text, k=MANY, lexical=lexical, diverse=0.5).hits
        assert varied[0].item_id == plain[0].item_id
        assert ids_of(varied) != ids_of(plain)
        before = {hit.item_id: replace(hit, rank=0) for hit in plain}
        assert len(varied) == len(plain)
        assert all(replace(hit, rank=0) == before[hit.item_id] for hit in varied)


def test_diverse_hits_are_less_alike(searcher: Searcher) -> None:
    every = whole(searcher.snapshot, TEXT)
    vectors = {one.content_hash: vector for one, vector in zip(every.segments, every.vectors, strict=True)}

    def alike(**options: Any) -> float:
        hits = ask(searcher, "red", modalities=(TEXT,), k=6, **options).hits
        rows = np.stack([vectors[hit.content_hash] for hit in hits])
        return float((rows @ rows.T)[~np.eye(len(rows), dtype=bool)].mean())

    assert alike(diverse=0.5) < alike() - 0.1


def test_reciprocal_neighbours_order_each_modality_in_its_own_places(searcher: Searcher) -> None:
    plain = ask(searcher, "red", k=60).hits
    again = ask(searcher, "red", k=60, rerank=Rerank.RECIPROCAL, rerank_top=60).hits
    assert [hit.modality for hit in again] == [hit.modality for hit in plain]
    assert ids_of(again) != ids_of(plain)
    for modality in Modality:
        held = whole(searcher.snapshot, modality)
        known = {
            (one.content_hash, one.range): vector
            for one, vector in zip(held.segments, held.vectors, strict=True)
        }
        own = [hit for hit in plain if hit.modality is modality]
        vectors = np.stack([known[hit.content_hash, hit.range] for hit in own])
        asked = vector_of(words("red"))
        scores = reciprocal(asked, vectors, vectors @ asked)
        expected = {hit.item_id: float(score) for hit, score in zip(own, scores, strict=True)}
        told = [hit.stages.reranked or 0.0 for hit in again if hit.modality is modality]
        assert told == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-4)
        for hit in again:
            if hit.modality is modality:
                assert hit.stages.reranked == pytest.approx(expected[hit.item_id], abs=1e-4)


def test_only_the_best_are_looked_at_again(searcher: Searcher) -> None:
    plain = ask(searcher, "red", k=40).hits
    again = ask(searcher, "red", k=40, rerank=Rerank.RECIPROCAL, rerank_top=25).hits
    assert ids_of(again)[25:] == ids_of(plain)[25:]
    assert set(ids_of(again)[:25]) == set(ids_of(plain)[:25])
    assert [hit.stages.reranked is None for hit in again] == [False] * 25 + [True] * 15


# Concepts


def test_a_concept_is_a_term_with_probabilities_of_its_own(made: Path, tmp_path: Path) -> None:
    place, direction = tmp_path / "index", vector_of(words("red"))
    shutil.copytree(made, place)
    example = Marked("red.png", True, IMAGE, "0" * 32, False)
    lines = {IMAGE: ConceptLine(8.0, -4.0)}
    concept = Concept("redness", SPACE, "toy", direction, lines, (example,), 0, None)
    save_concept(place, concept)
    with opened(place, tmp_path) as searcher:
        term = Term(Query(IMAGE, concept="redness"))
        result = ask(searcher, term, modalities=(IMAGE,), k=MANY)
        held = whole(searcher.snapshot, IMAGE)
        cosine = held.vectors @ direction
        expected = by_item(held, 1 / (1 + np.exp(4.0 - 8.0 * cosine)))
        for hit in result.hits:
            (told,) = hit.stages.terms
            assert told.label == "concept:redness"
            assert hit.probability == told.probability == pytest.approx(expected[hit.item_id], abs=1e-4)
        scores = [hit.score for hit in result.hits]
        assert scores == pytest.approx(sorted(by_item(held, cosine).values(), reverse=True), abs=1e-4)
        likely = ask(searcher, term, modalities=(IMAGE,), k=MANY, min_score=0.5).hits
        assert {hit.item_id for hit in likely} == {item for item, told in expected.items() if told >= 0.5}
        assert 0 < len(likely) < len(result.hits)
        unlike = AllOf((words("green"), Not(term)))
        reddest = result.hits[0].item_id
        assert reddest == ids(ask(searcher, AllOf((words("red"), term)), modalities=(IMAGE,), k=MANY))[0]
        assert reddest in ids(ask(searcher, unlike, modalities=(IMAGE,), k=MANY))[-20:]
        with pytest.raises(QueryError, match="no concept 'blueness'"):
            ask(searcher, Term(Query(IMAGE, concept="blueness")))


# Why there is nothing


def test_why_a_page_is_empty(searcher: Searcher, calibrated: Calibrated) -> None:
    none = ask(searcher, "red", where="width > 100000")
    assert (none.hits, none.nothing) == ((), "nothing in the index matches the filter width > 100000")
    past = ask(searcher, "red", modalities=(AUDIO,), offset=3)
    assert (past.hits, past.nothing) == ((), "there are 3 hits, and 3 were to be left out")
    past = ask(searcher, "red", modalities=(AUDIO,), offset=MANY, where="name = 'tone0.wav'")
    assert (past.hits, past.nothing) == ((), f"there are 1 hits, and {MANY} were to be left out")
    cut = ask(calibrated(cut=0.99), "red", modalities=(TEXT, IMAGE))
    assert cut.hits == ()
    assert str(cut.nothing).startswith("nothing is likely enough")
    assert ask(searcher, "red", modalities=(AUDIO,), offset=2).nothing is None


def test_why_words_find_nothing(searcher: Searcher) -> None:
    nothing = ask(searcher, "nowhere", lexical=Lexical.ONLY)
    assert nothing.hits == ()
    assert "likely" not in str(nothing.nothing)


# Many at once

LINES = ["red", "red boat", "quixotic boat", f"{RARE} snow", "nowhere written", "low", "a blue sea"]
BATCHES: dict[str, Request] = {
    "where": Request(k=4, where=SEA),
    "where, segments": Request(k=40, where=SEA, segments=True),
    "words": Request(k=5),
    "words only": Request(k=5, lexical=Lexical.ONLY),
    "off": Request(k=5, lexical=Lexical.OFF, modalities=(IMAGE, TEXT)),
    "min-score": Request(k=7, lexical=Lexical.OFF, min_score=0.4),
    "no min-score": Request(k=7, min_score=0.0),
    "cut": Request(k=7, lexical=Lexical.OFF),
    "groups": Request(k=6, group_duplicates=True),
    "diverse": Request(k=6, diverse=0.4, lexical=Lexical.OFF),
    "offset": Request(k=4, offset=5),
    "hubness": Request(k=5, hubness=True, lexical=Lexical.OFF),
    "reciprocal": Request(k=5, rerank=Rerank.RECIPROCAL),
    "all": Request(
        k=3, offset=2, where=SEA, min_score=0.1, group_duplicates=True, diverse=0.3, rerank=Rerank.RECIPROCAL
    ),
}


@pytest.mark.parametrize("form", BATCHES)
def test_a_batch_gives_what_single_searches_give(calibrated: Calibrated, form: str) -> None:
    searcher = calibrated(cut=0.45)
    answers = list(search_lines(searcher, LINES, BATCHES[form], gpu=False))
    assert [answer.line for answer in answers] == LINES
    shown = 0
    for answer in answers:
        alone = searcher.search(replace(BATCHES[form], expression=words(answer.line)))
        assert answer.error is None
        assert answer.result is not None
        assert answer.result.hits == alone.hits
        assert answer.result.nothing == alone.nothing
        shown += len(alone.hits)
    assert shown > 5


def test_a_line_without_words_is_told_and_the_others_answered(searcher: Searcher, made: Path) -> None:
    picture = next((made.parent / "media" / "sea").glob("*.png"))
    lines = ["red", str(picture), "boat"]
    answers = list(search_lines(searcher, lines, Request(k=3, lexical=Lexical.ONLY), gpu=False))
    assert [answer.error is None for answer in answers] == [True, False, True]


def test_a_file_written_just_before_it_was_indexed_has_a_date(tmp_path: Path) -> None:
    """Such a file is marked in the index, to be read again; the mark is no date."""
    (tmp_path / "a.md").write_text("red boat")
    model: Any = ToyModel(tmp_path)
    update(tmp_path / "index", [tmp_path / "a.md"], encoders={TEXT: model.tower(TEXT)})
    with Searcher(Snapshot.open(tmp_path / "index"), model) as searcher:
        assert ask(searcher, "red", where="modified >= TIMESTAMP '2020-01-01'").hits
