"""Trees of small media for whole updates, and what an index that was made of one tells."""

from __future__ import annotations

import os
import shutil
import wave
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from indexer.build import BuildOptions, UpdateReport, update
from indexer.errors import MediaError
from indexer.media.prepare import prepare_file, prepare_text
from indexer.media.workers import Chunk, Failed, Finished, Job
from indexer.snapshot import Snapshot
from indexer.types import Item, Modality
from tests.toy import COLOURS, toy_encoders, word_vector

REPOSITORY = Path(__file__).parent.parent.parent
OPTIONS = BuildOptions(model="toy", workers=1)
OLD = 1_600_000_000_000_000_000  # ns: long before any test


class InlinePool:
    """Decodes in the test's own process, which saves starting workers; same outcomes, one job at a time."""

    def __init__(self, preparers: Mapping[Modality, Any], **_: object) -> None:
        self.preparers = preparers

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(self, jobs: Iterable[Job]) -> Iterator[Chunk | Finished | Failed]:
        for job in jobs:
            preparer = self.preparers[job.modality]
            size = mtime_ns = 0
            try:
                if job.path is None:
                    prepared = list(prepare_text(job.text or "", preparer))
                else:
                    status = Path(job.path).stat()
                    size, mtime_ns = status.st_size, status.st_mtime_ns
                    prepared = list(prepare_file(job.path, job.modality, preparer))
            except (MediaError, OSError) as error:
                yield Failed(job.id, str(error))
            else:
                yield Chunk(job.id, prepared)
                yield Finished(job.id, size, mtime_ns)


def picture(path: Path, colour: str, *, dot: int = 0) -> Path:
    """A picture of one colour; `dot` tells pictures of that colour apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (24, 16), colour)
    image.putpixel((0, 0), (dot % 256, dot // 256, 7))
    image.save(path, "PNG")
    return aged(path)


def text(path: Path, words: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words)
    return aged(path)


def sound(path: Path, hertz: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.sin(np.arange(8000) * 2 * np.pi * hertz / 8000) * 20_000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.astype("<i2").tobytes())
    return aged(path)


def aged(path: Path, ns: int = OLD) -> Path:
    os.utime(path, ns=(ns, ns))
    return path


def run(
    index: Path, *sources: Path, encoders: Mapping[Modality, Any] | None = None, **options: Any
) -> UpdateReport:
    return update(index, sources, encoders=encoders or toy_encoders(), options=replace(OPTIONS, **options))


def cost(index: Path, *sources: Path, **options: Any) -> tuple[UpdateReport, dict[str, int]]:
    """An update, and how many segments each encoder saw, by its own count."""
    encoders = toy_encoders()
    report = run(index, *sources, encoders=encoders, **options)
    seen = {str(modality): encoder.encoded for modality, encoder in encoders.items() if encoder.encoded}
    assert seen == {str(modality): count for modality, count in report.encoded.items() if count}
    return report, seen


def items(index: Path) -> dict[str, Item]:
    with Snapshot.open(index) as snapshot:
        return {item.path: item for item in snapshot.item_list()}


def told(index: Path) -> tuple[Any, ...]:
    """All that an index tells: its items, and what each query finds, with scores and ranges."""
    with Snapshot.open(index) as snapshot:
        table = sorted(
            (
                i.id,
                i.path,
                tuple((m.path, m.content_hash, m.error) for m in i.members),
                sorted(i.metadata.items()),
            )
            for i in snapshot.item_list()
        )
        answers = []
        for word in [*COLOURS, "cow", "high"]:
            for modality in Modality:
                hits = snapshot.search(modality, word_vector(word), 10_000)
                segments = snapshot.segments(hits)
                owners = snapshot.items_of({(s.content_hash, s.modality, s.source) for s in segments})
                answers.append(
                    [
                        (s.content_hash, s.source, s.range, s.text, round(float(score), 6),
                         sorted(i.path for i in owners[(s.content_hash, s.modality, s.source)]))
                        for s, score in zip(segments, hits.score, strict=True)
                    ]
                )  # fmt: skip
        return table, answers, snapshot.counts


def assert_as_from_scratch(index: Path, *sources: Path) -> None:
    fresh = index.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    run(fresh, *sources)
    assert told(index) == told(fresh)


def media(tree: Path) -> None:
    """Four pictures, one of them twice and two with captions, a sound, a text: 5 + 3 + 1 contents."""
    picture(tree / "red.png", "red")
    text(tree / "red.txt", "a red cow")
    picture(tree / "green.png", "green")
    picture(tree / "sub/green again.png", "green")
    picture(tree / "sub/blue.png", "blue")
    text(tree / "sub/blue.txt", "a blue sky")
    picture(tree / "sub/white.png", "white")
    sound(tree / "high.wav", 2000)
    text(tree / "notes.txt", "cow and sky " * 20)
