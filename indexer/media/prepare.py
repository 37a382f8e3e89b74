"""Reader + preparer: a medium -> its segments, ready for a tower. One at a time, so that long media stream.

The decode workers run this for an index; a query runs it in its own process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

from indexer.errors import MediaError
from indexer.types import Modality, Prepared, Preparer


def prepare_file(path: str | os.PathLike[str], modality: Modality, preparer: Preparer) -> Iterator[Prepared]:
    """The segments of one file, in order: one of a picture, windows of a sound, chunks of a text.

    A picture has no range and a perceptual hash; a window of sound has a fingerprint, and its range in
    seconds; a text's range is in characters of what `text.read_text` returns, with those characters.
    Pictures and sounds come with the facts of their file. Raises MediaError with a short reason, also
    after some segments of a long file; OSError where the file cannot be opened.
    """
    hint = preparer.hint
    if modality is Modality.IMAGE:
        from indexer.media.image import described_image, phash

        rgb, facts = described_image(path, min_side=hint.min_side)
        yield Prepared(tensor=preparer.tensor(rgb), phash=phash(rgb), facts=facts)
    elif modality is Modality.AUDIO:
        from indexer.media.audio import described_windows
        from indexer.media.fingerprint import fingerprint

        windows = described_windows(
            path, sample_rate=hint.sample_rate, window_s=hint.window_s, hop_s=hint.hop_s
        )
        for span, pcm, facts in islice(windows, hint.max_segments or None):
            mark = fingerprint(pcm, hint.sample_rate)
            yield Prepared(tensor=preparer.tensor(pcm), range=span, phash=mark, facts=facts)
    else:
        from indexer.media.text import read_text

        yield from prepare_text(read_text(path), preparer)


def prepare_text(text: str, preparer: Preparer) -> Iterator[Prepared]:
    """The segments of a text at hand: chunks as the preparer plans them, blank ones left out.

    Raises MediaError where nothing is left.
    """
    blank = True
    for span in preparer.plan(text):
        chunk = text[int(span.start) : int(span.end)]
        if chunk and not chunk.isspace():
            blank = False
            yield Prepared(tensor=preparer.tensor(chunk), range=span, text=chunk)
    if blank:
        raise MediaError("no text in it")
