"""What `triptych models` shows of the cache: names, licences of weights, earlier starters."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.types import Modality
from retrieval.models.bundle import NOT_SAID, Bundle, ModelSpec, TowerSpec, WeightRef
from retrieval.models.registry import ModelInfo
from retrieval.render.models import bundle_lines, licence_words, models_json, models_lines

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO


def tower(modality: Modality, *weights: tuple[str, str]) -> TowerSpec:
    refs = tuple(
        WeightRef(name, f"{number:064d}", licence, "", "") for number, (name, licence) in enumerate(weights)
    )
    return TowerSpec(modality, "x", refs, None, {}, 8, {}, 1, 1, graph="x.onnx")


@pytest.mark.parametrize(
    "tokenizer",
    [
        "bpe_simple_vocab_16e6.txt.gz",
        "tokenizer.json",
        "vocab.txt",
        "all-MiniLM-L6-v2-tokenizer",
        "spiece.model",
    ],
)
def test_a_tokenizers_licence_is_not_the_weights(tokenizer: str) -> None:
    text = tower(TEXT, ("open_clip_model.safetensors", "apple-amlr"), (tokenizer, "MIT"))
    assert text.licence == "apple-amlr"
    bundle = Bundle(Path("m"), ModelSpec("m", (tower(IMAGE, ("w.safetensors", "apple-amlr")), text)))
    assert bundle_lines(bundle)[1] == "licence of the weights: apple-amlr"


def test_towers_of_other_licences_are_told_apart() -> None:
    towers = (
        tower(IMAGE, ("w", "mit")),
        tower(TEXT, ("w", "mit")),
        tower(AUDIO, ("w", NOT_SAID), ("vocab.txt", "apache-2.0")),
    )
    shown = bundle_lines(Bundle(Path("m"), ModelSpec("m", towers)))[1]
    assert shown == "licence of the weights: image, text: mit; audio: not stated; read the model card"


def test_the_list_names_every_licence_and_marks_an_earlier_starter() -> None:
    licences = ((IMAGE, "mit"), (TEXT, "mit"))
    models = [
        ModelInfo(
            "mm", "a" * 64, 512, (IMAGE, TEXT), Path("a"), 2_000_000, aliases=("x",), licences=licences
        ),
        ModelInfo("starter", "b" * 64, 8, (IMAGE,), Path("b"), 1, licences=((IMAGE, ""),), earlier=True),
    ]
    lines = models_lines(models)
    assert lines[0].split()[0] == "name"
    assert lines[1].endswith("mit")
    assert lines[2] == "  also called x"
    assert lines[3].endswith("not stated")
    assert "earlier version" in lines[4]
    assert [model["licences"] for model in models_json(models)] == [
        {"image": "mit", "text": "mit"},
        {"image": ""},
    ]


def test_a_licence_cannot_act_on_the_terminal() -> None:
    assert licence_words([(IMAGE, "mit\x1b[2J")]) == "mit\\x1b[2J"
