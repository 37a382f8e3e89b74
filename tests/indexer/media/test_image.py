"""Pictures: every format and colour mode on values, orientation, caps, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from indexer.errors import MediaError, MediaTooLarge
from indexer.media import image as reader
from indexer.media import raster
from indexer.media.image import phash, read_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants(height: int = 48, width: int = 64) -> np.ndarray:
    """Red, green / blue, white."""
    picture = np.empty((height, width, 3), dtype=np.uint8)
    y, x = height // 2, width // 2
    picture[:y, :x], picture[:y, x:], picture[y:, :x], picture[y:, x:] = RED, GREEN, BLUE, WHITE
    return picture


def corners(picture: np.ndarray) -> list[tuple[int, ...]]:
    """The middles of the four quadrants."""
    h, w = picture.shape[:2]
    return [tuple(int(v) for v in picture[y, x]) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


LOSSLESS = {
    "a.png": {},
    "a.bmp": {},
    "a.tif": {},
    "lzw.tiff": {"compression": "tiff_lzw"},
    "a.webp": {"lossless": True},
    "a.ppm": {},
    "a.jp2": {},
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_the_very_pixels(tmp_path: Path, name: str) -> None:
    Image.fromarray(quadrants()).save(tmp_path / name, **LOSSLESS[name])
    got = read_image(tmp_path / name)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, quadrants())


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif", "a.gif"])
def test_lossy_formats_give_nearly_the_pixels(tmp_path: Path, name: str) -> None:
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    Image.fromarray(quadrants()).save(tmp_path / name, quality=90)
    got = read_image(tmp_path / name)
    assert got.shape == quadrants().shape
    assert np.abs(np.array(corners(got)) - np.array(corners(quadrants()))).max() <= 12


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    Image.fromarray(quadrants()).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), quadrants())


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in (RED, BLUE)]
    for name in ("a.gif", "a.webp", "a.tif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert np.abs(read_image(tmp_path / name).astype(int) - RED).max() <= 4, name


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    """A camera held so that the sensor's picture is turned writes the tag that turns it back."""
    # Which stored array shows the quadrants upright under each tag (after CIPA DC-008).
    upright = quadrants()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: np.rot90(upright, 2),
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),  # stored a quarter turn counter-clockwise, shown clockwise
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    quality = {"quality": 95} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **quality)
    got = read_image(path)
    assert got.shape == upright.shape
    assert np.abs(np.array(corners(got)) - np.array(corners(upright))).max() <= 8


def test_a_nonsense_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.fromarray(quadrants()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), quadrants())


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[:, 2:] = (255, 0, 0, 128)  # the left half: black but wholly transparent
    for name in ("a.png", "a.webp", "a.tif"):
        Image.fromarray(rgba).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
        got = read_image(tmp_path / name)
        assert got[0, 0].tolist() == [255, 255, 255], name
        np.testing.assert_allclose(got[0, 3], [255, 127, 127], atol=1)


def test_grey_with_alpha_and_palettes_with_transparency(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 0], [100, 255]]], dtype=np.uint8), "LA").save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png")[0].tolist() == [[255] * 3, [100] * 3]

    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "index.png", transparency=0)
    palette.save(tmp_path / "partial.png", transparency=bytes([255, 0, 128]))
    palette.save(tmp_path / "a.gif", transparency=0)
    palette.save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "index.png")[0].tolist() == [[255] * 3, [255, 0, 0], [0, 0, 255]]
    assert read_image(tmp_path / "partial.png")[0].tolist() == [[0] * 3, [255] * 3, [127, 127, 255]]
    assert read_image(tmp_path / "a.gif")[0].tolist() == [[255] * 3, [255, 0, 0], [0, 0, 255]]
    assert read_image(tmp_path / "opaque.png")[0].tolist() == [[0] * 3, [255, 0, 0], [0, 0, 255]]


def test_one_transparent_colour(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 90]], dtype=np.uint8)).save(tmp_path / "l.png", transparency=90)
    assert read_image(tmp_path / "l.png")[0].tolist() == [[0] * 3, [255] * 3]
    Image.fromarray(quadrants()).save(tmp_path / "rgb.png", transparency=RED)
    assert corners(read_image(tmp_path / "rgb.png")) == [WHITE, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert read_image(tmp_path / name)[0, :, 0].tolist() == [0, 1, 100, 255]


def test_16_bit_grey_with_a_transparent_value(tmp_path: Path) -> None:
    values = np.array([[0, 25700]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [255, 100]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 200.0]], dtype=np.float32), [0, 100, 200]),
        (np.array([[-1.0, 0.0, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0.0, np.nan, 1.0]], dtype=np.float32), [0, 0, 255]),
        (np.array([[-1000, 0, 1000]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 100000, 200000]], dtype=np.int32), [0, 128, 255]),
        (np.array([[7.0, 7.0, 7.0]], dtype=np.float32), [7, 7, 7]),
    ],
)
def test_deep_grey(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif")[0, :, 0], expected, atol=1)


def test_bilevel_and_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1").save(tmp_path / "1.png")
    assert read_image(tmp_path / "1.png")[0].tolist() == [[0] * 3, [255] * 3]
    Image.fromarray(np.array([[3, 200]], dtype=np.uint8)).save(tmp_path / "l.bmp")
    assert read_image(tmp_path / "l.bmp")[0].tolist() == [[3] * 3, [200] * 3]


def test_cmyk(tmp_path: Path) -> None:
    """JPEG stores it inverted, as Adobe does; TIFF does not. Both show the same colours."""
    ink = np.zeros((16, 32, 4), dtype=np.uint8)
    ink[:, :16] = (0, 255, 255, 0)  # magenta and yellow: red
    ink[:, 16:] = (255, 0, 0, 0)  # cyan
    for name in ("a.jpg", "a.tif"):
        Image.fromarray(ink, "CMYK").save(tmp_path / name)
        got = read_image(tmp_path / name).astype(int)
        np.testing.assert_allclose(got[8, 4], [255, 0, 0], atol=6, err_msg=name)
        np.testing.assert_allclose(got[8, 28], [0, 255, 255], atol=6, err_msg=name)


def test_lab(tmp_path: Path) -> None:
    lab = np.zeros((2, 2, 3), dtype=np.uint8)
    lab[...] = (255, 0, 0)  # L* 100, a* 0, b* 0: white; a* and b* are signed
    Image.fromarray(lab, "LAB").save(tmp_path / "a.tif")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").astype(int), 255, atol=3)


def test_jpeg_draft_keeps_twice_the_side(tmp_path: Path) -> None:
    Image.fromarray(quadrants(480, 640)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (480, 640, 3)
    assert read_image(tmp_path / "a.jpg", min_side=120).shape == (240, 320, 3)
    assert read_image(tmp_path / "a.jpg", min_side=121).shape == (480, 640, 3)
    assert read_image(tmp_path / "a.jpg", min_side=10).shape == (60, 80, 3)
    np.testing.assert_allclose(
        corners(read_image(tmp_path / "a.jpg", min_side=30)), corners(quadrants()), atol=6
    )


def test_declared_pixels_are_capped(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(50_000, 50_000))
    with pytest.raises(MediaTooLarge, match="50000 x 50000 pixels"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png_header(40, 40))
    with pytest.raises(MediaTooLarge, match="40 x 40"):
        read_image(tmp_path / "b.png", max_pixels=1599)


def test_a_webp_canvas_is_capped_before_it_is_opened(tmp_path: Path) -> None:
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_000).to_bytes(3, "little") * 2
    (tmp_path / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(extended)) + b"WEBP" + extended)
    with pytest.raises(MediaTooLarge, match="16001 x 16001"):
        read_image(tmp_path / "a.webp")
    for lossless in (True, False):
        Image.new("RGB", (37, 21)).save(tmp_path / "b.webp", lossless=lossless)
        with pytest.raises(MediaTooLarge, match="37 x 21"):
            read_image(tmp_path / "b.webp", max_pixels=36 * 21)


def test_a_jpeg_above_the_cap_is_read_in_draft_mode_only(tmp_path: Path) -> None:
    Image.fromarray(quadrants(480, 640)).save(tmp_path / "a.jpg")
    Image.fromarray(quadrants(480, 640)).save(tmp_path / "progressive.jpg", progressive=True)
    assert read_image(tmp_path / "a.jpg", min_side=30, max_pixels=10_000).shape == (60, 80, 3)
    with pytest.raises(MediaTooLarge):
        read_image(tmp_path / "a.jpg", max_pixels=10_000)
    with pytest.raises(MediaTooLarge):
        read_image(tmp_path / "progressive.jpg", min_side=30, max_pixels=10_000)


def test_a_thin_picture_gets_margins(tmp_path: Path) -> None:
    Image.new("RGB", (6000, 1), BLUE).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png")
    assert got.shape == (94, 6000, 3)
    assert (got[46] == BLUE).all()
    assert (np.delete(got, 46, axis=0) == 255).all()
    Image.new("RGB", (2, 200), RED).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").shape == (200, 4, 3)


def test_the_longest_picture_stays_within_the_bound(tmp_path: Path) -> None:
    Image.new("L", (1_000_000, 1), 7).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png")
    assert got.shape[0] * got.shape[1] <= 1.01 * reader.OUT_PIXELS
    assert got.min() == 7


def test_large_pictures_are_averaged_down_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (90, 120, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    monkeypatch.setattr(reader, "OUT_PIXELS", 1200)
    monkeypatch.setattr(raster, "STRIP_PIXELS", 700)
    expected = rgba[..., :3].reshape(30, 3, 40, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), expected, atol=1)


def test_wide_16_bit_pictures_shrink_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "OUT_PIXELS", 100)
    monkeypatch.setattr(raster, "STRIP_PIXELS", 70)
    Image.fromarray(np.full((20, 20), 25700, dtype=np.uint16)).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png")
    assert got.shape == (10, 10, 3)
    assert (got == 100).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp", "avif", "jp2"])
def test_truncated_files_say_so(tmp_path: Path, suffix: str) -> None:
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(suffix, suffix.upper())
    Image.fromarray(noise).save(buffer, kind)
    data = buffer.getvalue()
    for cut in (len(data) // 2, len(data) // 10, 20):
        (tmp_path / f"a.{suffix}").write_bytes(data[:cut])
        with pytest.raises(MediaError, match=r"truncated|broken") as caught:
            read_image(tmp_path / f"a.{suffix}")
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 160


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_word_for_a_truncated_photograph(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        tmp_path / f"whole.{suffix}"
    )
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError) as caught:
        read_image(tmp_path / f"a.{suffix}")
    assert caught.value.message == {"jpg": "truncated JPEG", "png": "truncated PNG"}[suffix]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"Dear diary,\n", "not an image: looks like text"),
        (b"%PDF-1.7\n\xff", "not an image: looks like PDF"),
        (b"OggS\x00\x02\x00\x00", "not an image: looks like Ogg"),
        (bytes(range(256)), "not an image that can be read here"),
        (b"\x1f\x8b not gzip", "broken SVGZ: not gzip data"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(MediaError) as caught:
        read_image(tmp_path / "a.jpg")
    assert caught.value.message == reason


def test_pillows_process_wide_settings_stay(tmp_path: Path) -> None:
    from PIL import ImageFile

    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.fromarray(quadrants()).save(tmp_path / "a.png")
    read_image(tmp_path / "a.png")
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def naive_phash(rgb: np.ndarray) -> int:
    """The same hash with loops, for pictures whose sides are multiples of 32 and no more than 256."""
    grey = rgb.astype(float) @ [0.299, 0.587, 0.114]
    h, w = grey.shape[0] // 32, grey.shape[1] // 32
    small = np.array(
        [[grey[i * h : i * h + h, j * w : j * w + w].mean() for j in range(32)] for i in range(32)]
    )
    cosines = [[np.cos(np.pi * k * (2 * x + 1) / 64) for x in range(32)] for k in range(8)]
    low = [
        sum(small[y, x] * cosines[v][y] * cosines[u][x] for y in range(32) for x in range(32))
        for v in range(8)
        for u in range(8)
    ]
    middle = np.median(low[1:])
    return int("".join("1" if value > middle else "0" for value in low), 2)


def smooth_noise(seed: int, height: int = 128, width: int = 192) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_phash_equals_the_naive_one() -> None:
    for seed in range(3):
        assert phash(smooth_noise(seed)) == naive_phash(smooth_noise(seed))


def test_phash_tells_near_from_far(tmp_path: Path) -> None:
    original = smooth_noise(1, 400, 600)
    Image.fromarray(original).resize((300, 200)).save(tmp_path / "small.jpg", quality=60)
    near = phash(original) ^ phash(read_image(tmp_path / "small.jpg"))
    far = phash(original) ^ phash(smooth_noise(2, 400, 600))
    assert near.bit_count() <= 4
    assert far.bit_count() >= 16
    assert 0 <= phash(original) < 2**64


def test_phash_of_flat_and_tiny_pictures() -> None:
    assert phash(np.full((100, 100, 3), 37, dtype=np.uint8)) == phash(
        np.full((31, 47, 3), 200, dtype=np.uint8)
    )
    assert phash(np.zeros((1, 1, 3), dtype=np.uint8)) == 0
