"""Tokenizers written as one file give their libraries' ids on 10,000 hard texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.errors import ModelError
from retrieval.encoders.library_text import LibraryTextPreparer
from retrieval.models.families.tokenizers import write_clip_bpe, write_hf
from retrieval.models.starter.weights import MINILM_TOKENIZER, locate
from tests.retrieval.families.hard_texts import hard_texts

CONTEXT = 24


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return hard_texts(10_000)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clip") / "tokenizer.json"
    ids = write_clip_bpe(out)
    assert (ids.pad, ids.bos, ids.eos, ids.max_tokens) == (0, 49406, 49407, 77)
    return out


def padded(preparer: LibraryTextPreparer, texts: list[str]) -> np.ndarray:
    return np.stack([preparer.tensor(text) for text in texts])


@pytest.mark.parametrize(
    ("mode", "clean", "each"),
    [("lower", "ftfy-lower", 1), ("whitespace", "ftfy-whitespace", 10), ("canonicalize", "canonicalize", 10)],
)
def test_clip_ids_are_those_of_open_clip(
    clip_file: Path, texts: list[str], mode: str, clean: str, each: int
) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    some = texts[::each]
    expected = SimpleTokenizer(clean=mode)(some).numpy()
    preparer = LibraryTextPreparer(str(clip_file), 77, clean, pad_to=77)
    found = padded(preparer, some)
    assert np.flatnonzero((found != expected).any(1)).tolist() == []
    # Controls: what another cleaning, or an end that is cut off, would give must be seen.
    few, of_few = some[:200], expected[:200]
    for wrong in ("none", "lower", *({"ftfy-lower", "ftfy-whitespace", "canonicalize"} - {clean})):
        other = padded(LibraryTextPreparer(str(clip_file), 77, wrong, pad_to=77), few)
        assert (other != of_few).any(1).mean() > 0.02, wrong
    assert (padded(LibraryTextPreparer(str(clip_file), 77, clean, pad_to=77, pad_id=1), few) != of_few).any()


def test_clip_knows_a_special_name_where_open_clip_does(clip_file: Path) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    start, end = "<start_of_text>", "<end_of_text>"
    typed = [start, f"abc{end}", f"!{end}", f"{end}{start}{end}", f"!{start}{end}", f"'s{end}", f"1{start}"]
    typed += [
        "<START_OF_TEXT>",
        f"<ſtart_of_text>{end}",
        f"e\u0301{end}",
        f"{start}?{end} {end}",
        f"\u0345{end}",
    ]
    library = SimpleTokenizer(clean="whitespace")
    preparer = LibraryTextPreparer(str(clip_file), 77, "ftfy-whitespace", pad_to=77)
    assert padded(preparer, typed).tolist() == library(typed).tolist()


def test_clip_splits_every_character_as_open_clip_does(clip_file: Path) -> None:
    from open_clip.tokenizer import SimpleTokenizer
    from tokenizers import Tokenizer

    library = SimpleTokenizer()
    split = Tokenizer.from_file(str(clip_file)).pre_tokenizer.pre_tokenize_str
    # Not white space, which open_clip's cleaning has reduced to spaces before it splits.
    codes = [*range(0xD800), *range(0xE000, 0x32400), *range(0x32400, 0x110000, 997)]
    every = [chr(code) for code in codes if not chr(code).isspace()]
    for first in range(0, len(every), 200):
        text = "".join(f"a{one}1{one}'{one} " for one in every[first : first + 200])
        words = library.pat.findall(text)
        expected = ["".join(library.byte_encoder[byte] for byte in word.encode()) for word in words]
        assert [word for word, _ in split(text)] == expected


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small tokenizers of each kind, trained here and saved by transformers' own classes."""
    made: dict[str, Callable[[list[str]], Any]] = {
        "t5": _t5,
        "xlm-roberta": _xlm_roberta,
        "roberta": _roberta,
        "gemma": _gemma,
    }
    corpus = hard_texts(1_500, seed=1)
    found = {"bert": locate(MINILM_TOKENIZER).parent}
    for name, make in made.items():
        found[name] = tmp_path_factory.mktemp(name)
        make(corpus).save_pretrained(found[name])
    return found


def _unigram(corpus: list[str], special: list[str], unknown: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=1200, special_tokens=special, unk_token=unknown, show_progress=False, shrinking_factor=0.5
    )
    # A unigram model must hold every character that it is trained on: the common ones.
    seen = Counter("".join(text[:100] for text in corpus))
    common = {one for one, count in seen.items() if count >= 20}
    cut = ("".join(one if one in common else " " for one in text[:100]) for text in corpus)
    tokenizer.train_from_iterator(cut, trainer)
    return [tuple(piece) for piece in json.loads(tokenizer.to_str())["model"]["vocab"]]


def _t5(corpus: list[str]) -> Any:
    from transformers import T5Tokenizer

    return T5Tokenizer(vocab=_unigram(corpus, ["<pad>", "</s>", "<unk>"], "<unk>"), extra_ids=0)


def _xlm_roberta(corpus: list[str]) -> Any:
    from transformers import XLMRobertaTokenizer

    return XLMRobertaTokenizer(vocab=_unigram(corpus, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<unk>"))


def _bpe(corpus: list[str], tokenizer: Any, special: list[str], alphabet: list[str]) -> dict[str, Any]:
    from tokenizers import trainers

    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((text[:400] for text in corpus), trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def _roberta(corpus: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import RobertaTokenizer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    model = _bpe(corpus, tokenizer, special, pre_tokenizers.ByteLevel.alphabet())
    pairs: Any = [tuple(pair) for pair in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=pairs)


def _gemma(corpus: list[str]) -> Any:
    """Byte fallback, no words: as SigLIP 2 has it, with an end and no beginning."""
    from tokenizers import Tokenizer, models, normalizers, processors
    from transformers import GemmaTokenizer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = _bpe([text[:60] for text in corpus], tokenizer, special, [])
    pairs: Any = [tuple(pair) for pair in model["merges"]]
    library = GemmaTokenizer(vocab=model["vocab"], merges=pairs, padding_side="right")
    library.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return library


KINDS = ("bert", "t5", "xlm-roberta", "roberta", "gemma")


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers(
    folders: dict[str, Path], kind: str, texts: list[str], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    library = AutoTokenizer.from_pretrained(str(folders[kind]))
    ids = write_hf(folders[kind], tmp_path / "tokenizer.json")
    assert (ids.pad, ids.sep, ids.eos) == (library.pad_token_id, library.sep_token_id, library.eos_token_id)
    expected = library(texts, truncation=True, max_length=CONTEXT)["input_ids"]
    preparer = LibraryTextPreparer(str(tmp_path / "tokenizer.json"), CONTEXT)
    found = [preparer.tensor(text).tolist() for text in texts]
    assert [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b] == []
    assert sum(len(one) == CONTEXT for one in expected) > 1_000, "too few texts are cut"
    shorter = LibraryTextPreparer(str(tmp_path / "tokenizer.json"), CONTEXT - 1)
    assert [shorter.tensor(text).tolist() for text in texts[:50]] != expected[:50]


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("bert", "canonicalize", {"strip_sep_token": True}),
        ("xlm-roberta", "whitespace", {}),
        ("xlm-roberta", "whitespace", {"tokenizer_mode": "clips"}),
        ("gemma", "canonicalize", {}),
        ("t5", "lower", {}),
    ],
)
def test_ids_are_those_of_open_clips_hf_tokenizer(
    folders: dict[str, Path], kind: str, mode: str, options: dict[str, Any], texts: list[str], tmp_path: Path
) -> None:
    from open_clip.tokenizer import HFTokenizer

    few = texts[:600]
    library = HFTokenizer(str(folders[kind]), context_length=CONTEXT, clean=mode, **options)
    expected = library(few).numpy()
    ids = write_hf(folders[kind], tmp_path / "tokenizer.json")
    clean = {"lower": "ftfy-lower", "whitespace": "ftfy-whitespace"}.get(mode, mode)
    assert ids.pad is not None
    preparer = LibraryTextPreparer(
        str(tmp_path / "tokenizer.json"),
        CONTEXT,
        clean,
        pad_to=CONTEXT,
        pad_id=ids.pad,
        last_id=ids.cls if "tokenizer_mode" in options and ids.cls is not None else -1,
        zeroed_id=ids.sep if "strip_sep_token" in options and ids.sep is not None else -1,
    )
    assert padded(preparer, few).tolist() == expected.tolist()
    # Control: a text whose case or entities are left as they are.
    plain = padded(
        LibraryTextPreparer(preparer.tokenizer, CONTEXT, "none", pad_to=CONTEXT, pad_id=ids.pad), few
    )
    assert (plain != expected).any(1).mean() > 0.1


def test_a_tokenizer_of_vocabulary_files_becomes_one_file(folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "files"
    folder.mkdir()
    model = json.loads((folders["roberta"] / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"])
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    write_hf(folder, tmp_path / "tokenizer.json")
    preparer = LibraryTextPreparer(str(tmp_path / "tokenizer.json"), 512)
    library = AutoTokenizer.from_pretrained(str(folders["roberta"]))
    for text in ("a photo of the singing bird", "naïve 🐸", ""):
        assert preparer.tensor(text).tolist() == library(text)["input_ids"]


def test_what_the_file_says_of_padding_and_truncation_is_reset(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer

    source = Tokenizer.from_file(str(folders["t5"] / "tokenizer.json"))
    source.enable_padding(length=16)
    source.enable_truncation(5)
    folder = tmp_path / "t5"
    folder.mkdir()
    source.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_bytes((folders["t5"] / "tokenizer_config.json").read_bytes())
    write_hf(folder, tmp_path / "tokenizer.json")
    written = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (written["padding"], written["truncation"]) == (None, None)


def test_says_what_a_folder_without_a_tokenizer_needs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read") as caught:
        write_hf(tmp_path, tmp_path / "tokenizer.json")
    assert "tokenizer.json" in str(caught.value.hint)
    assert not (tmp_path / "tokenizer.json").exists()


def test_refuses_a_folders_own_code(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Odd", "auto_map": {"AutoTokenizer": ["odd.Odd", None]}})
    )
    (tmp_path / "odd.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ModelError):
        write_hf(tmp_path, tmp_path / "out.json", options={"trust_remote_code": True})
