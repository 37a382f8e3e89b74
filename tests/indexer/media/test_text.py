"""Texts: encodings, line ends, and what is no text; reader and preparer together."""

from __future__ import annotations

import codecs
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from indexer.errors import MediaError, MediaTooLarge
from indexer.media.image import phash, read_image
from indexer.media.prepare import prepare_file, prepare_text
from indexer.media.text import read_text
from indexer.types import Modality, Range
from tests.toy import ToyPreparer

GERMAN = "Die Größe der Vögel überrascht jeden, der sie übers Wasser fliegen sieht. Äpfel und Öl. " * 4
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. Птица поёт в лесу. " * 6
JAPANESE = "鳥が木の上で歌っています。空は青く、風は静かです。海の近くに古い家があります。" * 6


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain words", "ascii"),
        (GERMAN, "utf-8"),
        (GERMAN, "utf-8-sig"),
        (GERMAN, "utf-16"),
        (GERMAN, "utf-32"),
        (GERMAN, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
    ],
)
def test_encodings(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "a.txt") == text


def test_big_endian_with_its_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF16_BE + GERMAN.encode("utf-16-be"))
    assert read_text(tmp_path / "a.txt") == GERMAN


def test_line_ends_become_one_character(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n\r\nfour")
    assert read_text(tmp_path / "a.txt") == "one\ntwo\nthree\n\nfour"


def test_utf8_cut_within_a_character_stays_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes((GERMAN + "ü").encode()[:-1])
    assert read_text(tmp_path / "a.txt") == GERMAN + "\ufffd"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b" \r\n\t \n", "no text in it"),
        (codecs.BOM_UTF8, "no text in it"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not text: looks like PNG"),
        (b"abc\x00def", "not text: holds NUL bytes"),
        (bytes(range(1, 32)) * 4, "not text: full of control characters"),
    ],
)
def test_what_is_no_text(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(MediaError) as caught:
        read_text(tmp_path / "a.txt")
    assert caught.value.message == reason


def test_size_is_capped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    assert read_text(tmp_path / "a.txt", max_bytes=10) == "0123456789"
    with pytest.raises(MediaTooLarge, match="10 bytes of text, at most 9"):
        read_text(tmp_path / "a.txt", max_bytes=9)


def test_offsets_count_in_the_text_as_read(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes("\ufeffeins zwei\r\ndrei vier\r\nfünf".encode())
    text = read_text(tmp_path / "a.md")
    got = list(prepare_file(tmp_path / "a.md", Modality.TEXT, ToyPreparer(Modality.TEXT, max_words=2)))
    assert [one.text for one in got] == ["eins zwei", "drei vier", "fünf"]
    assert [text[int(one.range.start) : int(one.range.end)] for one in got if one.range] == [
        one.text for one in got
    ]
    assert bytes(got[2].tensor.astype(np.uint8)).decode() == "fünf"


def test_a_text_at_hand() -> None:
    preparer = ToyPreparer(Modality.TEXT, max_words=1)
    assert [one.range for one in prepare_text("a bird", preparer)] == [Range(0, 1), Range(2, 6)]
    with pytest.raises(MediaError, match="no text in it"):
        list(prepare_text("  ", preparer))


def test_a_picture_and_a_sound_through_their_preparers(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (0, 255, 0)).save(tmp_path / "a.png")
    (picture,) = prepare_file(tmp_path / "a.png", Modality.IMAGE, ToyPreparer(Modality.IMAGE))
    assert (picture.tensor == (0, 255, 0)).all()
    assert (picture.range, picture.text) == (None, None)
    assert picture.phash == phash(read_image(tmp_path / "a.png"))

    pcm = np.linspace(-0.5, 0.5, 8000 * 12, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", pcm, 8000, subtype="FLOAT")
    windows = list(prepare_file(tmp_path / "a.wav", Modality.AUDIO, ToyPreparer(Modality.AUDIO)))
    assert [one.range for one in windows] == [Range(0, 10), Range(5, 12)]
    np.testing.assert_array_equal(windows[1].tensor[0], pcm[40_000:])
