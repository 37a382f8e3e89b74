"""Vectors: float16 files, the exact scan over them, and the FAISS structures, whose type one factory chooses.

A vector file is raw: rows of little-endian float16 and no header; row count and dimension stand in the
generation. Nothing here knows parts, items or generations. faiss is loaded only where it is needed: that
costs more time and memory than scanning a hundred thousand vectors.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer import codes, gpu
from indexer.errors import StoreError
from indexer.types import FloatArray

HalfArray = npt.NDArray[np.float16]
BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.int64]

HALF = np.dtype("<f2")
IVF_FROM = 200_000  # vectors; below, a flat structure is small and quick enough
STRUCTURE_FROM = 4096  # vectors; below, a scan takes a millisecond and needs no structure read
SCAN_ROWS = 512  # rows converted at a time: the block stays in the second-level cache
SCANNED = 8  # queries that share one scan, which holds all their scores
MARGIN = 1e-4  # more than float32 rounding moves a score, so that no true hit is cut before exact scoring
UNIT_TOLERANCE = 2e-3  # how far from 1 a norm may lie, after rounding to float16
HEADERS = (b"IxSQ", b"IwPf")  # how faiss marks the two types that index_for makes
ADD_ROWS = 16_384  # vectors converted and added at a time
TRAIN_PER_LIST = 40  # vectors sampled for each inverted list
TRAIN_ROUNDS = 6
CODE_BITS = 4  # what the quick scan of codes needs
CODED_TOGETHER = 2  # neighbouring dimensions that share one code: 2 bits a dimension
VISITED = 60_000  # vectors whose codes one query compares, whatever the structure holds: half a millisecond
RESCORED = 10  # candidates scored exactly, by result asked for
RESCORED_LEAST = 128
RESCORED_FILTERED = 4  # times as many, where a filter leaves at most 3 in 4 and may take what is nearest
DIRECT_SHARE = 1 / 16  # of the rows; where fewer may come, those are scored one by one, and no other
DIRECT = 4096  # rows that are scored one by one in the time that a query takes with inverted lists
_HALF_TO_SINGLE = np.float32(2.0**112)  # difference of the exponents' biases


def check_units(vectors: FloatArray, *, what: str) -> None:
    """Raise StoreError unless every row of shape (n, dim) is finite and of length 1."""
    wrong = _not_units(vectors)
    if len(wrong):
        raise StoreError(
            f"{what}: {len(wrong)} of {len(vectors)} vectors are not of length 1 (row {wrong[0]})"
        )


def are_units(vectors: FloatArray) -> bool:
    """Whether every row of shape (n, dim) is finite and of length 1."""
    return not len(_not_units(vectors))


def _not_units(vectors: FloatArray) -> IndexArray:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float32))
    return np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))  # NaN is wrong too


def write_half(path: Path, blocks: Iterable[npt.NDArray[Any]]) -> int:
    """Write rows as float16; how many rows."""
    rows = 0
    with path.open("wb") as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block, HALF).data)
            rows += len(block)
    return rows


def as_rows(buffer: Any, dim: int) -> HalfArray:
    """A mapped vector file as shape (n, dim), without a copy."""
    return np.frombuffer(buffer, HALF).reshape(-1, dim)


def scan(vectors: HalfArray, queries: FloatArray) -> FloatArray:
    """Inner products of all rows, shape (n, dim), with queries (q, dim), in float32: shape (q, n).

    The conversion moves the bits of sign, exponent and mantissa to their places in a float32; the difference
    in the exponents' bias, a power of two, goes into the query. That is exact for every finite float16, and
    more than twice as quick as NumPy's own conversion; a row is converted once for all queries. A query's
    products are the same in any company.
    """
    count, dim = vectors.shape
    bits = vectors.view(np.int16)
    block = np.empty((min(SCAN_ROWS, max(count, 1)), dim), np.int32)
    scaled = queries.astype(np.float32) * _HALF_TO_SINGLE
    scores = np.empty((len(queries), count), np.float32)
    for start in range(0, count, SCAN_ROWS):
        rows = bits[start : start + SCAN_ROWS]
        wide = block[: len(rows)]
        np.copyto(wide, rows)  # extends the sign over the upper half
        np.left_shift(wide, 13, out=wide)
        np.bitwise_and(wide, np.int32(-0x70000001), out=wide)  # 0x8fffffff: the sign's copies go
        single = wide.view(np.float32)
        for query, line in zip(scaled, scores, strict=True):
            np.dot(single, query, out=line[start : start + len(rows)])
    return scores


def exact_scores(vectors: HalfArray, rows: IndexArray, query: FloatArray) -> FloatArray:
    """Inner products of some rows, summed in float64 and rounded once: the same however a row was found."""
    wide = query.astype(np.float64)
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), SCAN_ROWS):
        block = vectors[rows[start : start + SCAN_ROWS]].astype(np.float64)
        scores[start : start + len(block)] = (block * wide).sum(axis=1)
    return scores


def top_rows(scores: FloatArray, k: int) -> IndexArray:
    """Rows that can be among the k best: all that score within rounding of the k-th; -inf never."""
    if k < len(scores):
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        return np.flatnonzero((scores >= kth - MARGIN) & (scores > -np.inf))
    return np.flatnonzero(scores > -np.inf)


def exact_candidates(
    vectors: HalfArray, queries: FloatArray, k: int, *, alive: BoolArray | None = None
) -> list[tuple[IndexArray, FloatArray]]:
    """For each of `queries` (q, dim) rows that can be among the k best, exactly scored, dead ones never.

    Few are not scanned for.
    """
    if alive is not None and np.count_nonzero(alive) <= len(vectors) * DIRECT_SHARE:
        rows = np.flatnonzero(alive)
        scored = [exact_scores(vectors, rows, query) for query in queries]
        return [(rows[best], scores[best]) for scores in scored for best in (top_rows(scores, k),)]
    found = []
    for query, scores in zip(queries, scan(vectors, queries), strict=True):
        if alive is not None:
            scores[~alive] = -np.inf
        rows = top_rows(scores, k)
        found.append((rows, exact_scores(vectors, rows, query)))
    return found


def faiss_loaded() -> bool:
    """Whether this process has paid for faiss already."""
    return "faiss" in sys.modules


def _faiss() -> Any:
    """faiss, loaded at the first use."""
    import faiss

    return faiss


def index_for(count: int, dim: int) -> Any:
    """The structure for that many unit vectors, empty and untrained: the one place that chooses a type.

    Flat float16 below IVF_FROM: half of float32's size and time, exact to the vector file's own precision.
    From there on sqrt(count) inverted lists of product codes, 2 bits a dimension: a fourteenth of float32's
    size, ids included. Axes are taken as they come: on sentence vectors a rotation changed nothing.
    """
    faiss = _faiss()
    if count < IVF_FROM:
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    coarse = faiss.IndexFlatIP(dim)
    pieces = dim // CODED_TOGETHER if dim % CODED_TOGETHER == 0 else dim
    index = faiss.IndexIVFPQFastScan(
        coarse, dim, int(np.sqrt(count)), pieces, CODE_BITS, faiss.METRIC_INNER_PRODUCT
    )
    index.by_residual = True  # what a code tells is where in its list a vector lies
    coarse.this.disown()  # the index frees it
    index.own_fields = True
    return index


def structure_kind(count: int) -> str:
    """What `index_for` chooses, as the generation records it."""
    return "flat" if count < IVF_FROM else "ivf"


def train_codebook(vectors: HalfArray, *, use_gpu: bool | None = None, note: gpu.Note | None = None) -> Any:
    """An empty inverted-list structure, trained on a sample of rows, shape (n, dim): the shared codebook.

    With a GPU, k-means finds nearest centres there; the structure stays on the host all the same, so that it
    can be stored as it is. `use_gpu` as for gpu.chosen; a GPU that fails costs one line to `note`.
    """
    index = index_for(len(vectors), vectors.shape[1])
    wanted = min(len(vectors), index.nlist * TRAIN_PER_LIST)
    rows = np.sort(np.random.default_rng(0).choice(len(vectors), wanted, replace=False))
    sample = vectors[rows].astype(np.float32)
    index.cp.niter = TRAIN_ROUNDS
    index.cp.spherical = True
    index.cp.min_points_per_centroid = 1  # it would warn on stderr
    index.cp.max_points_per_centroid = TRAIN_PER_LIST
    _train_lists(index, sample, use_gpu=gpu.chosen(use_gpu, note=note), note=note)
    with _one_thread():  # hundreds of tiny clusterings: more threads only wait for each other
        index.train(sample)
    return index


def _train_lists(index: Any, sample: FloatArray, *, use_gpu: bool, note: gpu.Note | None) -> None:
    """k-means over the sample, shape (n, dim): the centres of the inverted lists."""
    if use_gpu:
        try:
            index.clustering_index = gpu.clustering_index(index.d)
            index.train_q1(len(sample), _faiss().swig_ptr(sample), False, index.metric_type)
            return
        except RuntimeError as error:  # faiss has no other type: no memory, a driver that does not fit
            index.quantizer.reset()
            if note:
                note(f"training on the GPU failed, the CPU does it: {str(error).splitlines()[0][:120]}")
        finally:
            index.clustering_index = None
    index.train_q1(len(sample), _faiss().swig_ptr(sample), False, index.metric_type)


def build_structure(count: int, dim: int, blocks: Iterator[HalfArray], *, codebook: Any | None) -> Any:
    """A filled structure: row i of the blocks has id i. Large ones take the codebook's trained lists."""
    if codebook is not None:
        index = _faiss().clone_index(codebook)
        for block in blocks:
            index.add(np.ascontiguousarray(block, np.float32))
        return index
    index = index_for(count, dim)
    index.codes.resize(count * dim * HALF.itemsize)
    stored = _faiss().rev_swig_ptr(index.codes.data(), index.codes.size()).view(HALF).reshape(count, dim)
    for block in blocks:  # float16 codes are the stored rows themselves: nothing to learn or to convert
        stored[index.ntotal : index.ntotal + len(block)] = block
        index.ntotal += len(block)
    return index


def merge_structures(codebook: Any, sources: Iterable[tuple[Any, HalfArray, BoolArray]]) -> Any:
    """One structure of the living rows of several: of each its structure, its vectors and which of them live.

    Lists that follow the same codebook are copied, which needs no search for the nearest list; rows of a
    structure that does not, and of a flat one, given as None, are added. Ids run on from source to source.
    """
    index, start = _faiss().clone_index(codebook), 0
    for structure, stored, alive in sources:
        ids = np.cumsum(alive, dtype=np.int64) - 1 + start
        if structure is not None and codes.same_codebook(index, structure):
            codes.copy_lists(structure, index, ids, alive)
        else:
            living = np.flatnonzero(alive)
            for first in range(0, len(living), ADD_ROWS):
                rows = living[first : first + ADD_ROWS]
                index.add_with_ids(stored[rows].astype(np.float32), ids[rows])
        start += int(np.count_nonzero(alive))
    return index


def write_structure(index: Any, path: Path) -> None:
    """Write a structure; OSError where the disk does not take it, which faiss reports as RuntimeError."""
    faiss = _faiss()
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        import errno
        import shutil

        full = shutil.disk_usage(path.parent).free < index.ntotal * index.d
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error


def read_structure(buffer: Any, *, count: int, dim: int) -> Any:
    """A structure from its checked bytes; StoreError where it does not hold what the generation says."""
    faiss = _faiss()
    if bytes(buffer[:4]) not in HEADERS:
        raise StoreError(f"a search structure of unknown type {bytes(buffer[:4])!r}")
    index = faiss.deserialize_index(np.frombuffer(buffer, np.uint8))
    if index.d != dim or index.ntotal != count or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise StoreError(
            f"a search structure of {index.ntotal} x {index.d} where {count} x {dim} was expected"
        )
    return index


def read_codebook(buffer: Any, *, dim: int) -> Any:
    """A trained structure without vectors, from its checked bytes; StoreError where it is something else."""
    index = read_structure(buffer, count=0, dim=dim)
    if not hasattr(index, "nlist") or not index.is_trained:
        raise StoreError("a codebook without inverted lists")
    return index


def probes(index: Any, living: int | None = None) -> int:
    """How many inverted lists one query visits: as many as hold VISITED vectors, 1 in 64 at the least.

    Where only `living` of its vectors may come, it visits more lists, so that it sees as many of those.
    """
    visited = max(VISITED, index.ntotal / 64)
    return int(np.ceil(index.nlist * min(1.0, visited / max(index.ntotal if living is None else living, 1))))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One query gives more threads nothing to do but wait for each other: slow where the machine is busy."""
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def candidates(
    structure: Any | None, vectors: HalfArray, queries: FloatArray, k: int, *, alive: BoolArray | None = None
) -> list[tuple[IndexArray, FloatArray]]:
    """For each of `queries` (q, dim) rows that can be among the k best, exactly scored, dead ones never.

    Taken from the structure, if there is one; where that cannot tell, all rows are scanned.
    """
    found = [
        None if structure is None else structure_candidates(structure, vectors, query, k, alive=alive)
        for query in queries
    ]
    left = [number for number, one in enumerate(found) if one is None]
    some = [left[start : start + SCANNED] for start in range(0, len(left), SCANNED)]
    scanned = (one for few in some for one in exact_candidates(vectors, queries[few], k, alive=alive))
    return [next(scanned) if one is None else one for one in found]


def structure_candidates(
    index: Any, vectors: HalfArray, query: FloatArray, k: int, *, alive: BoolArray | None = None
) -> tuple[IndexArray, FloatArray] | None:
    """Rows that can be among the k best, exactly scored, from a structure; None where only a scan can tell.

    That is so where ties may reach past what a flat structure gave, or lists visited held fewer than k. The
    fewer rows may come, the more lists are visited; few are scored one by one.
    """
    faiss, count = _faiss(), len(vectors)
    living = count if alive is None else int(np.count_nonzero(alive))
    if living <= min(DIRECT, count * DIRECT_SHARE):
        return exact_candidates(vectors, query[None], k, alive=alive)[0]
    flat = not hasattr(index, "nlist")
    more = RESCORED_FILTERED if living <= 0.75 * count else 1
    wanted = min(count, k + 32 if flat else more * max(RESCORED * k, RESCORED_LEAST))
    options: dict[str, Any] = {}
    if alive is not None:
        bits = np.packbits(alive, bitorder="little")
        options["sel"] = faiss.IDSelectorBitmap(bits)
    if not flat:
        params = faiss.SearchParametersIVF(nprobe=probes(index, living), **options)
    else:
        params = faiss.SearchParameters(**options) if options else None
    with _one_thread():
        scores, found = index.search(query[None].astype(np.float32), wanted, params=params)
    rows = found[0][found[0] >= 0].astype(np.int64)
    if len(rows) < min(k, living):
        return None
    if flat and len(rows) < living and scores[0][len(rows) - 1] >= scores[0][k - 1] - MARGIN:
        return None
    return rows, exact_scores(vectors, rows, query)


def holds(index: Any, vectors: HalfArray) -> bool:
    """Whether a structure holds these vectors: to the bit if it is flat, each id once if it has lists."""
    faiss = _faiss()
    if not hasattr(index, "nlist"):
        own = faiss.vector_to_array(index.codes)
        return bool(np.array_equal(own, np.ascontiguousarray(vectors).view(np.uint8).reshape(-1)))
    lists = index.invlists
    ids = [
        faiss.rev_swig_ptr(lists.get_ids(place), lists.list_size(place)).copy()
        for place in range(index.nlist)
        if lists.list_size(place)
    ]
    return bool(np.array_equal(np.sort(np.concatenate(ids)), np.arange(len(vectors))))
