"""What a search takes and gives: queries, hits, results. Plain data, no behaviour beyond what derives.

Imports nothing from this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from indexer.types import Modality, Range, Source


@dataclass(frozen=True, slots=True)
class Query:
    """One thing to look for: words, or a file that holds a picture, a sound or a text."""

    modality: Modality
    text: str | None = None  # the words themselves
    path: Path | None = None  # or the file to read
    name: str | None = None  # what to call it, where that is neither

    @property
    def label(self) -> str:
        """What to call it in talk and tables."""
        return self.name or (self.text if self.text is not None else str(self.path))


@dataclass(frozen=True, slots=True)
class Hit:
    """One line of a result: an item, shown by its best segment; or with `--segments` the segment itself."""

    rank: int  # from 1
    item_id: str
    path: str | None  # of the file to open: the one that matched, or what a caption describes; None: no file
    modality: Modality  # of the segment that matched
    source: Source
    score: float  # cosine, in [-1, 1]; higher is better; not comparable between modalities
    range: Range | None = None
    text: str | None = None  # that matched; of a picture or sound in a manifest, its caption
    metadata: Mapping[str, str] = field(default_factory=dict)
    manifest: str | None = None  # of a manifest's row: the manifest's path
    key: str | None = None  # and the row's key: its id, or a hash where it has none

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

    query: Query
    hits: tuple[Hit, ...]
    index: Path
    generation: int
    model: str | None  # None: the index holds no vector yet
    space_id: str | None
    searched: tuple[Modality, ...]  # modalities that have vectors and were asked for
    milliseconds: Mapping[str, float] = field(default_factory=dict)  # a stage's name -> its time


def clock(seconds: float) -> str:
    """Seconds as `m:ss.s`, tenths only where there are any."""
    minutes, rest = divmod(round(seconds, 1), 60)
    whole = f"{int(minutes)}:{int(rest):02d}"
    tenth = round(rest % 1 * 10)
    return f"{whole}.{tenth}" if tenth else whole
