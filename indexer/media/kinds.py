"""Which name is which modality, what a file's first bytes look like, and how a medium is opened.

Readers share this; nothing here decodes a medium.
"""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from indexer.errors import MediaError
from indexer.types import Modality

# Only formats that a reader here can read; the content decides which decoder is used, not the name.
IMAGE_SUFFIXES = frozenset(
    [
        *(
            ".jpg",
            ".jpeg",
            ".jpe",
            ".jfif",
            ".png",
            ".apng",
            ".webp",
            ".gif",
            ".tif",
            ".tiff",
            ".bmp",
            ".dib",
        ),
        *(".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".svg", ".svgz"),
    ]
)
AUDIO_SUFFIXES = frozenset(
    [
        *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc"),
        *(".au", ".caf", ".w64", ".rf64"),
    ]
)
# What is plainly prose. Tables, markup for machines and source code are left out on purpose.
TEXT_SUFFIXES = frozenset([".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".asciidoc", ".org", ".tex"])

_BY_SUFFIX: dict[str, Modality] = {
    **dict.fromkeys(IMAGE_SUFFIXES, Modality.IMAGE),
    **dict.fromkeys(TEXT_SUFFIXES, Modality.TEXT),
    **dict.fromkeys(AUDIO_SUFFIXES, Modality.AUDIO),
}

HEAD_BYTES = 4096  # what `sniff` wants to see

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"II+\x00", "TIFF"),
    (0, b"MM\x00+", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyp", "an MPEG-4 or HEIF file"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"%PDF-", "PDF"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "Ogg"),
    (8, b"WAVE", "WAV"),
    (8, b"AIFF", "AIFF"),
    (8, b"AIFC", "AIFF"),
    (0, b"ID3", "MP3"),
    (0, b"\x1aE\xdf\xa3", "Matroska"),
    (0, b"\x7fELF", "a program"),
)
_PNM = tuple(f"P{kind}".encode() for kind in range(1, 7))
_SOUNDS = frozenset({"FLAC", "Ogg", "WAV", "MP3", "AIFF"})
_PICTURES = frozenset({"JPEG", "PNG", "GIF", "WebP", "TIFF", "AVIF", "JPEG 2000", "PNM", "SVG", "BMP"})
_TEXT_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def modality_of(name: str) -> Modality | None:
    """The modality that a file name promises, None for what is no medium. Case does not matter."""
    return _BY_SUFFIX.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - names, not paths


def sniff(head: bytes) -> str | None:
    """What a file's first bytes (up to HEAD_BYTES) look like, in a word or two for a message; None: unknown.

    'SVG' and 'text' are told apart by an `<svg` tag; the words of the formats that readers know are
    keys in those readers.
    """
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    if head[:2] in _PNM and head[2:3].isspace():
        return "PNM"
    if b"<svg" in head or b":svg" in head or b"<\x00s\x00v\x00g" in head or b"\x00<\x00s\x00v\x00g" in head:
        return "SVG"
    if _looks_like_text(head):
        return "text"
    if head.startswith(b"BM"):
        return "BMP"
    return None


def modality_of_content(head: bytes) -> Modality | None:
    """The modality that a medium's first bytes show, for one that comes without a name; None: none known."""
    kind = sniff(head)
    if kind == "text":
        return Modality.TEXT
    if kind in _SOUNDS or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2):  # MPEG layer III
        return Modality.AUDIO
    return Modality.IMAGE if kind in _PICTURES else None


def _looks_like_text(head: bytes) -> bool:
    if head.startswith(_TEXT_BOMS):
        return True
    if not head or b"\x00" in head:
        return False
    control = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    if control * 50 > len(head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character cut by the end of the head is no evidence; otherwise mostly-ASCII still is text.
        return error.start >= len(head) - 3 or sum(byte < 128 for byte in head) * 10 > len(head) * 7
    return True


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, refusing pipes, devices, sockets and folders without ever waiting on one.

    Raises MediaError for what is no regular file or is empty, OSError where it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise MediaError("not a regular file")
        if status.st_size == 0:
            raise MediaError("empty file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
