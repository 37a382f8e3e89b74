"""Filters: from one condition in SQL to which segments of each part may be found.

DuckDB runs the condition, which predicate.py has checked, over the rows that pairs.py reads, on a connection
of its own in memory: no files, no network, no extensions, no settings, bounded memory, threads and time.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import QueryError
from indexer.vectors import BoolArray
from retrieval.query.filters.columns import COLUMNS
from retrieval.query.filters.pairs import Pairs, Rows, pairs_of
from retrieval.query.filters.predicate import DEEPEST, SCHEMA_HINT, checked

if TYPE_CHECKING:
    from indexer.snapshot import Snapshot

SAME_ENDING = (("jpg", "jpeg"), ("tif", "tiff"), ("aif", "aiff"), ("htm", "html"), ("md", "markdown"))

TICK = 0.1  # seconds between interruptions of a filter that took too long


@dataclass(frozen=True, slots=True)
class Limits:
    """What one filter may take."""

    seconds: float = 10.0
    memory_mb: int = 512  # of DuckDB's own; the columns that are read lie beside it
    threads: int = 2


class Filter:
    """Which segments may be found, and which items they may stand for. Made by `filtered`."""

    def __init__(self, snapshot: Snapshot, pairs: Pairs, wanted: BoolArray) -> None:
        """`wanted` says which of the pairs match, shape (pairs,)."""
        self._snapshot = snapshot
        self._starts = pairs.starts
        self._segment = pairs.segment[wanted]
        self._item = pairs.item[wanted]
        every = np.zeros(int(pairs.starts[-1]), bool)
        every[self._segment] = True
        bounds = pairwise(pairs.starts.tolist())
        self.allowed: list[BoolArray] = [every[a:b] for a, b in bounds]  # a part: shape (rows,)
        self.count = int(np.count_nonzero(every))  # segments

    def items_of(self, part: int, row: int) -> frozenset[str]:
        """Ids of the items by which the segment in a row of a part matches."""
        segment = int(self._starts[part]) + row
        first, stop = np.searchsorted(self._segment, (segment, segment + 1))
        return frozenset(self._ids[item].as_py() for item in self._item[first:stop].tolist())

    @cached_property
    def _ids(self) -> Any:
        return self._snapshot.item_columns(["id"])["id"].combine_chunks()


def filtered(snapshot: Snapshot, predicate: str, *, limits: Limits | None = None) -> Filter:
    """What of an index a condition allows. It must be true of a segment and an item that has it: null is not.

    QueryError for what is not one condition over the columns of columns.py, or takes more than `limits`.
    """
    limits = limits or Limits()
    with _connection(limits) as connection:
        allowed = checked(connection, predicate)
        pairs = pairs_of(snapshot)
        rows = Rows(snapshot, pairs, allowed.columns)
        connection.register("given", rows.table())
        connection.execute(f"CREATE TEMP VIEW pairs AS {rows.view}")
        _check_type(connection, allowed.sql)
        found = connection.execute(allowed.sql).fetchnumpy()
    true = np.zeros(len(found["place"]), bool)
    true[found["place"]] = np.ma.filled(found["matches"], False)
    return Filter(snapshot, pairs, true[pairs.item] if rows.by_item else true)


def examples(snapshot: Snapshot) -> dict[str, Any]:
    """Of each column the first value that the index has, None where it has none."""
    names = [column.name for column in COLUMNS]
    rows = Rows(snapshot, pairs_of(snapshot), names)
    with _connection(Limits()) as connection:
        connection.register("given", rows.table())
        connection.execute(f"CREATE TEMP VIEW pairs AS {rows.view}")
        firsts = []
        for name in names:
            more = f"{name} IS NOT NULL" if name != "metadata" else "cardinality(metadata) > 0"
            firsts.append(f"first({name} ORDER BY place) FILTER (WHERE {more})")
        values = connection.execute(f"SELECT {', '.join(firsts)} FROM pairs").fetchall()[0]
    return dict(zip(names, values, strict=True))


def _check_type(connection: Any, sql: str) -> None:
    """QueryError where a condition is neither true nor false."""
    described = connection.execute(f"DESCRIBE {sql}").fetchall()
    kind = described[1][1]
    if kind != "BOOLEAN":
        raise QueryError(
            f"the filter gives {kind}, not true or false", hint="compare it with something: width >= 1000"
        )


@contextmanager
def _connection(limits: Limits) -> Iterator[Any]:
    """A DuckDB that can reach nothing, and is stopped when its time is over. Its errors become QueryError."""
    import duckdb

    config: dict[str, Any] = {
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "threads": limits.threads,
        "memory_limit": f"{limits.memory_mb}MB",
    }
    connection = duckdb.connect(":memory:", config=config)
    over, done = threading.Event(), threading.Event()

    def stop() -> None:
        over.set()
        connection.interrupt()
        while not done.wait(TICK):  # what was between two statements then is interrupted in the next
            connection.interrupt()

    timer = threading.Timer(limits.seconds, stop)
    timer.daemon = True
    try:
        connection.execute(f"SET max_expression_depth = {DEEPEST}")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET lock_configuration = true")
        timer.start()
        with _translated(duckdb, limits, over):
            yield connection
    finally:
        done.set()
        timer.cancel()
        if timer.is_alive():
            timer.join()  # nothing interrupts a connection that is closed
        connection.close()


@contextmanager
def _translated(duckdb: Any, limits: Limits, over: threading.Event) -> Iterator[None]:
    try:
        yield
    except duckdb.InterruptException:
        if not over.is_set():  # a key was pressed
            raise KeyboardInterrupt from None
        raise QueryError(f"the filter took more than {limits.seconds:g} s", hint="make it simpler") from None
    except duckdb.OutOfMemoryException:
        raise QueryError(
            f"the filter needs more than {limits.memory_mb} MB of memory", hint="make it simpler"
        ) from None
    except duckdb.Error as error:
        lines = str(error).strip().splitlines() or ["it failed"]
        raise QueryError(f"the filter cannot be used: {lines[0]}", hint=SCHEMA_HINT) from None


# Short forms


def predicate_of(
    *,
    where: str | Sequence[str] = (),
    under: Path | str | None = None,
    types: Sequence[str] = (),
    since: str | date | None = None,
    before: str | date | None = None,
    labels: Sequence[str] = (),
) -> str | None:
    """One predicate that says all of it; None where nothing is asked for.

    `under` is a folder or a file, `types` endings or modalities, of which one must fit, as one of `labels`
    must, in small or capital letters; `since` and `before` are days or moments, 2024, 2024-05, 2024-05-01 or
    2024-05-01T18:30, compared with when a picture was taken, else with when the file was changed.
    QueryError for what is none of these.
    """
    conditions = [where] if isinstance(where, str) else list(where)
    parts = list(conditions)
    if under is not None:
        parts.append(_under(under))
    if types:
        parts.append(_types(types))
    for moment, sign, flag in ((since, ">=", "--since"), (before, "<", "--before")):
        if moment is not None:
            parts.append(f"coalesce(taken_at, modified) {sign} TIMESTAMP {quoted(_moment(moment, flag))}")
    if labels:
        parts.append(f"lower(label) IN ({', '.join(f'lower({quoted(label)})' for label in labels)})")
    if conditions and len(parts) > 1:
        with _connection(Limits()) as connection:
            for condition in conditions:  # by itself: no bracket of it may close one that is put around it
                checked(connection, condition)
    return parts[0] if len(parts) == 1 else " AND ".join(f"({part}\n)" for part in parts) or None


def quoted(text: str) -> str:
    """A text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _under(path: Path | str) -> str:
    """Also where links on the way are resolved, as roots are."""
    from indexer.schema import display

    real = [display(str(one)) for one in dict.fromkeys((Path(path).absolute(), Path(path).resolve()))]
    return " OR ".join(
        f"path = {quoted(one)} OR starts_with(path, {quoted(one.rstrip('/') + '/')})" for one in real
    )


def _types(types: Sequence[str]) -> str:
    wanted = [one.strip().lower().removeprefix(".") for one in types if one.strip(" .")]
    if not wanted:
        raise QueryError("--type names nothing", hint="give endings or modalities: jpg,png or audio")
    alike = [one for name in wanted for pair in SAME_ENDING if name in pair for one in pair]
    names = ", ".join(quoted(name) for name in dict.fromkeys(wanted + alike))
    return f"ext IN ({names}) OR kind IN ({names})"


def _moment(given: str | date, flag: str) -> str:
    """A day or a moment as SQL has it."""
    if isinstance(given, date):
        return given.isoformat(sep=" ") if isinstance(given, datetime) else given.isoformat()
    text = given.strip()
    if re.fullmatch(r"\d{4}(-\d{1,2})?", text):
        text = f"{text}-01" if "-" in text else f"{text}-01-01"
        text = "-".join(part.zfill(2) for part in text.split("-"))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise QueryError(
            f"{flag} is {given!r}, which is no day",
            hint="give it as 2024, 2024-05, 2024-05-01 or 2024-05-01T18:30",
        ) from None
    if moment.tzinfo is not None:
        moment = moment.astimezone().replace(tzinfo=None)
    return moment.isoformat(sep=" ")
