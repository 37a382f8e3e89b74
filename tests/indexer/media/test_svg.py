"""SVG: what is drawn, how large, and that nothing outside the document is read."""

from __future__ import annotations

import base64
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer.errors import MediaError, MediaTooLarge
from indexer.media import svg
from indexer.media.image import read_image
from indexer.media.svg import render_svg

NAMES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def document(body: str, *, size: str = 'width="20" height="20"', before: str = "") -> bytes:
    return f"{before}<svg {NAMES} {size}>{body}</svg>".encode()


def middle(picture: np.ndarray) -> list[int]:
    return picture[picture.shape[0] // 2, picture.shape[1] // 2].tolist()


def png(colour: str, size: tuple[int, int] = (10, 10)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def test_drawn_on_white_within_the_box(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_bytes(
        document('<rect width="20" height="10" fill="#00f"/>', size='width="40" height="20"')
    )
    got = read_image(tmp_path / "a.svg")
    assert got.shape == (256, 512, 3)
    assert got[64, 128].tolist() == [0, 0, 255]
    assert got[200, 400].tolist() == [255, 255, 255]
    assert read_image(tmp_path / "a.svg", min_side=400).shape == (400, 800, 3)


def test_packed_utf16_and_misnamed(tmp_path: Path) -> None:
    whole = document('<rect width="20" height="20" fill="red"/>')
    (tmp_path / "a.svgz").write_bytes(gzip.compress(whole, mtime=0))
    (tmp_path / "b.svg").write_bytes(
        ('<?xml version="1.0" encoding="UTF-16"?>' + whole.decode()).encode("utf-16")
    )
    (tmp_path / "c.png").write_bytes(whole)
    (tmp_path / "d.svg").write_bytes(b"<!--" + b" " * 5000 + b"-->" + whole)
    for name in ("a.svgz", "b.svg", "c.png", "d.svg"):
        assert middle(read_image(tmp_path / name)) == [255, 0, 0], name


def test_styles_gradients_and_use_still_work() -> None:
    body = """<style>.a { fill: url(#g) } rect[id="x"] { opacity: 1 }</style>
      <defs><linearGradient id="g"><stop stop-color="lime"/></linearGradient>
      <rect id="x" class="a" width="20" height="20"/></defs><use xlink:href="#x"/>"""
    assert middle(render_svg(document(body), box=64)) == [0, 255, 0]
    cdata = "<style><![CDATA[ g > rect { fill: blue } ]]></style><g><rect width='20' height='20'/></g>"
    assert middle(render_svg(document(cdata), box=64)) == [0, 0, 255]


def test_lengths_in_points_and_millimetres() -> None:
    for size in ('width="20pt" height="20pt"', 'width="5mm" height="5mm"', 'width="1in" height="1in"'):
        shown = render_svg(document('<rect width="500mm" height="500pt" fill="red"/>', size=size), box=64)
        assert middle(shown) == [255, 0, 0], size
    stroked = '<path d="M0 10 H20" stroke="blue" stroke-width="9pt"/>'
    assert middle(render_svg(document(stroked), box=64)) == [0, 0, 255]


def test_internal_entities_are_expanded() -> None:
    entities = '<!DOCTYPE svg [<!ENTITY colour "blue"><!ENTITY ns "http://www.w3.org/2000/svg">]>'
    text = (
        f'{entities}<svg xmlns="&ns;" width="9" height="9"><rect fill="&colour;" width="9" height="9"/></svg>'
    )
    assert middle(render_svg(text.encode(), box=64)) == [0, 0, 255]


@pytest.mark.parametrize(
    "reference",
    [
        "{path}",
        "file://{path}",
        "secret.png",
        "./secret.png",
        "  {path}  ",
        "&#x2e;/secret.png",
        "http://127.0.0.1:9/secret.png",
        "&leak;",
    ],
)
@pytest.mark.parametrize("attribute", ["href", "xlink:href", "x:href"])
def test_no_reference_out_of_the_document_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, reference: str
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png("red"))
    monkeypatch.chdir(tmp_path)
    before = f'<!DOCTYPE svg [<!ENTITY leak "{secret}"><!ENTITY file SYSTEM "{secret}">]>'
    names = 'xmlns:x="http://www.w3.org/1999/xlink"'
    body = f'<image {names} {attribute}="{reference.format(path=secret)}" width="20" height="20"/>'
    whole = document(body, before=before)
    assert middle(render_svg(whole, box=64)) == [255, 255, 255]
    (tmp_path / "a.svg").write_bytes(whole)
    assert middle(read_image(tmp_path / "a.svg")) == [255, 255, 255]


def test_resvg_alone_would_have_followed_it(tmp_path: Path) -> None:
    """The control of the test above."""
    import resvg_py

    (tmp_path / "secret.png").write_bytes(png("red"))
    body = f'<image href="{tmp_path / "secret.png"}" width="20" height="20"/>'
    drawn = resvg_py.svg_to_bytes(svg_string=document(body).decode(), background="white")
    assert middle(np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB"))) == [255, 0, 0]


def test_an_external_entity_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("<rect width='20' height='20' fill='red'/>")
    before = f'<!DOCTYPE svg [<!ENTITY file SYSTEM "{tmp_path / "secret.txt"}">]>'
    assert middle(render_svg(document("&file;", before=before), box=64)) == [255, 255, 255]


def test_pictures_carried_inside_are_drawn() -> None:
    for mime in ("image/png", "text/plain", "image/PNG"):
        body = f'<image href="{data_uri(png("red"), mime)}" width="20" height="20"/>'
        assert middle(render_svg(document(body), box=64)) == [255, 0, 0], mime


@pytest.mark.parametrize("mime", ["image/svg+xml", "text/plain", "image/png"])
def test_documents_carried_inside_are_not(tmp_path: Path, mime: str) -> None:
    (tmp_path / "secret.png").write_bytes(png("red"))
    inner = document(
        f'<image href="{tmp_path / "secret.png"}" width="20" height="20"/><rect width="20" height="20"/>'
    )
    body = f'<image href="{data_uri(inner, mime)}" width="20" height="20"/>'
    assert middle(render_svg(document(body), box=64)) == [255, 255, 255]


def test_a_huge_picture_inside_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "MAX_EMBEDDED_PIXELS", 99)
    body = f'<image href="{data_uri(png("red"))}" width="20" height="20"/>'
    assert middle(render_svg(document(body), box=64)) == [255, 255, 255]


def test_scripts_and_foreign_objects_are_left_out() -> None:
    body = (
        '<script>1 &lt; 2<g/></script><foreignObject><p>x</p></foreignObject><rect width="20" height="20"/>'
    )
    assert middle(render_svg(document(body), box=64)) == [0, 0, 0]


@pytest.mark.parametrize("size", ['width="1000000" height="10"', 'width="10" height="30000mm"'])
def test_declared_size_is_capped(size: str) -> None:
    with pytest.raises(MediaTooLarge, match=r"SVG (width|height) of 1[0-9.e+]+ px, at most 100000"):
        render_svg(document("", size=size), box=64)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ('width="99999" height="99999"', (64, 64, 3)),
        ('viewBox="0 0 5000000 2500000"', (32, 64, 3)),
        ('width="100%" height="100%" viewBox="0 0 30 60"', (64, 32, 3)),
        ('width="90000" height="1"', (1, 64, 3)),
    ],
)
def test_the_box_bounds_what_is_drawn(size: str, shape: tuple[int, ...]) -> None:
    assert render_svg(document('<rect width="9" height="9"/>', size=size), box=64).shape == shape


def test_entity_bombs_are_refused() -> None:
    levels = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    before = f'<!DOCTYPE svg [<!ENTITY a0 "lol lol lol lol lol lol">{levels}]>'
    with pytest.raises(MediaError, match="SVG"):
        render_svg(document("<desc>&a9;</desc>", before=before), box=64)


def test_depth_count_and_bytes_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "<g>" * 100_000 + "</g>" * 100_000
    with pytest.raises(MediaTooLarge, match="nested deeper"):
        render_svg(document(deep), box=64)
    render_svg(document("<g>" * 120 + "</g>" * 120), box=64)
    monkeypatch.setattr(svg, "MAX_ELEMENTS", 100)
    with pytest.raises(MediaTooLarge, match="more than 100 SVG elements"):
        render_svg(document("<g/>" * 100), box=64)
    monkeypatch.setattr(svg, "MAX_BYTES", 1 << 20)
    with pytest.raises(MediaTooLarge, match="more than 1 MB of SVG"):
        render_svg(gzip.compress(bytes(50 << 20), mtime=0), box=64)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (document("<g>")[:-6], "truncated SVG"),
        (document("<g")[:-6], "truncated SVG"),
        (gzip.compress(document("<g/>"), mtime=0)[:-12], "truncated SVGZ"),
        (b"<html><svg/></html>", "not an SVG: its first element is <html>"),
        (document("<g></p>"), "broken SVG: mismatched tag"),
        (document("", size='width="0" height="0"'), "broken SVG: SVG has an invalid size"),
    ],
)
def test_broken_documents(data: bytes, reason: str) -> None:
    with pytest.raises(MediaError) as caught:
        render_svg(data, box=64)
    assert caught.value.message.startswith(reason)


def test_text_is_drawn_where_a_font_is_installed() -> None:
    """Not asserted without fonts: then nothing is drawn, and that is right."""
    with_text = render_svg(document('<text y="18" font-size="20">MM</text>'), box=64)
    import resvg_py

    alone = resvg_py.svg_to_bytes(
        svg_string=document('<text y="18" font-size="20">MM</text>').decode(),
        width=64,
        height=64,
        background="white",
    )
    np.testing.assert_array_equal(with_text, np.asarray(Image.open(io.BytesIO(alone)).convert("RGB")))
