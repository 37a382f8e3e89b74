"""What a walk finds: names, ignore rules, captions, links, what cannot be read. No media are decoded."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.errors import ConfigError
from indexer.scan import Scan, item_id_of, scan
from indexer.types import Modality, Source

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def paths(found: Scan) -> list[str]:
    return [item.path for item in found.items]


def members(found: Scan) -> dict[str, list[tuple[str | None, Source]]]:
    return {item.path: [(m.path, m.source) for m in item.members] for item in found.items}


def test_known_kinds_are_found_in_sorted_order_with_size_and_time(tmp_path: Path) -> None:
    put(tmp_path, "b/z.ogg", "b.jpg", "a.PNG", "b/a.txt", "b/tool.exe", "noend")
    os.utime(tmp_path / "b.jpg", ns=(1, 1_234_567_890_123_456_789))
    found = scan(tmp_path)
    assert paths(found) == ["a.PNG", "b.jpg", "b/a.txt", "b/z.ogg"]
    assert found.skipped == 2
    picture = found.items[1].members[0]
    assert (picture.size, picture.mtime_ns) == (5, 1_234_567_890_123_456_789)
    assert [item.members[0].modality for item in found.items] == [
        Modality.IMAGE,
        Modality.IMAGE,
        Modality.TEXT,
        Modality.AUDIO,
    ]


def test_hidden_files_and_the_index_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, ".hidden.jpg", ".folder/a.jpg", ".triptych/b.jpg", "idx/c.txt", "sub/idx/d.txt", "e.jpg")
    assert paths(scan(tmp_path, index_dir=tmp_path / "idx")) == ["e.jpg", "sub/idx/d.txt"]


def test_a_text_beside_a_medium_is_its_caption(tmp_path: Path) -> None:
    put(tmp_path, "cow.jpg", "cow.ogg", "cow.txt", "dog.jpg", "dog.jpg.txt", "dog.txt", "alone.txt")
    put(tmp_path, "x/hen.png", "x/hen.md", "x/hen.txt", "x/pig.png", "y/pig.txt", "x/owl.png", "x/owl.TXT")
    file, caption = Source.FILE, Source.CAPTION
    assert members(scan(tmp_path)) == {
        "alone.txt": [("alone.txt", file)],
        "cow.jpg": [("cow.jpg", file), ("cow.txt", caption)],
        "cow.ogg": [("cow.ogg", file), ("cow.txt", caption)],
        "dog.jpg": [("dog.jpg", file), ("dog.jpg.txt", caption)],
        "dog.txt": [("dog.txt", file)],
        "x/hen.md": [("x/hen.md", file)],
        "x/hen.png": [("x/hen.png", file), ("x/hen.txt", caption)],
        "x/owl.png": [("x/owl.png", file), ("x/owl.TXT", caption)],
        "x/pig.png": [("x/pig.png", file)],
        "y/pig.txt": [("y/pig.txt", file)],
    }


def test_ignore_rules_agree_with_git(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.txt", "keep.txt", "build/x.jpg", "sub/build/y.jpg", "sub/b.txt", "sub/c.txt")
    put(tmp_path, "sub/deep/b.txt", "only/here/a.png", "only/a.png", "#odd.png", "sp ace.png")
    rules = {
        "": "# comment\n*.txt\n!keep.txt\nbuild/\n/only/*.png\n\\#odd.png\nsp ace.png\n",
        "sub/": "!b.txt\r\n/deep/b.txt\n",
    }
    for folder, text in rules.items():
        (tmp_path / folder / ".triptychignore").write_text(text, newline="")
        (tmp_path / folder / ".gitignore").write_text(text.replace("\r", ""), newline="")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    listed = subprocess.run(
        ["git", "-C", str(tmp_path), "ls-files", "-z", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    wanted = sorted(name for name in listed.split("\0") if name and "ignore" not in name)
    assert paths(scan(tmp_path)) == wanted
    assert "sub/b.txt" in wanted
    assert "sub/deep/b.txt" not in wanted


def test_a_rule_that_git_would_not_read_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    (tmp_path / ".triptychignore").write_text("!\n")
    with pytest.raises(ConfigError, match="triptychignore"):
        scan(tmp_path)


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    put(tmp_path, "real/a.jpg")
    (tmp_path / "link.jpg").symlink_to("real/a.jpg")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "other").symlink_to("real")
    (tmp_path / "nothing.jpg").symlink_to("gone.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    found = scan(tmp_path)
    assert paths(found) == ["link.jpg", "real/a.jpg"]
    assert found.items[0].members[0].size == (tmp_path / "real/a.jpg").stat().st_size
    assert not found.unknown


def test_pipes_sockets_and_devices_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "null.txt").symlink_to(os.devnull)
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock.ogg")
        found = scan(tmp_path)
    assert paths(found) == ["a.jpg"]
    assert found.skipped == 3


@needs_permissions
def test_a_folder_that_cannot_be_listed_is_unknown(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "shut/b.jpg", "open/c.jpg")
    (tmp_path / "shut").chmod(0)
    try:
        found = scan(tmp_path)
    finally:
        (tmp_path / "shut").chmod(0o700)
    assert paths(found) == ["a.jpg", "open/c.jpg"]
    assert found.unknown == {"shut"}
    assert "permission denied" in found.problems[0][1]


def test_a_folder_that_fails_while_it_is_listed_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.jpg", "bad/b.jpg", "bad/deep/c.jpg")
    real = os.scandir

    def failing(path: str) -> object:
        if path.endswith("/bad/"):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(os, "scandir", failing)
    found = scan(tmp_path)
    assert paths(found) == ["a.jpg"]
    assert found.unknown == {"bad"}
    assert found.problems[0][0] == f"{tmp_path}/bad"


def test_names_are_kept_to_the_byte(tmp_path: Path) -> None:
    names = [b"new\nline.jpg", b"quo\"te'.jpg", b"bad\xff\xfe.jpg", b"tab\t\x01.jpg", "süß.jpg".encode()]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"x")
    assert sorted(os.fsencode(path) for path in paths(scan(tmp_path))) == sorted(names)


def test_ids_differ_by_root_and_path_even_for_undecodable_names(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", os.fsdecode(b"\xff.jpg"), "�.jpg"]
    ids = {item_id_of(root, name) for root in ("0" * 32, "1" * 32) for name in names}
    assert len(ids) == 8
    assert all(len(one) == 32 for one in ids)


def test_a_root_that_is_not_there_is_missing_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    gone = scan(tmp_path / "gone")
    assert (gone.missing, gone.items, gone.unknown) == (True, [], {""})
    (tmp_path / "void/.triptych").mkdir(parents=True)
    assert scan(tmp_path / "void").empty
    (tmp_path / "void/x.bin").write_bytes(b"")
    assert not scan(tmp_path / "void").empty


def test_a_single_file_is_a_root_with_its_caption(tmp_path: Path) -> None:
    put(tmp_path, "cow.jpg", "cow.txt", "dog.jpg", "tool.exe")
    found = scan(tmp_path / "cow.jpg")
    assert members(found) == {"cow.jpg": [("cow.jpg", Source.FILE), ("cow.txt", Source.CAPTION)]}
    assert (found.base, found.kind) == (os.path.realpath(tmp_path), "file")
    assert members(scan(tmp_path / "cow.txt")) == {"cow.txt": [("cow.txt", Source.FILE)]}
    with pytest.raises(ConfigError):
        scan(tmp_path / "tool.exe")


def test_depth_of_a_tree_is_no_matter(tmp_path: Path) -> None:
    folder = "d/" * 300
    put(tmp_path, folder + "a.jpg")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        found = scan(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert paths(found) == [folder + "a.jpg"]
