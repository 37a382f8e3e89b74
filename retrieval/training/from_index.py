"""The pairs that an index knows: a picture or sound and its caption file, a manifest's row of several media.

Reads one generation's item table and the caption files; vectors are not read, since training needs features.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from indexer.errors import ManifestError, MediaError
from indexer.generation import Root
from indexer.media.text import read_text
from indexer.snapshot import Snapshot
from indexer.types import Item, Member, Modality
from retrieval.training.rows import RowCollector, Said, parse_split, parse_weight
from retrieval.training.types import PairSet, Split


def index_pairs(index: Path) -> PairSet:
    """Items of two or more media as rows, of what CURRENT names; a row's id is its item's.

    Label, group, split and weight are the metadata of those names, which a manifest's columns give; a split
    or a weight that means nothing here is not used, and a note says so. Without a group, items of the same
    picture (else sound) content are one group. Files that are gone since are problems of their rows.
    Raises IndexNotFound, IndexCorrupt, IndexTooNew, ManifestError where no item is a pair.
    """
    with Snapshot.open(index) as snapshot:
        items, roots = snapshot.item_list(), {root.id: root for root in snapshot.roots.values()}
    pairs = [item for item in items if len({member.modality for member in _usable(item)}) > 1]
    if not pairs:
        raise ManifestError(
            f"none of the {len(items)} items of {index} has two media, so there is no pair to learn from",
            hint="put captions beside pictures or sounds (bird.jpg with bird.txt) or a manifest of pairs, "
            "and index again",
        )
    collector = RowCollector(str(index), "/")
    strange: dict[str, int] = {}  # what could not be understood -> how often
    for item in pairs:
        collector.add(_said(item, roots[item.root_id], collector, strange))
    collector.notes += [f"{what} is not used ({count} items)" for what, count in strange.items()]
    return collector.finish(what="items of two media")


def _usable(item: Item) -> Iterator[Member]:
    return (member for member in item.members if member.error is None)


def _where(item: Item, root: Root) -> str:
    """An item as a user finds it again: a manifest's row by its file, since its key may be a hash."""
    if root.kind != "manifest":
        return item.path
    file = next((member.path for member in item.members if member.path is not None), item.path)
    return f"{Path(root.path).name}, {file}"


def _said(item: Item, root: Root, collector: RowCollector, strange: dict[str, int]) -> Said:
    paths: dict[Modality, str] = {}
    texts: dict[str, None] = {}
    where = _where(item, root)
    for member in _usable(item):
        if member.modality is Modality.TEXT:
            if text := _text(member, root.base, where, collector):
                texts[text] = None
        elif member.path is not None:
            paths.setdefault(member.modality, os.path.join(root.base, member.path))  # noqa: PTH118 - bytes-exact
    split, weight = _understood(item, strange)
    return Said(
        where,
        image=paths.get(Modality.IMAGE),
        texts=tuple(texts),
        audio=paths.get(Modality.AUDIO),
        key=item.id,
        label=item.metadata.get("label") or None,
        group=item.metadata.get("group") or _content(item),
        split=split,
        weight=weight,
    )


def _text(member: Member, base: str, where: str, collector: RowCollector) -> str | None:
    if member.text is not None:
        return member.text.strip()
    try:
        return read_text(Path(base, member.path or "")).strip()
    except MediaError as error:
        collector.problem(where, f"caption {member.path!r}: {error.message}")
    except OSError as error:
        collector.problem(where, f"caption {member.path!r}: {(error.strerror or str(error)).lower()}")
    return None


def _understood(item: Item, strange: dict[str, int]) -> tuple[Split | None, float]:
    """An item's split and weight; an index's metadata was not made for training and may mean anything."""
    split, weight = None, 1.0
    try:
        split = parse_split(item.metadata.get("split"))
    except ValueError as error:
        strange[str(error)] = strange.get(str(error), 0) + 1
    try:
        weight = parse_weight(item.metadata.get("weight"))
    except ValueError as error:
        strange[str(error)] = strange.get(str(error), 0) + 1
    return split, weight


def _content(item: Item) -> str | None:
    """The hash of the picture, else of the sound, 32 hex digits."""
    hashes = {member.modality: member.content_hash for member in _usable(item)}
    found = hashes.get(Modality.IMAGE) or hashes.get(Modality.AUDIO)
    return found.hex() if found else None
