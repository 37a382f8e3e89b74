"""What a search takes and gives: queries, hits, results. Plain data, no behaviour beyond what derives.

Imports nothing from this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from indexer.types import FloatArray, Modality, Range, Source


@dataclass(frozen=True, slots=True)
class Query:
    """One thing to look for: words, a file that holds a picture, a sound or a text, or a vector at hand."""

    modality: Modality
    text: str | None = None  # the words themselves
    path: Path | None = None  # or the file to read
    name: str | None = None  # what to call it, where that is neither
    concept: str | None = None  # or the name of a learned concept
    vector: FloatArray | None = field(default=None, compare=False)  # or its unit vector, shape (dim,)

    @property
    def label(self) -> str:
        """What to call it in talk and tables."""
        return self.name or (self.text if self.text is not None else str(self.path))


@dataclass(frozen=True, slots=True)
class Term:
    """A query inside an expression. Terms count from the left; stages keep a row of numbers for each."""

    query: Query
    weight: float = 1.0  # positive; against that of the other terms


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part must match."""

    parts: tuple[Expression, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One part must match."""

    parts: tuple[Expression, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Not:
    """The part must not match."""

    part: Expression
    weight: float = 1.0


Expression = Term | AllOf | AnyOf | Not


def terms_of(expression: Expression) -> Iterator[Term]:
    """The terms of an expression from left to right."""
    if isinstance(expression, Term):
        yield expression
        return
    parts = (expression.part,) if isinstance(expression, Not) else expression.parts
    for part in parts:
        yield from terms_of(part)


class Lexical(StrEnum):
    """Whether the words themselves count, beside what they mean."""

    OFF = "off"
    AUTO = "auto"  # where words of the query are in the index, and rare
    ONLY = "only"


class Rerank(StrEnum):
    """What looks at the best hits again."""

    RECIPROCAL = "reciprocal"  # k-reciprocal neighbours
    CROSS = "cross"  # a cross-encoder, for texts


@dataclass(frozen=True, slots=True)
class Request:
    """A search with everything that was asked of it. One without terms is a form, to be filled in."""

    expression: Expression = AllOf(())
    k: int = 10  # hits wanted
    offset: int = 0  # hits to leave out before them
    modalities: tuple[Modality, ...] = ()  # none: all that the index has
    segments: bool = False  # every segment, not its item once
    where: str | None = None  # a predicate in SQL over the columns that `triptych schema` lists
    lexical: Lexical = Lexical.AUTO
    hubness: bool | None = None  # None: as was measured to be best
    min_score: float | None = None  # probability below which nothing is shown; None: the index's own; 0: none
    diverse: float | None = None  # how much unlike the others counts, in (0, 1]; None: not at all
    group_duplicates: bool = False  # near-duplicates once, with their count
    rerank: Rerank | None = None
    rerank_top: int = 100  # hits that are looked at again
    reranker: str = ""  # the cross-encoder's folder, or its name in Hugging Face's cache

    @property
    def terms(self) -> tuple[Term, ...]:
        return tuple(terms_of(self.expression))

    @property
    def query(self) -> Query | None:
        """The only term's query; None of a composed request."""
        return self.expression.query if isinstance(self.expression, Term) else None

    @property
    def label(self) -> str:
        """What was asked for, in one line."""
        return _label(self.expression, outer=True)


def _label(expression: Expression, *, outer: bool = False) -> str:
    if isinstance(expression, Term):
        shown = expression.query.label
    elif isinstance(expression, Not):
        shown = f"- {_label(expression.part)}"
    else:
        between = " + " if isinstance(expression, AllOf) else " | "
        shown = between.join(map(_label, expression.parts)).replace("+ - ", "- ")
        shown = shown if outer and expression.weight == 1 else f"({shown})"
    return shown if expression.weight == 1 else f"{expression.weight:g}*{shown}"


@dataclass(frozen=True, slots=True)
class TermScore:
    """What one term of a request says of a hit."""

    label: str
    cosine: float  # in [-1, 1]
    adjusted: float  # after what hubness takes away; the cosine where that is off
    probability: float | None  # that the hit is relevant to the term, in [0, 1]; None: nothing to tell by


@dataclass(frozen=True, slots=True)
class LexicalScore:
    """What the words say of a hit."""

    score: float  # BM25, from 0; higher is better
    rank: float  # from 1, among all items; of those that score the same the mean of their places
    words: tuple[str, ...]  # of the query that were found


@dataclass(frozen=True, slots=True)
class Stages:
    """Every stage's numbers of a hit."""

    terms: tuple[TermScore, ...] = ()
    lexical: LexicalScore | None = None
    fused: float | None = None  # the sum of reciprocal ranks, where words counted
    reranked: float | None = None  # the second stage's score; higher is better


@dataclass(frozen=True, slots=True)
class Hit:
    """One line of a result: an item, shown by its best segment; or with `--segments` the segment itself."""

    rank: int  # from 1
    item_id: str
    path: str | None  # of the file to open: the one that matched, or what a caption describes; None: no file
    modality: Modality  # of the segment that matched
    source: Source
    score: float  # what the list is ordered by, higher is better: see `probability`
    range: Range | None = None
    text: str | None = None  # that matched; of a picture or sound in a manifest, its caption
    metadata: Mapping[str, str] = field(default_factory=dict)
    manifest: str | None = None  # of a manifest's row: the manifest's path
    key: str | None = None  # and the row's key: its id, or a hash where it has none
    probability: float | None = None  # that it is relevant, in [0, 1]; None where the score is a bare cosine
    content_hash: bytes = b""  # of the segment's medium
    duplicates: int = 0  # other items that are near-duplicates of it, where those are grouped
    stages: Stages = Stages()

    @property
    def where(self) -> str:
        """The range as a person reads it: `0:05-0:15` of a sound, `120-480` of a text, else empty."""
        if self.range is None:
            return ""
        if self.modality is Modality.AUDIO:
            return f"{clock(self.range.start)}-{clock(self.range.end)}"
        return f"{self.range.start:.0f}-{self.range.end:.0f}"


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits, and what they were found in."""

    request: Request
    hits: tuple[Hit, ...]
    index: Path
    generation: int
    model: str | None  # None: the index holds no vector yet
    space_id: str | None
    searched: tuple[Modality, ...]  # modalities that have vectors and were asked for
    milliseconds: Mapping[str, float] = field(default_factory=dict)  # a stage's name -> its time
    nothing: str | None = None  # why there is no hit, where there is none


def clock(seconds: float) -> str:
    """Seconds as `m:ss.s`, tenths only where there are any."""
    minutes, rest = divmod(round(seconds, 1), 60)
    whole = f"{int(minutes)}:{int(rest):02d}"
    tenth = round(rest % 1 * 10)
    return f"{whole}.{tenth}" if tenth else whole
