"""What pictures and sounds say of themselves: written with a library, read back; hostile blocks."""

from __future__ import annotations

import io
import struct
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import IFDRational

from indexer.media import exif
from indexer.media.audio import described_windows
from indexer.media.image import described_image, read_image
from indexer.media.tags import MAX_WORDS, cleaned, joined_words, year_of
from indexer.types import Facts

SIZE = (640, 400)  # width, height


def grey(size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.new("RGB", size, (90, 90, 90))


def from_camera(*, orientation: int = 1) -> Image.Exif:
    """What a camera writes: first directory, Exif and GPS."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F], block[0x0110] = "NIKON CORPORATION", "NIKON D40"
    block[0x010E], block[0x013B] = "Fähre".encode(), "Ada"
    block[0x0132] = "2024:06:02 09:00:00"
    block[0x9C9B], block[0x9C9E] = "Harbour".encode("utf-16-le"), "ferry;gulls".encode("utf-16-le")
    block.get_ifd(exif.EXIF)[0x9003] = "2024:05:31 18:02:11"
    block.get_ifd(exif.EXIF)[exif.USER_COMMENT] = b"ASCII\0\0\0a windy day"
    place = block.get_ifd(exif.GPS)
    place[1], place[3] = "N", "W"
    place[2] = (IFDRational(53), IFDRational(30), IFDRational(36))
    place[4] = (IFDRational(9), IFDRational(59), IFDRational(24))
    return block


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_facts_of_a_camera(tmp_path: Path, name: str) -> None:
    grey().save(tmp_path / name, exif=from_camera(orientation=6))
    rgb, facts = described_image(tmp_path / name)
    assert rgb.shape == (640, 400, 3)
    assert facts.latitude == pytest.approx(53.51)
    assert facts.longitude == pytest.approx(-9.99)
    assert (facts.width, facts.height) == (400, 640)  # upright
    assert facts.taken_at == datetime(2024, 5, 31, 18, 2, 11)
    assert (facts.camera, facts.title, facts.artist) == ("NIKON D40", "Harbour", "Ada")
    assert facts.words == "ferry;gulls\nFähre\na windy day"


def test_size_is_that_of_the_file_though_less_is_decoded(tmp_path: Path) -> None:
    grey((1600, 1200)).save(tmp_path / "a.jpg")
    rgb, facts = described_image(tmp_path / "a.jpg", min_side=64)
    assert rgb.shape[0] < 1200
    assert facts == Facts(width=1600, height=1200)


def test_pixels_are_those_of_read_image(tmp_path: Path) -> None:
    grey().save(tmp_path / "a.jpg", exif=from_camera(orientation=3))
    np.testing.assert_array_equal(described_image(tmp_path / "a.jpg")[0], read_image(tmp_path / "a.jpg"))


def test_texts_of_a_png_and_dublin_core(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "A  red\tkite")
    texts.add_itxt("Description", "über dem Strand")
    texts.add_text("Software", "not said by a person")
    grey().save(tmp_path / "a.png", pnginfo=texts)
    facts = described_image(tmp_path / "a.png")[1]
    assert (facts.title, facts.words) == ("A red kite", "über dem Strand")
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns:d="http://purl.org/dc/elements/1.1/"><r:Description><d:subject><r:Bag><r:li>kite</r:li>'
        "<r:li>sea &amp; sand</r:li></r:Bag></d:subject><d:title><r:Alt><r:li>Wind</r:li></r:Alt></d:title>"
        "</r:Description></r:RDF></x:xmpmeta>"
    )
    grey().save(tmp_path / "a.jpg", xmp=packet.encode())
    facts = described_image(tmp_path / "a.jpg")[1]
    assert (facts.title, facts.words) == ("Wind", "kite\nsea & sand")
    for broken in (
        packet[:200],
        f'<!DOCTYPE x [<!ENTITY a "b">]>{packet}',
        packet + " " * exif.MAX_XMP_BYTES,
    ):
        grey().save(tmp_path / "b.webp", xmp=broken.encode(), lossless=True)
        assert described_image(tmp_path / "b.webp")[1].title is None


def test_iptc_keywords(tmp_path: Path) -> None:
    records = b"".join(
        b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(text)) + text
        for number, text in ((5, b"Quay"), (25, b"crane"), (25, "Möwe".encode()), (120, b"At noon"))
    )
    resource = b"8BIM" + struct.pack(">H", 0x0404) + b"\0\0" + struct.pack(">I", len(records)) + records
    segment = b"Photoshop 3.0\0" + resource + b"\0" * (len(records) % 2)
    held = io.BytesIO()
    grey().save(held, "JPEG")
    data = held.getvalue()
    app13 = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment
    (tmp_path / "a.jpg").write_bytes(data[:2] + app13 + data[2:])
    facts = described_image(tmp_path / "a.jpg")[1]
    assert (facts.title, facts.words) == ("Quay", "crane\nMöwe\nAt noon")


def directory(count: int, *, size: int) -> bytes:
    """An EXIF block whose entries each claim the whole block as their value."""
    entries = b"".join(struct.pack("<HHII", 0x9000 + i, 7, size - 8, 8) for i in range(count))
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", count) + entries + struct.pack("<I", 0)
    return head + bytes(size - len(head))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0" + directory(600, size=20_000),
        b"Exif\0\0" + directory(400, size=60_000)[:5_000],
        bytes(range(256)) * 16,
    ],
)
@pytest.mark.filterwarnings("ignore:Tag data larger:UserWarning", "ignore:Corrupt EXIF:UserWarning")
def test_hostile_exif_leaves_the_picture_and_its_size(tmp_path: Path, block: bytes) -> None:
    grey().save(tmp_path / "a.png", exif=block)
    rgb, facts = described_image(tmp_path / "a.png")
    assert rgb.shape == (400, 640, 3)
    assert (facts.width, facts.height, facts.camera, facts.taken_at) == (640, 400, None, None)


def test_blocks_beyond_reason_are_not_parsed() -> None:
    assert exif._reasonable(b"Exif\0\0" + directory(100, size=60_000))
    assert not exif._reasonable(b"Exif\0\0" + directory(exif.MAX_ENTRIES + 1, size=20_000))
    assert not exif._reasonable(directory(500, size=1_000_000))  # would be copied 500 times
    assert not exif._reasonable(bytes(exif.MAX_EXIF_BYTES + 1))
    pointing = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", exif.GPS, 4, 1, 8)
    assert exif._reasonable(pointing)  # a directory that points to itself ends


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024:05:31 18:02:11", datetime(2024, 5, 31, 18, 2, 11)),
        ("2024-05-31T18:02:11+02:00", datetime(2024, 5, 31, 18, 2, 11)),
        ("0000:00:00 00:00:00", None),
        ("2024:02:30 10:00:00", None),
        ("    :  :     :  :  ", None),
        (20240531, None),
    ],
)
def test_dates(value: object, expected: datetime | None) -> None:
    assert exif._date(value) == expected


def test_cameras_and_places() -> None:
    assert exif._camera("Canon", "Canon EOS 5D") == "Canon EOS 5D"
    assert exif._camera("samsung", "SM-G960F") == "samsung SM-G960F"
    assert exif._camera(None, "X100") == "X100"
    south = {1: "S\0", 2: (33, 51, 0), 3: b"E", 4: (151, 12, 0)}
    assert exif._place(south) == pytest.approx((-33.85, 151.2))
    for wrong in (
        {1: "N", 2: (91, 0, 0), 3: "E", 4: (1, 0, 0)},
        {1: "N", 2: (float("nan"), 0, 0), 3: "E", 4: (1, 0, 0)},
        {1: "N", 2: (1, 0), 3: "E", 4: (1, 0, 0)},
        {1: "N", 2: (0, 0, 0), 3: "E", 4: (0, 0, 0)},
        {2: None},
    ):
        assert exif._place(wrong) == (None, None)


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('width="100" height="50"', (100, 50)),
        ('width="1in" height="48pt" viewBox="0 0 1 1"', (96, 64)),
        ('viewBox="0 0 300 150"', (300, 150)),
        ('width="60" viewBox="0,0,300,150"', (60, 30)),
        ('width="100%" height="100%" viewBox="0 0 30 15"', (30, 15)),
        ("", (None, None)),
        ('viewBox="0 0 nan -3"', (None, None)),
    ],
)
def test_size_and_texts_of_an_svg(tmp_path: Path, attributes: str, size: tuple[int | None, ...]) -> None:
    (tmp_path / "a.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}><title>A boat</title><desc>with a sail</desc>'
        '<metadata xmlns:r="r" xmlns:dc="d" xmlns:cc="c"><r:RDF><cc:Work><dc:subject><r:Bag><r:li>sea</r:li>'
        "<r:li>ship</r:li></r:Bag></dc:subject><dc:creator><cc:Agent><dc:title>Bo</dc:title></cc:Agent>"
        '</dc:creator></cc:Work></r:RDF></metadata><g><title>not this</title><rect width="9" height="9"/></g>'
        "</svg>"
    )
    facts = described_image(tmp_path / "a.svg")[1]
    assert (facts.width, facts.height) == size
    assert (facts.title, facts.artist, facts.words) == ("A boat", "Bo", "sea\nship\nwith a sail")


def noise(seconds: float, rate: int = 8000) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


@pytest.mark.parametrize("kind", ["OGG", "FLAC", "WAV"])
def test_length_and_tags_of_a_sound(tmp_path: Path, kind: str) -> None:
    with soundfile.SoundFile(tmp_path / "a", "w", 8000, 2, format=kind) as file:
        file.title, file.artist, file.album = "Über  uns", "Ada\n", "Harbour"
        file.genre, file.date, file.comment = "Field recording", "2011-02-03", "gulls and a crane"
        file.write(np.stack([noise(12), noise(12)], 1))
    windows = list(described_windows(tmp_path / "a", sample_rate=8000))
    assert len(windows) == 2
    for _, _, facts in windows:
        assert facts == Facts(
            duration=12.0,
            sample_rate=8000,
            channels=2,
            title="Über uns",
            artist="Ada",
            album="Harbour",
            genre="Field recording",
            year=2011,
            words="gulls and a crane",
        )


def mp3(seconds: float) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, noise(seconds, 44_100), 44_100, format="MP3")
    return held.getvalue()


def test_id3_of_both_versions(tmp_path: Path) -> None:
    def frame(name: bytes, body: bytes) -> bytes:
        return name + struct.pack(">I", len(body)) + b"\0\0" + body

    frames = frame(b"TIT2", b"\x01" + "Möwen".encode("utf-16")) + frame(b"TYER", b"\x002009")
    frames += frame(b"TCON", b"\0(17)Rock") + frame(b"COMM", b"\0eng\0at the quay")
    size = len(frames)
    second = b"ID3\x03\0\0" + bytes([0, 0, size >> 7 & 127, size & 127]) + frames
    (tmp_path / "b.mp3").write_bytes(second + mp3(1))
    facts = next(described_windows(tmp_path / "b.mp3", sample_rate=8000))[2]
    assert (facts.title, facts.genre, facts.year, facts.words) == ("Möwen", "Rock", 2009, "at the quay")
    first = b"TAG" + b"Gulls".ljust(30, b"\0") + b"Ada".ljust(30, b"\0") + bytes(30) + b"1999" + bytes(30)
    (tmp_path / "a.mp3").write_bytes(mp3(1) + first + b"\xff")
    facts = next(described_windows(tmp_path / "a.mp3", sample_rate=8000))[2]
    assert (facts.title, facts.artist, facts.year) == ("Gulls", "Ada", 1999)


def test_texts_are_bounded_and_plain() -> None:
    assert cleaned("a\x00b\x1b[31m  c\n") == "a b [31m c"
    assert cleaned(" \x07-- ") is None
    assert cleaned("x" * 9999) == "x" * 512
    assert joined_words(["one", None, "one", "charset=Ascii", "two"]) == "one\ntwo"
    many = joined_words(f"{i} " + "ä" * 300 for i in range(50))
    assert many is not None
    assert MAX_WORDS - 2 <= len(many.encode()) <= MAX_WORDS
    assert [year_of(text) for text in ("2009", "5/1/1998", "20091", "soon", None)] == [
        2009,
        1998,
        None,
        None,
        None,
    ]
