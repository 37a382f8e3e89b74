"""Vectors: the exact scan against NumPy and faiss, and inverted lists against the exact scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer import codes, vectors
from indexer.errors import StoreError
from indexer.generation import Generation, Space, read_current
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.types import FloatArray, Item, Member, Modality, Segment, Source
from indexer.verify import verify

DIM = 32


def _units(rows: np.ndarray) -> FloatArray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _clustered(count: int, seed: int = 0) -> FloatArray:
    """Unit vectors around one centre for each 50, shape (count, DIM)."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((max(count // 50, 1), DIM))
    noise = 0.35 * rng.standard_normal((count, DIM))
    return _units(centres[rng.integers(len(centres), size=count)] + noise)


def test_scan_converts_every_finite_half_exactly() -> None:
    bits = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = bits[np.isfinite(bits)].reshape(-1, 1)
    query = np.ones(1, np.float32)
    np.testing.assert_array_equal(vectors.scan(finite, query[None])[0], finite[:, 0].astype(np.float32))


@pytest.mark.parametrize("count", [1, vectors.SCAN_ROWS - 1, vectors.SCAN_ROWS, 3 * vectors.SCAN_ROWS + 1])
def test_scan_equals_numpy_in_double_precision(count: int) -> None:
    stored, queries = _clustered(count).astype(np.float16), _clustered(3, seed=5)
    expected = queries.astype(np.float64) @ stored.T.astype(np.float64)
    together = vectors.scan(stored, queries)
    np.testing.assert_allclose(together, expected, atol=vectors.MARGIN / 50)
    for query, scores in zip(queries, together, strict=True):
        np.testing.assert_array_equal(vectors.scan(stored, query[None])[0], scores)


def test_exact_scores_do_not_depend_on_company() -> None:
    stored, query = _clustered(1500).astype(np.float16), _clustered(1, seed=5)[0]
    together = vectors.exact_scores(stored, np.arange(1500), query)
    alone = [vectors.exact_scores(stored, np.array([row]), query)[0] for row in range(0, 1500, 97)]
    np.testing.assert_array_equal(together[::97], alone)


@pytest.mark.parametrize("dead", [0.0, 0.5, 0.999])
def test_flat_structure_and_scan_find_the_same(dead: float) -> None:
    stored = _clustered(2000).astype(np.float16)
    alive = np.random.default_rng(1).random(2000) >= dead
    index = vectors.build_structure(2000, DIM, iter([stored[:1500], stored[1500:]]), codebook=None)
    for seed in range(5):
        query = _clustered(1, seed=seed)[0]
        ((rows, scores),) = vectors.exact_candidates(stored, query[None], 10, alive=alive)
        other = vectors.structure_candidates(index, stored, query, 10, alive=alive)
        assert other is not None
        best = sorted(zip(-scores, rows, strict=True))[:10]
        assert sorted(zip(-other[1], other[0], strict=True))[:10] == best
        assert len(best) == min(10, int(alive.sum()))
        exact = np.where(alive, stored.astype(np.float64) @ query.astype(np.float64), -2)
        assert {row for _, row in best} == set(np.argsort(-exact, kind="stable")[: len(best)].tolist())


def test_ties_past_the_cut_are_left_to_the_scan() -> None:
    stored = np.repeat(_clustered(3), 100, axis=0).astype(np.float16)
    index = vectors.build_structure(300, DIM, iter([stored]), codebook=None)
    query = stored[150].astype(np.float32)
    assert vectors.structure_candidates(index, stored, query, 5) is None
    ((rows, _),) = vectors.exact_candidates(stored, query[None], 5)
    assert set(range(100, 200)) <= set(rows.tolist())


def test_structure_survives_its_bytes_and_headers_are_checked(tmp_path: Path) -> None:
    import faiss

    stored = _clustered(50).astype(np.float16)
    index = vectors.build_structure(50, DIM, iter([stored]), codebook=None)
    vectors.write_structure(index, tmp_path / "x.faiss")
    data = (tmp_path / "x.faiss").read_bytes()
    again = vectors.read_structure(data, count=50, dim=DIM)
    assert vectors.holds(again, stored)
    assert not vectors.holds(again, stored[::-1])
    for count, dim in ((49, DIM), (50, DIM + 1)):
        with pytest.raises(StoreError, match="expected"):
            vectors.read_structure(data, count=count, dim=dim)
    other = faiss.serialize_index(faiss.IndexFlatIP(DIM)).tobytes()
    with pytest.raises(StoreError, match="unknown type"):
        vectors.read_structure(other, count=0, dim=DIM)


def test_unit_check_names_the_row() -> None:
    rows = _clustered(5)
    vectors.check_units(rows.astype(np.float16).astype(np.float32), what="x")
    rows[3] *= 1.01
    with pytest.raises(StoreError, match="row 3"):
        vectors.check_units(rows, what="x")


def test_merged_lists_equal_lists_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    monkeypatch.setattr(vectors, "IVF_FROM", 1000)
    stored = _clustered(6000).astype(np.float16)
    codebook, other = vectors.train_codebook(stored[:3000]), vectors.train_codebook(stored[3000:])
    pieces = [stored[:2000], stored[2000:4000], stored[4000:5000], stored[5000:]]
    alive = [np.random.default_rng(i).random(len(piece)) < 0.7 for i, piece in enumerate(pieces)]
    nearest = codebook.quantizer.search(pieces[0].astype(np.float32), 1)[1][:, 0]
    alive[0] &= nearest != nearest[0]  # one list dies out
    structures = [
        vectors.build_structure(2000, DIM, iter([pieces[0]]), codebook=codebook),
        vectors.build_structure(2000, DIM, iter([pieces[1]]), codebook=codebook),
        None,  # flat
        vectors.build_structure(1000, DIM, iter([pieces[3]]), codebook=other),
    ]
    merged = vectors.merge_structures(codebook, zip(structures, pieces, alive, strict=True))
    kept = np.concatenate([piece[mask] for piece, mask in zip(pieces, alive, strict=True)])
    anew = vectors.build_structure(len(kept), DIM, iter([kept]), codebook=codebook)
    assert vectors.holds(merged, kept)
    place, expected_place = _lists_of(merged, len(kept)), _lists_of(anew, len(kept))
    assert (place >= 0).all()
    same = place == expected_place  # on the border of two lists rounding decides
    assert np.count_nonzero(~same) <= 2
    np.testing.assert_array_equal(_codes_of(merged, len(kept))[same], _codes_of(anew, len(kept))[same])
    params = faiss.SearchParametersIVF(nprobe=merged.nlist)
    queries = _clustered(50, seed=3)
    found, expected = (one.search(queries, 10, params=params) for one in (merged, anew))
    for scores, rows, expected_scores, expected_rows in zip(*found, *expected, strict=True):
        own, other = scores[same[rows]], expected_scores[same[expected_rows]]
        np.testing.assert_array_equal(own[:8], other[:8])


def test_lists_as_long_as_a_block_has_bytes_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "IVF_FROM", 1000)
    stored = _clustered(11_000).astype(np.float16)
    codebook = vectors.train_codebook(stored[:1000])
    pieces = [stored[:10_000], stored[10_000:]]
    long = codebook.get_CodePacker().block_size
    nearest = codebook.quantizer.search(pieces[0].astype(np.float32), 1)[1][:, 0]
    alive = np.zeros(10_000, bool)
    for number in range(codebook.nlist):
        alive[np.flatnonzero(nearest == number)[:long]] = True
    assert (np.bincount(nearest[alive]) == long).any()
    lives = [alive, np.ones(1000, bool)]
    structures = [
        vectors.build_structure(len(piece), DIM, iter([piece]), codebook=codebook) for piece in pieces
    ]
    merged = vectors.merge_structures(codebook, zip(structures, pieces, lives, strict=True))
    kept = np.concatenate([piece[mask] for piece, mask in zip(pieces, lives, strict=True)])
    assert vectors.holds(merged, kept)
    found = codes.compare(merged, kept, most=len(kept))
    assert found == (0, len(kept))


def _codes_of(structure: Any, count: int) -> np.ndarray:
    """The product code of each row, read one by one through faiss, shape (count, bytes)."""
    import faiss

    lists = faiss.downcast_InvertedLists(structure.invlists)
    packer = structure.get_CodePacker()
    codes = np.zeros((count, packer.code_size), np.uint8)
    for number in range(structure.nlist):
        size = lists.list_size(number)
        if size:
            count_of_blocks = -(-size // packer.nvec)
            packed = faiss.rev_swig_ptr(lists.get_codes(number), count_of_blocks * packer.block_size)
            blocks = packed.reshape(count_of_blocks, packer.block_size)
            for offset, row in enumerate(faiss.rev_swig_ptr(lists.get_ids(number), size)):
                codes[row] = packer.unpack_1(blocks, offset)
    return codes


def _lists_of(structure: Any, count: int) -> np.ndarray:
    """The inverted list that holds each row, -1 for none, shape (count,)."""
    import faiss

    place = np.full(count, -1)
    for number in range(structure.nlist):
        size = structure.invlists.list_size(number)
        if size:
            place[faiss.rev_swig_ptr(structure.invlists.get_ids(number), size)] = number
    return place


def test_dead_rows_never_come_out_of_lists_and_recall_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "IVF_FROM", 3000)
    monkeypatch.setattr(vectors, "VISITED", 600)
    stored = _clustered(6000).astype(np.float16)
    index = vectors.build_structure(6000, DIM, iter([stored]), codebook=vectors.train_codebook(stored))
    assert vectors.probes(index) < index.nlist / 8
    alive = np.random.default_rng(1).random(6000) < 0.6
    hits = 0
    for query in _clustered(6000, seed=7)[:60]:
        found = vectors.structure_candidates(index, stored, query, 10, alive=alive)
        assert found is not None
        assert alive[found[0]].all()
        exact = np.where(alive, stored.astype(np.float64) @ query.astype(np.float64), -2)
        np.testing.assert_allclose(found[1], exact[found[0]], atol=1e-6)
        best = found[0][np.argsort(-found[1])[:10]]
        hits += len(set(best.tolist()) & set(np.argsort(-exact)[:10].tolist()))
    assert hits >= 0.95 * 600


@pytest.mark.parametrize(("count", "share"), [(3000, 1.0), (120_000, 0.5), (60_000_000, 1 / 64)])
def test_a_query_visits_as_many_vectors_whatever_the_size(count: int, share: float) -> None:
    class Lists:
        nlist, ntotal = 640, count

    assert vectors.probes(Lists()) == 640 * share


def test_codes_take_two_bits_a_dimension_and_survive_their_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vectors, "IVF_FROM", 3000)
    stored = _clustered(20_000).astype(np.float16)
    codebook = vectors.train_codebook(stored[:5000])
    index = vectors.build_structure(20_000, DIM, iter([stored]), codebook=codebook)
    assert index.code_size == DIM / 4  # bytes: 2 bits a dimension
    vectors.write_structure(index, tmp_path / "x.faiss")
    assert (tmp_path / "x.faiss").stat().st_size <= 20_000 * (DIM / 4 + 8) * 1.15
    again = vectors.read_structure((tmp_path / "x.faiss").read_bytes(), count=20_000, dim=DIM)
    assert vectors.holds(again, stored)
    for query in _clustered(5, seed=3):
        one, other = (vectors.structure_candidates(i, stored, query, 10) for i in (index, again))
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one[0], other[0])


def test_an_odd_dimension_has_a_code_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "IVF_FROM", 1000)
    stored = _units(np.random.default_rng(0).standard_normal((2000, 9))).astype(np.float16)
    index = vectors.build_structure(2000, 9, iter([stored]), codebook=vectors.train_codebook(stored))
    for row in (0, 500, 1999):
        found = vectors.structure_candidates(index, stored, stored[row].astype(np.float32), 3)
        assert found is not None
        assert found[0][np.argmax(found[1])] == row


# Inverted lists, in an index: IVF_FROM is lowered so that a few thousand vectors count as many.


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(vectors, "IVF_FROM", 3000)
    monkeypatch.setattr(vectors, "VISITED", 600)
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    return tmp_path / "index"


def _name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _item(number: int) -> Item:
    member = Member(Modality.IMAGE, Source.FILE, f"{number}.png", 1, 1, _name(number))
    return Item(f"{number:032x}", "root", member.path or "", (member,))


def _grow(index: Path, rows: FloatArray, start: int, alive: Sequence[int] | None = None) -> Generation:
    """Commit rows as the images numbered from `start`, with items for `alive` (default: all so far)."""
    segments = [Segment(_name(start + i), Modality.IMAGE, Source.FILE) for i in range(len(rows))]
    with Writer.open(index, create=True) as writer:
        parts = [writer.add_part(segments, rows, space_id="toy")] if len(rows) else []
        return writer.commit(
            writer.current(),
            roots=[],
            items=[_item(number) for number in alive or range(start + len(rows))],
            spaces={"toy": Space("toy", DIM)},
            parts=parts,
        )


def _recall(index: Path, rows: FloatArray, alive: np.ndarray) -> float:
    """Share of the exact ten best that a search finds, over 60 queries near the data."""
    hits = 0
    stored = rows.astype(np.float16).astype(np.float32)
    with Snapshot.open(index) as snapshot:
        for query in _clustered(len(rows), seed=7)[:60]:
            best = np.argsort(np.where(alive, -(stored @ query), 9))[:10]
            candidates = snapshot.search(Modality.IMAGE, query, 10)
            assert len(candidates) == 10
            names = {int.from_bytes(s.content_hash, "big") for s in snapshot.segments(candidates)}
            hits += len(names & set(best.tolist()))
            for segment, score in zip(snapshot.segments(candidates), candidates.score, strict=True):
                row = int.from_bytes(segment.content_hash, "big")
                assert score == pytest.approx(float(stored[row] @ query), abs=1e-5)  # rescored, no code's
    return hits / 600


def test_large_parts_share_one_codebook_and_keep_their_recall(lists: Path) -> None:
    rows = _clustered(9000)
    first = _grow(lists, rows[:4000], 0)
    assert dict(first.parts[0].kinds) == {Modality.IMAGE: "ivf"}
    second = _grow(lists, rows[4000:8000], 4000)
    third = _grow(lists, rows[8000:], 8000)
    assert first.codebooks == second.codebooks == third.codebooks
    assert list(first.codebooks) == ["toy/image"]
    assert [part.kinds[Modality.IMAGE] for part in third.parts] == ["ivf", "ivf", "flat"]
    assert _recall(lists, rows, np.ones(9000, bool)) >= 0.95
    assert verify(lists).problems == []
    alive = np.arange(9000) >= 7000  # the first part dies whole, of the second a quarter lives
    fourth = _grow(lists, rows[:0], 9000, range(7000, 9000))
    assert [part.id for part in fourth.parts if part.id in {part.id for part in third.parts}] == [
        third.parts[2].id
    ]
    assert _recall(lists, rows, alive) >= 0.95
    assert verify(lists).problems == []


@pytest.mark.parametrize("structure_from", [100, 10_000])
def test_several_queries_find_what_each_finds_alone(
    lists: Path, structure_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "STRUCTURE_FROM", structure_from)
    rows = _clustered(6000)
    _grow(lists, rows[:4000], 0)
    grown = _grow(lists, rows[4000:], 4000)
    assert [part.kinds[Modality.IMAGE] for part in grown.parts] == ["ivf", "flat"]
    queries = np.concatenate([_clustered(9000, seed=7)[:20], rows[-3:]])
    few = np.arange(4000) % 5 == 0
    with Snapshot.open(lists) as snapshot:
        for allowed in (None, [few, np.ones(2000, bool)]):
            together = snapshot.search_many(Modality.IMAGE, queries, 10, allowed=allowed)
            for query, found in zip(queries, together, strict=True):
                alone = snapshot.search(Modality.IMAGE, query, 10, allowed=allowed)
                for name in ("part", "row", "score"):
                    np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
        assert snapshot.search_many(Modality.IMAGE, queries[:0], 10) == []


def test_large_parts_merge_without_their_deleted_rows(lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _clustered(9000)
    _grow(lists, rows[:4000], 0)
    _grow(lists, rows[4000:8000], 4000)
    monkeypatch.setattr("indexer.merge.TIER_PARTS", 2)
    merged = _grow(
        lists,
        rows[8000:],
        8000,
        [number for number in range(9000) if number % 3 or number >= 8000],
    )
    alive = (np.arange(9000) % 3 != 0) | (np.arange(9000) >= 8000)
    assert sorted(part.kinds[Modality.IMAGE] for part in merged.parts) == ["flat", "ivf"]
    assert sum(part.rows for part in merged.parts) == alive.sum()
    assert _recall(lists, rows, alive) >= 0.95
    assert verify(lists).problems == []


def test_fewer_living_than_lists_visited_still_gives_k(lists: Path) -> None:
    rows = _clustered(4000)
    _grow(lists, rows, 0)
    alive = range(1900, 4000, 100)  # 21 of 4000, and rewriting is held off
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexer.merge.DEAD_SHARE", 1.0)
        _grow(lists, rows[:0], 4000, alive)
    assert read_current(lists).parts[0].kinds[Modality.IMAGE] == "ivf"
    with Snapshot.open(lists) as snapshot:
        candidates = snapshot.search(Modality.IMAGE, rows[0], 15)
        names = [int.from_bytes(s.content_hash, "big") for s in snapshot.segments(candidates)]
    stored = rows.astype(np.float16).astype(np.float64)
    best = sorted(alive, key=lambda row: -float(stored[row] @ rows[0].astype(np.float64)))
    assert names == best[:15]


def test_a_flipped_bit_in_a_codebook_is_found_by_the_next_large_part(lists: Path) -> None:
    rows = _clustered(8000)
    _grow(lists, rows[:4000], 0)
    (path,) = lists.glob("codebooks/*.faiss")
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"codebooks/.* checksum"):
        _grow(lists, rows[4000:], 4000)
    assert any("codebooks/" in problem for problem in verify(lists).problems)


# Filters: few of the rows may come


def _best(stored: np.ndarray, query: FloatArray, k: int, alive: np.ndarray) -> list[int]:
    """The k best living rows by brute force."""
    exact = np.where(alive, stored.astype(np.float64) @ query.astype(np.float64), -2)
    return np.argsort(-exact, kind="stable")[: min(k, int(alive.sum()))].tolist()


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_lists_keep_their_recall_as_a_filter_narrows(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(vectors, "IVF_FROM", 3000)
    monkeypatch.setattr(vectors, "VISITED", 1500)
    monkeypatch.setattr(vectors, "DIRECT", 150)  # so that a tenth of the rows still goes through the lists
    stored = _clustered(20_000).astype(np.float16)
    index = vectors.build_structure(20_000, DIM, iter([stored]), codebook=vectors.train_codebook(stored))
    alive = np.random.default_rng(2).random(20_000) < share
    hits = wanted = 0
    for query in _clustered(20_000, seed=7)[:40]:
        found = vectors.structure_candidates(index, stored, query, 10, alive=alive)
        assert found is not None
        assert alive[found[0]].all()
        best = found[0][np.argsort(-found[1], kind="stable")[:10]].tolist()
        expected = _best(stored, query, 10, alive)
        assert len(best) == len(expected)
        hits += len(set(best) & set(expected))
        wanted += len(expected)
    assert hits >= (1.0 if share < 0.01 else 0.95) * wanted


def test_more_lists_are_visited_the_fewer_rows_may_come() -> None:
    class Lists:
        nlist, ntotal = 1000, 1_000_000

    assert [vectors.probes(Lists(), living) for living in (1_000_000, 500_000, 100_000, 60_000, 10)] == [
        60,
        120,
        600,
        1000,
        1000,
    ]


def test_a_narrow_filter_is_answered_exactly_by_its_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = _clustered(3000).astype(np.float16)
    alive = np.zeros(3000, bool)
    alive[7::100] = True
    query = _clustered(1, seed=4)[0]
    scored = []
    exact = vectors.exact_scores
    monkeypatch.setattr(vectors, "scan", lambda *_: pytest.fail("all rows were scanned"))
    monkeypatch.setattr(vectors, "exact_scores", lambda *args: scored.append(args[1]) or exact(*args))
    ((rows, scores),) = vectors.exact_candidates(stored, query[None], 5, alive=alive)
    order = np.argsort(-scores, kind="stable")[:5]
    assert rows[order].tolist() == _best(stored, query, 5, alive)
    assert [len(one) for one in scored] == [30]


def test_k_come_of_k_that_are_allowed_wherever_they_lie(lists: Path) -> None:
    rows = _clustered(9000)
    _grow(lists, rows[:4000], 0)
    _grow(lists, rows[4000:], 4000)
    stored = rows.astype(np.float16)
    with Snapshot.open(lists) as snapshot:
        assert [part.kinds[Modality.IMAGE] for part in snapshot.generation.parts] == ["ivf", "ivf"]
        for seed, count in enumerate((1, 9, 10, 30, 600, 3000)):
            chosen = np.random.default_rng(seed).choice(9000, count, replace=False)
            alive = np.isin(np.arange(9000), chosen)
            found = snapshot.search(Modality.IMAGE, rows[5], 10, allowed=[alive[:4000], alive[4000:]])
            names = [int.from_bytes(s.content_hash, "big") for s in snapshot.segments(found)]
            expected = _best(stored, rows[5], 10, alive)
            assert len(names) == min(10, count)
            assert alive[names].all()
            if count <= 30:
                assert names == expected
            else:
                assert len(set(names) & set(expected)) >= 9
