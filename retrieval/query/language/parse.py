"""What a query argument means: words, a file, or what comes on standard input. Encodes nothing."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from indexer.errors import QueryError, TriptychError
from indexer.media.kinds import HEAD_BYTES, modality_of, modality_of_content
from indexer.types import Modality
from retrieval.home import expanded
from retrieval.types import Query

STDIN = "-"  # the argument that stands for standard input, and what a medium from there is called
MAX_STDIN = 64 << 20  # bytes of a query on standard input


def parse_query(argument: str, *, stdin: Callable[[], bytes] | None = None) -> Query:
    """A query from one argument of the command line.

    `text:` and `file:` force the kind, `concept:` names a learned concept and `-` reads standard input, words
    or a picture or a sound. Without a prefix an existing file of a known kind is a file, what looks like a
    path but is none is an error, and everything else is words.
    """
    if argument == STDIN:
        return _from_bytes((stdin or _read_stdin)())
    if argument.startswith("text:"):
        return _words(argument.removeprefix("text:"))
    if argument.startswith("file:"):
        return _file(expanded(argument.removeprefix("file:")))
    if argument.startswith("concept:"):
        return _concept(argument.removeprefix("concept:"))
    path = expanded(argument)
    if _is_file(path) and (modality_of(path.name) is not None or _looks_like_path(argument)):
        return _file(path)
    if _looks_like_path(argument):
        raise QueryError(
            f"{argument} is no file", hint=f"check the path, or search for the words with 'text:{argument}'"
        )
    return _words(argument)


def try_parse(argument: str, *, stdin: Callable[[], bytes] | None = None) -> Query | TriptychError:
    """As `parse_query`, and what is wrong with the argument where it is no query."""
    try:
        return parse_query(argument, stdin=stdin)
    except TriptychError as error:
        return error


def _concept(name: str) -> Query:
    clean = name.strip()
    if not clean:
        raise QueryError("concept: has no name after it", hint="`triptych concept list` shows their names")
    return Query(Modality.TEXT, concept=clean, name=f"concept:{clean}")


def _words(text: str) -> Query:
    clean = text.encode("utf-8", "replace").decode("utf-8").strip()
    if not clean:
        raise QueryError("the query is empty", hint="give words, a picture or a sound")
    return Query(Modality.TEXT, text=clean)


def _file(path: Path) -> Query:
    if not path.exists():
        raise QueryError(f"{path} does not exist", hint="check the path")
    if not path.is_file():
        raise QueryError(f"{path} is not a regular file", hint="name a picture, a sound or a text file")
    modality = modality_of(path.name)
    if modality is None:
        with path.open("rb") as file:
            modality = modality_of_content(file.read(HEAD_BYTES))
    if modality is None:
        raise QueryError(
            f"{path} is neither picture, sound nor text", hint="convert it, or search with words"
        )
    return Query(modality, path=path)


def _from_bytes(data: bytes) -> Query:
    """Bytes from standard input: words if they are plain text, else a medium, in a file until this ends."""
    modality = modality_of_content(data[:HEAD_BYTES])
    if modality in (Modality.IMAGE, Modality.AUDIO):
        handle, name = tempfile.mkstemp(prefix="triptych-query-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        atexit.register(Path(name).unlink, missing_ok=True)
        return Query(modality, path=Path(name), name=STDIN)
    try:
        return _words(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise QueryError(
            "standard input is neither text, picture nor sound", hint="pipe UTF-8 words or a media file"
        ) from None


def _read_stdin() -> bytes:
    data = sys.stdin.buffer.read(MAX_STDIN + 1)
    if len(data) > MAX_STDIN:
        raise QueryError(f"standard input is over {MAX_STDIN >> 20} MB", hint="save it and name the file")
    return data


def _looks_like_path(argument: str) -> bool:
    """Whether nobody types this as words: it starts like a path, or is one word with a media suffix."""
    if argument.startswith(("./", "../", "/", "~/")):
        return True
    return not any(c.isspace() for c in argument) and modality_of(argument) is not None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system, or with a NUL: words
        return False
