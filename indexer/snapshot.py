"""The read side: one generation of an index, opened, checked before it is read, and searched.

A snapshot takes no lock and holds its files open, so commits and pruning beside it do not disturb it. Nothing
is written here, apart from the note in the user's cache of which files were found whole.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer import schema, tombstones, vectors
from indexer.candidates import Candidates, TieName, best, joined
from indexer.checked import CheckedFile, Verified
from indexer.errors import IndexCorrupt, SpaceMismatch
from indexer.generation import VERIFY_HINT, Generation, Root, read_current, read_generation
from indexer.itemtable import ItemTable, Key
from indexer.nearest import Found, Rows
from indexer.parts import PartReader
from indexer.types import FloatArray, Item, Modality, Segment
from indexer.vectors import BoolArray, IndexArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Allowed", "Candidates", "Find", "Key", "Snapshot"]

Allowed = Sequence[BoolArray]  # for each part, which rows of its segment table may be found, shape (rows,)
Find = Callable[[FloatArray, Rows, int], list[Found]]  # queries, vectors, how many: as nearest.nearest


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
        self._item_table: ItemTable | None = None
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
                return cls._opened(index_dir, named, lenient=last or bool(generation))
            except FileNotFoundError as error:
                if last or generation:
                    missing = Path(error.filename or "a file").name
                    raise IndexCorrupt(f"{missing} is missing from {index_dir}", hint=VERIFY_HINT) from error
        raise AssertionError("unreachable")

    @classmethod
    def _opened(cls, index_dir: Path, generation: Generation, *, lenient: bool) -> Snapshot:
        """`lenient`: without derived files that are missing, as no search hangs on them."""
        verified = Verified.load(index_dir)
        opened = cls(index_dir, generation, {}, verified)
        try:
            worked_out = set(generation.derived.values())
            for name, expected in generation.files.items():
                harmless: tuple[type[Exception], ...] = ()
                if name in worked_out:
                    harmless = (IndexCorrupt, FileNotFoundError) if lenient else (IndexCorrupt,)
                with contextlib.suppress(*harmless):
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
            self._item_table = None
            for reader in self._readers:
                reader.close()
            for file in self._files.values():
                file.close()

    def glance(self) -> None:
        """Look for damage that shows without reading whole files (PartReader.glance); raises IndexCorrupt."""
        worked_out = set(self.generation.derived.values())
        for name, file in self._files.items():
            if name in worked_out:
                continue
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

    def derived(self, key: str) -> memoryview | None:
        """A file worked out of the index, as derived.key_of names it, checked.

        None where there is none, or it is damaged: no search hangs on it, and the next update makes it anew.
        """
        file = self._files.get(self.generation.derived.get(key, ""))
        try:
            return None if file is None else memoryview(file.map())
        except IndexCorrupt:
            return None

    @property
    def sound(self) -> Generation:
        """The generation, without derived files that are missing or damaged."""
        kept = {key: file for key, file in self.generation.derived.items() if self.derived(key) is not None}
        return replace(self.generation, derived=kept)

    # Items

    @property
    def items(self) -> pa.Table:
        """The whole item table, as schema.item_schema has it."""
        return self._items().whole()

    def item_list(self) -> list[Item]:
        """All items, in the order they were committed in."""
        return schema.items_from(self.items)

    def item_columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of the item table; see schema.item_schema."""
        return self._items().columns(names)

    def items_at(self, rows: Sequence[int]) -> list[Item]:
        """The items in some rows of the item table, ascending; reads only their row groups."""
        return self._items().at(sorted(set(rows)))

    def items_of(self, keys: Collection[Key]) -> dict[Key, list[Item]]:
        """The items that have each content, in table order; a key without any is left out."""
        return self._items().of(keys)

    def _items(self) -> ItemTable:
        with self._lock:
            if self._item_table is None:
                file = self._files[self.generation.items_file]
                self._item_table = ItemTable(file, self.generation.item_count)
            return self._item_table

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
        self,
        modality: Modality,
        query: FloatArray,
        k: int,
        *,
        space_id: str | None = None,
        allowed: Allowed | None = None,
    ) -> Candidates:
        """The k best living segments of a modality for a unit vector of shape (dim,), of those allowed.

        There are fewer only where fewer exist. Raises SpaceMismatch for a space the index does not have.
        """
        return self.search_many(modality, query[None], k, space_id=space_id, allowed=allowed)[0]

    def scores(self, candidates: Candidates, queries: FloatArray) -> FloatArray:
        """Cosines of some segments with unit vectors (q, dim), shape (q, n), to the bit those of `search`."""
        scores = np.zeros((len(queries), len(candidates)), np.float32)
        for chosen, stored, rows in self._stored(candidates):
            for line, query in zip(scores, queries, strict=True):
                line[chosen] = vectors.exact_scores(stored, rows, query)
        return scores

    def vectors_of(self, candidates: Candidates) -> FloatArray:
        """The vectors of some segments, in their order, shape (n, dim)."""
        dim = self.generation.spaces[self.space_id].dim if self.space_id else 0
        found = np.zeros((len(candidates), dim), np.float32)
        for chosen, stored, rows in self._stored(candidates):
            found[chosen] = stored[rows]
        return found

    def _stored(self, candidates: Candidates) -> Iterator[tuple[IndexArray, vectors.HalfArray, IndexArray]]:
        """By part and modality: places among the candidates, the modality's vectors, and rows of those."""
        for place in np.unique(candidates.part).tolist():
            reader = self._readers[place]
            for modality, count in reader.part.counts.items():
                rows = candidates.row - reader.part.offset(modality)
                chosen = np.flatnonzero((candidates.part == place) & (rows >= 0) & (rows < count))
                if len(chosen):
                    yield chosen, reader.vectors(modality), rows[chosen]

    def places_of(self, keys: Collection[Key]) -> dict[Key, list[tuple[int, int]]]:
        """Where each content's living segments of the default space stand: parts and rows, ascending."""
        wanted = {schema.pack_key(key): key for key in keys}
        found: dict[Key, list[tuple[int, int]]] = {}
        for place, reader in enumerate(self._readers if wanted else ()):
            if reader.part.space_id != self.space_id:
                continue
            alive = self.living(place)
            for row, packed in reader.rows_of(wanted.keys()):
                if alive[row]:
                    found.setdefault(wanted[packed], []).append((place, row))
        return found

    def living(self, place: int) -> BoolArray:
        """Which rows of a part's segment table are not deleted, shape (rows,)."""
        return ~self._tombstones()[place]

    def segment_columns(self, place: int, names: Sequence[str]) -> pa.Table:
        """Some columns of a part's segments, deleted rows included: any of facts.column_schema."""
        return self._readers[place].columns(names)

    def search_many(
        self,
        modality: Modality,
        queries: FloatArray,
        k: int,
        *,
        space_id: str | None = None,
        find: Find | None = None,
        allowed: Allowed | None = None,
    ) -> list[Candidates]:
        """As `search` for each of `queries` (q, dim), a part at a time: what has to be scanned is read once.

        With `find`, such as nearest.nearest for many queries, that is asked for the best living rows of each
        part, exactly; without it, inverted lists are taken for what they find.
        """
        if not len(queries):
            return []
        places = self._places(modality, self._space(space_id, queries[0])) if k > 0 else []
        found = []
        for place in places:
            stored, alive = self._readers[place].vectors(modality), self._alive(place, modality, allowed)
            if find is not None:
                name = f"{self._readers[place].part.id}/{modality}"
                found.append(find(queries, Rows(stored, alive, name=name), k))
            else:
                structure = self._structure(place, modality)
                found.append(vectors.candidates(structure, stored, queries, k, alive=alive))
        return [
            self._best(self._joined(places, [part[query] for part in found], modality), k)
            for query in range(len(queries))
        ]

    def _structure(self, place: int, modality: Modality) -> Any | None:
        """The search structure of a part, where it pays to read it."""
        reader = self._readers[place]
        large = reader.part.counts[modality] >= vectors.STRUCTURE_FROM
        pays = reader.part.kinds[modality] == "ivf" or (large and vectors.faiss_loaded())
        return reader.structure(modality) if pays else None

    def _places(self, modality: Modality, space_id: str | None) -> list[int]:
        """The parts that have vectors of a modality in a space."""
        parts = ((place, reader.part) for place, reader in enumerate(self._readers))
        return [place for place, part in parts if part.space_id == space_id and part.counts.get(modality)]

    def _joined(self, places: Sequence[int], found: Sequence[Found], modality: Modality) -> Candidates:
        return joined(places, [self._readers[place].part.offset(modality) for place in places], found)

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

    def _alive(self, place: int, modality: Modality, allowed: Allowed | None = None) -> BoolArray | None:
        """Which vector rows live and are allowed; None where all are."""
        part = self._readers[place].part
        start = part.offset(modality)
        rows = slice(start, start + part.counts[modality])
        alive = ~self._tombstones()[place][rows] if part.dead.get(modality) else None
        if allowed is None:
            return alive
        return allowed[place][rows] if alive is None else alive & allowed[place][rows]

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
        return best(found, k, name_of=self._tie_name)

    def _tie_name(self, place: int, row: int) -> TieName:
        table = self._readers[place].rows([row])
        start = table["start"][0].as_py()
        return table["content_hash"][0].as_py(), -1.0 if start is None else start, table["source"][0].as_py()

    def segments(self, candidates: Candidates) -> list[Segment]:
        """The segments of candidates, in their order; reads only the row groups that hold them."""
        import pyarrow as pa

        if not len(candidates):
            return []
        places = list(zip(candidates.part.tolist(), candidates.row.tolist(), strict=True))
        wanted = sorted(set(places))
        tables = [
            self._readers[part].rows(row for _, row in own) for part, own in groupby(wanted, itemgetter(0))
        ]
        by_place = dict(zip(wanted, schema.segments_from(pa.concat_tables(tables)), strict=True))
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
        self._items().lookup()
