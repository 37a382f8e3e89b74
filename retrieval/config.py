"""Settings: what a user may set once instead of with every command. TOML file < environment < flags.

The only place that reads the environment or the configuration file, and that knows where a user's own
files live. TRIPTYCH_HOME moves all of them under one folder.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError
from retrieval.home import expanded

APP = "triptych"
NOUNS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True} | dict.fromkeys(
    ("false", "no", "off", "0"), False
)
WORDS = {  # settings that take one of a few words
    "runtime": ("auto", "onnx", "openvino", "torch"),
    "precision": ("auto", "f32", "bf16", "fp16", "int8"),
    "device": ("auto", "cpu", "cuda", "cuda:N", "mps"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting; each is a key of the file and, in capitals after TRIPTYCH_, a variable."""

    index: Path | None = None  # the index that commands use when none is named
    model: str = "starter"  # a name or space_id from `triptych models list`
    k: int = 10  # hits shown
    history: bool = True  # whether the last search is kept, for --like, --repeat and the numbers of its hits
    reranker: str = (
        "cross-encoder/ms-marco-MiniLM-L6-v2"  # the cross-encoder of --rerank cross, or its folder
    )
    workers: int = 0  # decode processes; 0: as many as there are cores
    threads: int = 0  # threads of the model runtime; 0: as many as there are cores
    runtime: str = "auto"  # what runs the model when indexing: auto, onnx, openvino or torch
    precision: str = "auto"  # f32 on a CPU, lower on a GPU; or f32, bf16, fp16 (GPU), int8 (CPU)
    device: str = "auto"  # where: auto, cpu, cuda, cuda:N or mps
    timeout_s: float = 60.0  # longest that one file may take to decode
    memory_mb: int = 2048  # most memory that decoding one file may take

    def with_flags(self, **flags: Any) -> Settings:
        """A copy with every flag that was given (is not None); ConfigError for a word it does not take."""
        given = {name: value for name, value in flags.items() if value is not None}
        return replace(self, **{name: _word(name, value) for name, value in given.items()})


def cache_dir() -> Path:
    """Model bundles and what else can be made again."""
    return _place("cache")


def data_dir() -> Path:
    """The registry of indexes."""
    return _place("data")


def config_file() -> Path:
    return _place("config") / "config.toml"


def load_settings(file: Path | None = None) -> Settings:
    """Settings from the file, then the environment. ConfigError names the key and what it takes."""
    values: dict[str, Any] = {}
    path = file or config_file()
    if path.is_file():
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}", hint="mend or remove the file") from None
    known = {entry.name for entry in fields(Settings)}
    for key in values.keys() - known:
        raise ConfigError(f"{path} sets {key!r}, which is unknown", hint=f"known: {', '.join(sorted(known))}")
    for name in known:
        variable = f"TRIPTYCH_{name.upper()}"
        if os.environ.get(variable):
            values[name] = os.environ[variable]
    return Settings(**{name: _convert(name, value) for name, value in values.items()})


def _convert(name: str, value: Any) -> Any:
    """A raw value as the field's type, which its default shows."""
    if name == "index":
        return expanded(str(value))
    wanted = type(getattr(Settings(), name))
    try:
        converted = BOOLEANS[str(value).strip().lower()] if wanted is bool else wanted(value)
    except (TypeError, ValueError, KeyError):
        raise ConfigError(f"{name} is {value!r}", hint=f"it takes {NOUNS[wanted]}") from None
    converted = _word(name, converted)
    if name == "k" and converted < 1:
        raise ConfigError(f"{name} is {value!r}", hint="it takes a number of 1 or more")
    if isinstance(converted, int | float) and converted < 0:
        raise ConfigError(f"{name} is {value!r}", hint="it takes a number of 0 or more")
    return converted


def _word(name: str, value: Any) -> Any:
    """The value, in small letters where it is one of a few words; ConfigError where it is none of them."""
    if name not in WORDS:
        return value
    word = str(value).strip().lower()
    numbered = re.fullmatch(r"(cuda):\d+", word)
    if (f"{numbered[1]}:N" if numbered else word) not in WORDS[name]:
        raise ConfigError(f"{name} is {value!r}", hint=f"it takes one of {', '.join(WORDS[name])}")
    return word


def _place(kind: str) -> Path:
    """The user's folder of a kind: below TRIPTYCH_HOME, or where the platform has it."""
    home = os.environ.get("TRIPTYCH_HOME")
    if home:
        return expanded(home).absolute() / kind
    import platformdirs

    places = {
        "cache": platformdirs.user_cache_path,
        "data": platformdirs.user_data_path,
        "config": platformdirs.user_config_path,
    }
    return places[kind](APP, appauthor=False)
