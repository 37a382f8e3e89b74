"""An index and its model, opened together, ready to be asked. What the command line and a server call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.errors import ModelNotFound, SpaceMismatch
from indexer.snapshot import Snapshot
from indexer.types import Modality
from retrieval.query.compose import compose
from retrieval.query.parse import parse_query
from retrieval.query.search import Stopwatch, search, searchable
from retrieval.types import Query, SearchResult

if TYPE_CHECKING:
    from retrieval.models.model import Model


class Searcher:
    """One generation of an index, and the model that made it. Towers load when a query first needs them."""

    def __init__(self, snapshot: Snapshot, model: Model) -> None:
        self.snapshot = snapshot
        self.model = model

    @classmethod
    def open(
        cls,
        index: Path,
        *,
        model: str | None = None,
        threads: int = 0,
        on_build: Callable[[str, float], None] | None = None,
    ) -> Searcher:
        """Open an index and find its model in the user's cache, by space; the starter is built if need be.

        SpaceMismatch where `model` names one of another space; ModelNotFound where the cache lacks it.
        """
        snapshot = Snapshot.open(index)
        found = _model(model, snapshot, threads, on_build)
        if snapshot.space_id and found.space_id != snapshot.space_id:
            raise SpaceMismatch(
                f"{found.name} (space {found.space_id[:12]}) cannot search {index}, which was made with "
                f"{snapshot.model} (space {snapshot.space_id[:12]})",
                hint=f"leave out --model, or index again with --model {found.name}",
            )
        return cls(snapshot, found)

    def search(
        self, query: str | Query, *, k: int, modalities: Sequence[Modality] = (), segments: bool = False
    ) -> SearchResult:
        """The k best items for a query; see `retrieval.query.search.search`."""
        watch = Stopwatch()
        if isinstance(query, str):
            query = parse_query(query)
        wanted = searchable(self.snapshot, modalities)
        with ThreadPoolExecutor(1) as pool, watch.stage("encode"):
            # Vectors are checked and mapped while the model loads: both are most of a cold search.
            warm = pool.submit(self.snapshot.warm, wanted)
            vector = compose(query, self.model.tower(query.modality))
            warm.result()
        return search(
            self.snapshot, query, vector, k=k, modalities=modalities, segments=segments, watch=watch
        )

    def close(self) -> None:
        self.snapshot.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _model(
    asked: str | None, snapshot: Snapshot, threads: int, on_build: Callable[[str, float], None] | None
) -> Model:
    """The model asked for, with the index's own dimension where it has that, else the index's own."""
    from retrieval.models.registry import find_model, load_model, load_space, means_starter, names_folder

    if asked and names_folder(asked):
        return load_model(asked, threads=threads).in_space(snapshot.space_id or "")
    name = asked or snapshot.space_id or "starter"
    try:
        found = find_model(name, called=snapshot.model, threads=threads)
    except ModelNotFound:
        if not means_starter(name):
            raise
        found = load_space(name, threads=threads, progress=on_build)
    return found.in_space(snapshot.space_id or "")
