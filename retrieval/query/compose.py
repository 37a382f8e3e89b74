"""From a query to one unit vector: prepare it, encode its segments, average them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from indexer.errors import MediaError, QueryError
from indexer.types import Encoder, FloatArray, Prepared, Preparer
from retrieval.types import Query


@runtime_checkable
class AsksDifferently(Protocol):
    """A preparer of a model that treats a question in another way than a document."""

    def for_queries(self) -> Preparer:
        """What prepares the questions."""
        ...


def compose(query: Query, encoder: Encoder) -> FloatArray:
    """The query's unit vector, shape (dim,): the normalised mean of its segments' vectors.

    QueryError where the medium cannot be read.
    """
    vectors = [vector for _, vector in encode_segments(query, encoder)]
    if not vectors:
        raise QueryError(f"{query.label} has nothing to search for", hint="give words, a picture or a sound")
    return unit(np.mean(vectors, axis=0, dtype=np.float64))


def encode_segments(query: Query, encoder: Encoder) -> Iterator[tuple[Prepared, FloatArray]]:
    """Each segment of a query with its unit vector, in order; holds one batch in memory."""
    prepared = prepare(query, encoder)
    try:
        while batch := list(islice(prepared, encoder.batch_size)):
            yield from zip(batch, encoder.encode([one.tensor for one in batch]), strict=True)
    except MediaError as error:
        raise QueryError(f"{query.label}: {error.message}", hint=error.hint) from None


def prepare(query: Query, encoder: Encoder) -> Iterator[Prepared]:
    """A query's segments, ready for its tower. MediaError where its file cannot be read.

    Typed words are a question to models that tell questions from documents; a file is a document.
    """
    from indexer.media.prepare import prepare_file, prepare_text

    if query.path is not None:
        return iter(prepare_file(query.path, query.modality, encoder.preparer))
    preparer = encoder.preparer
    asking = preparer.for_queries() if isinstance(preparer, AsksDifferently) else preparer
    return iter(prepare_text(query.text or "", asking))


def unit(vector: npt.ArrayLike) -> FloatArray:
    """A vector at length 1, float32; a zero vector stays zero."""
    wide = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(wide))
    return (wide / length if length > 0 else wide).astype(np.float32)
