"""The background of an index: who is in the bank, what each part is to it, and how parts are merged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.build import update
from indexer.errors import IndexCorrupt
from indexer.generation import read_current
from indexer.report import BuildOptions
from indexer.snapshot import Candidates, Snapshot
from indexer.store import Writer
from indexer.types import Item, Member, Modality, Source
from retrieval.query.sample import sampled
from retrieval.query.scores import bank as banks
from retrieval.query.scores import hubness
from retrieval.query.scores.background import Background, derivation
from retrieval.query.scores.bank import Bank, bank_key
from retrieval.query.scores.packed import packed, unpacked
from tests.indexer import indexes
from tests.indexer.indexes import ROOTS, SPACES, digest, segments_of, unit
from tests.toy import ToyEncoder

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO


@dataclass(frozen=True)
class ToyModel:
    """As much of a model as the bank asks for."""

    space_id: str = "toy-space"

    def tower(self, modality: Modality) -> ToyEncoder:
        return ToyEncoder(modality)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(banks, "PHRASES", 40)
    monkeypatch.setattr(banks, "SAMPLE", 12)
    monkeypatch.setattr(banks, "BLOCK", 7)  # so that a part takes several


def pairs(first: int, last: int) -> list[Item]:
    """Items of a picture and its caption each; every fourth has a sound too."""
    made = []
    for number in range(first, last):
        words = [f"image{number}", f"text{number}"] + [f"audio{number}"] * (number % 4 == 0)
        members = tuple(
            Member(indexes.modality_of(word), Source.FILE, f"{word}.x", 1, 7, digest(word)) for word in words
        )
        made.append(Item(digest(f"item{number}").hex(), ROOTS[0].id, f"{number}", members))
    return made


def add(index: Path, items: list[Item], *, old: list[Item] = []) -> None:  # noqa: B006 - never changed
    """A part with the contents of some items, in an index that then has those and the old ones."""
    with Writer.open(index, create=True) as writer:
        pieces = [segments_of(name(member)) for item in items for member in item.members]
        segments = [one for own, _ in pieces for one in own]
        parts = []
        if segments:
            vectors = np.concatenate([own for _, own in pieces])
            parts = [writer.add_part(segments, vectors, space_id=indexes.SPACE_ID)]
        writer.commit(writer.current(), roots=ROOTS, items=[*old, *items], spaces=SPACES, parts=parts)


def name(member: Member) -> str:
    assert member.path is not None
    return member.path.removesuffix(".x")


def derive(index: Path) -> list[str]:
    """The keys that one run works out."""
    made: Any = derivation(ToyModel())  # type: ignore[arg-type]
    keys: list[str] = []

    class Noted:
        def due(self, generation: Any) -> bool:
            return made.due(generation)

        def derive(self, snapshot: Snapshot) -> Any:
            for key, content in made.derive(snapshot):
                keys.append(key)
                yield key, content

    with Writer.open(index) as writer:
        parent = writer.current()
        assert parent is not None
        if Noted().due(parent):
            writer.derive(parent, [Noted()])
    return keys


def everything(snapshot: Snapshot, modality: Modality) -> Candidates:
    return sampled(snapshot, modality, 10**9)


def oracle(snapshot: Snapshot, query: Modality, modality: Modality) -> tuple[np.ndarray, Candidates]:
    """Scores (bank, all segments) by brute force; -inf where both are of one item."""
    key = bank_key(snapshot.generation)
    assert key is not None
    data = snapshot.derived(key)
    assert data is not None
    bank = Bank.read(data)
    found = everything(snapshot, modality)
    scores = (bank.vectors[query] @ snapshot.vectors_of(found).T).astype(np.float32)
    hashes = [segment.content_hash for segment in snapshot.segments(found)]
    for number, own in zip(bank.owner[query].tolist(), bank.owned[query], strict=True):
        for place, one in enumerate(hashes):
            if one == own.tobytes():
                scores[number, place] = -np.inf
    return scores, found


def test_hub_numbers_are_those_of_the_whole_matrix(tmp_path: Path) -> None:
    add(tmp_path / "i", pairs(0, 25))
    assert sorted({key.split("/")[0] for key in derive(tmp_path / "i")}) == ["bank", "hubs", "peaks"]
    with Snapshot.open(tmp_path / "i") as snapshot:
        background = Background.open(snapshot)
        assert background is not None
        for query in Modality:
            for modality in Modality:
                scores, found = oracle(snapshot, query, modality)
                hubs = background.hubs(query, modality, found)
                assert hubs is not None
                for place, column in enumerate(scores.T):
                    known = np.sort(column[np.isfinite(column)])[::-1]
                    top = known[: min(10, len(scores))]
                    assert hubs.neighbourhood[place] == pytest.approx(top.mean(), abs=2e-3)
                    mean = np.exp(known / hubness.TEMPERATURE).mean()
                    assert hubs.normaliser[place] == pytest.approx(np.log(mean), abs=0.05)


def test_best_scores_are_merged_over_parts_without_what_was_deleted(tmp_path: Path) -> None:
    index = tmp_path / "i"
    add(index, pairs(0, 20))
    derive(index)
    add(index, pairs(20, 40), old=pairs(0, 20))
    made = derive(index)
    assert all(key.startswith(("hubs/", "peaks/")) for key in made)  # the bank stays, old parts too
    assert len(made) == 2 * 3
    add(index, [], old=[item for item in pairs(0, 40) if int(item.path) % 5])
    with Snapshot.open(index) as snapshot:
        assert len(snapshot.generation.parts) == 2
        background = Background.open(snapshot)
        assert background is not None
        for query in Modality:
            scores, found = oracle(snapshot, query, IMAGE)
            told = background.best_scores(query, IMAGE)
            best = scores.max(axis=1)
            if len(best) < 30:
                assert told is None
                continue
            assert told == pytest.approx(np.sort(best), abs=2e-3)
            active = background.active(query, IMAGE, found)
            assert set(np.flatnonzero(active)) == set(scores.argmax(axis=1).tolist())


def test_a_caption_never_counts_for_its_own_picture(tmp_path: Path) -> None:
    """Each caption has the very vector of its picture: without the rule every best score would be 1."""
    index, items = tmp_path / "i", []
    with Writer.open(index, create=True) as writer:
        segments, vectors = [], []
        for number in range(12):
            words = (f"image{number}", f"text{number}")
            members = tuple(Member(indexes.modality_of(w), Source.FILE, w, 1, 7, digest(w)) for w in words)
            items.append(Item(digest(f"item{number}").hex(), ROOTS[0].id, f"{number}", members))
            for word in words:
                segments += segments_of(word)[0]
                vectors.append(unit(f"same{number}"))
        part = writer.add_part(segments, np.stack(vectors), space_id=indexes.SPACE_ID)
        writer.commit(None, roots=ROOTS, items=items, spaces=SPACES, parts=[part])
    derive(index)
    with Snapshot.open(index) as snapshot:
        background = Background.open(snapshot)
        assert background is not None
        best = background.best_scores(TEXT, IMAGE)
        assert best is not None
        assert best.max() < 0.99


def test_a_bank_that_the_collection_outgrew_is_made_anew(tmp_path: Path) -> None:
    index = tmp_path / "i"
    add(index, pairs(0, 4))
    derive(index)
    assert derive(index) == []
    add(index, pairs(4, 40), old=pairs(0, 4))
    keys = derive(index)
    with Snapshot.open(index) as snapshot:
        parts = {part.id for part in snapshot.generation.parts}
        assert {key.split("/")[1] for key in keys if key.startswith("hubs/")} == parts
        assert len([key for key in snapshot.generation.derived if key.startswith("bank/")]) == 1
        background = Background.open(snapshot)
        assert background is not None
        assert background.best_scores(TEXT, IMAGE) is not None
    assert derive(index) == []


def test_centres_are_the_means_of_all_vectors(tmp_path: Path) -> None:
    add(tmp_path / "i", pairs(0, 21))
    derive(tmp_path / "i")
    with Snapshot.open(tmp_path / "i") as snapshot:
        background = Background.open(snapshot)
        assert background is not None
        assert set(background.centres) == set(Modality)
        for modality, centre in background.centres.items():
            mean = snapshot.vectors_of(everything(snapshot, modality)).mean(axis=0)
            assert centre == pytest.approx(mean, abs=1e-5)


def test_an_index_without_a_bank_has_no_background(tmp_path: Path) -> None:
    add(tmp_path / "i", pairs(0, 3))
    with Snapshot.open(tmp_path / "i") as snapshot:
        assert Background.open(snapshot) is None


def test_phrases_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = banks.phrase_vectors(ToyModel())  # type: ignore[arg-type]
    monkeypatch.setattr(ToyEncoder, "encode", lambda *_: pytest.fail("encoded again"))
    second = banks.phrase_vectors(ToyModel())  # type: ignore[arg-type]
    assert first is not None
    assert second is not None
    assert np.array_equal(first, second)
    assert first.shape == (40, 16)


def test_packed_arrays_come_back_and_damage_is_said() -> None:
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.zeros((0, 4), np.int32)}
    data = packed(arrays, {"word": "x"})
    held = unpacked(memoryview(data))
    assert held.words == {"word": "x"}
    assert np.array_equal(held.array("a", (2, None)), arrays["a"])
    assert held.array("b", (None, 4)).shape == (0, 4)
    for bad in (data[:5], data[:-2], b"\xff" * 40, data.replace(b"[0,12]", b"[0,99]")):
        with pytest.raises(IndexCorrupt):
            unpacked(memoryview(bad))
    with pytest.raises(IndexCorrupt, match="shape"):
        held.array("a", (3, None))


def test_an_update_of_nothing_works_nothing_out(tmp_path: Path) -> None:
    """The derivation goes with an update, over the real path, and is not due a second time."""
    folder = tmp_path / "media"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"words number {number}")
    encoders = {TEXT: ToyEncoder(TEXT)}
    options = BuildOptions(model="toy", workers=1, derivations=(derivation(ToyModel()),))  # type: ignore[arg-type]
    update(tmp_path / "i", [folder], encoders=encoders, options=options)
    with Snapshot.open(tmp_path / "i") as snapshot:
        kept = dict(snapshot.generation.derived)
        assert Background.open(snapshot) is not None
    assert not derivation(ToyModel()).due(read_current(tmp_path / "i"))  # type: ignore[arg-type]
    update(tmp_path / "i", [folder], encoders=encoders, options=options)
    with Snapshot.open(tmp_path / "i") as snapshot:
        assert snapshot.generation.derived == kept
