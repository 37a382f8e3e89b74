"""What `triptych verify` checks: every file of every generation kept, read anew, and what none of them names.

Nothing is mended here and nothing is written; every problem is one sentence that names the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout

from indexer import cleaning, codes, schema, tombstones, vectors
from indexer.checked import CheckedFile
from indexer.errors import IndexNotFound, StoreError
from indexer.fsio import Lease
from indexer.generation import CURRENT, Generation, StoredFile, read_current, read_generation
from indexer.parts import PartReader
from indexer.pointer import LOCK
from indexer.types import Modality

if TYPE_CHECKING:
    import pyarrow as pa

NORM_ROWS = 8192  # vectors whose lengths are computed at a time


@dataclass(slots=True)
class Report:
    """What was found. An index without problems is whole."""

    problems: list[str] = field(default_factory=list)
    generations: int = 0  # kept and readable
    checked: int = 0  # files
    bytes: int = 0  # of those files
    segments: int = 0  # of the current generation, tombstoned ones included

    @property
    def whole(self) -> bool:
        return not self.problems


def verify(index_dir: Path) -> Report:
    """Check an index. Raises IndexNotFound where there is none; everything else becomes a problem."""
    if not (index_dir / CURRENT).exists():
        raise IndexNotFound(f"no index at {index_dir}", hint="make one with `triptych index DIR`")
    report = Report()
    with _undisturbed(index_dir) as alone:
        kept, readable = _generations(index_dir, report)
        whole = _check_files(index_dir, kept, report)
        if kept:
            with _noted(report, f"generation {kept[0].name}"):
                _check_content(index_dir, kept[0], whole, report)
        if alone and readable:  # else what a damaged manifest names would look like orphans
            _check_orphans(index_dir, kept, report)
    return report


@contextlib.contextmanager
def _undisturbed(index_dir: Path) -> Iterator[bool]:
    """Hold the commit lock where it can be had: a commit under way looks like orphans."""
    lock = FileLock(index_dir / LOCK)
    try:
        lock.acquire(timeout=1)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def _noted(report: Report, what: str) -> Iterator[None]:
    """Whatever goes wrong inside is a problem of `what`."""
    try:
        yield
    except StoreError as error:
        if error.message not in report.problems:
            report.problems.append(error.message)
    except FileNotFoundError:
        report.problems.append(f"{what} is missing")
    except Exception as error:  # a damaged file makes its library raise anything
        report.problems.append(f"{what}: {error}")


def _generations(index_dir: Path, report: Report) -> tuple[list[Generation], bool]:
    """Those that can be read, the current one first, and whether that is all; a problem for each other."""
    found: list[Generation] = []
    with _noted(report, "the generation that CURRENT names"):
        found.append(read_current(index_dir))
    current = found[0].number if found else None
    committed = len(found)
    for path in sorted((index_dir / "generations").glob("*.json"), reverse=True):
        if not path.stem.isdecimal() or int(path.stem) == current:
            continue
        if current is not None and int(path.stem) > current:
            report.problems.append(f"generations/{path.name} was never committed: {_LEFT_OVER}")
            continue
        committed += 1
        with _noted(report, f"generations/{path.name}"):
            older = read_generation(index_dir, path.stem)
            if current is not None:
                found.append(older)
    report.generations = len(found)
    return found, len(found) == committed and bool(found)


_LEFT_OVER = "left by a writer that died; the next `triptych index` removes it"


def _check_files(index_dir: Path, kept: list[Generation], report: Report) -> set[str]:
    """Size and checksum of every file named, each once; which are whole."""
    files: dict[str, StoredFile] = {}
    for generation in kept:
        files |= generation.all_files
    whole = set()
    for name, expected in files.items():
        with _noted(report, name):
            file = CheckedFile.open(index_dir, name, expected, label=name, verified=None)
            with contextlib.closing(file):
                file.check()
            whole.add(name)
            report.checked += 1
            report.bytes += expected.size
    return whole


def _check_content(index_dir: Path, generation: Generation, whole: set[str], report: Report) -> None:
    """Counts, alignment and lengths of the current generation, as far as its files are whole."""
    if generation.items_file not in whole:
        return
    items = _item_table(index_dir, generation)
    if items.num_rows != generation.item_count:
        report.problems.append(
            f"{generation.items_file} has {items.num_rows} rows, {generation.item_count} expected"
        )
    readers = []
    with contextlib.ExitStack() as stack:
        for part in generation.parts:
            report.segments += part.rows
            if all(f"{part.folder}/{name}" in whole for name in part.files):
                dim = generation.spaces[part.space_id].dim
                reader = PartReader.open(index_dir / part.folder, part, dim, verified=None)
                readers.append(stack.enter_context(contextlib.closing(reader)))
        sound = [reader for reader in readers if _check_part(reader, report)]
        if len(sound) == len(generation.parts):
            if generation.tombstones_file is None or generation.tombstones_file in whole:
                _check_tombstones(index_dir, generation, sound, items, report)
            _check_items(sound, items, report)
    for name in set(generation.codebooks.values()) & whole:
        with _noted(report, name):
            vectors.read_codebook((index_dir / name).read_bytes(), dim=_codebook_dim(generation, name))


def _item_table(index_dir: Path, generation: Generation) -> pa.Table:
    import pyarrow.parquet as pq

    table = pq.read_table(index_dir / generation.items_file)
    schema.items_from(table)  # every value is one that this version knows
    return table


def _codebook_dim(generation: Generation, name: str) -> int:
    key = next(key for key, file in generation.codebooks.items() if file == name)
    return generation.spaces[key.partition("/")[0]].dim


def _check_part(reader: PartReader, report: Report) -> bool:
    """Rows, their order, vectors and structures of one part; whether its segment table can be relied on."""
    part = reader.part
    sound = False
    with _noted(report, f"{part.folder}/segments.parquet"):
        expected = np.repeat(
            np.arange(len(Modality)), [part.counts.get(modality, 0) for modality in Modality]
        )
        sound = np.array_equal(reader.keys()[:, schema.HASH_BYTES], expected)
        if not sound:
            report.problems.append(f"{part.folder}/segments.parquet: rows are not in the counted order")
    for modality in part.counts:
        with _noted(report, f"{part.folder}/{part.space_id}/{modality}"):
            _check_vectors(reader, modality, report)
    return sound


def _check_vectors(reader: PartReader, modality: Modality, report: Report) -> None:
    """Lengths of the vectors, and that the search structure holds these very vectors, or codes of them."""
    stored = reader.vectors(modality)
    where = f"{reader.part.folder}/{reader.part.space_id}/{modality}"
    for start in range(0, len(stored), NORM_ROWS):
        vectors.check_units(stored[start : start + NORM_ROWS].astype(np.float32), what=f"{where}.f16")
    structure = reader.structure(modality)
    if not vectors.holds(structure, stored):
        report.problems.append(f"{where}.faiss does not hold the vectors of {where}.f16")
    elif reader.part.kinds[modality] == "ivf":
        found = codes.compare(structure, stored)
        if found.wrong:
            report.problems.append(
                f"{where}.faiss has codes that are not of the vectors of {where}.f16, {found.wrong} of "
                f"{found.rows} looked at: searches miss some of those segments; index anew to mend it"
            )


def _check_tombstones(
    index_dir: Path, generation: Generation, readers: list[PartReader], items: pa.Table, report: Report
) -> None:
    """That exactly those segments are deleted which no item refers to."""
    expected = tombstones.dead_masks(readers, items)
    name = generation.tombstones_file
    stored = [np.zeros(part.rows, bool) for part in generation.parts]
    if name is not None:
        stored = tombstones.decode((index_dir / name).read_bytes(), generation.parts, name=name)
    for part, mask, right in zip(generation.parts, stored, expected, strict=True):
        wrong = int(np.count_nonzero(mask != right))
        if wrong:
            report.problems.append(f"{name}: {wrong} segments of part {part.id} are marked wrongly")
        if tombstones.by_modality(part, mask) != {m: count for m, count in part.dead.items() if count}:
            report.problems.append(f"the count of deleted segments of part {part.id} is wrong")


def _check_items(readers: list[PartReader], items: pa.Table, report: Report) -> None:
    """That every member without an error has a segment in some part."""
    packed = np.concatenate([reader.keys() for reader in readers]) if readers else ()
    known = {row.tobytes() for row in packed}
    lost = []
    for item in schema.items_from(items):
        sound = [member for member in item.members if member.error is None]
        keys = [(m.content_hash, m.modality, m.source) for m in sound if m.content_hash is not None]
        if len(keys) < len(sound) or any(schema.pack_key(key) not in known for key in keys):
            lost.append(item.path)
    if lost:
        report.problems.append(
            f"{len(lost)} items lack segments, and an error that says why; "
            f"the first is {schema.display(lost[0])!r}"
        )


def _check_orphans(index_dir: Path, kept: list[Generation], report: Report) -> None:
    """What no generation names, and staging whose writer is dead."""
    for name in cleaning.orphans(index_dir, kept):
        report.problems.append(f"{name} belongs to no generation: {_LEFT_OVER}")
    staging = index_dir / "staging"
    for folder in sorted(staging.iterdir()) if staging.is_dir() else ():
        lease = Lease(folder)
        with contextlib.suppress(OSError):  # a folder that cannot be written to: whose it is cannot be told
            if folder.is_dir() and lease.acquire():
                lease.release()
                report.problems.append(f"staging/{folder.name} has no writer: {_LEFT_OVER}")
