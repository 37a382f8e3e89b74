"""Texts for towers of pretrained families: cleaning, prefixes, padding, and the cuts of long texts."""

from __future__ import annotations

import html
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import ModelError
from indexer.types import Encoder, Modality
from retrieval.encoders.described import preparer_of
from retrieval.encoders.library_text import LibraryTextPreparer
from retrieval.encoders.text_cleaning import CLEANS, lower_in_place, repaired
from retrieval.encoders.text_cuts import open_tokenizer
from retrieval.query.compose import prepare
from retrieval.types import Query
from tests.conformance import check_preparer

SENTENCE = "The keeper fed the Elephants at dawn, and nobody else was there to see it. "


def save_bytes(path: Path, *, words: bool) -> str:
    """A tokenizer of UTF-8 bytes behind <s> and before </s>, with the words of a text or without any."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {one: i for i, one in enumerate(["<pad>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.enable_padding(length=512)
    tokenizer.save(str(path))
    return str(path)


@pytest.fixture(scope="module", params=[True, False], ids=["words", "no words"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_bytes(tmp_path_factory.mktemp("bytes") / "tokenizer.json", words=request.param)


def read(preparer: LibraryTextPreparer, ids: np.ndarray) -> str:
    """What the ids between <s> and </s> spell."""
    from tokenizers import decoders

    tokenizer = open_tokenizer(preparer.tokenizer)
    tokens = [tokenizer.id_to_token(int(i)) for i in ids if i > 2]
    return str(decoders.ByteLevel().decode(tokens))


def test_meets_the_contract(tokenizer: str) -> None:
    texts = [
        "",
        "one",
        SENTENCE * 20,
        "漢字かな交じり文。テスト！" * 30,
        "👩‍👩‍👧 مرحبا. " * 40,
        "x" * 700,
        " a\n\n" * 30,
    ]
    for clean in CLEANS:
        check_preparer(LibraryTextPreparer(tokenizer, 64, clean, prefix="passage: "), texts)


def test_ids_are_cut_between_the_special_tokens_and_padded(tokenizer: str) -> None:
    preparer = LibraryTextPreparer(tokenizer, 8, pad_to=10, pad_id=0)
    ids = preparer.tensor("abcdefghijkl")
    assert (ids[0], ids[7], ids[8:].tolist()) == (1, 2, [0, 0])
    assert read(preparer, ids) == "abcdef"
    assert preparer.tensor("").tolist() == [1, 2] + [0] * 8
    last = replace(preparer, last_id=200, zeroed_id=2).tensor("abcdefghijkl")
    assert (last[0], last[6:].tolist()) == (1, [0, 0, 0, 200])
    assert read(preparer, last[:-1]) == "abcde"


def test_queries_have_their_own_prefix_and_length(tokenizer: str) -> None:
    preparer = LibraryTextPreparer(tokenizer, 32, prefix="passage: ", query_prefix="Q: ", query_max_tokens=10)
    assert read(preparer, preparer.tensor("a cow")) == "passage: a cow"
    assert read(preparer, preparer.query("a cow")) == "Q: a cow"
    assert read(preparer, preparer.query("a cow in a field")) == "Q: a cow"
    same = LibraryTextPreparer(tokenizer, 32)
    assert same.for_queries() is same


def test_only_what_is_typed_is_a_question(tokenizer: str, tmp_path: Path) -> None:
    preparer = LibraryTextPreparer(tokenizer, 64, prefix="passage: ", query_prefix="Q: ")
    encoder = cast(Encoder, SimpleNamespace(preparer=preparer))
    (tmp_path / "cow.txt").write_text("a cow")
    (typed,) = prepare(Query(Modality.TEXT, text="a cow"), encoder)
    (file,) = prepare(Query(Modality.TEXT, path=tmp_path / "cow.txt"), encoder)
    assert read(preparer, typed.tensor) == "Q: a cow"
    assert read(preparer, file.tensor) == "passage: a cow"
    assert typed.text == file.text == "a cow"


def test_windows_hold_whole_sentences(tokenizer: str) -> None:
    preparer = LibraryTextPreparer(tokenizer, 180, "ftfy-lower", prefix="p: ")
    text = SENTENCE * 30
    parts = [text[int(span.start) : int(span.end)] for span in preparer.plan(text)]
    assert all(part.endswith("see it.") for part in parts)
    assert " ".join(parts) == text.strip()
    assert len(parts) == 15, "two sentences fit, three do not"


def test_a_window_counts_the_prefix_and_what_cleaning_adds(tokenizer: str) -> None:
    text = "ﷺ" * 50 + " " + "word " * 50  # ftfy leaves it, lower-casing too: three bytes each
    text += "İ" * 60  # one character, which becomes two in lower case
    for clean in ("none", "lower", "ftfy-lower", "canonicalize"):
        preparer = LibraryTextPreparer(tokenizer, 40, clean, prefix="passage: ")
        spans = preparer.plan(text)
        assert spans
        whole = replace(preparer, max_tokens=10_000)
        for span in spans:
            part = text[int(span.start) : int(span.end)]
            assert len(whole.tensor(part)) <= 40, (clean, part)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=300), clean=st.sampled_from(sorted(CLEANS)), limit=st.integers(14, 60))
def test_no_window_is_cut_off(tokenizer: str, text: str, clean: str, limit: int) -> None:
    preparer = LibraryTextPreparer(tokenizer, limit, clean, prefix="é: ")
    whole = replace(preparer, max_tokens=100_000)
    end = 0
    for span in preparer.plan(text):
        start, stop = int(span.start), int(span.end)
        assert end <= start < stop
        part = text[start:stop]
        if len(part) > 1:  # one character may be more tokens than fit
            assert np.array_equal(preparer.tensor(part), whole.tensor(part))
        end = stop


def test_a_long_limit_is_used(tokenizer: str) -> None:
    preparer = LibraryTextPreparer(tokenizer, 30_000)
    spans = preparer.plan("word " * 40_000)
    assert len(spans) == 7
    assert spans[0].end - spans[0].start > 29_000


@pytest.mark.parametrize("text", ["!!!", " ?! ...\n", "___"])
def test_a_text_that_cleaning_empties_has_no_window(tokenizer: str, text: str) -> None:
    assert LibraryTextPreparer(tokenizer, 20, "canonicalize", prefix="p: ").plan(text) == ()
    assert len(LibraryTextPreparer(tokenizer, 20, "none").plan(text)) == 1


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=0x7F)) | st.text())
def test_texts_are_repaired_as_open_clip_does(text: str) -> None:
    from ftfy import fix_text

    # What open_clip's basic_clean does, without importing open_clip.
    assert repaired(text) == html.unescape(html.unescape(fix_text(text))).strip()


def test_repairs_what_open_clip_repairs() -> None:
    assert repaired(" cafÃ© &amp;amp; &lt;b&gt; ") == "café & <b>"
    assert CLEANS["ftfy-lower"].clean("Schön \n\t WÄR'S") == "schön wär's"
    assert CLEANS["canonicalize"].clean("A_cow, isn't it?") == "a cow isnt it"


@given(st.text())
def test_lower_case_in_place_moves_nothing(text: str) -> None:
    lowered = lower_in_place(text)
    assert len(lowered) == len(text)
    assert all(a == b or a.lower()[0] == b[0] or b == "ς" for a, b in zip(text, lowered, strict=True))


def test_a_plain_query_imports_no_cleaning_library(tokenizer: str) -> None:
    code = """
import sys
from retrieval.encoders.library_text import LibraryTextPreparer
loaded = {name.split('.')[0] for name in sys.modules}
preparer = LibraryTextPreparer(sys.argv[1], 77, "ftfy-lower")
preparer.query("A singing bird, isn't it?")
plain = "ftfy" in sys.modules
preparer.query("caf\\u00c3\\u00a9")
print(sorted(loaded & {"tokenizers", "ftfy", "torch", "transformers"}), plain, "ftfy" in sys.modules)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, tokenizer], capture_output=True, text=True, check=True
    )
    assert found.stdout.split("\n")[0] == "[] False True"


def test_a_description_makes_the_same_preparer(tokenizer: str) -> None:
    preparer = LibraryTextPreparer(tokenizer, 77, "ftfy-lower", 77, 0, "a ", "b ", 64, 5, 6)
    described = preparer.describe()
    assert "tokenizer" not in described
    assert described["kind"] == "tokenizer-json/2"
    assert preparer_of(Modality.TEXT, described, {}, tokenizer=tokenizer) == preparer
    assert pickle.loads(pickle.dumps(preparer)) == preparer


@pytest.mark.parametrize(
    "change", [{"clean": "nfkd"}, {"colour": 1}, {"tokenizer": "x"}, {"kind": "tokenizer-json/3"}]
)
def test_refuses_a_description_of_another_version(tokenizer: str, change: dict[str, Any]) -> None:
    described = LibraryTextPreparer(tokenizer, 77).describe() | change
    with pytest.raises(ModelError):
        LibraryTextPreparer.from_description(described, tokenizer=tokenizer)
