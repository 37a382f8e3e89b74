"""Media as a training step takes them: decoded, prepared, ready to go through a backbone that learns.

Imports torch. How files are decoded stands in indexer/media, what a backbone does with them in finetune.py;
modalities whose backbone is frozen come from cached features instead (see FeatureSource).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from indexer.errors import TrainingError
from indexer.fsio import hash_bytes
from indexer.media.workers import Chunk, DecodePool, Failed, Job
from indexer.types import Modality, Preparer
from retrieval.training.features import Collected, capped
from retrieval.training.source import Inputs, Source
from retrieval.training.types import Ints, Row

Array = npt.NDArray[Any]


class Medium(NamedTuple):
    """One content, prepared."""

    tensor: Array  # token ids (tokens,), or views (views, ...) of all segments
    weights: Array | None = None  # of the views, (views,), adding up to 1; None: all alike


class MediaSource:
    """Inputs of any contents: prepared media of the modalities in `media`, `frozen`'s of the others.

    `media[m][content]` is a path, or a text itself. Files are decoded in supervised processes by a thread of
    its own; `expect` lets it begin with a batch that will be asked for, at most `look_ahead` batches ahead.
    A sound is its first MAX_WINDOWS windows, each of the same weight, as cached features have it; a text is
    cut at the model's limit, as a query is. What was decoded stays in memory up to `cache_mb`. With `pin`,
    tensors lie in page-locked memory, from which a GPU copies while it computes. A context manager; `close`
    ends the processes.
    """

    def __init__(
        self,
        media: Mapping[Modality, Sequence[str]],
        preparers: Mapping[Modality, Preparer],
        frozen: Source,
        *,
        workers: int = 0,
        look_ahead: int = 4,
        cache_mb: int = 1024,
        pin: bool = False,
    ) -> None:
        self.media, self.frozen = dict(media), frozen
        self.preparers = {modality: capped(preparer) for modality, preparer in preparers.items()}
        self.look_ahead = look_ahead
        self.pin = pin
        self._pool = DecodePool(
            {m: p for m, p in self.preparers.items() if m is not Modality.TEXT}, workers=workers or None
        )
        self._thread: ThreadPoolExecutor | None = None
        self._expected: OrderedDict[tuple[Modality, bytes], Future[list[Medium]]] = OrderedDict()
        self._kept = _Kept(cache_mb << 20)

    def __enter__(self) -> MediaSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and the decode processes. The source can be used again and starts new ones."""
        for future in self._expected.values():
            future.cancel()
        self._expected.clear()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=True, cancel_futures=True)
        self._pool.close()

    def inputs(self, modality: Modality, contents: Ints) -> Inputs:
        """What `TunedSpace.encode` takes for these contents, in their order, on the CPU; see `collate`.

        TrainingError for a file that could not be read, with its path.
        """
        if modality not in self.media:
            return self.frozen.inputs(modality, contents)
        future = self._expected.pop(_key(modality, contents), None) or self._submit(modality, contents)
        found = future.result()
        made = collate(modality, [one.tensor for one in found], [one.weights for one in found])
        return tuple(one.pin_memory() for one in made) if self.pin else made

    def expect(self, modality: Modality, contents: Ints) -> None:
        """Begin to decode what `inputs` will be asked for; beyond `look_ahead` the oldest is let go."""
        key = _key(modality, contents)
        if modality not in self.media or key in self._expected:
            return
        while len(self._expected) >= max(self.look_ahead, 1) * len(self.media):
            self._expected.popitem(last=False)[1].cancel()
        self._expected[key] = self._submit(modality, contents)

    def _submit(self, modality: Modality, contents: Ints) -> Future[list[Medium]]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "triptych-media")
        return self._thread.submit(self._prepare, modality, np.array(contents))

    def _prepare(self, modality: Modality, contents: Ints) -> list[Medium]:
        """Runs in the thread, which alone uses the pool and what is kept."""
        numbers = [int(number) for number in contents]
        missing = [number for number in dict.fromkeys(numbers) if (modality, number) not in self._kept]
        made: dict[int, Medium] = {}
        if modality is Modality.TEXT:
            prepare = self.preparers[modality].tensor
            made = {number: Medium(prepare(self.media[modality][number])) for number in missing}
        elif missing:
            made = dict(self._decode(modality, missing))
        found = {n: made[n] if n in made else self._kept[modality, n] for n in numbers}
        for number, medium in made.items():
            self._kept.add((modality, number), medium)
        return [found[number] for number in numbers]

    def _decode(self, modality: Modality, numbers: list[int]) -> Iterator[tuple[int, Medium]]:
        paths = self.media[modality]
        segments: dict[int, list[Array]] = {number: [] for number in numbers}
        for outcome in self._pool.run(Job(number, modality, path=paths[number]) for number in numbers):
            if isinstance(outcome, Chunk):
                segments[outcome.job_id] += [one.tensor for one in outcome.prepared]
            elif isinstance(outcome, Failed):
                raise TrainingError(
                    f"{paths[outcome.job_id]} can no longer be used: {outcome.reason}",
                    hint="put the file back, or train again: files that cannot be read are then left out",
                )
        for number, parts in segments.items():
            if not parts:
                raise TrainingError(f"{paths[number]} gives nothing to train on")
            shares = [np.full(len(part), 1.0 / (len(part) * len(parts)), np.float32) for part in parts]
            yield number, Medium(np.concatenate(parts), np.concatenate(shares))


def media_of(
    rows: Sequence[Row], collected: Collected, modalities: Iterable[Modality]
) -> dict[Modality, list[str]]:
    """The path, or the text itself, of each content of these modalities, for `MediaSource`.

    `rows` are those that `collected` kept, in its order.
    """
    found: dict[Modality, list[str]] = {}
    for modality in modalities:
        media = [""] * len(collected.hashes[modality])
        if modality is Modality.TEXT:
            number = {key: place for place, key in enumerate(collected.hashes[modality])}
            for text in (text for row in rows for text in row.texts):
                place = number.get(hash_bytes(text.encode("utf-8", "surrogatepass")))
                if place is not None:
                    media[place] = text
        else:
            slots = collected.examples.contents[modality][:, 0]
            for row, place in zip(rows, slots, strict=True):
                if place >= 0:
                    media[int(place)] = (row.image if modality is Modality.IMAGE else row.audio) or ""
        found[modality] = media
    return found


def collate(
    modality: Modality, prepared: Sequence[Array], weights: Sequence[Array | None] = ()
) -> tuple[Tensor, ...]:
    """One batch of prepared media; the first axis of every tensor counts contents.

    Texts: ids and mask, int64, (n, tokens), padded with zeros. Pictures and sounds: views (n, most views,
    ...), padded with zeros, and each view's weight, float32, (n, most views), zero for padding. A content's
    `weights` add up to 1; without any its views count alike.
    """
    most = max(len(one) for one in prepared)
    if modality is Modality.TEXT:
        ids = np.zeros((len(prepared), most), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(prepared):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)
    views = np.zeros((len(prepared), most, *prepared[0].shape[1:]), dtype=prepared[0].dtype)
    shares = np.zeros((len(prepared), most), dtype=np.float32)
    for row, one in enumerate(prepared):
        given = weights[row] if weights else None
        views[row, : len(one)] = one
        shares[row, : len(one)] = 1.0 / len(one) if given is None else given
    return torch.from_numpy(views), torch.from_numpy(shares)


class _Kept:
    """Media that were decoded, the least recently used dropped above a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._media: OrderedDict[tuple[Modality, int], Medium] = OrderedDict()

    def __contains__(self, key: tuple[Modality, int]) -> bool:
        return key in self._media

    def __getitem__(self, key: tuple[Modality, int]) -> Medium:
        self._media.move_to_end(key)
        return self._media[key]

    def add(self, key: tuple[Modality, int], medium: Medium) -> None:
        self._media[key] = medium
        self.size += medium.tensor.nbytes
        while self.size > self.limit and self._media:
            self.size -= self._media.popitem(last=False)[1].tensor.nbytes


def _key(modality: Modality, contents: Ints) -> tuple[Modality, bytes]:
    return modality, np.ascontiguousarray(contents, dtype=np.int64).tobytes()
