"""Codes of inverted lists, held against their vectors: what is sound passes, what is not is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from indexer import codes, vectors
from indexer.vectors import HalfArray

DIM = 32
COUNT = 3000


@pytest.fixture
def stored() -> HalfArray:
    """Unit vectors around 40 directions, shape (COUNT, DIM)."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((40, DIM))[random.integers(40, size=COUNT)]
    rows = rows + 0.5 * random.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def index(stored: HalfArray, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(vectors, "IVF_FROM", 1000)
    codebook = vectors.train_codebook(stored)
    return vectors.build_structure(COUNT, DIM, iter([stored]), codebook=codebook)


def _empty(index: Any) -> Any:
    """The same lists with nothing in them."""
    import faiss

    empty = faiss.clone_index(index)
    empty.reset()
    return empty


def _all_codes(index: Any) -> Any:
    """The blocks of each list that holds any, as they lie in memory: list number to bytes."""
    import faiss

    lists, packer = faiss.downcast_InvertedLists(index.invlists), index.get_CodePacker()
    return {
        number: faiss.rev_swig_ptr(lists.get_codes(number), -(-size // packer.nvec) * packer.block_size)
        for number in range(index.nlist)
        if (size := lists.list_size(number))
    }


def test_lists_as_they_were_made_are_right(index: Any, stored: HalfArray) -> None:
    assert codes.compare(index, stored) == (0, COUNT)
    assert codes.compare(index, stored, most=500) == (0, 500)


def test_lists_as_they_were_merged_are_right(index: Any, stored: HalfArray) -> None:
    alive = np.random.default_rng(1).random(COUNT) < 0.7
    sources = [(index, stored, alive), (index, stored, alive), (None, stored, ~alive)]
    merged = vectors.merge_structures(_empty(index), sources)
    rows = np.concatenate([stored[mask] for _, _, mask in sources])
    assert codes.compare(merged, rows, most=len(rows)) == (0, len(rows))


def test_nothing_is_right(index: Any, stored: HalfArray) -> None:
    assert codes.compare(_empty(index), stored[:0]) == (0, 0)


def test_codes_of_one_list_that_were_changed_are_counted(index: Any, stored: HalfArray) -> None:
    blocks = _all_codes(index)
    number = max(blocks, key=lambda one: len(blocks[one]))
    size = index.invlists.list_size(number)
    blocks[number][:] = ~blocks[number]
    found = codes.compare(index, stored)
    assert found.rows == COUNT
    assert 0.95 * size <= found.wrong <= size
    assert vectors.holds(index, stored)  # every id is there once all the same


def test_one_wrong_code_of_one_row_is_seen(index: Any, stored: HalfArray) -> None:
    blocks = _all_codes(index)
    blocks[min(blocks)][0] ^= 0x0F  # the first nibble that the quick scan reads
    assert codes.compare(index, stored) == (1, COUNT)


def test_codes_of_other_vectors_and_other_lists(index: Any, stored: HalfArray) -> None:
    shifted = np.roll(stored, 1, axis=0)
    found = codes.compare(index, shifted)
    assert found.wrong > 0.9 * COUNT
    sample = codes.compare(index, shifted, most=300)
    assert sample.rows == 300
    assert sample.wrong > 0.9 * 300


def test_a_vector_on_a_border_may_lie_on_either_side(index: Any, stored: HalfArray) -> None:
    """Vectors moved by about as little as rounding moves scores: some have other codes, but none far off."""
    import faiss

    exact = stored.astype(np.float32)
    moved = exact + np.random.default_rng(2).uniform(-1e-5, 1e-5, exact.shape).astype(np.float32)
    place = index.quantizer.search(exact, 1)[1][:, 0]
    both = [np.empty((COUNT, index.code_size), np.uint8) for _ in range(2)]
    for rows, anew in zip((exact, moved), both, strict=True):
        index.encode_vectors(COUNT, *(faiss.swig_ptr(array) for array in (rows, place, anew)))
    assert 0 < np.count_nonzero((both[0] != both[1]).any(axis=1)) < COUNT / 20
    assert codes.compare(index, moved) == (0, COUNT)  # type: ignore[arg-type]
