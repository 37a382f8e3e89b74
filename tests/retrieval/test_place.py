"""What --in means, and what is said of an index that lacks some of it."""

from __future__ import annotations

import pytest

from indexer.errors import ConfigError
from indexer.types import Modality
from retrieval.commands.place import modalities, say_absent

IMAGE, TEXT, AUDIO = Modality


def test_names_in_their_order_once() -> None:
    assert modalities(" Audio, image,audio,") == (AUDIO, IMAGE)
    assert modalities(None) == ()


@pytest.mark.parametrize("argument", ["", " ", ",", "smell", "image,smell", "image text"])
def test_what_names_none_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError) as caught:
        modalities(argument)
    assert caught.value.message == f"--in is {argument!r}"
    assert caught.value.hint == "it takes one or more of image,text,audio"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ((), ""),
        ((TEXT,), ""),
        ((TEXT, AUDIO), "the index has no audio: only text is searched\n"),
        ((AUDIO, TEXT, IMAGE), "the index has no audio and no image: only text is searched\n"),
        ((AUDIO, IMAGE), ""),  # which is an error, and the search says it
    ],
)
def test_what_is_not_there_is_said(
    wanted: tuple[Modality, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say_absent({TEXT: 3, IMAGE: 0}, wanted)
    assert capsys.readouterr() == ("", said)
