"""Which parts the tiered policy rewrites, from their sizes alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from indexer import merge
from indexer.generation import Part
from indexer.types import Modality


def _parts(*sizes: int) -> list[Part]:
    return [Part(f"{i:016x}", "s", {Modality.TEXT: size}, {}, {}, {}) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "living", "groups"),
    [
        ([10] * 7 + [5000], None, []),
        ([10] * 8 + [5000], None, [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ([5000, *[250] * 7, 200], None, [[1, 2, 3, 4, 5, 6, 7, 8]]),
        # a full tier's result fills the one above
        ([300] * 7 + [200] * 8, None, [list(range(15))]),
        # five tiers of few parts each are still too many
        ([10] * 5 + [300] * 5 + [3000] * 3, None, [list(range(8))]),
        # never above MERGE_ROWS
        ([1_100_000] * 8, None, []),
        ([100, 100], [50, 49], [[1]]),
        ([100, 100], [0, 100], [[0]]),
    ],
)
def test_which_parts_are_rewritten(
    sizes: list[int], living: list[int] | None, groups: list[list[int]]
) -> None:
    assert merge.plan(_parts(*sizes), living or sizes) == groups


def test_parts_of_two_spaces_are_never_merged() -> None:
    parts = _parts(*[10] * 14)
    parts = [replace(part, space_id=f"space{i % 2}") for i, part in enumerate(parts)]
    assert merge.plan(parts, [10] * 14) == []
    assert merge.plan(parts, [10] * 13 + [9], purge=True) == [[13]]
