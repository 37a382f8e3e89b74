"""The write side of an index: stage parts, commit a generation by compare-and-swap, merge, forget, clean.

Readers are in snapshot.py. Nothing here knows how vectors come about. Everything is written into the writer's
own staging folder first, outside any lock; a commit then moves it into place and swaps one pointer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from indexer import cleaning, schema, vectors
from indexer.checked import CheckedFile, Verified
from indexer.derived import Derivation, carried, tells_of
from indexer.derivedfiles import DerivedFiles
from indexer.draft import Change, Draft, Drafter, StagedPart, discard
from indexer.errors import CommitConflict, IndexCorrupt, IndexNotFound, StoreError
from indexer.fsio import Lease, fsync_dir, fsync_file, short_lock, step
from indexer.generation import CURRENT, SPACE, Generation, Root, Space, StoredFile
from indexer.gpu import Note
from indexer.parts import Content, content_of, write_part
from indexer.pointer import LOCK, Pointer, program_version
from indexer.types import FloatArray, Item, Modality, Segment

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Generation", "Root", "Space", "StagedPart", "Writer"]

FOLDERS = ("generations", "items", "parts", "tombstones", "codebooks", "derived", "staging")
OWN_NAMES = {*FOLDERS, CURRENT, LOCK}


class Writer:
    """One process that writes to an index. Use as a context manager, or call `close`."""

    def __init__(
        self,
        index_dir: Path,
        staging: Path,
        lease: Lease,
        *,
        gpu: bool | None = None,
        note: Note | None = None,
    ) -> None:
        self.index_dir = index_dir
        self._staging = staging
        self._lease = lease
        self._gpu = gpu
        self._note = note
        self._verified = Verified.load(index_dir)
        self._pointer = Pointer(index_dir)

    @classmethod
    def open(
        cls, index_dir: Path, *, create: bool = False, gpu: bool | None = None, note: Note | None = None
    ) -> Writer:
        """Take a staging folder of one's own, and clean up after writers that died.

        `gpu` says whether one trains search structures, None where there is one; `note` hears a line where
        one was asked for and is not there, or fails.
        Raises IndexNotFound where there is no index and `create` is not set; StoreError for a folder that is
        read-only, that another user owns, or that holds something else.
        """
        _check_place(index_dir, create=create)
        with _disk_errors(index_dir):
            if create and not index_dir.exists():
                index_dir.mkdir(parents=True, exist_ok=True)
                fsync_dir(index_dir.parent)
            for name in FOLDERS:
                (index_dir / name).mkdir(exist_ok=True)
            with short_lock(index_dir / LOCK):
                cleaning.clean(index_dir)
                staging = index_dir / "staging" / secrets.token_hex(8)
                staging.mkdir()
                lease = Lease(staging)
                lease.acquire()
        return cls(index_dir, staging, lease, gpu=gpu, note=note)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was staged and not committed, and give the lease back."""
        if self._lease.folder.exists():
            shutil.rmtree(self._staging, ignore_errors=True)
        self._lease.release()

    def current(self) -> Generation | None:
        """The generation to plan against; None for an index without one."""
        return self._pointer.current()

    def add_part(
        self,
        segments: Sequence[Segment],
        rows: FloatArray,
        *,
        space_id: str,
        precisions: Mapping[Modality, str] | None = None,
    ) -> StagedPart:
        """Stage segments with their unit vectors, shape (n, dim), in the same order; durable on return.

        `precisions` says what a modality's vectors were computed in; f32 where it says nothing.
        All segments of one content belong into one commit: a content that any part holds counts as encoded.
        """
        if not segments:
            raise StoreError("a part needs at least one segment")
        if not SPACE.fullmatch(space_id):
            raise StoreError(f"{space_id!r} cannot be a space id: up to 64 letters, digits, - and _")
        with _disk_errors(self.index_dir):
            content = content_of(segments, rows, space_id=space_id, precisions=precisions)
            staged = self._write(content, self.current())
        step("part-written")
        return staged

    def commit(
        self,
        parent: Generation | None,
        *,
        roots: Sequence[Root],
        items: Sequence[Item] | pa.Table,
        spaces: Mapping[str, Space],
        parts: Sequence[StagedPart] = (),
    ) -> Generation:
        """Make the generation after `parent`: these items, the parent's parts of these spaces, and new parts.

        Which segments are deleted follows from `items`. Raises CommitConflict where CURRENT is no longer
        `parent`; the staged parts are then still good for a commit on the new one.
        """
        return self._commit(Change(parent, roots, items, spaces, parts))

    def compact(self, parent: Generation, *, drop: Collection[str] = ()) -> Generation:
        """Remove deleted rows physically, after dropping the items with these ids.

        Parts with deleted rows are rewritten, and every older generation is pruned at once. Content that
        another item still has stays.
        """
        import pyarrow as pa

        whole = self._items_of(parent)
        gone = set(drop)
        keep = [item_id not in gone for item_id in whole["id"].to_pylist()]
        table = whole.filter(pa.array(keep, pa.bool_()))
        forgotten = schema.member_hashes(whole) - schema.member_hashes(table)
        change = Change(parent, parent.roots, table, parent.spaces, (), purge=True, forgotten=forgotten)
        return self._commit(change)

    def derive(self, parent: Generation, derivations: Sequence[Derivation]) -> Generation:
        """A generation like `parent` that also names what the derivations make of it; itself if nothing.

        One derivation does not see what those before it made. Raises CommitConflict as `commit` does.
        """
        with _disk_errors(self.index_dir):
            generation = DerivedFiles(self._pointer, self._staging).commit(parent, derivations)
        if generation is not parent:
            self._verified.save(generation.all_files)
        return generation

    def _items_of(self, generation: Generation) -> pa.Table:
        from indexer.snapshot import Snapshot

        with Snapshot.open(self.index_dir, generation=generation.name) as snapshot:
            return snapshot.items

    def _write(self, content: Content, current: Generation | None) -> StagedPart:
        """Write a part into staging; nothing of it stays where that fails."""
        part_id = secrets.token_hex(8)
        folder = self._staging / part_id
        trained: dict[Modality, Path] = {}

        def codebook_for(modality: Modality, stored: vectors.HalfArray) -> Any:
            return self._codebook(content.space_id, modality, stored, current, trained)

        try:
            part = write_part(folder, part_id, content, codebook_for=codebook_for)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            for path in trained.values():
                path.unlink(missing_ok=True)
            raise
        return StagedPart(part, content.dim, folder, trained)

    def _codebook(
        self,
        space_id: str,
        modality: Modality,
        stored: vectors.HalfArray,
        current: Generation | None,
        trained: dict[Modality, Path],
    ) -> Any:
        """The codebook that the generation keeps, or a new one, trained on these vectors and staged."""
        known = current and current.codebooks.get(f"{space_id}/{modality}")
        if current and known:
            return vectors.read_codebook(self._checked(known, current.files[known]), dim=stored.shape[1])
        index = vectors.train_codebook(stored, use_gpu=self._gpu, note=self._note)
        path = self._staging / f"{secrets.token_hex(8)}.faiss"
        vectors.write_structure(index, path)
        fsync_file(path)
        trained[modality] = path
        return index

    def _checked(self, name: str, expected: StoredFile) -> bytes:
        with contextlib.closing(
            CheckedFile.open(self.index_dir, name, expected, label=name, verified=None)
        ) as file:
            return file.read()

    def _commit(self, change: Change) -> Generation:
        self._pointer.require(change.parent)
        with _disk_errors(self.index_dir):
            drafter = Drafter(
                self.index_dir, self._staging, verified=self._verified, write=self._merged(change)
            )
            draft = drafter.draft(change)
            try:
                with self._pointer.committing(change.parent):
                    try:
                        generation = self._publish(change, draft)
                    except BaseException:
                        self._take_back(change, draft)
                        raise
                step("cleaned")
            finally:
                discard(draft.made)
        self._verified.save(generation.all_files)
        discard([path for part in change.staged for path in (part.folder, *part.codebooks.values())])
        return generation

    def _merged(self, change: Change) -> Callable[[Content], StagedPart]:
        def write(content: Content) -> StagedPart:
            return self._write(content, change.parent)

        return write

    def _publish(self, change: Change, draft: Draft) -> Generation:
        """Move everything into place, then swap the pointer; what came before stays whole till then."""
        for moves, done in (
            (draft.part_moves, "parts-moved"),
            (draft.item_moves, "items-written"),
            (draft.tombstone_moves, "tombstones-written"),
        ):
            self._pointer.move(moves)
            step(done)
        parent = change.parent
        number = parent.number + 1 if parent else 1
        keys = self._carried(parent, change, draft) if parent else {}
        generation = Generation(
            number=number,
            parent=parent.number if parent else None,
            created=time.time(),
            program=program_version(),
            roots=tuple(change.roots),
            spaces=dict(change.spaces),
            items_file=draft.items_file,
            item_count=draft.item_count,
            parts=tuple(draft.parts),
            tombstones_file=draft.tombstones_file,
            codebooks=draft.codebooks,
            files=draft.files | {name: parent.files[name] for name in keys.values() if parent},
            oldest=number if change.purge else (parent.oldest if parent else number),
            derived=keys,
        )
        self._pointer.swap(generation)
        return generation

    def _carried(self, parent: Generation, change: Change, draft: Draft) -> dict[str, str]:
        """What is derived that the generation after `parent` takes over."""

        def keeps(file: str) -> bool:
            try:
                return not tells_of(self._checked(file, parent.files[file]), change.forgotten)
            except (IndexCorrupt, FileNotFoundError):
                return False

        return carried(parent.derived, draft.parts, draft.items_file, purge=change.purge, keeps=keeps)

    def _take_back(self, change: Change, draft: Draft) -> None:
        """After a failure before the swap: staged parts return, so that the writer can try again."""
        with contextlib.suppress(CommitConflict, OSError):
            self._pointer.require(change.parent)  # else the swap was done
            for name, path in draft.part_moves.items():
                if not path.exists():
                    (self.index_dir / name).rename(path)


def _check_place(index_dir: Path, *, create: bool) -> None:
    """Raise unless this folder is an index of ours that can be written to, or can become one."""
    if not (index_dir / CURRENT).exists() and not create:
        raise IndexNotFound(f"no index at {index_dir}", hint="make one with `triptych index DIR`")
    if not index_dir.exists():
        return
    if not index_dir.is_dir():
        raise StoreError(
            f"{index_dir} is a file, a folder was expected", hint="name another place with --index"
        )
    if index_dir.stat().st_uid != os.geteuid():
        raise StoreError(
            f"the index at {index_dir} belongs to another user", hint="name a place of your own with --index"
        )
    if not os.access(index_dir, os.W_OK | os.X_OK):
        raise StoreError(
            f"the index at {index_dir} is read-only",
            hint="change its permissions, or name another with --index",
        )
    if not (index_dir / CURRENT).exists():
        strange = sorted(path.name for path in index_dir.iterdir() if path.name not in OWN_NAMES)
        if strange:
            raise StoreError(
                f"{index_dir} is no index and holds {strange[0]!r} already",
                hint="name an empty or a new folder with --index",
            )


@contextlib.contextmanager
def _disk_errors(index_dir: Path) -> Iterator[None]:
    """What the system says about a disk, as an error of the store."""
    try:
        yield
    except Timeout as error:
        raise StoreError(
            f"another program has held the lock of {index_dir} for too long", hint="wait for it, or end it"
        ) from error
    except OSError as error:
        whole = "the last generation is whole and can be searched"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"the disk that holds {index_dir} is full; {whole}",
                hint="make room and run the command again",
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreError(
                f"the index at {index_dir} is read-only: {error.strerror}; {whole}",
                hint="change its permissions, or name another with --index",
            ) from error
        raise StoreError(f"writing to {index_dir} failed: {error}; {whole}") from error
