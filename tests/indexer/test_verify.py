"""`verify`: each kind of damage is found and named, and a whole index has no problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexer import vectors
from indexer.checked import describe
from indexer.errors import IndexNotFound
from indexer.generation import CURRENT, checksum, read_current
from indexer.snapshot import Snapshot
from indexer.store import Writer
from indexer.verify import verify
from tests.indexer.indexes import SPACE_ID, commit, stage, update, words

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Two generations, the current one with deleted segments in its only part."""
    path = tmp_path / "index"
    update(path, words(30))
    update(path, {name: word for name, word in words(30).items() if not name.endswith("1.bin")})
    return path


def test_a_whole_index_has_no_problem_and_everything_is_counted(index: Path) -> None:
    report = verify(index)
    assert report.problems == []
    assert report.whole
    stored = [
        p for p in index.rglob("*") if p.is_file() and p.suffix in (".parquet", ".f16", ".faiss", ".bin")
    ]
    assert report.generations == 2
    assert report.checked == len(stored)
    assert report.bytes == sum(path.stat().st_size for path in stored)
    assert report.segments == read_current(index).parts[0].rows


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFound):
        verify(tmp_path)


@pytest.mark.parametrize(
    "pattern", ["items/*.parquet", "parts/*/segments.parquet", "parts/*/*/*", "tombstones/*"]
)
def test_a_flipped_bit_in_any_file_is_named(pattern: str, index: Path) -> None:
    with Snapshot.open(index) as snapshot:
        snapshot.warm()  # what was found whole before is not trusted here
    for path in sorted(index.glob(pattern)):
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 16
        path.write_bytes(flipped)
        name = path.relative_to(index).as_posix()
        assert verify(index).problems == [f"{name} does not match its checksum"]
        path.unlink()
        assert verify(index).problems == [f"{name} is missing"]
        path.write_bytes(whole[:-1])
        assert verify(index).problems == [f"{name} has {len(whole) - 1} bytes, {len(whole)} expected"]
        path.write_bytes(whole)
    assert verify(index).whole


def test_a_damaged_manifest_current_or_older(index: Path) -> None:
    for name in ("000001", "000002"):
        path = index / "generations" / f"{name}.json"
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b'"dim": 16', b'"dim": 17'))
        assert verify(index).problems == [f"generations/{name}.json does not match its checksum"]
        path.write_bytes(whole)
    (index / CURRENT).write_text("nonsense\n")
    assert "nonsense" in verify(index).problems[0]


def _replace(index: Path, pattern: str, change: Callable[[bytes], bytes]) -> str:
    """Change a file and give it right sizes and checksums: only what it says can now be wrong."""
    (path,) = index.glob(pattern)
    path.write_bytes(change(path.read_bytes()))
    stored = describe(path)
    name = path.relative_to(index).as_posix()
    for manifest in (index / "generations").iterdir():
        document = json.loads(manifest.read_bytes())
        del document["checksum"]
        known = [document["files"].get(name)]
        known += [
            part["files"].get(name.split("/", 2)[2]) for part in document["parts"] if name.count("/") > 1
        ]
        for entry in known:
            if entry is not None:
                entry.update(size=stored.size, sha256=stored.sha256)
        manifest.write_text(json.dumps(document | {"checksum": checksum(document)}))
    return name


def test_vectors_that_are_no_unit_vectors(index: Path) -> None:
    def nan(data: bytes) -> bytes:
        rows = np.frombuffer(data, "<f2").copy()
        rows[5] = np.nan
        return rows.tobytes()

    _replace(index, "parts/*/*/image.f16", nan)
    problems = verify(index).problems
    assert len(problems) == 1
    assert "image.f16: 1 of" in problems[0]


def test_structure_of_other_vectors(index: Path) -> None:
    def reverse(data: bytes) -> bytes:
        return np.frombuffer(data, "<f2").reshape(-1, 16)[::-1].tobytes()

    name = _replace(index, "parts/*/*/text.f16", reverse)
    structure = name.replace(".f16", ".faiss")
    assert verify(index).problems == [f"{structure} does not hold the vectors of {name}"]


def test_codes_of_other_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    monkeypatch.setattr(vectors, "IVF_FROM", 1000)
    index = tmp_path / "lists"
    update(index, words(1200, prefix="text"))
    assert verify(index).problems == []

    def blur(data: bytes) -> bytes:
        structure = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        lists, packer = faiss.downcast_InvertedLists(structure.invlists), structure.get_CodePacker()
        for number in range(structure.nlist):
            size = -(-lists.list_size(number) // packer.nvec) * packer.block_size
            if size:
                faiss.rev_swig_ptr(lists.get_codes(number), size)[0] ^= 0x0F
        return bytes(faiss.serialize_index(structure).tobytes())

    name = _replace(index, "parts/*/*/text.faiss", blur)
    (problem,) = verify(index).problems
    assert problem.startswith(
        f"{name} has codes that are not of the vectors of {name.replace('.faiss', '.f16')}, "
    )
    wrong = int(problem.partition(".f16, ")[2].split()[0])
    assert 20 <= wrong <= 34  # one row of each list, except where the nibble was a neighbour's already
    assert " of 1200 looked at" in problem


def test_vectors_of_a_wrong_number(index: Path) -> None:
    name = _replace(index, "parts/*/*/audio.f16", lambda data: data[:-32])
    (problem,) = verify(index).problems
    assert problem.startswith(f"{name} has ")


def test_tombstones_that_do_not_follow_from_the_items(index: Path) -> None:
    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[8 + 16] ^= 1  # the first row of the first part
        return bytes(changed)

    name = _replace(index, "tombstones/*.bin", flip)
    problems = verify(index).problems
    part = read_current(index).parts[0].id
    assert problems == [
        f"{name}: 1 segments of part {part} are marked wrongly",
        f"the count of deleted segments of part {part} is wrong",
    ]
    _replace(index, "tombstones/*.bin", lambda data: data[:-1])
    assert verify(index).problems == [f"{name} does not fit part {part}"]


def test_items_without_segments(index: Path) -> None:
    with Writer.open(index) as writer:
        commit(writer, writer.current(), {"lost\n.png": "never encoded"})
    problems = verify(index).problems
    assert problems == ["1 items lack segments, and an error that says why; the first is 'lost\\n.png'"]


def test_orphans_are_named_unless_their_writer_lives(index: Path) -> None:
    (index / "parts" / ("0" * 16)).mkdir()
    (index / "staging" / ("1" * 16)).mkdir()
    (index / "generations" / "000009.json").write_text("{}")
    with Writer.open(index) as writer:  # which cleans first
        stage(writer, ["new"])
        assert verify(index).whole
        (index / "parts" / ("0" * 16)).mkdir()
        (index / "staging" / ("1" * 16)).mkdir()
        (index / "generations" / "000009.json").write_text("{}")
        named = [problem.split()[0] for problem in verify(index).problems]
    assert named == ["generations/000009.json", f"parts/{'0' * 16}", f"staging/{'1' * 16}"]
    assert SPACE_ID in read_current(index).spaces
