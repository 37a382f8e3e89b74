"""The second look at the best hits: how they lie among each other, or a cross-encoder that reads both sides.

Pure functions over arrays, and one that loads a model. Rescoring needs nothing here: what a search gives as
candidates is scored from the float16 vectors already, in whatever way it was found (indexer/vectors.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ModelError, QueryError, WeightsMissing
from indexer.types import FloatArray
from indexer.vectors import BoolArray, IndexArray

K1, K2, TRADE = 10, 1, 0.9  # what benchmarks/rerank.py chose most often on the training half
CROSS_BATCH = 32  # pairs that a cross-encoder reads at a time
MAX_LETTERS = 8192  # of a text that a cross-encoder is given; it reads a few hundred words

Wide = npt.NDArray[np.float64]


def reciprocal(
    query: FloatArray,
    vectors: FloatArray,
    cosine: FloatArray,
    *,
    k1: int = K1,
    k2: int = K2,
    trade: float = TRADE,
) -> FloatArray:
    """Scores of hits after k-reciprocal re-ranking, shape (n,), in [-1, 1]; higher is better.

    Zhong, Zheng, Cao and Li, CVPR 2017: two that are each among the other's `k1` nearest are encoded by their
    common neighbourhood, averaged over the `k2` nearest; the Jaccard likeness of these codes counts beside
    the cosine, which has the share `trade`. `query` (d,) and `vectors` (n, d) of length 1, `cosine` (n,)
    between them. A query of another modality is farther from every hit than hits are from one another and
    would be nobody's neighbour: its cosines are first brought to the mean and spread of those among the hits.
    QueryError for numbers outside their ranges.
    """
    if k1 < 1 or k2 < 1 or not 0 <= trade <= 1:
        raise QueryError(
            f"k-reciprocal re-ranking with k1={k1}, k2={k2}, trade={trade:g}",
            hint="k1 and k2 are at least 1, trade lies between 0 and 1",
        )
    if len(cosine) < 2:
        return cosine.astype(np.float32)
    likeness = _likeness(query, vectors, cosine)
    order = np.argsort(-likeness, axis=1, kind="stable")
    codes = _codes(likeness, order, k1)
    if k2 > 1:
        codes = codes[order[:, : min(k2, len(order))]].mean(axis=1)
    least = np.minimum(codes[0], codes[1:]).sum(axis=1)
    most = np.maximum(codes[0], codes[1:]).sum(axis=1)
    shared = np.divide(least, most, out=np.zeros_like(least), where=most > 0)
    return ((1 - trade) * shared + trade * cosine).astype(np.float32)


def _likeness(query: FloatArray, vectors: FloatArray, cosine: FloatArray) -> Wide:
    """Cosines of query and hits with one another, shape (n + 1, n + 1), the query first."""
    count = len(vectors)
    found = np.ones((count + 1, count + 1))
    among = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    found[1:, 1:] = among
    others = among[~np.eye(count, dtype=bool)]
    asked = cosine.astype(np.float64)
    spread = asked.std()
    asked = (asked - asked.mean()) / (spread if spread > 1e-9 else 1.0) * others.std() + others.mean()
    found[0, 1:] = found[1:, 0] = asked
    np.fill_diagonal(found, np.inf)  # everything is its own nearest
    return found


def _codes(likeness: Wide, order: IndexArray, k1: int) -> Wide:
    """Each one's neighbourhood as weights that sum to 1, shape (n + 1, n + 1)."""
    near, half = _mutual(order, k1), _mutual(order, max(1, round(k1 / 2)))
    theirs = half.astype(np.float64)
    shared = near.astype(np.float64) @ theirs.T  # of each one's neighbours, how many are each other one's
    joins = near & (shared >= 2 / 3 * theirs.sum(axis=1))
    wide = near | (joins.astype(np.float64) @ theirs > 0)
    weights = np.where(wide, np.exp(np.minimum(likeness, 1.0) - 1), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _mutual(order: IndexArray, k: int) -> BoolArray:
    """Which are among each other's k nearest, themselves included, shape (n, n)."""
    near = np.zeros(order.shape, bool)
    np.put_along_axis(near, order[:, : k + 1], values=True, axis=1)
    return near & near.T


def cross(query: str, texts: Sequence[str], model: str) -> FloatArray:
    """How well each text answers the query, by a cross-encoder, shape (len(texts),); higher is better.

    `model` is a folder, or the name of one that Hugging Face's cache on this machine holds: nothing is
    downloaded, no code of the model's own is run, only safetensors are read. What the model says is an
    unbounded score of its own scale. Raises WeightsMissing where the model is not there, ModelError where it
    does not give one score a pair. Loads torch.
    """
    encoder = _cross_encoder(model)
    pairs = [(query, text[:MAX_LETTERS]) for text in texts]
    if not pairs:
        return np.zeros(0, np.float32)
    import torch

    scores = encoder.predict(
        pairs,
        batch_size=CROSS_BATCH,
        show_progress_bar=False,
        convert_to_numpy=True,
        activation_fn=torch.nn.Identity(),
    )
    return np.asarray(scores, np.float32)


def _cross_encoder(model: str) -> Any:
    """The model on the CPU, or where torch finds a faster device; the last one is kept."""
    if model not in _LOADED:
        from sentence_transformers import CrossEncoder
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        try:
            loaded = CrossEncoder(
                model,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError) as error:
            raise WeightsMissing(
                f"the cross-encoder {model} cannot be loaded: {str(error).splitlines()[0][:200]}",
                hint="name the folder of a sentence-transformers CrossEncoder with its model.safetensors, "
                "or download the model into this machine's Hugging Face cache first",
            ) from error
        labels = int(loaded.config.num_labels)
        if labels != 1:
            raise ModelError(
                f"{model} gives {labels} scores a pair, a re-ranker gives one",
                hint="choose a cross-encoder that was trained to rank",
            )
        _LOADED.clear()
        _LOADED[model] = loaded
    return _LOADED[model]


_LOADED: dict[str, Any] = {}
