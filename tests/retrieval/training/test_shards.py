"""Shards: what a sample gives, what is refused, and that the cache never holds half of one."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import ManifestError
from indexer.types import Modality
from retrieval.training.manifest import read_pairs
from retrieval.training.shards import expand, is_pattern
from retrieval.training.types import PairSet, Split
from tests.retrieval.training.sources import picture_bytes, put, put_tar, sound_bytes

PICTURE, SOUND = picture_bytes(), sound_bytes()
GOOD = [("0.png", PICTURE), ("0.txt", "one"), ("1.png", PICTURE), ("1.txt", "two")]


def read(source: Path | str, tmp_path: Path) -> PairSet:
    return read_pairs(source, cache=tmp_path / "cache")


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_sample_is_what_shares_a_key(tmp_path: Path) -> None:
    said = {"caption": "a  bird", "label": 4, "group": "g", "split": "valid", "url": "https://example.org"}
    shard = put_tar(
        tmp_path / "x-000.tar",
        [
            ("d/0001.jpg", picture_bytes(kind="JPEG")),
            ("d/0001.txt", "a bird\n"),
            ("d/0001.json", json.dumps(said)),
            ("d/0001.WAV", SOUND),
            ("d/0002.png", PICTURE),
            ("d/0002.seg.png", PICTURE),
            ("d/0002.caption", "second"),
            ("d/0002.cls", "7\n"),
            ("d/0002.npy", array(np.zeros(2))),
            ("d/._0002.txt", b"\x00\x05"),
        ],
    )
    pairs = read(shard, tmp_path)
    first, second = pairs.rows
    assert (first.id, first.texts, first.label, first.group) == ("x-000/d/0001", ("a bird",), "4", "g")
    assert first.split is Split.VALIDATION
    assert first.modalities == tuple(Modality)
    assert Path(first.audio or "").read_bytes() == SOUND
    assert Path(first.image or "").suffix == ".jpg"
    assert (second.id, second.texts, second.label) == ("x-000/d/0002", ("second",), "7")
    assert Path(second.image or "").read_bytes() == PICTURE
    assert pairs.notes == ("members not used: .npy, .seg.png",)


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def test_unpacked_once_and_again_when_the_shard_changes(tmp_path: Path) -> None:
    shard = put_tar(tmp_path / "x.tar", GOOD)
    first = read(shard, tmp_path)
    image = Path(first.rows[0].image or "")
    image.write_bytes(b"marked")
    assert read(shard, tmp_path).rows == first.rows
    assert image.read_bytes() == b"marked", "the second reading took what was there"
    put_tar(shard, [("0.png", PICTURE), ("0.txt", "changed"), ("1.png", PICTURE), ("1.txt", "two, too")])
    os.utime(shard, ns=(1, 1))
    again = read(shard, tmp_path)
    assert again.rows[0].texts == ("changed",)
    assert Path(again.rows[0].image or "").read_bytes() == PICTURE
    assert again.digest != first.digest


def test_a_cache_that_lost_its_rows_is_made_anew(tmp_path: Path) -> None:
    shard = put_tar(tmp_path / "x.tar", GOOD)
    first = read(shard, tmp_path)
    folder = Path(first.rows[0].image or "").parent
    (folder / "rows.json").write_text("{")
    Path(first.rows[1].image or "").unlink()
    assert read(shard, tmp_path) == first
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left beside"


def test_patterns_and_folders(tmp_path: Path) -> None:
    for number in range(3):
        put_tar(tmp_path / "s" / f"part-{number:03d}.tar", GOOD)
    by_pattern = read(f"{tmp_path}/s/part-{{000..002}}.tar", tmp_path)
    by_folder = read(tmp_path / "s", tmp_path)
    assert [row.id for row in by_folder.rows] == [f"part-{n:03d}/{k}" for n in range(3) for k in range(2)]
    assert by_pattern.rows == by_folder.rows
    assert read(f"{tmp_path}/s/part-{{001,002}}.tar", tmp_path).rows == by_folder.rows[2:]
    with pytest.raises(ManifestError, match=r"2 of 5 shards .* the first is .*part-003.tar"):
        read(f"{tmp_path}/s/part-{{000..004}}.tar", tmp_path)
    put(tmp_path / "s" / "a.png", PICTURE)
    with pytest.raises(ManifestError, match="both shards"):
        read(tmp_path / "s", tmp_path)


def test_what_patterns_stand_for() -> None:
    assert expand("a-{8..11}.tar") == ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]
    assert expand("{x,y}/{00..01}.tar") == ["x/00.tar", "x/01.tar", "y/00.tar", "y/01.tar"]
    assert is_pattern("{0..1}.tar")
    assert not is_pattern("{0}.tar")
    for wrong in ("{5..2}.tar", "{a..c}.tar", "{0..999999999}.tar", "{0..999}{0..999}.tar"):
        with pytest.raises(ManifestError):
            expand(wrong)


class Runs:
    """Unpickling it makes a folder, which a test can see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("ending", ["pyd", "pkl", "pickle", "pth", "meta.pyd", "PKL"])
def test_pickles_are_refused_and_not_run(tmp_path: Path, ending: str) -> None:
    proof = tmp_path / "ran"
    shard = put_tar(tmp_path / "x.tar", [*GOOD, (f"2.{ending}", pickle.dumps(Runs(proof)))])
    with pytest.raises(ManifestError, match="pickle") as caught:
        read(shard, tmp_path)
    assert f"2.{ending}" in caught.value.message
    assert not proof.exists()
    assert not list((tmp_path / "cache" / "shards").iterdir()), "nothing unpacked is left"


@pytest.mark.parametrize(
    "values", [np.array([{}], dtype=object), np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")])]
)
def test_arrays_of_objects_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(ManifestError, match=r"2\.npy.*Python objects"):
        read(put_tar(tmp_path / "x.tar", [*GOOD, ("2.npy", array(values))]), tmp_path)


@pytest.mark.parametrize(
    "member",
    [
        ("../outside.png", PICTURE),
        ("/tmp/outside.png", PICTURE),
        ("a/../../outside.png", PICTURE),
        link("2.png", tarfile.SYMTYPE),
        link("2.png", tarfile.LNKTYPE, "0.png"),
        link("2.png", tarfile.FIFOTYPE),
        link("2.png", tarfile.CHRTYPE),
    ],
)
def test_names_and_kinds_that_are_refused(
    tmp_path: Path, member: tuple[str, bytes] | tarfile.TarInfo
) -> None:
    name = member.name if isinstance(member, tarfile.TarInfo) else member[0]
    with pytest.raises(ManifestError, match="is refused") as caught:
        read(put_tar(tmp_path / "x.tar", [*GOOD, member]), tmp_path)
    assert repr(name) in caught.value.message
    assert not (tmp_path / "outside.png").exists()


@pytest.mark.parametrize("twice", [("0.png", PICTURE), ("0.webp", PICTURE), ("0.txt", "again")])
def test_a_sample_has_each_field_once(tmp_path: Path, twice: tuple[str, bytes | str]) -> None:
    with pytest.raises(ManifestError, match="two such members"):
        read(put_tar(tmp_path / "x.tar", [*GOOD, twice]), tmp_path)


def test_broken_off_anywhere_is_an_error(tmp_path: Path) -> None:
    whole = put_tar(tmp_path / "whole.tar", GOOD).read_bytes()
    end = len(whole.rstrip(b"\0"))
    cuts = [100, 512, 700, 1024, 1500, end - end % 512, end + 512 - end % 512]
    for cut in cuts:
        shard = put(tmp_path / "cut.tar", whole[:cut])
        with pytest.raises(ManifestError) as caught:
            read(shard, tmp_path)
        assert "cut.tar" in caught.value.message, cut
    assert len(read(put(tmp_path / "cut.tar", whole), tmp_path).rows) == 2


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    whole = bytearray(put_tar(tmp_path / "x.tar", GOOD).read_bytes())
    second = whole.index(b"0.txt")
    whole[second + 150] ^= 0xFF  # in its checksum
    with pytest.raises(ManifestError, match="damaged"):
        read(put(tmp_path / "x.tar", bytes(whole)), tmp_path)


def test_joined_tars_and_other_files(tmp_path: Path) -> None:
    one = put_tar(tmp_path / "x.tar", GOOD).read_bytes()
    with pytest.raises(ManifestError, match="data behind its end"):
        read(put(tmp_path / "two.tar", one + one), tmp_path)
    for content in (gzip.compress(one), b"no tar at all", b""):
        with pytest.raises(ManifestError, match="no whole tar file"):
            read(put(tmp_path / "other.tar", content), tmp_path)


def test_members_that_cannot_be_used_are_problems(tmp_path: Path) -> None:
    members = [
        *GOOD,
        ("2.png", PICTURE),
        ("2.json", "{"),
        ("3.png", PICTURE),
        ("3.txt", b"\x00\x01\x02"),
        ("4.png", b""),
        ("4.txt", "empty"),
    ]
    pairs = read(put_tar(tmp_path / "x.tar", members), tmp_path)
    assert [row.id for row in pairs.rows] == ["x/0", "x/1"]
    assert {where for where, _ in pairs.problems} == {
        "x.tar, 2",
        "x.tar, 3",
        "x.tar, 4",
        "x.tar, 2.json",
        "x.tar, 3.txt",
    }


def test_too_large_members_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.training.shards.MEDIA_BYTES", len(PICTURE))
    shard = put_tar(tmp_path / "x.tar", [*GOOD, ("2.png", PICTURE + b"x"), ("2.txt", "large")])
    pairs = read(shard, tmp_path)
    assert [row.id for row in pairs.rows] == ["x/0", "x/1"]
    assert ("x.tar, 2.png", f"{len(PICTURE) + 1} bytes, at most {len(PICTURE)} are read") in pairs.problems


def test_a_split_that_means_nothing_is_an_error(tmp_path: Path) -> None:
    shard = put_tar(tmp_path / "x.tar", [*GOOD, ("0.json", json.dumps({"split": "odd"}))])
    with pytest.raises(ManifestError, match="split 'odd'"):
        read(shard, tmp_path)


def test_no_sample(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has no samples"):
        read(put_tar(tmp_path / "x.tar", []), tmp_path)
