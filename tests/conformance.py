"""What every encoder must do, whatever its model: one function that all encoders' tests call."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from indexer.types import Encoder, FloatArray, Modality, Preparer

TOLERANCE = 1e-5  # largest difference of a coordinate between batches
PARITY = 0.02  # see `parity`


def check_encoder(encoder: Encoder, media: Sequence[Any]) -> FloatArray:
    """Assert the contract of indexer.types.Encoder on at least three different media of its modality.

    Returns their vectors, shape (media, dim), for tests that look further.
    """
    assert len(media) >= 3, "give at least three different media"
    check_preparer(encoder.preparer, media)
    assert encoder.modality == encoder.preparer.modality
    assert len(encoder.space_id) == 64
    assert int(encoder.space_id, 16) >= 0
    assert encoder.batch_size >= 1
    tensors = [encoder.preparer.tensor(one) for one in media]
    kept = [tensor.copy() for tensor in tensors]
    vectors = encoder.encode(tensors)
    assert all(np.array_equal(a, b) for a, b in zip(tensors, kept, strict=True)), "a tensor was changed"
    assert vectors.shape == (len(media), encoder.dim)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4)
    _check_batches(encoder, tensors, vectors)
    gaps = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)[~np.eye(len(media), dtype=bool)]
    assert gaps.min() > 1e-3, "two different media have the same vector"
    return vectors


def _check_batches(encoder: Encoder, tensors: Sequence[Any], vectors: FloatArray) -> None:
    """A vector depends on its own tensor only: not on the batch's size, its order, or its other members."""
    assert encoder.encode([]).shape == (0, encoder.dim)
    alone = np.concatenate([encoder.encode([tensor]) for tensor in tensors])
    np.testing.assert_allclose(alone, vectors, atol=TOLERANCE)
    np.testing.assert_allclose(encoder.encode(tensors[::-1])[::-1], vectors, atol=TOLERANCE)
    crowd = encoder.encode([*tensors, *tensors[::-1], *tensors])
    np.testing.assert_allclose(crowd[: len(tensors)], vectors, atol=TOLERANCE)
    np.testing.assert_allclose(crowd[-len(tensors) :], vectors, atol=TOLERANCE)


def check_preparer(preparer: Preparer, media: Sequence[Any]) -> None:
    """Assert that a preparer survives pickling, repeats itself, and leaves its input alone."""
    copy = pickle.loads(pickle.dumps(preparer))
    assert copy.hint == preparer.hint
    assert preparer.hint.min_side >= 0
    assert preparer.hint.sample_rate >= 0
    for one in media:
        before = one.copy() if isinstance(one, np.ndarray) else one
        tensor = preparer.tensor(one)
        assert np.array_equal(one, before), "the medium was changed"
        assert np.array_equal(copy.tensor(one), tensor)
        assert tensor.flags["C_CONTIGUOUS"]
        if preparer.modality is Modality.TEXT:
            assert tensor.ndim == 1
            assert tensor.dtype == np.int64
            check_plan(preparer, one)
        else:
            assert tensor.ndim >= 2
            assert len(tensor) >= 1, "no view"


def check_plan(preparer: Preparer, text: str) -> None:
    """Assert that a plan's ranges are in order, inside the text, and leave out nothing but white space."""
    end = 0
    for span in preparer.plan(text):
        start, stop = int(span.start), int(span.end)
        assert end <= start < stop <= len(text)
        assert not text[end:start].strip(), "characters between two ranges"
        assert text[start:stop].strip(), "a range of white space"
        end = stop
    assert not text[end:].strip(), "characters after the last range"


def parity(ours: FloatArray, reference: FloatArray) -> float:
    """The largest distance between our vector and the reference's, as a share of the median distance between
    the reference's vectors of different inputs. At most PARITY where both compute the same.
    """
    gaps = np.linalg.norm(reference[:, None] - reference[None], axis=2)
    between = np.median(gaps[~np.eye(len(reference), dtype=bool)])
    return float(np.linalg.norm(ours - reference, axis=1).max() / between)
