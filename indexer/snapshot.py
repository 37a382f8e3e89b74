"""The read side: one generation of an index, opened, checked before it is read, and searched.

A snapshot takes no lock and holds its files open, so commits and pruning beside it do not disturb it. Nothing
is written here, apart from the note in the user's cache of which files were found whole.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from indexer import schema, tombstones, vectors
from indexer.checked import CheckedFile, Verified
from indexer.errors import IndexCorrupt, SpaceMismatch
from indexer.generation import VERIFY_HINT, Generation, Root, read_current, read_generation
from indexer.nearest import Found, Rows, nearest
from indexer.parts import PartReader
from indexer.types import FloatArray, Item, Modality, Segment, Source
from indexer.vectors import BoolArray, IndexArray

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Key = tuple[bytes, Modality, Source]
Find = Callable[[FloatArray, Rows, int], list[Found]]  # queries, vectors, how many: as nearest.nearest


@dataclass(frozen=True, slots=True)
class Candidates:
    """Segments found, best first: score, then content hash, start and source. All arrays have shape (n,)."""

    part: IndexArray  # place of the part in generation.parts
    row: IndexArray  # row of the part's segment table
    score: FloatArray  # cosine, higher is better

    def __len__(self) -> int:
        return len(self.row)


class Snapshot:
    """One generation of an index. Use as a context manager, or call `close`."""

    def __init__(
        self, path: Path, generation: Generation, files: dict[str, CheckedFile], verified: Verified
    ) -> None:
        self.path = path
        self.generation = generation
        self.foreign_owner = path.stat().st_uid != os.geteuid()
        self._files = files
        self._verified = verified
        self._readers: list[PartReader] = []
        self._dead: list[BoolArray] | None = None
        self._items: pq.ParquetFile | None = None
        self._lookup: tuple[npt.NDArray[np.uint64], IndexArray] | None = None
        self._lock = threading.RLock()

    @classmethod
    def open(cls, index_dir: Path, *, generation: str | None = None) -> Snapshot:
        """Open what CURRENT names, or the kept generation of that name.

        Where a file is missing, a commit may have pruned it since CURRENT was read, which is then read again.
        Raises IndexNotFound, IndexCorrupt, IndexTooNew.
        """
        for last in (False, True):
            try:
                named = read_generation(index_dir, generation) if generation else read_current(index_dir)
                return cls._opened(index_dir, named)
            except FileNotFoundError as error:
                if last or generation:
                    missing = Path(error.filename or "a file").name
                    raise IndexCorrupt(f"{missing} is missing from {index_dir}", hint=VERIFY_HINT) from error
        raise AssertionError("unreachable")

    @classmethod
    def _opened(cls, index_dir: Path, generation: Generation) -> Snapshot:
        verified = Verified.load(index_dir)
        opened = cls(index_dir, generation, {}, verified)
        try:
            for name, expected in generation.files.items():
                opened._files[name] = CheckedFile.open(
                    index_dir, name, expected, label=name, verified=verified
                )
            for part in generation.parts:
                dim = generation.spaces[part.space_id].dim
                opened._readers.append(PartReader.open(index_dir / part.folder, part, dim, verified=verified))
        except BaseException:
            opened.close()
            raise
        return opened

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the files, and remember which were found whole."""
        with self._lock:
            self._verified.save(self.generation.all_files)
            self._items = self._lookup = None
            for reader in self._readers:
                reader.close()
            for file in self._files.values():
                file.close()

    def glance(self) -> None:
        """Look for damage that shows without reading whole files (PartReader.glance); raises IndexCorrupt."""
        for name, file in self._files.items():
            file.glance()
            if name == self.generation.tombstones_file and file.peek(0, 8) != tombstones.MAGIC:
                raise IndexCorrupt(f"{name} is no list of tombstones any more", hint=VERIFY_HINT)
        for reader in self._readers:
            reader.glance()

    @property
    def counts(self) -> dict[Modality, int]:
        """Living segments of the default space, by modality."""
        return self.generation.counts_of(self.space_id)

    @property
    def roots(self) -> dict[str, Root]:
        return {root.id: root for root in self.generation.roots}

    @property
    def space_id(self) -> str | None:
        """The space that a query is searched in by default; None for an index without any."""
        return next(iter(self.generation.spaces), None)

    @property
    def model(self) -> str | None:
        """The name of the model that the default space needs."""
        return self.generation.spaces[self.space_id].model if self.space_id else None

    # Items

    @property
    def items(self) -> pa.Table:
        """The whole item table, as schema.item_schema has it."""
        return self._item_file().read(use_threads=False)

    def item_list(self) -> list[Item]:
        """All items, in the order they were committed in."""
        return schema.items_from(self.items)

    def items_of(self, keys: Collection[Key]) -> dict[Key, list[Item]]:
        """The items that have each content, in table order; a key without any is left out.

        Reads the column of content hashes, then only the row groups that hold matches.
        """
        if not keys:
            return {}
        wanted = set(keys)
        found: dict[Key, list[Item]] = {}
        for item in self._rows(self._item_rows({key[0] for key in wanted})):
            for key in dict.fromkeys(member.key for member in item.members):
                if key in wanted:
                    found.setdefault(key, []).append(item)  # type: ignore[arg-type]
        return found

    def _item_file(self) -> pq.ParquetFile:
        with self._lock:
            if self._items is None:
                import pyarrow as pa
                import pyarrow.parquet as pq

                file = self._files[self.generation.items_file]
                try:
                    opened = pq.ParquetFile(pa.BufferReader(pa.py_buffer(file.map())))
                except pa.ArrowException as error:
                    raise IndexCorrupt(f"{file.name}: {error}", hint=VERIFY_HINT) from error
                if opened.metadata.num_rows != self.generation.item_count:
                    raise IndexCorrupt(f"{file.name} has a wrong number of rows", hint=VERIFY_HINT)
                self._items = opened
            return self._items

    def _item_rows(self, hashes: Collection[bytes]) -> list[int]:
        """Rows of the items that have a member with one of these content hashes."""
        numbers, rows = self._hash_lookup()
        wanted = np.frombuffer(b"".join(sorted(hashes)), "<u8").reshape(-1, 2)[:, 1]
        first, stop = (np.searchsorted(numbers, wanted, side) for side in ("left", "right"))
        return sorted({row for a, b in zip(first, stop, strict=True) for row in rows[a:b].tolist()})

    def _hash_lookup(self) -> tuple[npt.NDArray[np.uint64], IndexArray]:
        """Of each member the second half of its hash, as a number, and its item's row; by number."""
        with self._lock:
            if self._lookup is None:
                column = self._item_file().read(
                    columns=["members.list.element.content_hash"], use_threads=False
                )
                lists = column["members"].combine_chunks()
                hashes, _ = schema.hash_rows(schema.elements(lists).field(0))
                lengths = np.diff(lists.offsets.to_numpy())
                numbers = np.ascontiguousarray(hashes).view("<u8").reshape(-1, 2)[:, 1]
                rows = np.repeat(np.arange(len(lengths)), lengths)
                order = np.argsort(numbers, kind="stable")
                self._lookup = numbers[order], rows[order]
            return self._lookup

    def _rows(self, rows: Sequence[int]) -> list[Item]:
        """Some rows of the item table, reading only their row groups."""
        import pyarrow as pa

        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(row // schema.ROW_GROUP, []).append(row % schema.ROW_GROUP)
        picked = []
        for number, places in groups.items():
            table = self._item_file().read_row_group(number, use_threads=False)
            picked += [table.slice(place, 1) for place in places]
        return schema.items_from(pa.concat_tables(picked)) if picked else []

    # Segments

    def keys(self, *, space_id: str | None = None) -> set[Key]:
        """What any part has vectors for, tombstoned ones included: these need no encoding."""
        found: set[bytes] = set()
        for reader in self._readers:
            if space_id in (None, reader.part.space_id):
                packed = reader.keys().tobytes()
                found.update(
                    packed[i : i + schema.KEY_BYTES] for i in range(0, len(packed), schema.KEY_BYTES)
                )
        return {schema.unpack_key(packed) for packed in found}

    def search(
        self, modality: Modality, query: FloatArray, k: int, *, space_id: str | None = None
    ) -> Candidates:
        """The k best living segments of a modality for a unit vector of shape (dim,).

        There are fewer only where fewer exist. Raises SpaceMismatch for a space the index does not have.
        """
        space_id = self._space(space_id, query)
        places = self._places(modality, space_id) if k > 0 else []
        found = [self._part_candidates(place, modality, query, k) for place in places]
        return self._best(self._joined(places, found, modality), k)

    def search_many(
        self, modality: Modality, queries: FloatArray, k: int, *, find: Find = nearest
    ) -> list[Candidates]:
        """As `search` of the default space for each of `queries` (q, dim), exactly, a part at a time.

        `find` is asked for the best living rows of each part; whatever computes them, the result is the same.
        It is `search`'s too, but that one takes inverted lists, where parts have them, for what they find.
        """
        if not len(queries):
            return []
        places = self._places(modality, self._space(None, queries[0])) if k > 0 else []
        found = [find(queries, self._part_rows(place, modality), k) for place in places]
        return [
            self._best(self._joined(places, [part[query] for part in found], modality), k)
            for query in range(len(queries))
        ]

    def _places(self, modality: Modality, space_id: str | None) -> list[int]:
        """The parts that have vectors of a modality in a space."""
        parts = ((place, reader.part) for place, reader in enumerate(self._readers))
        return [place for place, part in parts if part.space_id == space_id and part.counts.get(modality)]

    def _part_rows(self, place: int, modality: Modality) -> Rows:
        reader = self._readers[place]
        return Rows(
            reader.vectors(modality), self._alive(place, modality), name=f"{reader.part.id}/{modality}"
        )

    def _joined(self, places: Sequence[int], found: Sequence[Found], modality: Modality) -> Candidates:
        """Vector rows that each part gave, as rows of segments."""
        if not places:
            return Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        offsets = [self._readers[place].part.offset(modality) for place in places]
        return Candidates(
            np.repeat(places, [len(rows) for rows, _ in found]),
            np.concatenate([rows + offset for (rows, _), offset in zip(found, offsets, strict=True)]),
            np.concatenate([scores for _, scores in found]),
        )

    def _space(self, space_id: str | None, query: FloatArray) -> str | None:
        space_id = space_id or self.space_id
        if space_id is None:
            return None
        space = self.generation.spaces.get(space_id)
        if space is None or query.shape != (space.dim,):
            wants = ", ".join(
                f"{s.model} ({key[:12]}, {s.dim}-d)" for key, s in self.generation.spaces.items()
            )
            raise SpaceMismatch(
                f"a query of space {space_id[:12]} and shape {query.shape} came, the index has {wants}",
                hint="search with the model that the index names",
            )
        return space_id

    def _part_candidates(
        self, place: int, modality: Modality, query: FloatArray, k: int
    ) -> tuple[IndexArray, FloatArray]:
        """Vector rows of one part that can be among the k best. A structure is used where it pays."""
        reader = self._readers[place]
        stored, alive = reader.vectors(modality), self._alive(place, modality)
        if reader.part.kinds[modality] == "ivf" or (
            len(stored) >= vectors.STRUCTURE_FROM and vectors.faiss_loaded()
        ):
            structure = reader.structure(modality)
            found = vectors.structure_candidates(structure, stored, query, k, alive=alive)
            if found is not None:
                return found
        return vectors.exact_candidates(stored, query, k, alive=alive)

    def _alive(self, place: int, modality: Modality) -> BoolArray | None:
        """Which vector rows live; None where all do."""
        part = self._readers[place].part
        if not part.dead.get(modality):
            return None
        start = part.offset(modality)
        return ~self._tombstones()[place][start : start + part.counts[modality]]

    def _tombstones(self) -> list[BoolArray]:
        with self._lock:
            if self._dead is None:
                parts, name = self.generation.parts, self.generation.tombstones_file
                if name is None:
                    self._dead = [np.zeros(part.rows, bool) for part in parts]
                else:
                    self._dead = tombstones.decode(self._files[name].read(), parts, name=name)
            return self._dead

    def _best(self, found: Candidates, k: int) -> Candidates:
        """The k best in total order. Hashes are read only for segments whose score another one has."""
        order = np.argsort(-found.score, kind="stable")
        if len(order) > k:
            order = order[found.score[order] >= found.score[order[k - 1]]]
        scores = found.score[order]
        tied = np.zeros(len(order), bool)
        if len(order) > 1:
            same = scores[1:] == scores[:-1]
            tied[1:] |= same
            tied[:-1] |= same
        if tied.any():
            names = {
                place: self._tie_name(int(found.part[order[place]]), int(found.row[order[place]]))
                for place in np.flatnonzero(tied).tolist()
            }
            nothing = (b"", 0.0, "")
            ranked = sorted(range(len(order)), key=lambda i: (-float(scores[i]), *names.get(i, nothing)))
            order = order[ranked]
        order = order[:k]
        return Candidates(found.part[order], found.row[order], found.score[order])

    def _tie_name(self, place: int, row: int) -> tuple[bytes, float, str]:
        table = self._readers[place].row(row)
        start = table["start"][0].as_py()
        return table["content_hash"][0].as_py(), -1.0 if start is None else start, table["source"][0].as_py()

    def segments(self, candidates: Candidates) -> list[Segment]:
        """The segments of candidates, in their order; reads only the row groups that hold them."""
        import pyarrow as pa

        if not len(candidates):
            return []
        places = list(zip(candidates.part.tolist(), candidates.row.tolist(), strict=True))
        picked = {place: self._readers[place[0]].row(place[1]) for place in sorted(set(places))}
        rows = schema.segments_from(pa.concat_tables(picked.values()))
        by_place = dict(zip(picked, rows, strict=True))
        return [by_place[place] for place in places]

    def vectors(
        self, modality: Modality, *, space_id: str | None = None
    ) -> Iterator[tuple[pa.Table, FloatArray]]:
        """Living segments of a modality with their vectors, part by part: a table and shape (rows, dim)."""
        space_id = space_id or self.space_id
        for place, reader in enumerate(self._readers):
            if reader.part.space_id == space_id and reader.part.counts.get(modality):
                start, count = reader.part.offset(modality), reader.part.counts[modality]
                alive = self._alive(place, modality)
                rows = np.arange(count) if alive is None else np.flatnonzero(alive)
                table = reader.parquet.read(use_threads=False).slice(start, count).take(rows)
                yield table, reader.vectors(modality)[rows].astype(np.float32)

    def warm(self, modalities: Sequence[Modality] = tuple(Modality)) -> None:
        """Check and map what a search of these modalities will read; may run beside the query's encoding."""
        for place, reader in enumerate(self._readers):
            for modality in modalities:
                if reader.part.counts.get(modality):
                    reader.vectors(modality)
                    if reader.part.kinds[modality] == "ivf":
                        reader.structure(modality)
                    self._alive(place, modality)
            _ = reader.parquet
        self._hash_lookup()
