"""Word search against BM25 worked out the slow way, on one part and on several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from indexer.generation import read_current
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.tokens import words
from indexer.types import Modality, Source
from retrieval.query.fuse import middle_ranks, places, reciprocal_rank
from retrieval.query.lexical import LexicalHit, Lexicon
from tests.worded import Thing, bm25, digest, index

WORDS = [f"{a}{b}{c}o" for a in "bdfgkl" for b in "aeiu" for c in "mnprt"]


def world(count: int = 60, seed: int = 0) -> list[Thing]:
    """Pictures in folders, some with captions that others have too, words by Zipf's law."""
    random = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(WORDS) + 1)

    def some(low: int, high: int) -> list[str]:
        return random.choice(WORDS, random.integers(low, high), p=share / share.sum()).tolist()

    shared = " ".join(some(4, 9))
    things = []
    for number in range(count):
        captions = tuple(" ".join(some(2, 12)) for _ in range(random.integers(0, 3)))
        if number % 7 == 0:
            captions = (*captions, shared)
        path = f"{some(1, 2)[0]}/{'_'.join(some(1, 3))}_{number:03d}.png"
        things.append(Thing(path, captions, {"tags": " ".join(some(0, 3))} if number % 3 else {}))
    return things


def opened(snapshot: Snapshot) -> Lexicon:
    lexicon = Lexicon.open(snapshot)
    assert lexicon is not None
    return lexicon


def searched(folder: Path, query: str, limit: int = 1000, **options: object) -> list[LexicalHit]:
    with Snapshot.open(folder) as snapshot:
        return opened(snapshot).search(query, limit=limit, **options)  # type: ignore[arg-type]


def expected(things: list[Thing], query: str) -> list[tuple[str, float]]:
    asked = list(dict.fromkeys(word.text for word in words(query)))
    scores = bm25(things, asked)
    return sorted(((key, value) for key, value in scores.items()), key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("parts", [1, 3])
def test_scores_are_those_of_bm25(tmp_path: Path, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.query.lexical.COMMON", 1.0)
    things = world()
    index(tmp_path / "i", things, parts=parts)
    random = np.random.default_rng(1)
    for _ in range(25):
        query = " ".join(random.choice(WORDS, random.integers(1, 5)).tolist())
        hits = searched(tmp_path / "i", query)
        want = expected(things, query)
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in want], rel=1e-12)
        assert {hit.item_id for hit in hits} == {key for key, _ in want}
        assert [(hit.item_id, hit.score) for hit in hits] == sorted(
            ((hit.item_id, hit.score) for hit in hits), key=lambda pair: (-pair[1], pair[0])
        )


def test_parts_make_no_difference(tmp_path: Path) -> None:
    things = world()
    queries = [" ".join(WORDS[n : n + 3]) for n in range(0, 60, 4)]
    found = []
    for parts in (1, 2, 5):
        index(tmp_path / str(parts), things, parts=parts)
        found.append([searched(tmp_path / str(parts), query) for query in queries])
    assert found[0] == found[1] == found[2]  # to the bit
    assert any(found[0])


def test_an_item_is_found_by_words_in_different_places(tmp_path: Path) -> None:
    things = [
        Thing("invoices/2023.png", ("from a garden centre",)),
        Thing("2023/garden.png", ("a hedge",)),
        Thing("other/garden.png", ("garden garden garden",)),
        *(Thing(f"rest/{number}x.png", ("nothing of note",)) for number in range(40)),
    ]
    index(tmp_path / "i", things)
    hits = searched(tmp_path / "i", "Garden 2023")
    assert [hit.words for hit in hits] == [("garden", "2023"), ("garden", "2023"), ("garden",)]
    by_id = {hit.item_id: hit for hit in hits}
    assert by_id[things[0].id].key == (digest("from a garden centre"), Modality.TEXT, Source.CAPTION)
    assert by_id[things[1].id].key is None
    with Snapshot.open(tmp_path / "i") as snapshot:
        assert [snapshot.items_at([hit.row])[0].id for hit in hits] == [hit.item_id for hit in hits]


def test_a_limit_takes_the_first_of_the_whole_order(tmp_path: Path) -> None:
    things = [Thing(f"{number:02d}q/frog.png", ("pond",) if number % 2 else ()) for number in range(30)]
    index(tmp_path / "i", things)
    whole = searched(tmp_path / "i", "frog")
    assert len({hit.score for hit in whole}) == 1
    assert [hit.item_id for hit in whole] == sorted(thing.id for thing in things)
    for limit in (0, 1, 7, 29):
        assert searched(tmp_path / "i", "frog", limit) == whole[:limit]


def test_what_is_preferred_comes_first_among_equals(tmp_path: Path) -> None:
    things = [Thing(f"{number:02d}q/{'frog frog' if number == 7 else 'frog'}.png") for number in range(30)]
    index(tmp_path / "i", things)
    whole = [hit.item_id for hit in searched(tmp_path / "i", "frog")]
    names = [things[number].id for number in (20, 3, 11)]
    wanted = [whole[0], *names, *(one for one in whole[1:] if one not in names)]
    assert len({hit.score for hit in searched(tmp_path / "i", "frog")}) == 2
    for limit in (1, 2, 3, 5, 30):
        hits = searched(tmp_path / "i", "frog", limit, prefer=["f" * 32, *names])
        assert [hit.item_id for hit in hits] == wanted[:limit]


def test_compounds_are_taken_apart_only_where_no_document_has_them(tmp_path: Path) -> None:
    index(tmp_path / "i", [Thing("goldenEagle.png"), Thing("eagle.png"), Thing("x/東京都.png")])
    ids = {name: Thing(name).id for name in ("goldenEagle.png", "eagle.png", "x/東京都.png")}
    found = {query: [hit.item_id for hit in searched(tmp_path / "i", query)] for query in
             ("goldeneagle", "GoldenEagle", "baldEagle7", "eagles", "京都", "京", "京大")}  # fmt: skip
    both = sorted((ids["eagle.png"], ids["goldenEagle.png"]))
    assert found["goldeneagle"] == found["GoldenEagle"] == [ids["goldenEagle.png"]]
    assert sorted(found["baldEagle7"]) == sorted(found["eagles"]) == both
    assert found["京都"] == found["京"] == [ids["x/東京都.png"]]
    assert found["京大"] == []


def test_common_words_find_nothing_beside_rarer_ones(tmp_path: Path) -> None:
    things = [Thing(f"{number}z/a_picture_of.png", ("okapi",) if number == 3 else ()) for number in range(30)]
    index(tmp_path / "i", things)
    assert [hit.item_id for hit in searched(tmp_path / "i", "a picture of an okapi")] == [things[3].id]
    assert len(searched(tmp_path / "i", "picture")) == 30
    with Snapshot.open(tmp_path / "i") as snapshot:
        lexicon = opened(snapshot)
        assert lexicon.worth_it("okapi picture")
        assert not lexicon.worth_it("picture")  # says nothing of which
        assert not lexicon.worth_it("okapi eating leaves tonight")  # most of it is not there
        assert not lexicon.worth_it("")


def test_deleted_and_renamed_items(tmp_path: Path) -> None:
    things = [Thing("frog.png", ("a green frog",)), Thing("toad.png", ("a brown toad",)), Thing("newt.png")]
    first = index(tmp_path / "i", things)
    kept = [things[0], Thing("sub/Salamander.png", ("a brown toad",)), things[2]]
    second = index(tmp_path / "i", kept)
    assert first.parts[0].id in [part.id for part in second.parts]
    assert [hit.item_id for hit in searched(tmp_path / "i", "toad")] == [kept[1].id]
    assert [hit.item_id for hit in searched(tmp_path / "i", "salamander")] == [kept[1].id]
    index(tmp_path / "i", [things[0], things[2]])
    assert searched(tmp_path / "i", "toad salamander") == []
    assert [hit.item_id for hit in searched(tmp_path / "i", "green")] == [things[0].id]


def test_without_lists_there_is_no_lexicon(tmp_path: Path) -> None:
    things = [Thing("frog.png", ("a green frog",))]
    index(tmp_path / "i", things)
    with Writer.open(tmp_path / "i") as writer:
        parent = read_current(tmp_path / "i")
        items = [things[0].item, Thing("toad.png").item]
        writer.commit(parent, roots=list(parent.roots), items=items, spaces=parent.spaces)
    with Snapshot.open(tmp_path / "i") as snapshot:
        assert Lexicon.open(snapshot) is None


@dataclass
class Only:
    """A filter as retrieval.query.filters.where makes them: some items, by the segments that match."""

    snapshot: Snapshot
    rows: dict[tuple[int, int], frozenset[str]]

    @property
    def allowed(self) -> list[np.ndarray]:
        masks = [np.zeros(part.rows, bool) for part in self.snapshot.generation.parts]
        for part, row in self.rows:
            masks[part][row] = True
        return masks

    def items_of(self, part: int, row: int) -> frozenset[str]:
        return self.rows[part, row]


def test_a_filter_decides_which_items_come(tmp_path: Path) -> None:
    same = "a spotted salamander"
    things = [Thing(f"{number:02d}k/pond.png", (same,)) for number in range(40)]
    index(tmp_path / "i", things, parts=2)
    wanted = {thing.id for thing in things[::3]}
    with Snapshot.open(tmp_path / "i") as snapshot:
        key = (digest(same), Modality.TEXT, Source.CAPTION)
        shared = {place: frozenset(wanted) for place in snapshot.places_of([key])[key]}
        hits = opened(snapshot).search("salamander pond", limit=1000, allowed=Only(snapshot, shared))  # type: ignore[arg-type]
        assert {hit.item_id for hit in hits} == wanted  # all of them hold the content that is let through
        few = opened(snapshot).search("salamander pond", limit=5, allowed=Only(snapshot, shared))  # type: ignore[arg-type]
        assert few == hits[:5]
        picture = (digest(things[7].path), Modality.IMAGE, Source.FILE)
        one = {place: frozenset({things[7].id}) for place in snapshot.places_of([picture])[picture]}
        alone = opened(snapshot).search("salamander", limit=5, allowed=Only(snapshot, one))  # type: ignore[arg-type]
        assert [hit.item_id for hit in alone] == [things[7].id]  # by the words of its caption
        assert opened(snapshot).search("salamander", limit=5, allowed=Only(snapshot, {})) == []  # type: ignore[arg-type]


def test_modalities(tmp_path: Path) -> None:
    index(tmp_path / "i", [Thing("frog.png", ("croak",)), Thing("red/frog.png")])
    ids = [Thing(path).id for path in ("frog.png", "red/frog.png")]
    for wanted, expected_ids in (
        ((Modality.IMAGE,), ids),
        ((Modality.TEXT,), ids[:1]),
        ((Modality.AUDIO,), []),
        ((Modality.AUDIO, Modality.TEXT), ids[:1]),
    ):
        hits = searched(tmp_path / "i", "frog", modalities=wanted)
        assert {hit.item_id for hit in hits} == set(expected_ids)


def test_reciprocal_rank_is_the_sum_of_the_lists() -> None:
    lists = [places(names) for names in (["a", "b", "c"], ["c", "a"], ["d"])]
    fused = reciprocal_rank(lists, constant=60)
    assert fused == pytest.approx({"a": 1 / 61 + 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 61, "b": 1 / 62})
    assert list(fused) == ["a", "c", "d", "b"]


def test_reciprocal_rank_ties_are_in_the_order_of_ids_whatever_the_lists() -> None:
    lists = [places(names) for names in (["z", "m"], ["m", "z"], ["a"])]
    assert list(reciprocal_rank(lists, constant=1)) == ["m", "z", "a"]
    lists = [places(names) for names in (["x"], ["q", "x"], ["q", "r", "x"])]
    assert reciprocal_rank(lists, constant=60) == reciprocal_rank(lists[::-1], constant=60)
    assert reciprocal_rank([{}, {}]) == {}
    assert places(["x", "y", "x"]) == {"x": 1, "y": 2}


def test_reciprocal_rank_refuses_what_means_nothing() -> None:
    with pytest.raises(ValueError, match="constant"):
        reciprocal_rank([{"a": 1}], constant=-1)


def test_those_that_score_the_same_share_the_mean_of_their_places() -> None:
    ranks = middle_ranks("abcdef", [3.0, 2.0, 2.0, 2.0, 1.0, 1.0])
    assert ranks == {"a": 1, "b": 3, "c": 3, "d": 3, "e": 5.5, "f": 5.5}
    assert middle_ranks([], []) == {}
