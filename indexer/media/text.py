"""Text files: bytes -> str. Knows nothing of tokens; a text tower's preparer plans the chunks."""

from __future__ import annotations

import codecs
import os
import re

from indexer.errors import MediaError, MediaTooLarge
from indexer.media.kinds import HEAD_BYTES, open_regular, sniff

MAX_BYTES = 32 << 20  # a novel is 1 MB
DETECT_BYTES = 1 << 20  # how much of a file of unknown encoding is examined

# The longer marks first: UTF-32's begins with UTF-16's.
_BOMS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")


def read_text(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> str:
    """A text file's characters, with every line end as one newline.

    The encoding is the byte order mark's, else UTF-8, else what charset_normalizer finds. Character offsets
    (a segment's range) count in the returned string: after decoding, without a byte order mark, with CR LF
    and CR turned into LF. Raises MediaError for an empty, blank or binary file, MediaTooLarge above
    `max_bytes`, OSError where it cannot be read.
    """
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > max_bytes:
            raise MediaTooLarge(f"{size} bytes of text, at most {max_bytes} are read")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise MediaError("changed while it was read")
    return decode_text(data)


def decode_text(data: bytes) -> str:
    """The characters of a text file's bytes, as `read_text` returns them."""
    text = _decode(data)
    if len(_CONTROL.findall(text)) * 50 > len(text):
        raise MediaError("not text: full of control characters")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text or text.isspace():
        raise MediaError("no text in it")
    return text


def _decode(data: bytes) -> str:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    if b"\x00" in data:
        kind = sniff(data[:HEAD_BYTES])
        raise MediaError(f"not text: looks like {kind}" if kind else "not text: holds NUL bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _damaged_utf8(data) or _detected(data)


def _damaged_utf8(data: bytes) -> str | None:
    """UTF-8 with a few broken bytes (a log cut off) is still UTF-8; of other encodings nearly all break."""
    text = data.decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    whole = len(text) - len(text.encode("ascii", errors="ignore")) - broken
    return text if broken * 20 <= whole else None


def _detected(data: bytes) -> str:
    from charset_normalizer import from_bytes

    sample = data[:DETECT_BYTES]
    if len(data) > DETECT_BYTES:
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    match = from_bytes(sample).best()
    if match is None:
        raise MediaError("not text: no known encoding fits")
    return data.decode(match.encoding, errors="replace")
