"""Names, first bytes, and opening only what is a file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from indexer.errors import MediaError
from indexer.media.kinds import modality_of, modality_of_content, open_regular, sniff
from indexer.types import Modality


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", Modality.IMAGE),
        ("A.JPEG", Modality.IMAGE),
        ("drawing.svgz", Modality.IMAGE),
        ("bird.ogg", Modality.AUDIO),
        ("notes.md", Modality.TEXT),
        ("notes.tar.rst", Modality.TEXT),
        ("code.py", None),
        ("table.csv", None),
        ("page.html", None),
        (".jpg", None),
        ("jpg", None),
        ("a.jpg.part", None),
    ],
)
def test_a_name_promises_a_modality(name: str, expected: Modality | None) -> None:
    assert modality_of(name) is expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\xff\xd8\xff\xe0....", "JPEG"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "WebP"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", "WAV"),
        (b"\x00\x00\x00\x1cftypavif", "AVIF"),
        (b"P6\n3 4\n255\n", "PNM"),
        (b"<?xml version='1.0'?>\n<!-- by hand --><svg width='3'", "SVG"),
        ("\ufeff<svg/>".encode("utf-16"), "SVG"),
        (b"BM is how this sentence begins", "text"),
        (b"BM\x36\x00\x0c\x00\x00\x00\x00\x00", "BMP"),
        ("Grüße".encode()[:3], "text"),  # cut within a character
        ("Größe und Länge".encode("latin-1"), "text"),
        (bytes(range(256)), None),
        (b"", None),
    ],
)
def test_first_bytes(head: bytes, expected: str | None) -> None:
    assert sniff(head) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n", Modality.IMAGE),
        (b"<svg/>", Modality.IMAGE),
        (b"fLaC\x00", Modality.AUDIO),
        (b"\xff\xfb\x90\xc4", Modality.AUDIO),  # an MP3 without a tag
        (b"a singing bird", Modality.TEXT),
        (b"%PDF-1.4", None),
        (b"", None),
    ],
)
def test_first_bytes_name_a_modality(head: bytes, expected: Modality | None) -> None:
    assert modality_of_content(head) is expected


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    fifo, empty, full = tmp_path / "pipe.jpg", tmp_path / "empty.jpg", tmp_path / "full.jpg"
    os.mkfifo(fifo)
    empty.touch()
    full.write_bytes(b"abc")
    with pytest.raises(MediaError, match="not a regular file"):
        open_regular(fifo)  # would wait for a writer for ever
    with pytest.raises(MediaError, match="not a regular file"):
        open_regular("/dev/zero")
    with pytest.raises(MediaError, match="not a regular file"):
        open_regular(tmp_path)
    with pytest.raises(MediaError, match="empty file"):
        open_regular(empty)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    with open_regular(full) as file:
        assert file.read() == b"abc"


def test_a_socket_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.wav"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(path))
        with pytest.raises((MediaError, OSError)):
            open_regular(path)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt")  # noqa: PTH118 - bytes
    with open(path, "wb") as file:
        file.write(b"here")
    with open_regular(os.fsdecode(path)) as file:
        assert file.read() == b"here"
