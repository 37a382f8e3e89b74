"""What a commit will publish: worked out from the parent generation and a change, and written into staging.

No lock is held here and nothing outside the writer's staging folder is touched, so that a draft can be thrown
away whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer import merge, schema, tombstones
from indexer.checked import Verified, describe
from indexer.errors import IndexCorrupt, StoreError
from indexer.fsio import fsync_dir, fsync_file
from indexer.generation import VERIFY_HINT, Generation, Part, Root, Space, StoredFile
from indexer.parts import Content, PartReader
from indexer.types import Item, Modality
from indexer.vectors import BoolArray

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class StagedPart:
    """A part that no generation names yet. Usable until its writer closes, also after a CommitConflict."""

    part: Part
    dim: int
    folder: Path
    codebooks: Mapping[Modality, Path] = field(default_factory=dict)  # trained for it, where none was kept


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit was asked for."""

    parent: Generation | None
    roots: Sequence[Root]
    items: Sequence[Item] | pa.Table
    spaces: Mapping[str, Space]
    staged: Sequence[StagedPart]
    purge: bool = False  # rewrite every part with deleted rows, and keep no older generation
    forgotten: frozenset[bytes] = frozenset()  # contents that this takes out for good, by their hashes


@dataclass(frozen=True, slots=True)
class Draft:
    """What to publish."""

    parts: list[Part]
    items_file: str
    item_count: int
    tombstones_file: str | None
    codebooks: dict[str, str]  # "space/modality" -> path relative to the index
    files: dict[str, StoredFile]  # all but the parts'
    part_moves: dict[str, Path]  # path relative to the index: where it is staged
    item_moves: dict[str, Path]
    tombstone_moves: dict[str, Path]
    made: list[Path]  # staged for this draft alone


class Drafter:
    """Makes one draft. `write` stages a merged part."""

    def __init__(
        self, index_dir: Path, staging: Path, *, verified: Verified, write: Callable[[Content], StagedPart]
    ) -> None:
        self._index_dir = index_dir
        self._staging = staging
        self._verified = verified
        self._write = write
        self._made: list[Path] = []

    def draft(self, change: Change) -> Draft:
        """Stage everything that the change needs; on an error nothing of it stays."""
        try:
            return self._draft(change)
        except BaseException:
            discard(self._made)
            raise

    def _draft(self, change: Change) -> Draft:
        table = _item_table(change.items)
        sources = self._sources(change)
        with self._open(sources, change.spaces, verified=self._verified) as readers:
            dead = tombstones.dead_masks(readers, table)
        kept, masks, merged = self._merge(sources, dead, change)
        parts = [_with_dead(source.part, mask) for source, mask in zip(kept, masks, strict=True)]
        files: dict[str, StoredFile] = {}
        items_file, item_moves = self._stage_items(table, files)
        tombstones_file, tombstone_moves = self._stage_tombstones(parts, masks, files)
        codebooks, part_moves = self._stage_codebooks([*change.staged, *merged], parts, change, files)
        part_moves |= {
            source.part.folder: source.folder
            for source in kept
            if source.folder != self._index_dir / source.part.folder
        }
        return Draft(
            parts,
            items_file,
            table.num_rows,
            tombstones_file,
            codebooks,
            files,
            part_moves,
            item_moves,
            tombstone_moves,
            self._made,
        )

    def _sources(self, change: Change) -> list[StagedPart]:
        """The parts to start from: the parent's of the spaces that stay, then new ones."""
        old = change.parent.parts if change.parent else ()
        sources = [
            StagedPart(part, change.spaces[part.space_id].dim, self._index_dir / part.folder)
            for part in old
            if part.space_id in change.spaces
        ]
        for staged in change.staged:
            space = change.spaces.get(staged.part.space_id)
            if space is None or space.dim != staged.dim:
                raise StoreError(
                    f"a part of space {staged.part.space_id[:12]} with {staged.dim} dimensions was staged, "
                    f"which the commit does not name"
                )
            sources.append(staged)
        return sources

    @contextlib.contextmanager
    def _open(
        self, sources: Sequence[StagedPart], spaces: Mapping[str, Space], *, verified: Verified | None
    ) -> Iterator[list[PartReader]]:
        """Readers of some parts; without `verified` every checksum is taken anew."""
        with contextlib.ExitStack() as stack:
            readers = []
            for source in sources:
                dim = spaces[source.part.space_id].dim
                try:
                    reader = PartReader.open(source.folder, source.part, dim, verified=verified)
                except FileNotFoundError as error:
                    raise IndexCorrupt(f"{source.part.folder} is missing a file", hint=VERIFY_HINT) from error
                readers.append(stack.enter_context(contextlib.closing(reader)))
            yield readers

    def _merge(
        self, sources: list[StagedPart], dead: list[BoolArray], change: Change
    ) -> tuple[list[StagedPart], list[BoolArray], list[StagedPart]]:
        """The parts after merging, their deleted rows, and which of them are new; empty parts are dropped."""
        living = [int(np.count_nonzero(~mask)) for mask in dead]
        groups = merge.plan([source.part for source in sources], living, purge=change.purge)
        taken = {place for group in groups for place in group}
        kept = [source for place, source in enumerate(sources) if place not in taken]
        masks = [mask for place, mask in enumerate(dead) if place not in taken]
        merged = []
        for group in groups:
            if any(living[place] for place in group):
                chosen = [sources[place] for place in group]
                # Checksums are taken anew: a copy must not make whole what was damaged.
                with self._open(chosen, change.spaces, verified=None) as readers:
                    part = self._write(merge.merged(readers, [dead[place] for place in group]))
                self._made += [part.folder, *part.codebooks.values()]
                merged.append(part)
                masks.append(np.zeros(part.part.rows, bool))
        return [*kept, *merged], masks, merged

    def _stage_items(self, table: pa.Table, files: dict[str, StoredFile]) -> tuple[str, dict[str, Path]]:
        """The item table under its content's name."""
        import pyarrow.parquet as pq

        path = self._staging / f"{secrets.token_hex(8)}.parquet"
        self._made.append(path)
        pq.write_table(table, path, row_group_size=schema.ROW_GROUP, **schema.parquet_options())
        return self._named(path, "items", files)

    def _stage_tombstones(
        self, parts: Sequence[Part], masks: Sequence[BoolArray], files: dict[str, StoredFile]
    ) -> tuple[str | None, dict[str, Path]]:
        data = tombstones.encode(parts, masks)
        if data is None:
            return None, {}
        path = self._staging / f"{secrets.token_hex(8)}.bin"
        self._made.append(path)
        path.write_bytes(data)
        return self._named(path, "tombstones", files)

    def _named(self, path: Path, folder: str, files: dict[str, StoredFile]) -> tuple[str, dict[str, Path]]:
        """Where a staged file goes: its id is the start of its checksum.

        One that lies there already is replaced by the same bytes: until the commit holds the lock, another
        writer's cleaning could take it away.
        """
        stored = describe(path)
        name = f"{folder}/{stored.sha256[:16]}{path.suffix}"
        files[name] = stored
        fsync_file(path)
        fsync_dir(path.parent)
        return name, {name: path}

    def _stage_codebooks(
        self,
        staged: Sequence[StagedPart],
        parts: Sequence[Part],
        change: Change,
        files: dict[str, StoredFile],
    ) -> tuple[dict[str, str], dict[str, Path]]:
        """The parent's codebooks that a large part still follows, and new ones where it had none."""
        old = change.parent
        codebooks: dict[str, str] = {}
        moves: dict[str, Path] = {}
        for key in {
            f"{part.space_id}/{m}" for part in parts for m, kind in part.kinds.items() if kind == "ivf"
        }:
            if old and key in old.codebooks:
                codebooks[key] = old.codebooks[key]
                files[codebooks[key]] = old.files[codebooks[key]]
        for part in staged:
            for modality, path in part.codebooks.items():
                key = f"{part.part.space_id}/{modality}"
                if key not in codebooks:
                    name = f"codebooks/{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.faiss"
                    codebooks[key], files[name], moves[name] = name, describe(path), path
        return codebooks, moves


def _item_table(items: Sequence[Item] | pa.Table) -> pa.Table:
    import pyarrow as pa

    if not isinstance(items, pa.Table):
        return schema.item_table(items)
    if not items.schema.equals(schema.item_schema()):
        raise StoreError(
            f"an item table with columns {', '.join(items.schema.names)} is not one of this version"
        )
    return items


def _with_dead(part: Part, mask: BoolArray) -> Part:
    """The part as the new generation describes it."""
    return replace(part, dead=tombstones.by_modality(part, mask))


def discard(paths: Sequence[Path]) -> None:
    """Remove what was staged for a draft that is not published."""
    import shutil

    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
