"""Product codes in inverted lists: copied from one structure into another, and held against their vectors.

When lists are made, searched and merged stands in vectors.py. faiss keeps the codes of a list interleaved in
blocks; here is the only place that takes them apart. It is loaded where it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.types import FloatArray

Bytes = npt.NDArray[np.uint8]
IndexArray = npt.NDArray[np.int64]

COMPARED = 4096  # rows looked at: of one wrong in a thousand, some are among them 49 times in 50
SCORE_BORDER = 1e-4  # more than rounding moves a score between machines
CODE_BORDER = 1e-5  # and the square of a distance from what codes give back


def same_codebook(one: Any, other: Any) -> bool:
    """Whether two list structures have the same centroids and ranges, so that their codes mean the same."""
    import faiss

    if not hasattr(other, "nlist") or one.nlist != other.nlist:
        return False
    learned, others = (faiss.vector_to_array(index.pq.centroids) for index in (one, other))
    centres, theirs = (index.quantizer.reconstruct_n(0, index.nlist) for index in (one, other))
    return np.array_equal(learned, others) and np.array_equal(centres, theirs)


def copy_lists(source: Any, target: Any, ids: IndexArray, alive: npt.NDArray[np.bool_]) -> None:
    """Copy the codes of living rows, list by list, under their new ids."""
    import faiss

    lists = faiss.downcast_InvertedLists(source.invlists)
    packer = source.get_CodePacker()
    for place in range(source.nlist):
        size = lists.list_size(place)
        if size:
            old = faiss.rev_swig_ptr(lists.get_ids(place), size)
            kept = np.flatnonzero(alive[old])
            if len(kept):
                codes = _unpacked(packer, _blocks(lists, packer, place))[kept]
                _append(target, packer, place, ids[old[kept]], codes)


def _append(index: Any, packer: Any, place: int, ids: IndexArray, codes: Bytes) -> None:
    """Put rows behind those of a list, and zeros behind them: adding ORs codes into what stands there.

    faiss's own `add_entries` will not do: it leaves padding as it was, and of a list that holds exactly as
    many rows as a block has bytes it takes the end for the start of a block, and writes past it.
    """
    import faiss

    lists = faiss.downcast_InvertedLists(index.invlists)
    before = lists.list_size(place)
    whole, tail = divmod(before, packer.nvec)
    if tail:  # the last block is not full: taken apart and filled
        codes = np.concatenate([_unpacked(packer, _blocks(lists, packer, place)[whole:])[:tail], codes])
    lists.resize(place, before + len(ids))
    _blocks(lists, packer, place)[whole:] = _packed(packer, codes)
    faiss.rev_swig_ptr(lists.get_ids(place), before + len(ids))[before:] = ids
    index.ntotal += len(ids)


def _blocks(lists: Any, packer: Any, place: int) -> Bytes:
    """The blocks of a list as they lie in memory, shape (blocks, bytes); the list holds a row or more."""
    import faiss

    count = -(-lists.list_size(place) // packer.nvec)
    packed = faiss.rev_swig_ptr(lists.get_codes(place), count * packer.block_size)
    return packed.reshape(count, packer.block_size)  # type: ignore[no-any-return]


def _unpacked(packer: Any, blocks: Bytes) -> Bytes:
    """A row of bytes for each code of some blocks, the padding of the last one included."""
    import faiss

    codes = np.empty((len(blocks), packer.nvec, packer.code_size), np.uint8)
    for block, rows in zip(blocks, codes, strict=True):
        packer.unpack_all(faiss.swig_ptr(block), faiss.swig_ptr(rows))
    return codes.reshape(-1, packer.code_size)


def _packed(packer: Any, codes: Bytes) -> Bytes:
    """The opposite: rows of bytes as the interleaved blocks that are scanned, shape (blocks, bytes)."""
    import faiss

    padded = np.zeros((-(-len(codes) // packer.nvec), packer.nvec, packer.code_size), np.uint8)
    padded.reshape(-1, packer.code_size)[: len(codes)] = codes
    blocks = np.zeros((len(padded), packer.block_size), np.uint8)
    for rows, block in zip(padded, blocks, strict=True):
        packer.pack_all(faiss.swig_ptr(rows), faiss.swig_ptr(block))
    return blocks


class Compared(NamedTuple):
    """What a comparison of codes with vectors found."""

    wrong: int  # rows whose codes are another vector's, or that lie in a list that is not the nearest
    rows: int  # rows compared


def compare(index: Any, stored: npt.NDArray[np.float16], *, most: int = COMPARED) -> Compared:
    """Hold codes of inverted lists against the vectors, shape (n, dim), whose rows are the lists' ids.

    A sample of at most `most` rows, the same each time. A vector on the border of two lists or codes may lie
    on either side, as rounding differs between machines: a row is wrong only where what it has is worse by
    more than that.
    """
    if not index.ntotal:
        return Compared(0, 0)
    rows, place, codes = _sampled(index, most)
    vectors = stored[rows].astype(np.float32)
    nearest = index.quantizer.search(vectors, 1)[0][:, 0]
    centres = index.quantizer.reconstruct_n(0, index.nlist)[place]
    far = nearest - np.einsum("ij,ij->i", vectors, centres) > SCORE_BORDER
    anew = np.empty_like(codes)
    _encode(index, vectors, place, anew)
    differ = np.flatnonzero((codes != anew).any(axis=1))
    rest = vectors[differ] - centres[differ]
    own, best = (_error(rest, index.pq.decode(some[differ])) for some in (codes, anew))
    far[differ] |= own - best > CODE_BORDER
    return Compared(int(np.count_nonzero(far)), len(rows))


def _error(rest: FloatArray, decoded: FloatArray) -> npt.NDArray[np.float64]:
    """Squares of the distances that codes leave, shape (n,)."""
    return np.square(rest.astype(np.float64) - decoded).sum(axis=1)


def _encode(index: Any, vectors: FloatArray, place: IndexArray, codes: Bytes) -> None:
    """The codes of vectors in the lists of these numbers, written into `codes`, shape (n, bytes)."""
    import faiss

    index.encode_vectors(len(vectors), *(faiss.swig_ptr(array) for array in (vectors, place, codes)))


def _sampled(index: Any, most: int) -> tuple[IndexArray, IndexArray, Bytes]:
    """Ids, list numbers and codes of some rows, in the order of lists: (n,), (n,) and (n, bytes)."""
    chosen = np.arange(index.ntotal)
    if index.ntotal > most:
        chosen = np.sort(np.random.default_rng(0).choice(index.ntotal, most, replace=False))
    found = list(_taken(index, chosen))
    rows, codes = (np.concatenate(part) for part in zip(*((ids, own) for _, ids, own in found), strict=True))
    place = np.repeat([number for number, _, _ in found], [len(ids) for _, ids, _ in found])
    return rows, place.astype(np.int64), codes


def _taken(index: Any, chosen: IndexArray) -> Iterator[tuple[int, IndexArray, Bytes]]:
    """By list its number, and ids and codes of what is chosen, counted through all lists."""
    import faiss

    lists, packer = faiss.downcast_InvertedLists(index.invlists), index.get_CodePacker()
    start = 0
    for number in range(index.nlist):
        size = lists.list_size(number)
        first, stop = np.searchsorted(chosen, (start, start + size))
        if first < stop:
            own = chosen[first:stop] - start
            wanted, block = np.unique(own // packer.nvec, return_inverse=True)
            unpacked = _unpacked(packer, _blocks(lists, packer, number)[wanted])
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)[own]
            yield number, ids.astype(np.int64), unpacked[block * packer.nvec + own % packer.nvec]
        start += size
