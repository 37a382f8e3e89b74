"""From a query to one unit vector: prepare it, encode its segments, average them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from indexer.errors import MediaError, QueryError, TriptychError
from indexer.types import Encoder, FloatArray, Modality, Prepared, Preparer, Range
from retrieval.types import Query

Encoded = list[tuple[Range | None, FloatArray]]  # a query's segments with their unit vectors (dim,)


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
    encoded = [(prepared.range, vector) for prepared, vector in encode_segments(query, encoder)]
    if not encoded:
        raise _nothing(query)
    return pooled(encoded)


def encode_segments(query: Query, encoder: Encoder) -> Iterator[tuple[Prepared, FloatArray]]:
    """Each segment of a query with its unit vector, in order; holds one batch in memory."""
    prepared = prepare(query, encoder)
    try:
        while batch := list(islice(prepared, encoder.batch_size)):
            yield from zip(batch, encoder.encode([one.tensor for one in batch]), strict=True)
    except MediaError as error:
        raise QueryError(f"{query.label}: {error.message}", hint=error.hint) from None


def encode_many(
    queries: Sequence[Query | TriptychError], encoder_of: Callable[[Modality], Encoder]
) -> list[Encoded | TriptychError]:
    """The segments of each query as `encode_segments` gives them, or why there are none, in full batches.

    What could not be read as a query comes as its error and stays that. Memory holds a batch of prepared
    segments for each modality, and all vectors.
    """
    found: list[Encoded | TriptychError] = [[] for _ in queries]
    waiting: dict[Modality, list[tuple[int, Prepared]]] = {}

    def flush(modality: Modality) -> None:
        batch = waiting.pop(modality, [])
        vectors = encoder_of(modality).encode([one.tensor for _, one in batch]) if batch else ()
        for (place, one), vector in zip(batch, vectors, strict=True):
            own = found[place]
            if isinstance(own, list):  # else a later segment of it could not be read
                own.append((one.range, vector))

    for place, query in enumerate(queries):
        for one in _prepared(query, encoder_of):
            if isinstance(one, TriptychError):
                found[place] = one
                continue
            modality, prepared = one
            queue = waiting.setdefault(modality, [])
            queue.append((place, prepared))
            if len(queue) >= encoder_of(modality).batch_size:
                flush(modality)
    for modality in list(waiting):
        flush(modality)
    return [own or _nothing(query) for own, query in zip(found, queries, strict=True)]


def _prepared(
    query: Query | TriptychError, encoder_of: Callable[[Modality], Encoder]
) -> Iterator[tuple[Modality, Prepared] | TriptychError]:
    """A query's segments; last, why there are no more of them."""
    if isinstance(query, TriptychError):
        yield query
        return
    try:
        for one in prepare(query, encoder_of(query.modality)):
            yield query.modality, one
    except TriptychError as error:
        yield error
    except OSError as error:
        yield QueryError(f"it cannot be read: {error.strerror or error}", hint="check the file")


def _nothing(query: Query | TriptychError) -> QueryError:
    label = query.label if isinstance(query, Query) else "it"
    return QueryError(f"{label} has nothing to search for", hint="give words, a picture or a sound")


def pooled(encoded: Encoded) -> FloatArray:
    """The unit vector, shape (dim,), of a query's segments, of which there is one or more."""
    return unit(np.mean([vector for _, vector in encoded], axis=0, dtype=np.float64))


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
