"""Every error that this project raises on purpose. Imports nothing local.

TriptychError
├── MediaError            one file: unreadable, empty, too large, changed while it was read
│   └── MediaTooLarge     refused before anything large was allocated
├── WorkerError           decode workers that cannot start
├── ManifestError         a manifest that cannot be read, or without a usable column
│   └── NotATable         the file as a whole is not what its name says: no row is to blame
├── StoreError            an index on disk
│   ├── IndexNotFound     nothing there, or nothing registered
│   ├── IndexCorrupt      a checksum, a header or a count is wrong
│   ├── IndexTooNew       written by a later version
│   ├── CommitConflict    another writer committed first
│   └── PruneRefused      an update would delete more than a fifth
├── ModelError            a model bundle or the weights for one
│   ├── ModelNotFound     no bundle of that name or space in the cache
│   ├── WeightsMissing    a package that carries weights is not installed
│   └── SpaceMismatch     the query's space is not the index's
├── TrainingError         data, options or a device that training or evaluation cannot go on with
│   ├── LeakageRefused    the same or nearly the same content on both sides of a split
│   └── TrainingStopped   ctrl-C; a checkpoint to go on from was saved
├── QueryError            a query that cannot be understood
│   └── QuerySyntaxError  one whose operators are wrong: it points at the column
└── ConfigError           an option, an environment variable or the configuration file

A message says what came, what was expected and, as `hint`, what to do.
"""

from __future__ import annotations


class TriptychError(Exception):
    """Base of the tree. `hint` is the sentence that says what to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class MediaError(TriptychError):
    """One file that gives no segment. The message leaves out the path; the caller knows it."""


class MediaTooLarge(MediaError):
    """Refused from the header, before anything large was allocated."""


class WorkerError(TriptychError):
    """Decode workers that cannot start: nothing to do with any one file."""


class ManifestError(TriptychError):
    """A manifest that cannot be read, or that has no usable column."""


class NotATable(ManifestError):
    """The file as a whole is not what its name says, or cannot be opened. The message leaves out the path."""


class StoreError(TriptychError):
    """Something about an index on disk."""


class IndexNotFound(StoreError):
    """No index there, or none registered."""


class IndexCorrupt(StoreError):
    """A checksum, a header or a count is wrong."""


class IndexTooNew(StoreError):
    """Written by a later version of this program."""


class CommitConflict(StoreError):
    """Another writer committed since this one looked."""


class PruneRefused(StoreError):
    """An update would delete more than a fifth of the items."""


class ModelError(TriptychError):
    """A model bundle, or the weights to build one."""


class ModelNotFound(ModelError):
    """No bundle of that name or space in the user's cache."""


class WeightsMissing(ModelError):
    """A package that carries weights is not installed."""


class SpaceMismatch(ModelError):
    """The query's vectors and the index's live in different spaces."""


class TrainingError(TriptychError):
    """Data, options, a checkpoint or a device that training or evaluation cannot go on with."""


class LeakageRefused(TrainingError):
    """The same or nearly the same content lies on both sides of a split."""


class TrainingStopped(TrainingError):
    """Training was interrupted, and what it had learned was saved; the message names the checkpoint."""


class QueryError(TriptychError):
    """A query that cannot be understood."""


class QuerySyntaxError(QueryError):
    """A query whose operators are wrong, or a term in it. The message is one line, and tells the column."""

    def __init__(self, message: str, *, column: int, shown: tuple[str, str], hint: str | None = None) -> None:
        super().__init__(f"{message} (column {column})", hint=hint)
        self.column = column  # from 1, of the query as it is shown
        self.shown = shown  # the query, and a line with a caret below the column


class ConfigError(TriptychError):
    """An option, an environment variable or the configuration file."""
