"""Media -> the starter's backbone features, computed once and kept in data/cache/features/ as .npz.

Pictures and sounds go through the same readers, preparers and backbones as in an index, so that a head
fitted on these features meets the same ones later. What is fitted on them stands in fit_starter_heads.py.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import debian_packages as debian
import numpy as np
import numpy.typing as npt

from indexer.errors import MediaError
from retrieval.encoders.audio import AudioPreparer
from retrieval.encoders.image import Fit, ImagePreparer

Array = npt.NDArray[np.float32]
Table = dict[str, npt.NDArray[Any]]

FOLDER = debian.CACHE / "features"
BATCH = 32  # views a forward pass
PATIENCE_S = 15.0  # seconds between two lines of progress
MAX_WINDOWS = 6  # of a sound, from its beginning


def pictures(paths: Sequence[Path], *, preparer: ImagePreparer, mirrored: bool = False) -> Table:
    """Features (n, 1280), logits (n, 1000) and `ok` (n,) of picture files; one that fails is zero, not ok."""
    return _cached(
        ("pictures/1", str(preparer.describe()), mirrored),
        paths,
        lambda: _pictures(paths, preparer, mirrored),
    )


def sounds(paths: Sequence[Path]) -> Table:
    """Features (n, 512), averaged over a sound's blocks and windows, and `ok` (n,), of sound files."""
    return _cached(("sounds/1", str(AudioPreparer().describe())), paths, lambda: _sounds(paths))


def texts(lines: Sequence[str]) -> Array:
    """MiniLM's unit vectors, shape (n, 384), as sentence-transformers computes them."""

    def compute() -> Table:
        from sentence_transformers import SentenceTransformer

        from retrieval.models.starter.weights import MINILM, locate

        model = SentenceTransformer(str(locate(MINILM).parent), device="cpu")
        vectors = model.encode(
            list(lines), batch_size=128, normalize_embeddings=True, show_progress_bar=False
        )
        return {"vectors": np.asarray(vectors, dtype=np.float32)}

    key = hashlib.sha256("\0".join(lines).encode()).hexdigest()[:20]
    return _load(FOLDER / f"texts-{key}.npz", compute)["vectors"]


def _pictures(paths: Sequence[Path], preparer: ImagePreparer, mirrored: bool) -> Table:
    import torch

    from indexer.media.image import read_image
    from retrieval.models.starter.backbones import load_lite0

    network = load_lite0().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    table: Table = {
        "features": np.zeros((len(paths), 1280), np.float32),
        "logits": np.zeros((len(paths), 1000), np.float32),
        "ok": np.zeros(len(paths), bool),
    }

    def read(path: Path) -> npt.NDArray[Any]:
        pixels = read_image(path, min_side=preparer.hint.min_side)
        return preparer.tensor(pixels[:, ::-1] if mirrored else pixels)

    for rows, views, owners in _batches(paths, read):
        with torch.inference_mode():
            features, logits = network(torch.from_numpy(views))
        for name, values in (("features", features.numpy()), ("logits", logits.numpy())):
            for row in rows:
                table[name][row] = values[owners == row].mean(axis=0)
        table["ok"][rows] = True
    return table


def _sounds(paths: Sequence[Path]) -> Table:
    import torch

    from indexer.media.audio import read_windows
    from retrieval.models.starter.backbones import load_aisfx

    network, preparer = load_aisfx(), AudioPreparer()
    table: Table = {
        "features": np.zeros((len(paths), 512), np.float32),
        "ok": np.zeros(len(paths), bool),
    }

    def read(path: Path) -> npt.NDArray[Any]:
        blocks = []
        for _, window in read_windows(path, sample_rate=preparer.sample_rate):
            blocks.append(preparer.tensor(window))
            if len(blocks) == MAX_WINDOWS:
                break
        return np.concatenate(blocks)

    for rows, views, owners in _batches(paths, read):
        with torch.inference_mode():
            features = network(torch.from_numpy(views)).numpy()
        for row in rows:
            table["features"][row] = features[owners == row].mean(axis=0)
        table["ok"][rows] = True
    return table


def _batches(
    paths: Sequence[Path], read: Callable[[Path], npt.NDArray[Any]]
) -> Iterator[tuple[list[int], npt.NDArray[Any], npt.NDArray[np.int64]]]:
    """Row numbers, their views stacked, and the row that each view belongs to. Unreadable files are told."""
    rows: list[int] = []
    views: list[npt.NDArray[Any]] = []
    told = started = time.monotonic()
    for row, path in enumerate(paths):
        try:
            views.append(read(path))
            rows.append(row)
        except (MediaError, OSError) as error:
            debian.say(f"left out: {path.name}: {error}")
        if rows and (sum(map(len, views)) >= BATCH or row == len(paths) - 1):
            yield rows, np.concatenate(views), np.repeat(rows, [len(view) for view in views])
            rows, views = [], []
        if time.monotonic() - told > PATIENCE_S:
            told = time.monotonic()
            debian.say(f"  {row + 1} of {len(paths)}, {(row + 1) / (told - started):.0f} a second")
    if rows:  # the last file could not be read
        yield rows, np.concatenate(views), np.repeat(rows, [len(view) for view in views])


def _cached(recipe: tuple[object, ...], paths: Sequence[Path], compute: Callable[[], Table]) -> Table:
    stamp = [f"{path.name}\0{path.stat().st_size}" for path in paths]
    key = hashlib.sha256("\0".join([*map(str, recipe), *stamp]).encode()).hexdigest()[:20]
    return _load(FOLDER / f"{str(recipe[0]).partition('/')[0]}-{key}.npz", compute)


def _load(path: Path, compute: Callable[[], Table]) -> Table:
    if not path.exists():
        debian.say(f"computing {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".writing.npz")
        np.savez(beside, **compute())  # type: ignore[arg-type]
        beside.replace(path)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


__all__ = ["Fit", "ImagePreparer", "pictures", "sounds", "texts"]
