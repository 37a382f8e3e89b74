"""A library's tokenizer as one tokenizer.json that gives the same ids without the library.

The file neither pads nor truncates: both belong to `retrieval.encoders.library_text`. Imports the libraries
where they are needed: only pulling a model runs this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from indexer.errors import ModelError

_HERE = "\x00pieces"  # where they go in the file
# Read again from the file and compared before it is kept.
SAMPLES = (
    "",
    " ",
    "a singing bird",
    "A COW, two cats & 3 dogs; it's naïve -- isn't it?",
    "ضفدع أخضر على ورقة",
    "שלום עולם",
    "カエルが鳴いている。漢字",
    "🐸 frog 👩‍👩‍👧 e\u0301",
    "tabs\tand\nnew  lines ",
    "\ufb01 ² ½ \xa0 \u200b \u3000x",
    "x" * 300,
)


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """What a library's tokenizer says of itself; None where it has no such token."""

    pad: int | None
    bos: int | None
    eos: int | None
    cls: int | None
    sep: int | None
    max_tokens: int | None  # the longest text that it says its model takes; None: not said


def write_clip_bpe(out: Path, *, context_length: int = 77) -> SpecialIds:
    """Write open_clip's `SimpleTokenizer` (lower-cased byte pairs of the first CLIP) as a tokenizer.json.

    Cleaning is the preparer's. ModelError where open_clip is not installed or is another than this expects.
    """
    tokenizer, simple = _clip_bpe()
    for sample in SAMPLES:
        text = simple.clean_fn(sample)
        found = tokenizer.encode(text).ids
        expected = [simple.sot_token_id, *simple.encode(text), simple.eot_token_id]
        _require_equal("open_clip's tokenizer", sample, found, expected)
    out.write_text(tokenizer.to_str(), encoding="utf-8")
    return SpecialIds(0, simple.sot_token_id, simple.eot_token_id, None, None, context_length)


def write_hf(
    folder: Path, out: Path, *, language: str = "", options: Mapping[str, Any] | None = None
) -> SpecialIds:
    """Write the tokenizer of a folder in transformers' layout as a tokenizer.json.

    `language` is the source language of tokenizers that have several; `options` go to `AutoTokenizer`, as
    some models' configurations say. Reads local files only, runs no code of theirs. ModelError where there
    is none, or where it cannot be written as one file.
    """
    from tokenizers import Tokenizer

    library = _auto_tokenizer(folder, dict(options or {}))
    if language:
        library.set_src_lang_special_tokens(language)
    text = _as_file(library)
    tokenizer = Tokenizer.from_str(text)
    for sample in SAMPLES:
        _require_equal(folder.name, sample, tokenizer.encode(sample).ids, library(sample)["input_ids"])
    out.write_text(text, encoding="utf-8")
    limit = int(library.model_max_length)
    return SpecialIds(
        pad=library.pad_token_id,
        bos=library.bos_token_id,
        eos=library.eos_token_id,
        cls=library.cls_token_id,
        sep=library.sep_token_id,
        max_tokens=limit if limit < 10**9 else None,  # "not said" is a very large number
    )


def write_loaded(library: Any, out: Path) -> None:
    """Write one of transformers' fast tokenizers, with what was changed since it was loaded."""
    out.write_text(_as_file(library), encoding="utf-8")


def _clip_bpe() -> tuple[Any, Any]:
    """A `tokenizers.Tokenizer`, and open_clip's own of which it is made."""
    from tokenizers import AddedToken, Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.normalizers import Replace, Sequence
    from tokenizers.pre_tokenizers import ByteLevel, Split
    from tokenizers.pre_tokenizers import Sequence as Steps
    from tokenizers.processors import TemplateProcessing

    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError as error:
        raise ModelError("open_clip is not installed", hint="pip install open_clip_torch") from error

    simple = SimpleTokenizer()
    merges = sorted(simple.bpe_ranks, key=simple.bpe_ranks.__getitem__)
    start, end = (simple.decoder[number] for number in (simple.sot_token_id, simple.eot_token_id))
    tokenizer = Tokenizer(BPE(simple.encoder, merges, end_of_word_suffix="</w>"))
    patterns = _ClipPatterns.of_open_clip()
    parted = [Replace(Regex(pattern), f"{mark} ") for mark, pattern in patterns.partings()]
    tokenizer.normalizer = Sequence(parted)
    tokenizer.add_special_tokens([AddedToken(one, normalized=True, special=True) for one in (start, end)])
    tokenizer.pre_tokenizer = Steps(
        [
            Split(Regex(patterns.words()), "removed", invert=True),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, simple.sot_token_id), (end, simple.eot_token_id)],
    )
    return tokenizer, simple


@dataclass(frozen=True, slots=True)
class _ClipPatterns:
    """The pattern by which open_clip splits a text, without its flag to ignore case.

    What it matches for open_clip's `regex` is written out as ranges of characters: the engine inside
    `tokenizers` has another version of Unicode, and ignores case in its own way.
    """

    letters: str
    numbers: str
    symbols: str

    @classmethod
    @cache  # it goes over all of Unicode
    def of_open_clip(cls) -> _ClipPatterns:
        return cls(_ranges(r"[\p{L}]+"), _ranges(r"[\p{N}]+"), _ranges(r"[^\s\p{L}\p{N}]+"))

    @property
    def names(self) -> tuple[str, str]:
        """The special tokens' names as typed, without the closing mark; by case folding U+017F is an s."""
        tail = "_[oO][fF]_[tT][eE][xX][tT]"
        return f"<[sS\u017f][tT][aA][rR][tT]{tail}", f"<[eE][nN][dD]{tail}"

    def words(self) -> str:
        short = "'[sS\u017f]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
        names = "|".join(f"{name}>" for name in self.names)
        return f"{names}|{short}|[{self.letters}]+|[{self.numbers}]|[{self.symbols}]+"

    def partings(self) -> list[tuple[str, str]]:
        """Marks with the pattern of those behind which a space goes.

        open_clip finds a special token's name only where no symbol stands before it, unless that ends another
        such name; an added token is found anywhere. So names in a row are parted, which keeps them, then
        a name behind a symbol is broken up, which hides it. Neither changes any other token.
        """
        start, end = self.names
        known = "<(?:start|end)_of_text>"
        alone = f"(?<![{self.symbols}]{start})(?<![{self.symbols}]{end})(?<={start}|{end})"
        in_a_row = (">", f"{alone}>(?={known})")
        return [in_a_row, in_a_row, in_a_row, ("<", f"(?<=[{self.symbols}])<(?={known[1:]})")]


def _ranges(pattern: str) -> str:
    """The inside of a character class that is what `pattern` matches, in runs, for `regex`."""
    import regex

    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    runs = (match.group() for match in regex.finditer(pattern, every, regex.IGNORECASE))
    return "".join(rf"\x{{{ord(run[0]):x}}}-\x{{{ord(run[-1]):x}}}" for run in runs)


def _auto_tokenizer(folder: Path, options: dict[str, Any]) -> Any:
    """transformers' own fast tokenizer of a folder."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ModelError("transformers is not installed", hint="pip install transformers") from error

    try:
        library = AutoTokenizer.from_pretrained(
            str(folder), **options | {"local_files_only": True, "trust_remote_code": False, "use_fast": True}
        )
    except Exception as error:  # transformers raises what its many readers happen to raise
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ModelError(
            f"the tokenizer in {folder} cannot be read: {reason}",
            hint="the folder needs a tokenizer.json, or the vocabulary files with a tokenizer_config.json",
        ) from error
    if not getattr(library, "is_fast", False):
        raise ModelError(
            f"the tokenizer in {folder} is a {type(library).__name__}, which is no single tokenizer.json",
            hint="ask for a model with a tokenizer.json",
        )
    return library


def _as_file(library: Any) -> str:
    """The Rust tokenizer inside one of transformers' as JSON, without padding and truncation."""
    data = json.loads(library.backend_tokenizer.to_str())
    data |= {"padding": None, "truncation": None}
    model = data["model"]
    if model.get("type") != "Unigram":
        return json.dumps(data, ensure_ascii=False)
    pieces = (f"[{json.dumps(piece)},{_read_exactly(score)}]" for piece, score in model["vocab"])
    data["model"] = model | {"vocab": _HERE}
    return json.dumps(data, ensure_ascii=False).replace(json.dumps(_HERE), f"[{','.join(pieces)}]")


def _read_exactly(score: float) -> str:
    """A literal that `tokenizers` reads as this very number.

    It reads digits as a whole number, rounds that, and divides by a power of ten, which can miss the last
    bit; and that bit decides between two ways of splitting "xxx" that have the same score.
    """
    if score == 0:
        return "0.0"
    for places in range(18, 8, -1):
        digits = round(Fraction(abs(score)) * 10**places)
        if digits >= 2**63:
            continue
        apart = max(1, math.ulp(float(digits)))
        for step in (0, 1, -1, 2, -2):
            near = digits + int(step * apart)
            if float(near) / 10.0**places == abs(score):
                return f"{'-' if score < 0 else ''}{near}e-{places}"
    return repr(score)


def _require_equal(name: str, sample: str, found: list[int], expected: list[int]) -> None:
    if found != expected:
        raise ModelError(
            f"the tokenizer of {name} cannot be written as one file: {sample[:30]!r} gives {found[:12]}, "
            f"expected {expected[:12]}",
            hint="install the versions that requirements.lock names",
        )
