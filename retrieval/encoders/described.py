"""The preparer that a model's spec describes, whichever its modality and kind. Opens no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from indexer.errors import ModelError
from indexer.types import Modality, Preparer

# What this version computes. A preparer's module is imported only for a description of its kind, which the
# preparer itself checks again: a kind changes with the algorithm.
KINDS: Mapping[Modality, tuple[str, ...]] = {
    Modality.IMAGE: ("pillow-bicubic/1", "library-rgb/1"),
    Modality.AUDIO: ("aisfx-mel/1", "clap-log-mel/1"),
    Modality.TEXT: ("tokenizer-json/1", "tokenizer-json/2"),
}


def preparer_of(
    modality: Modality, preprocessing: Mapping[str, Any], window: Mapping[str, float], *, tokenizer: str
) -> Preparer:
    """The preparer that `describe` described; `tokenizer` is a text tower's tokenizer.json.

    ModelError where this version computes another preprocessing.
    """
    kind = preprocessing.get("kind")
    if kind not in KINDS[modality]:
        raise ModelError(
            f"the model's {modality} preprocessing is {kind!r}, this version computes "
            f"{' and '.join(map(repr, KINDS[modality]))}",
            hint="build the model again: triptych models build (or pull it again)",
        )
    if modality is Modality.IMAGE:
        return _pictures(preprocessing)
    if modality is Modality.AUDIO:
        return _sounds(preprocessing, window)
    return _texts(preprocessing, tokenizer)


def _pictures(preprocessing: Mapping[str, Any]) -> Preparer:
    if preprocessing["kind"] == "library-rgb/1":
        from retrieval.encoders.library_image import LibraryImagePreparer

        return LibraryImagePreparer.from_description(preprocessing)
    from retrieval.encoders.image import ImagePreparer

    return ImagePreparer.from_description(preprocessing)


def _sounds(preprocessing: Mapping[str, Any], window: Mapping[str, float]) -> Preparer:
    window_s, hop_s = window["window_s"], window["hop_s"]
    if preprocessing["kind"] == "clap-log-mel/1":
        from retrieval.encoders.log_mel import LogMelPreparer

        return LogMelPreparer.from_description(preprocessing, window_s=window_s, hop_s=hop_s)
    from retrieval.encoders.audio import AudioPreparer

    return AudioPreparer.from_description(preprocessing, window_s=window_s, hop_s=hop_s)


def _texts(preprocessing: Mapping[str, Any], tokenizer: str) -> Preparer:
    if preprocessing["kind"] == "tokenizer-json/2":
        from retrieval.encoders.library_text import LibraryTextPreparer

        return LibraryTextPreparer.from_description(preprocessing, tokenizer=tokenizer)
    from retrieval.encoders.text import TextPreparer

    return TextPreparer.from_description(preprocessing, tokenizer=tokenizer)
