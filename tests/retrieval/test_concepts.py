"""Concepts over an index made with the toy encoder: learned, kept, carried over, refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from indexer.build import forget, update
from indexer.errors import ConfigError, QueryError, SpaceMismatch
from indexer.generation import Generation
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import FloatArray, Modality
from retrieval.query.concepts import concept as concepts
from retrieval.query.concepts.concept import (
    Concept,
    from_bytes,
    load,
    names,
    probability,
    resolve,
    save,
    to_bytes,
)
from retrieval.query.concepts.examples import find
from retrieval.query.concepts.learning import learn
from retrieval.query.language.parse import parse_query
from retrieval.query.sample import sampled
from tests.indexer.indexes import digest, unit
from tests.indexer.indexes import update as update_world
from tests.toy import ToyModel, toy_encoders

COLOURS = ("red", "green", "blue", "black", "white")


def vectors(snapshot: Snapshot, modality: Modality, count: int = 512) -> FloatArray:
    return snapshot.vectors_of(sampled(snapshot, modality, count))


def picture(path: Path, colour: str, dot: int) -> None:
    """A picture of a colour, told from others by a dot."""
    image = Image.new("RGB", (32, 32), colour)
    image.putpixel((4 * (dot % 8), 4 * (dot // 8)), (128, 128, 128))
    image.save(path)


def make_media(folder: Path) -> None:
    folder.mkdir()
    for colour in COLOURS:
        for number in range(6):
            picture(folder / f"{colour}{number}.png", colour, number)
    for number, words in enumerate(("red", "red car", "blue car", "green", "white snow", "black cat")):
        (folder / f"note{number}.md").write_text(words)


def built(folder: Path) -> Path:
    update(folder / ".triptych", [folder], encoders=toy_encoders())
    return folder / ".triptych"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("concepts") / "media"
    make_media(folder)
    built(folder)
    return folder


@pytest.fixture
def snapshot(media: Path) -> Iterator[Snapshot]:
    with Snapshot.open(media / ".triptych") as opened:
        yield opened


WORLD = {f"{name}.png": f"image{name}" for name in (*"abcdefgh", "copy")} | {"t.txt": "text"}
WORLD["copy.png"] = "imagea"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index without media, which a test may change: pictures below /media, a copy, and a text."""
    update_world(tmp_path / "index", WORLD)
    return tmp_path / "index"


def paths(folder: Path, *words: str) -> list[str]:
    return [str(folder / f"{word}.png") for word in words]


def red(media: Path) -> Concept:
    with Snapshot.open(media / ".triptych") as opened:
        good, bad = paths(media, "red0", "red1", "red2"), paths(media, "blue0", "green0")
        return learn(opened, None, "red", good, bad)


def kept(index: Path, name: str = "red", yes: str = "abc", no: str = "de") -> Concept:
    """A concept of the index without media, saved in it."""
    with Snapshot.open(index) as opened:
        sides = [[f"/media/{letter}.png" for letter in letters] for letters in (yes, no)]
        concept = learn(opened, None, name, *sides)
    save(index, concept)
    return concept


def order(snapshot: Snapshot, concept: Concept, modality: Modality, k: int) -> list[str]:
    """The names of the best items, by the way that a search takes."""
    found = snapshot.search(modality, concept.direction, k)
    keys = [(one.content_hash, one.modality, one.source) for one in snapshot.segments(found)]
    items = snapshot.items_of(keys)
    return [item.path for key in keys for item in items[key]]


def test_it_finds_the_others_of_its_kind(media: Path, snapshot: Snapshot) -> None:
    concept = red(media)
    assert {name[:3] for name in order(snapshot, concept, Modality.IMAGE, 6)} == {"red"}
    assert order(snapshot, concept, Modality.TEXT, 1) == ["note0.md"]
    assert (concept.yes, concept.no, concept.modality) == (3, 2, Modality.IMAGE)
    given = np.stack([find(snapshot, one.name).vector for one in concept.examples])  # type: ignore[misc]
    copies = (vectors(snapshot, Modality.IMAGE) @ given.T >= 0.995).any(axis=1)
    assert 5 <= copies.sum() < 10
    assert concept.others == 30 - copies.sum()
    assert concept.measured is not None
    assert (concept.measured.yes, concept.measured.yes_found, concept.measured.no_found) == (3, 3, 0)


def test_probabilities_tell_its_kind_from_the_rest(media: Path, snapshot: Snapshot) -> None:
    concept = red(media)
    found = snapshot.search(Modality.IMAGE, concept.direction, 30)
    told = probability(concept, found.score, Modality.IMAGE)
    assert (np.diff(told) <= 0).all()
    assert told[:6].min() > 0.5
    assert told[6:].max() < 0.5
    words = snapshot.search(Modality.TEXT, concept.direction, 6)
    of_words = probability(concept, words.score, Modality.TEXT)
    assert of_words[0] > 0.5 > of_words[-1]
    assert np.array_equal(probability(concept, found.score), told)  # None stands for the examples' modality
    assert np.array_equal(probability(concept, found.score, Modality.AUDIO), told)  # there was no sound


def test_examples_of_two_modalities_are_measured_apart(media: Path, snapshot: Snapshot) -> None:
    concept = learn(snapshot, None, "red", [*paths(media, "red0", "red1", "red2"), str(media / "note0.md")])
    assert {one: told.yes for one, told in concept.measured_of.items()} == {
        Modality.IMAGE: 3,
        Modality.TEXT: 1,
    }
    found = snapshot.search(Modality.IMAGE, concept.direction, 30)
    told = probability(concept, found.score, Modality.IMAGE)
    assert told[:6].min() > 0.5 > told[6:].max()
    again = from_bytes(to_bytes(concept), called="it")
    assert again.measured_of == concept.measured_of
    document = json.loads(to_bytes(concept))
    del document["measured_of"]  # as it was written before
    assert from_bytes(json.dumps(document).encode(), called="it").measured_of == {}


def test_a_modality_is_seen_from_its_own_mean(media: Path, snapshot: Snapshot) -> None:
    concept = red(media)
    for modality in (Modality.IMAGE, Modality.TEXT):
        rows = vectors(snapshot, modality)
        distance = np.sqrt(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean())
        line = concept.lines[modality]
        image = concept.lines[Modality.IMAGE]
        # The mean itself has the same odds in every modality, and a usual distance is worth the same.
        middle = line.slope * float(concept.direction @ rows.mean(axis=0)) + line.bias
        mean = vectors(snapshot, Modality.IMAGE).mean(axis=0)
        assert middle == pytest.approx(image.slope * float(concept.direction @ mean) + image.bias, abs=1e-3)
        pictures = vectors(snapshot, Modality.IMAGE)
        reach = np.sqrt(((pictures - mean) ** 2).sum(axis=1).mean())
        assert line.slope * distance == pytest.approx(image.slope * reach, rel=1e-4)


def test_examples_are_files_items_and_what_is_not_in_the_index(
    media: Path, snapshot: Snapshot, tmp_path: Path
) -> None:
    inside = find(snapshot, str(media / "red3.png"))
    assert inside.indexed
    item = next(item for item in snapshot.item_list() if item.path == "red3.png")
    assert np.array_equal(find(snapshot, item.id).vector, inside.vector)  # type: ignore[arg-type]
    copy = tmp_path / "elsewhere.png"
    copy.write_bytes((media / "red3.png").read_bytes())
    assert np.array_equal(find(snapshot, str(copy)).vector, inside.vector)  # type: ignore[arg-type]
    picture(tmp_path / "new.png", "red", 40)
    assert not find(snapshot, str(tmp_path / "new.png")).indexed
    with pytest.raises(QueryError, match="~100 birds is no file, and the index has nothing of that name"):
        find(snapshot, "~100 birds")
    concept = learn(snapshot, ToyModel(), "new", [str(tmp_path / "new.png")])  # type: ignore[arg-type]
    assert {name[:3] for name in order(snapshot, concept, Modality.IMAGE, 6)} == {"red"}
    assert concept.measured is None
    assert [one.indexed for one in concept.examples] == [False]
    with pytest.raises(QueryError, match="not in the index"):
        learn(snapshot, None, "new", [str(tmp_path / "new.png")])
    with pytest.raises(SpaceMismatch, match="another space"):
        learn(snapshot, ToyModel(space_id="f" * 64), "new", [str(tmp_path / "new.png")])  # type: ignore[arg-type]


def test_a_file_that_is_gone_is_known_by_its_path(index: Path) -> None:
    with Snapshot.open(index) as opened:
        found = find(opened, "/media/b.png").vector
    assert found is not None
    assert np.allclose(found, unit("imageb"), atol=1e-3)


def test_what_cannot_be_learned_from_is_refused(media: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes((media / "red0.png").read_bytes())
    with pytest.raises(QueryError, match=r"copy.png, which has the content of .*red0.png is a good"):
        learn(snapshot, None, "red", paths(media, "red0", "red1"), [str(copy)])
    with pytest.raises(QueryError, match="no good example, only bad ones"):
        learn(snapshot, None, "red", [], paths(media, "blue0"))
    with pytest.raises(QueryError, match=r"no good example$"):
        learn(snapshot, None, "red", [])
    with pytest.raises(QueryError, match="nothing of that name"):
        learn(snapshot, None, "red", ["no-such-file.png"])
    with pytest.raises(QueryError, match="nothing of that name"):
        learn(snapshot, None, "red", ["0" * 32])
    with pytest.raises(QueryError, match="is a folder, not a file"):
        learn(snapshot, None, "red", [str(media)])
    for name in ("", "Red", "a b", "x" * 65, "a/b"):
        with pytest.raises(ConfigError, match="cannot name a concept"):
            learn(snapshot, None, name, paths(media, "red0"))


def test_an_example_counts_once_however_often_it_is_named(media: Path, snapshot: Snapshot) -> None:
    item = next(item for item in snapshot.item_list() if item.path == "red0.png")
    twice = learn(snapshot, None, "red", [*paths(media, "red0", "red1", "red0"), item.id])
    assert twice.yes == 2
    assert np.array_equal(
        twice.direction, learn(snapshot, None, "red", paths(media, "red0", "red1")).direction
    )


def test_a_collection_of_nothing_but_the_examples(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    picture(folder / "red0.png", "red", 0)
    picture(folder / "blue0.png", "blue", 1)
    with Snapshot.open(built(folder)) as opened:
        with pytest.raises(QueryError, match="nothing to tell the examples of red from"):
            learn(opened, None, "red", paths(folder, "red0", "blue0"))
        concept = learn(opened, None, "red", paths(folder, "red0"), paths(folder, "blue0"))
        assert order(opened, concept, Modality.IMAGE, 1) == ["red0.png"]


def test_it_is_kept_listed_and_removed(index: Path) -> None:
    concept = kept(index)
    save(index, replace(concept, name="a-boat"))
    with Snapshot.open(index) as opened:
        assert names(opened) == ["a-boat", "red"]
        assert to_bytes(load(opened, "red")) == to_bytes(concept)
        query = resolve(parse_query("concept:red"), opened)
        words = parse_query("red")
        assert resolve(words, opened) is words
        with pytest.raises(QueryError, match="no concept 'blue'") as error:
            load(opened, "blue")
        assert error.value.hint == "it has a-boat, red"
    assert query.modality is Modality.IMAGE
    assert query.label == "concept:red"
    assert np.array_equal(query.vector, concept.direction)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a concept red already"):
        save(index, concept)
    with pytest.raises(ConfigError, match="a concept red already"):
        concepts.check_free(index, "red")
    save(index, replace(concept, others=7), over=True)
    concepts.remove(index, "a-boat")
    with Snapshot.open(index) as opened:
        assert names(opened) == ["red"]
        assert load(opened, "red").others == 7
    with pytest.raises(QueryError, match="no concept 'a-boat'"):
        concepts.remove(index, "a-boat")


def test_a_damaged_one_is_removed_and_learned_again(index: Path) -> None:
    concept = kept(index)
    save(index, replace(concept, name="boat"))
    with Snapshot.open(index) as opened:
        for name in ("boat", "red"):
            path = index / opened.generation.derived[f"concept/index/{name}"]
            path.write_bytes(b"X" + path.read_bytes()[1:])
    with Snapshot.open(index) as opened, pytest.raises(QueryError, match="the concept 'boat' is damaged"):
        load(opened, "boat")
    concepts.remove(index, "boat")
    with pytest.raises(QueryError, match="no concept 'boat'"):
        concepts.remove(index, "boat")
    save(index, concept, over=True)  # the very file that is damaged
    with Snapshot.open(index) as opened:
        assert names(opened) == ["red"]
        assert to_bytes(load(opened, "red")) == to_bytes(concept)


def test_a_commit_that_came_first_is_no_failure(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    derive, others = Writer.derive, iter([True])

    def raced(writer: Writer, parent: Generation, made: list[Any]) -> Generation:
        if next(others, False):
            update_world(index, WORLD | {"new.png": "imagenew"})
        return derive(writer, parent, made)

    monkeypatch.setattr(Writer, "derive", raced)
    kept(index)
    with Snapshot.open(index) as opened:
        assert names(opened) == ["red"]
        assert opened.generation.item_count == len(WORLD) + 1


def test_updates_and_forgetting_others_keep_it(index: Path) -> None:
    concept = kept(index)
    update_world(index, WORLD | {"new.png": "imagenew"})
    assert forget(index, [Path("/media/h.png")]) == 1
    assert forget(index, [Path("/media/copy.png")]) == 1  # the content of a good example, which stays
    with Snapshot.open(index) as opened:
        assert to_bytes(load(opened, "red")) == to_bytes(concept)


def test_forgetting_an_example_takes_the_concept_out_of_every_file(index: Path) -> None:
    concept = kept(index)
    kept(index, "other", yes="fg", no="")
    assert forget(index, [Path("/media/e.png")]) == 1  # a bad example tells of itself too
    with Snapshot.open(index) as opened:
        assert names(opened) == ["other"]
    told = digest("imagee").hex()
    assert told in {one.content for one in concept.examples}
    files = [file.read_bytes() for file in index.rglob("*") if file.is_file()]
    assert files
    assert not any(told.encode() in data for data in files)


def test_export_and_import(index: Path, tmp_path: Path) -> None:
    concept = kept(index)
    concepts.export(concept, tmp_path / "red.json")
    again = concepts.import_(tmp_path / "red.json")
    assert to_bytes(again) == to_bytes(concept)
    save(index, replace(again, name="again"))
    with pytest.raises(SpaceMismatch, match="the concept other was learned with toy"):
        save(index, replace(again, name="other", space_id="f" * 64))
    with Snapshot.open(index) as opened:
        assert names(opened) == ["again", "red"]


def _nan(document: dict[str, Any]) -> None:
    document["direction"] = replaced(document, np.nan)


def _long(document: dict[str, Any]) -> None:
    document["direction"] = replaced(document, 3.0)


def replaced(document: dict[str, Any], value: float) -> str:
    import base64

    numbers = np.frombuffer(base64.b64decode(document["direction"]), "<f4").copy()
    numbers[0] = value
    return base64.b64encode(numbers.tobytes()).decode()


SPOILED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nan": (_nan, "not a vector of length 1"),
    "length": (_long, "not a vector of length 1"),
    "dimension": (lambda d: d.update(dim=17), "16 numbers, 17 were expected"),
    "base64": (lambda d: d.update(direction="@@@@"), "is no concept"),
    "version": (lambda d: d.update(version=2), "of version 2"),
    "name": (lambda d: d.update(name="../x"), "its name is"),
    "slope": (lambda d: d["lines"].update(image=[-1.0, 0.0]), "slope or bias"),
    "bias": (lambda d: d["lines"].update(image=[1.0, float("nan")]), "slope or bias"),
    "modality": (lambda d: d["lines"].update(smell=[1.0, 0.0]), "smell"),
    "no line": (lambda d: d["lines"].pop("image"), "no good example of a modality"),
    "no example": (lambda d: d.update(examples=[]), "no good example"),
    "hash": (lambda d: d["examples"][0].update(content="ab"), "content hash is 'ab'"),
    "missing": (lambda d: d.pop("others"), "'others' is missing"),
    "measured": (lambda d: d["measured"].pop("yes"), "is no concept"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_file_says_what_is_wrong(media: Path, tmp_path: Path, how: str) -> None:
    document = json.loads(to_bytes(red(media)))
    spoil, message = SPOILED[how]
    spoil(document)
    (tmp_path / "spoiled.json").write_text(json.dumps(document))
    with pytest.raises(QueryError, match=r"spoiled.json is no concept") as error:
        concepts.import_(tmp_path / "spoiled.json")
    assert message in error.value.message


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b"{}", b"null", b'"a"'])
def test_other_files_are_no_concepts(data: bytes) -> None:
    with pytest.raises(QueryError, match="it is no concept"):
        from_bytes(data, called="it")


def test_a_sample_is_spread_over_all_living_segments(index: Path) -> None:
    update_world(index, {path: word for path, word in WORLD.items() if path != "b.png"} | {"z.png": "imagez"})
    with Snapshot.open(index) as opened:
        assert len(opened.generation.parts) == 2
        whole = vectors(opened, Modality.IMAGE)
        living = [unit(f"image{letter}") for letter in "acdefghz"]
        assert np.allclose(sorted(whole.tolist()), sorted(np.stack(living).tolist()), atol=1e-3)
        some = vectors(opened, Modality.IMAGE, 3)
        assert np.array_equal(some, whole[[0, 3, 7]])  # evenly, whatever their parts
        assert all((whole == row).all(axis=1).any() for row in some)
        assert len(vectors(opened, Modality.AUDIO, 10)) == 0
