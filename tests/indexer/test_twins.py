"""Near-duplicates: rules and groups against a naive oracle, updates, the file, chains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from indexer.derived import KEY, key_of
from indexer.deriving import Kept
from indexer.deriving import derive as derive_kept
from indexer.generation import Generation, Root, Space
from indexer.grouping import NONE, grouped
from indexer.likeness import Nearness, Pairs, contents_of, likeness_of
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.twins import KIND, Twins, TwinsDerivation
from indexer.types import FloatArray, Item, Member, Modality, Range, Segment, Source
from indexer.vectors import IndexArray

DIM = 16
SPACES = {"space": Space("toy", DIM)}
ROOTS = [Root("a" * 16, "/media", "folder")]
NEAR = Nearness(
    image_cosine=0.8,
    image_bits=4,
    image_close=0.9,
    image_close_bits=6,
    audio_cosine=0.9,
    audio_bits=8,
    audio_cosine_alone=0.95,
    audio_seconds=0.2,
    text_cosine=0.5,
)
Medium = tuple[bytes, Modality, list[Segment], FloatArray]


pytestmark = pytest.mark.usefixtures("own_cache")


def content(name: str) -> bytes:
    """A hash that sorts as its name does."""
    return name.encode().ljust(16, b"\0")


def units(rows: FloatArray) -> FloatArray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def picture(name: str, vector: FloatArray, phash: int | None) -> Medium:
    segment = Segment(content(name), Modality.IMAGE, Source.FILE, phash=phash)
    return content(name), Modality.IMAGE, [segment], units(vector[None])


def sound(name: str, vectors: FloatArray, prints: Sequence[int | None], end: float) -> Medium:
    starts = [5.0 * place for place in range(len(prints))]
    stops = [start + 10 for start in starts[:-1]] + [end]
    segments = [
        Segment(content(name), Modality.AUDIO, Source.FILE, Range(start, stop), phash=word)
        for start, stop, word in zip(starts, stops, prints, strict=True)
    ]
    return content(name), Modality.AUDIO, segments, units(vectors)


def text(name: str, words: str, source: Source = Source.FILE) -> Medium:
    segment = Segment(content(name), Modality.TEXT, source, Range(0, len(words)), words)
    return content(name), Modality.TEXT, [segment], np.eye(1, DIM, dtype=np.float32)


def commit(index: Path, world: Sequence[Medium], parts: Sequence[Sequence[Medium]], prefix: str = "") -> None:
    """An index of these contents, the parts new, each content under one path."""
    items = [
        Item(
            f"{prefix}{one[0].hex()}{one[1]}".ljust(32, "0")[-32:],
            ROOTS[0].id,
            f"{prefix}{one[0].hex()}",
            (Member(one[1], one[2][0].source, f"{prefix}{one[0].hex()}", 9, 7, one[0]),),
        )
        for one in world
    ]
    with Writer.open(index, create=True) as writer:
        staged = [
            writer.add_part(
                [segment for one in part for segment in one[2]],
                np.concatenate([one[3] for one in part]),
                space_id="space",
            )
            for part in parts
        ]
        writer.commit(writer.current(), roots=ROOTS, items=items, spaces=SPACES, parts=staged)


def derive(index: Path, derivation: TwinsDerivation | None = None) -> Generation:
    with Writer.open(index) as writer:
        parent = writer.current()
        assert parent is not None
        return writer.derive(parent, [derivation or TwinsDerivation(NEAR)])


def groups(index: Path, modality: Modality) -> set[frozenset[bytes]]:
    with Snapshot.open(index) as snapshot:
        twins = Twins.open(snapshot)
        assert twins is not None
        found = twins.groups(modality)
        for number, own in enumerate(found):
            assert len({twins.group(one, modality) for one in own}) == 1, number
        assert len({twins.group(own[0], modality) for own in found}) == len(found)
    return {frozenset(one.rstrip(b"\0") for one in own) for own in found}


def world(count: int, seed: int, prefix: str = "p") -> list[Medium]:
    """Pictures in families: vectors and hashes that differ a little or much."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((max(1, count // 4), DIM)).astype(np.float32)
    words = rng.integers(0, 2**63, len(base)).tolist()
    found = []
    for number in range(count):
        family = int(rng.integers(len(base)))
        noise = rng.choice([0.1, 0.4]) * rng.standard_normal(DIM).astype(np.float32)
        turned = int(np.bitwise_or.reduce(1 << rng.integers(0, 63, int(rng.integers(1, 8)))))
        known = number % 17 != 0
        found.append(
            picture(f"{prefix}{number:03d}", base[family] + noise, words[family] ^ turned if known else None)
        )
    return found


def near(one: Medium, other: Medium) -> bool:
    """The rule for pictures, as it reads."""
    a, b = one[2][0].phash, other[2][0].phash
    if a is None or b is None:
        return False
    cosine = np.dot(one[3][0].astype(np.float16).astype(float), other[3][0].astype(np.float16).astype(float))
    bits = (a ^ b).bit_count()
    return bool((cosine >= 0.8 and bits <= 4) or (cosine >= 0.9 and bits <= 6))


@pytest.mark.parametrize("dense", [False, True])
def test_near_pictures_are_those_of_the_rule(
    dense: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dense:
        monkeypatch.setattr("indexer.likeness.GATHERED", 8)
        monkeypatch.setattr("indexer.likeness.DENSE", 10**6)
        monkeypatch.setattr("indexer.likeness.COMPARED", 7)
    media = world(90, seed=1)
    commit(tmp_path, media, [media[:30], media[30:]])
    with Snapshot.open(tmp_path) as snapshot:
        contents = contents_of(snapshot, Modality.IMAGE)
        everyone = np.arange(len(contents))
        pairs = likeness_of(contents, Modality.IMAGE, NEAR)(everyone, everyone)
    expected = {(a, b) for a, one in enumerate(media) for b, other in enumerate(media) if near(one, other)}
    assert set(zip(pairs.asked.tolist(), pairs.other.tolist(), strict=True)) == expected
    assert len(pairs.asked) == len(expected) > 150


def test_every_member_is_near_its_leader_and_no_leader_near_another(tmp_path: Path) -> None:
    media = world(120, seed=2)
    commit(tmp_path, media, [media])
    derive(tmp_path)
    by_hash = {one[0]: one for one in media}
    with Snapshot.open(tmp_path) as snapshot:
        twins = Twins.open(snapshot)
        assert twins is not None
        found = twins.groups(Modality.IMAGE)
        led = [own[0] for own in found]
        alone = [one[0] for one in media if twins.group(one[0], Modality.IMAGE) is None]
    assert len(found) > 5
    assert max(map(len, found)) > 2
    for leader, *members in found:
        assert all(near(by_hash[leader], by_hash[one]) for one in members)
    apart = [*led, *alone]
    assert sorted([*alone, *(one for own in found for one in own)]) == sorted(by_hash)
    assert not any(near(by_hash[a], by_hash[b]) for a in apart for b in apart if a < b)


class Line:
    """Contents on a line, near where at most one step lies between them."""

    def __init__(self, places: Sequence[float]) -> None:
        self.places = np.array(places)

    def __call__(self, asked: IndexArray, others: IndexArray) -> Pairs:
        gap = np.abs(self.places[asked][:, None] - self.places[others][None, :])
        a, b = np.nonzero(gap <= 1)
        return Pairs(a, b, (1 - gap[a, b] / 10).astype(np.float32))


def test_a_chain_does_not_become_one_group() -> None:
    line = Line([0, 0.9, 1.8, 2.7, 3.6, 4.5])
    leader = grouped(line, np.full(6, NONE), np.arange(6))
    assert all(abs(line.places[one] - line.places[lead]) <= 1 for one, lead in enumerate(leader.tolist()))
    assert len(set(leader.tolist())) >= 2


def test_the_one_that_most_are_near_leads() -> None:
    # The first comes first, but only the middle one is near them all.
    leader = grouped(Line([0.0, 1.6, 0.8, 0.5, 1.3]), np.full(5, NONE), np.arange(5))
    assert set(leader.tolist()) == {2}


def test_later_contents_join_what_is_there_as_if_all_came_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    base = rng.standard_normal((12, DIM)).astype(np.float32)
    media = [
        picture(f"{copy}{family:02d}", base[family] + 0.02 * rng.standard_normal(DIM), family * 977 ^ copy)
        for copy in range(3)
        for family in range(12)
    ]
    commit(tmp_path / "once", media, [media])
    derive(tmp_path / "once")
    for stop, start in ((10, 0), (25, 10), (36, 25)):
        commit(tmp_path / "often", media[:stop], [media[start:stop]])
        derive(tmp_path / "often")
    assert groups(tmp_path / "often", Modality.IMAGE) == groups(tmp_path / "once", Modality.IMAGE)
    assert len(groups(tmp_path / "once", Modality.IMAGE)) == 12


def test_what_is_deleted_leaves_its_group_even_its_leader(tmp_path: Path) -> None:
    line = np.eye(DIM, dtype=np.float32)
    media = [picture(name, line[0], word) for name, word in (("a", 0), ("b", 1), ("c", 3), ("d", 7))]
    media.append(picture("e", line[3], 2**40))
    commit(tmp_path, media, [media])
    derive(tmp_path)
    assert groups(tmp_path, Modality.IMAGE) == {frozenset({b"a", b"b", b"c", b"d"})}
    with Snapshot.open(tmp_path) as snapshot:
        twins = Twins.open(snapshot)
        assert twins is not None
        leader = twins.groups(Modality.IMAGE)[0][0]
    rest = [one for one in media if one[0] != leader]
    commit(tmp_path, rest, [])
    derive(tmp_path)
    assert groups(tmp_path, Modality.IMAGE) == {frozenset({b"a", b"b", b"c", b"d"} - {leader.rstrip(b"\0")})}
    commit(tmp_path, [media[-1]], [])
    derive(tmp_path)
    assert groups(tmp_path, Modality.IMAGE) == set()


def test_only_what_is_new_is_compared_and_a_rename_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = world(40, seed=7)
    commit(tmp_path, media[:30], [media[:30]])
    first = derive(tmp_path)
    assert not TwinsDerivation(NEAR).due(first)
    commit(tmp_path, media[:30], [], prefix="moved-")
    with Snapshot.open(tmp_path) as snapshot:
        assert not TwinsDerivation(NEAR).due(snapshot.generation)
    asked: list[int] = []

    def placed(likeness: object, leader: IndexArray, fresh: IndexArray) -> IndexArray:
        asked.append(len(fresh))
        return grouped(likeness, leader, fresh)  # type: ignore[arg-type]

    monkeypatch.setattr("indexer.grouping.grouped", placed)
    commit(tmp_path, media, [media[30:]])
    generation = derive(tmp_path)
    assert asked == [10]
    keys = [key for key in generation.derived if key.startswith("twins/")]
    assert len(keys) == 1  # the one before it is gone
    assert KEY.fullmatch(keys[0])
    derive(tmp_path, TwinsDerivation(Nearness(image_cosine=0.91)))
    assert asked == [10, 40]  # another rule: all anew


def test_sounds_are_near_where_every_window_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    one = rng.standard_normal((2, DIM)).astype(np.float32)
    little = 0.005 * rng.standard_normal((2, DIM)).astype(np.float32)
    one[:, 0] = 0.0
    one = units(one)
    tilted = one.copy()
    tilted[:, 0] = 0.4  # a cosine of 0.93
    other = np.stack([one[0], rng.standard_normal(DIM).astype(np.float32)])
    media = [
        sound("a", one, [0, 0], 12.0),
        sound("again", one + little, [3, 5], 12.1),
        sound("half", other, [0, 0], 12.0),  # only the first window
        sound("long", one, [0, 0], 14.0),
        sound("print", one, [2**40 - 1, 0], 12.0),  # 20 bits a window
        sound("unprinted", one, [None, None], 12.05),
        sound("unlike", tilted, [0, 0], 12.0),  # near enough with a fingerprint only
    ]
    commit(tmp_path, media, [media])
    with Snapshot.open(tmp_path) as snapshot:
        contents = contents_of(snapshot, Modality.AUDIO)
        everyone = np.arange(len(contents))
        pairs = likeness_of(contents, Modality.AUDIO, NEAR)(everyone, everyone)
        names = [one.tobytes().rstrip(b"\0").decode() for one in contents.hashes]
    found = {(names[a], names[b]) for a, b in zip(pairs.asked, pairs.other, strict=True) if a < b}
    assert found == {  # what has no fingerprint goes by vectors and length alone
        ("a", "again"),
        ("a", "unprinted"),
        ("again", "unprinted"),
        ("a", "unlike"),
        ("again", "unlike"),
        ("print", "unprinted"),
    }


def test_texts_are_near_where_their_words_are_the_same(tmp_path: Path) -> None:
    media = [
        text("a", "An old  Mill\n"),
        text("b", "an old mill"),
        text("c", "an old mile"),
        text("d", "AN OLD MILL", source=Source.CAPTION),
    ]
    commit(tmp_path, media[:2], [media[:2]])
    derive(tmp_path)
    commit(tmp_path, media, [media[2:]])
    derive(tmp_path)
    assert groups(tmp_path, Modality.TEXT) == {frozenset({b"a", b"b"})}
    last = text("e", "an OLD mill ")
    commit(tmp_path, [*media, last], [[last]])
    derive(tmp_path)  # words of the others come from the file now
    assert groups(tmp_path, Modality.TEXT) == {frozenset({b"a", b"b", b"e"})}


def test_an_index_without_groups_and_a_file_of_another_form(tmp_path: Path) -> None:
    media = world(3, seed=1)
    commit(tmp_path, media, [media])
    with Snapshot.open(tmp_path) as snapshot:
        assert Twins.open(snapshot) is None
        assert TwinsDerivation().due(snapshot.generation)
    assert Twins.read(b"TRIPTWN9" + bytes(40)) is None
    derive(tmp_path)
    with Snapshot.open(tmp_path) as snapshot:
        twins = Twins.open(snapshot)
        assert twins is not None
        assert twins.group(b"\xff" * 16, Modality.IMAGE) is None
        assert twins.group(b"\0" * 16, Modality.AUDIO) is None


def test_a_damaged_file_of_another_state_hides_no_groups(tmp_path: Path) -> None:
    media = [picture(name, np.eye(DIM, dtype=np.float32)[0], word) for name, word in (("a", 0), ("b", 1))]
    commit(tmp_path, media, [media])
    derive(tmp_path)
    last = key_of(KIND, detail="f" * 16)
    derive_kept(tmp_path, [Kept(last, b"another")])
    with Snapshot.open(tmp_path) as snapshot:
        (tmp_path / snapshot.generation.derived[last]).write_bytes(b"damaged")
    assert groups(tmp_path, Modality.IMAGE) == {frozenset({b"a", b"b"})}
    with Snapshot.open(tmp_path) as snapshot:
        twins = Twins.open(snapshot)
        assert twins is not None
        assert twins.contents_with(content("b"), Modality.IMAGE) == [content("a"), content("b")]
        assert twins.contents_with(content("b"), Modality.TEXT) == []
