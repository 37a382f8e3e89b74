"""The starter's text tower against sentence-transformers, and how texts are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.types import Modality
from retrieval.encoders import text as text_module
from retrieval.encoders.text import TextPreparer
from retrieval.encoders.text_cuts import as_unicode, open_tokenizer
from retrieval.models.model import Model
from retrieval.models.starter.weights import MINILM_TOKENIZER, locate
from tests.conformance import PARITY, check_encoder, check_plan, parity

LONG = "The keeper fed the elephants at dawn, and nobody else was there to see it. " * 80
TEXTS = [
    "",
    "a singing bird",
    "thunder",
    "A cow.",
    "Une grenouille verte sur une feuille",
    "ضفدع أخضر على ورقة",
    "שלום עולם",
    "🐸🐸 frog 👩‍👩‍👧",
    "カエルが鳴いている。",
    "tabs\tand\nnewlines   and  spaces ",
    "price: $3.99 (was 5!) -- e-mail a.b@c.org",
    "naïve café Ångström",
    LONG,
]


@pytest.fixture(scope="module")
def preparer() -> TextPreparer:
    return TextPreparer(str(locate(MINILM_TOKENIZER)))


@pytest.fixture(scope="module")
def reference() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(locate(MINILM_TOKENIZER).parent), device="cpu")


@pytest.mark.starter
def test_meets_the_contract(starter: Model) -> None:
    check_encoder(starter.tower(Modality.TEXT), TEXTS)


@pytest.mark.starter
def test_ids_are_those_of_sentence_transformers(preparer: TextPreparer, reference: Any) -> None:
    for one in TEXTS:
        expected = reference.tokenize([one])["input_ids"][0].tolist()
        assert preparer.tensor(one).tolist() == expected


@pytest.mark.starter
def test_vectors_are_those_of_sentence_transformers(starter: Model, reference: Any) -> None:
    expected = reference.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    tower = starter.tower(Modality.TEXT)
    tensors = [tower.preparer.tensor(one) for one in TEXTS]
    assert parity(tower.encode(tensors), expected) <= PARITY
    # Controls: what a wrong cut or missing special tokens would do must be seen.
    assert parity(tower.encode([tensor[:128] for tensor in tensors]), expected) > PARITY
    assert parity(tower.encode([tensor[:-1] for tensor in tensors]), expected) > PARITY


@pytest.mark.starter
def test_meaning_survives(starter: Model) -> None:
    tower = starter.tower(Modality.TEXT)
    cat, kitten, engine = tower.encode(
        [tower.preparer.tensor(one) for one in ("a cat", "a small kitten", "a diesel engine")]
    )
    assert cat @ kitten > cat @ engine + 0.2


PARAGRAPHS = "\n\n".join(f"Paragraph {i}. " + "It says little. " * 35 for i in range(12))


@pytest.mark.parametrize(
    "one",
    [
        "",
        " \n\t ",
        " hello \n",
        LONG,
        PARAGRAPHS,
        "漢字かな交じり文。テスト！" * 400,
        "x" * 70_000,
        "a-b" * 9_000,
        " " * 50_000 + "word" + " " * 50_000,
        "bad \ud800 surrogate " * 200,
        "👩‍👩‍👧 مرحبا. " * 400,
    ],
    ids=lambda one: repr(one[:10]),
)
def test_plan_keeps_every_segment_within_the_limit(preparer: TextPreparer, one: str) -> None:
    check_plan(preparer, one)
    tokenizer = open_tokenizer(preparer.tokenizer)
    for span in preparer.plan(one):
        part = one[int(span.start) : int(span.end)]
        assert len(tokenizer.encode(as_unicode(part)).ids) <= preparer.max_tokens


def test_plan_of_nothing_is_empty(preparer: TextPreparer) -> None:
    assert preparer.plan("") == ()
    assert preparer.plan(" \n ") == ()


def test_plan_prefers_paragraphs_then_sentences_then_words(preparer: TextPreparer) -> None:
    parts = [PARAGRAPHS[int(span.start) : int(span.end)] for span in preparer.plan(PARAGRAPHS)]
    assert len(parts) == 12
    assert all(part.startswith(f"Paragraph {i}.") for i, part in enumerate(parts))
    sentences = [LONG[int(span.start) : int(span.end)] for span in preparer.plan(LONG)]
    assert all(part.endswith("see it.") for part in sentences)
    words = "elephant " * 1000
    assert all(
        words[int(s.start) : int(s.end)].split()
        == ["elephant"] * len(words[int(s.start) : int(s.end)].split())
        for s in preparer.plan(words)
    )


def test_plan_reads_each_character_about_once(
    preparer: TextPreparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = open_tokenizer(preparer.tokenizer)
    read = 0

    class Counting:
        def encode(self, piece: str, add_special_tokens: bool) -> Any:
            nonlocal read
            read += len(piece)
            return real.encode(piece, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(text_module, "open_tokenizer", lambda _path: Counting())
    long = LONG * 60
    assert len(preparer.plan(long)) > 300
    assert read < 1.2 * len(long)


def test_a_tokenizer_elsewhere_makes_the_same_space(preparer: TextPreparer, tmp_path: Path) -> None:
    other = TextPreparer(str(tmp_path / "tokenizer.json"))
    assert other.describe() == preparer.describe()
    assert np.array_equal(
        preparer.tensor("a cow"),
        TextPreparer.from_description(other.describe(), tokenizer=preparer.tokenizer).tensor("a cow"),
    )
