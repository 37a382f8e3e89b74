"""From a query to one unit vector, and from several terms' scores to one; searches nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from indexer.errors import MediaError, QueryError, TriptychError
from indexer.types import Encoder, FloatArray, Modality, Prepared, Preparer, Range
from retrieval.query.language.expressions import influences
from retrieval.types import AnyOf, Expression, Not, Query, Term, terms_of

Doubles = npt.NDArray[np.float64]
Encoded = list[tuple[Range | None, FloatArray]]  # a query's segments with their unit vectors (dim,)

MIN_STD = 1e-6
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Mixing:
    """How scores of terms become one: by benchmarks/composed.py, on the stamps' training half."""

    z_half: float = 3.0  # standard deviations above the mean at which a standardised value is a half
    z_slope: float = 0.5  # how steeply it rises there
    all_power: float = 0.0  # of the mean for "all": 1 arithmetic, 0 geometric, -1 harmonic, lower: a minimum
    any_power: float = 4.0  # and for "any": the higher, the nearer to a maximum
    not_from: float = 0.2  # what a term's value must exceed to count against; an average item's is 0.18


MIXING = Mixing()


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
        if isinstance(query, Query) and query.vector is not None:
            found[place] = [(None, query.vector)]
            continue
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
        yield QueryError(f"{query.label} cannot be read: {error.strerror or error}", hint="check the file")


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


def combined(expression: Expression, values: FloatArray, *, mixing: Mixing = MIXING) -> FloatArray:
    """How well each candidate matches an expression, shape (n,), in [0, 1]; higher is better.

    `values` (t, n) in [0, 1] say how well it matches each term, from left to right. "All" is a soft minimum
    and "any" a soft maximum: weighted power means. What must not match takes away nothing up to
    `mixing.not_from`, from there in proportion, everything at 1; its weight against the mean of the wanted
    ones is the exponent. The result never falls as a wanted term's value rises, nor rises with an unwanted
    one's, and a single term's values come back unchanged.
    """
    rows = iter(np.clip(np.asarray(values, np.float64), 0.0, 1.0))
    return _matched(expression, rows, mixing).astype(np.float32)


def likely(expression: Expression, probability: FloatArray, values: FloatArray) -> FloatArray:
    """What to combine for the probability that a candidate is what was asked for, (t, n).

    A wanted term's own probability, but of one that must not match its standardised value: a probability is
    that a hit is the one that was meant, next to nothing for most of what a broad word such as "bird" names,
    and so "not" would leave out nothing.
    """
    wanted = np.array(influences(expression)) > 0
    return np.where(wanted[:, None], probability, values).astype(np.float32)


def _matched(expression: Expression, rows: Iterator[Doubles], mixing: Mixing) -> Doubles:
    """As `combined`; takes the rows of the expression's own terms, in order."""
    if isinstance(expression, Term):
        return next(rows)
    if isinstance(expression, Not):
        inner = _matched(expression.part, rows, mixing)
        return 1.0 - np.clip((inner - mixing.not_from) / (1.0 - mixing.not_from), 0.0, 1.0)
    told = [_matched(part, rows, mixing) for part in expression.parts]
    weights = np.array([_weight(part) for part in expression.parts])
    if isinstance(expression, AnyOf):
        return _power_mean(np.stack(told), weights, mixing.any_power)
    wanted = [number for number, part in enumerate(expression.parts) if not isinstance(part, Not)]
    unwanted = [number for number, part in enumerate(expression.parts) if isinstance(part, Not)]
    score = np.ones_like(told[0])
    if wanted:
        score = _power_mean(np.stack([told[number] for number in wanted]), weights[wanted], mixing.all_power)
    against = weights[wanted].mean() if wanted else 1.0
    for number in unwanted:
        score = score * told[number] ** (weights[number] / against)
    return score


def _power_mean(values: Doubles, weights: Doubles, power: float) -> Doubles:
    """The weighted mean (n,) of values (p, n) of which `power` says how much the largest counts."""
    shares, values = weights / weights.sum(), np.maximum(values, TINY)
    if power == 0:
        return np.exp(shares @ np.log(values))
    scale = values.max(axis=0) if power > 0 else values.min(axis=0)  # so that no power leaves the range
    return scale * (shares @ (values / scale) ** power) ** (1.0 / power)


def _weight(expression: Expression) -> float:
    """A part's weight; of one that must not match, with that of what it holds."""
    inner = expression.part.weight if isinstance(expression, Not) else 1.0
    return expression.weight * inner


def probes(expression: Expression, vectors: FloatArray, centres: Mapping[Modality, FloatArray]) -> FloatArray:
    """Unit vectors (p, dim) to take candidates with: each wanted term's own, then the sum of all terms.

    `vectors` (t, dim) are the terms' unit vectors. In the sum each is centred by the mean of its modality,
    as far as that is among `centres`, brought to length 1 and multiplied by its weight, which is negative
    where it must not match.
    """
    weights = np.array(influences(expression))
    own = vectors[weights > 0]
    summed = unit(weights @ centred(vectors, [term.query.modality for term in terms_of(expression)], centres))
    if len(vectors) == 1 or not summed.any():
        return own
    return np.concatenate([own, summed[None]])


def centred(
    vectors: FloatArray, modalities: Sequence[Modality], centres: Mapping[Modality, FloatArray]
) -> FloatArray:
    """Vectors (t, dim) less the mean of their modality, at length 1: modalities lie apart in a space."""
    rows = [
        unit(vector - centres[modality]) if modality in centres else unit(vector)
        for vector, modality in zip(vectors, modalities, strict=True)
    ]
    return np.stack(rows)


def standardised(
    cosine: FloatArray,
    mean: npt.ArrayLike | None = None,
    std: npt.ArrayLike | None = None,
    *,
    mixing: Mixing = MIXING,
) -> FloatArray:
    """Cosines (t, n) as values in [0, 1] where nothing calibrates them: a logistic of the z-score.

    `mean` and `std` (t,) are of each term's cosines with the modality's segments, a sample of them; without
    them those of the candidates stand in. A value says how far a candidate stands out, not that it is right.
    """
    wide = np.asarray(cosine, np.float64)
    middle = wide.mean(axis=1) if mean is None else np.asarray(mean, np.float64)
    spread = wide.std(axis=1) if std is None else np.asarray(std, np.float64)
    z = (wide - middle[:, None]) / np.maximum(spread, MIN_STD)[:, None]
    # The logistic by way of the hyperbolic tangent, which does not overflow.
    return (0.5 + 0.5 * np.tanh(0.5 * mixing.z_slope * (z - mixing.z_half))).astype(np.float32)
