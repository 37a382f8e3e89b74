"""What a query argument means."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import pytest
from PIL import Image

from indexer.errors import QueryError
from indexer.types import Modality
from retrieval.query.language.parse import parse_query


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "cow.png")
    (tmp_path / "thunder").write_text("no medium by its name")
    (tmp_path / "notes.md").write_text("notes")
    with wave.open(str(tmp_path / "bark.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0\0" * 80)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "modality", "text"),
    [
        ("a singing bird", Modality.TEXT, "a singing bird"),
        ("thunder", Modality.TEXT, "thunder"),  # though a file is called so
        ("text:./cow.png", Modality.TEXT, "./cow.png"),
        ("what is a .jpg", Modality.TEXT, "what is a .jpg"),
        ("and/or", Modality.TEXT, "and/or"),
        ("~100 birds", Modality.TEXT, "~100 birds"),
        ("~\0", Modality.TEXT, "~\0"),
        ("~/cow.png", Modality.IMAGE, None),
        ("cow.png", Modality.IMAGE, None),
        ("./bark.wav", Modality.AUDIO, None),
        ("notes.md", Modality.TEXT, None),
        ("file:thunder", Modality.TEXT, None),
    ],
)
def test_kind(media: Path, argument: str, modality: Modality, text: str | None) -> None:
    query = parse_query(argument)
    assert (query.modality, query.text, query.path is None) == (modality, text, text is not None)


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("text:", "empty"),
        ("./dog.png", "no file"),
        ("dog.png", "no file"),
        ("file:dog", "does not exist"),
        ("file:.", "not a regular file"),
        ("file:~no such user/x.png", "does not exist"),
        ("~nobody-here.png", "no file"),
    ],
)
def test_what_cannot_be_a_query(media: Path, argument: str, part: str) -> None:
    with pytest.raises(QueryError, match=part) as caught:
        parse_query(argument)
    assert caught.value.hint


def test_standard_input_is_words_or_a_medium(media: Path) -> None:
    assert parse_query("-", stdin=lambda: b"a red hat\n").text == "a red hat"
    picture = parse_query("-", stdin=(media / "cow.png").read_bytes)
    assert (picture.modality, picture.path is None) == (Modality.IMAGE, False)
    assert parse_query("-", stdin=(media / "bark.wav").read_bytes).modality is Modality.AUDIO
    with pytest.raises(QueryError, match="neither"):
        parse_query("-", stdin=lambda: bytes(range(256)))


def test_a_name_too_long_for_the_file_system_is_words() -> None:
    words = "bird " * 200
    assert parse_query(words).text == words.strip()
    assert io.StringIO(parse_query("a\0b").text).read() == "a\0b"
