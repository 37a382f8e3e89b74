"""The preparer that a model's spec describes, whichever its modality. Opens no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from indexer.types import Modality, Preparer


def preparer_of(
    modality: Modality, preprocessing: Mapping[str, Any], window: Mapping[str, float], *, tokenizer: str
) -> Preparer:
    """The preparer that `describe` described; `tokenizer` is a text tower's tokenizer.json.

    ModelError where this version computes another preprocessing.
    """
    if modality is Modality.IMAGE:
        from retrieval.encoders.image import ImagePreparer

        return ImagePreparer.from_description(preprocessing)
    if modality is Modality.AUDIO:
        from retrieval.encoders.audio import AudioPreparer

        return AudioPreparer.from_description(
            preprocessing, window_s=window["window_s"], hop_s=window["hop_s"]
        )
    from retrieval.encoders.text import TextPreparer

    return TextPreparer.from_description(preprocessing, tokenizer=tokenizer)
