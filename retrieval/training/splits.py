"""Which rows train, which choose and which measure; and whether anything of one part is also in another.

Rows that belong together stay together: rows of one group, of one picture or sound, of one caption, of nearly
the same picture or sound. How near-duplicates are found stands in duplicates.py. Reads no files.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from indexer.errors import LeakageRefused, TrainingError
from indexer.types import Modality
from retrieval.training.duplicates import NEAR, Grouping, Linker, cap_of, near_pairs
from retrieval.training.types import Examples, Features, Ints, Row, Split

CAPTION_CAP = 0.05  # share of the rows that captions may join into one group
SHOWN = 3  # leaks of a kind that a report quotes
ALLOW_FLAG = "--allow-leaks"
Splits = Mapping[Split, Ints]


def normal_caption(text: str) -> str:
    """A caption without what does not make it another: case, runs of blanks, marks at its ends."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"^\W+|\W+$", "", " ".join(plain.split()))


def groups_from_rows(rows: Sequence[Row], *, alike: Ints | None = None) -> Grouping:
    """Rows that belong together by what they say and by `alike`, group numbers, shape (rows,), -1: none.

    The same group, picture path or sound path always joins, and so does `alike`. The same caption joins as
    long as the group stays under 5 % of the rows, rare captions first: one that a twentieth of all rows
    carry ("a bird") says what kind of thing they are, not that they are the same.
    """
    linker = Linker(len(rows))
    ties: dict[tuple[str, str | int], list[int]] = {}
    captions: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        for kind, value in (("group", row.group), ("image", row.image), ("audio", row.audio)):
            if value is not None:
                ties.setdefault((kind, value), []).append(number)
        if alike is not None and alike[number] >= 0:
            ties.setdefault(("alike", int(alike[number])), []).append(number)
        for caption in {normal_caption(text) for text in row.texts} - {""}:
            captions.setdefault(caption, []).append(number)
    for members in ties.values():
        linker.link(members)
    cap = cap_of(len(rows), CAPTION_CAP)
    shared = sorted((len(held), text) for text, held in captions.items() if len(held) > 1)
    apart = [text for _, text in shared if not linker.link(captions[text], cap=cap)]
    notes = []
    if apart:
        notes.append(
            f"{len(apart)} captions did not tie their rows together, since a group would have had more than "
            f"{cap} of {len(rows)} rows; the most frequent is {apart[-1][:60]!r}"
        )
    return Grouping(linker.numbers(), tuple(notes))


def assign_splits(
    rows: Sequence[Row],
    *,
    validation: float = 0.1,
    test: float = 0.1,
    groups: Ints | None = None,
    seed: int = 0,
) -> dict[Split, Ints]:
    """Row numbers of each split, ascending; every row is in exactly one.

    - A row's own split wins. A row without one goes where rows of its group with one are.
    - Else the first 8 bytes of SHA-256 of its group's name, as a number in [0, 1): below `test` it tests,
      below `test + validation` it validates, else it trains. A group's name is the least `group` of its rows,
      else the least id; `seed` other than 0 is put before it. So a row stays where it is when others come,
      unless they join its group.
    - Where hashing leaves a split empty that was asked for, the group next to it by hash fills it. A
      source with splits of its own but none for validation has that taken out of train; no test is made.

    `groups`, shape (rows,), are further ties (-1: none), such as `duplicates.group_near` gives. Raises
    TrainingError for shares that make no sense, and for rows without own splits in too few groups.
    """
    _check_shares(validation, test)
    numbers = groups_from_rows(rows, alike=groups).numbers
    members = _members(numbers)
    places = {group: _place(_name(rows, mine), seed) for group, mine in members.items()}
    chosen: dict[int, Split] = {}
    for group, mine in members.items():
        own = {split for row in mine if (split := rows[row].split)}
        if own:
            chosen[group] = next(
                split for split in (Split.TEST, Split.VALIDATION, Split.TRAIN) if split in own
            )
        else:
            held_out = Split.TEST if places[group] < test else Split.VALIDATION
            chosen[group] = held_out if places[group] < test + validation else Split.TRAIN
    if any(row.split for row in rows):
        moved = _taken_from_train(chosen, places, validation)
        chosen |= dict.fromkeys(moved, Split.VALIDATION)
    else:
        moved = set()
        _fill(chosen, places, validation=validation, test=test)
    splits: dict[Split, list[int]] = {split: [] for split in Split}
    for row, group in enumerate(numbers.tolist()):
        own_split = None if group in moved else rows[row].split
        splits[own_split or chosen[group]].append(row)
    return {split: np.array(found, np.int64) for split, found in splits.items()}


def _check_shares(validation: float, test: float) -> None:
    for name, share in (("validation", validation), ("test", test)):
        if not (math.isfinite(share) and 0 <= share < 1):
            raise TrainingError(f"the share for {name} is {share}", hint="give a share of the rows in [0, 1)")
    if validation + test >= 1:
        raise TrainingError(
            f"validation ({validation}) and test ({test}) together leave nothing to train on",
            hint="lower one of them: 0.1 each is usual",
        )


def _members(numbers: Ints) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for row, group in enumerate(numbers.tolist()):
        members.setdefault(group, []).append(row)
    return members


def _name(rows: Sequence[Row], members: Sequence[int]) -> str:
    """A group's name; it holds no path, so that moving the data does not change its split."""
    named = [group for row in members if (group := rows[row].group)]
    return min(named) if named else min(rows[row].id for row in members)


def _place(name: str, seed: int) -> float:
    """A name's place in [0, 1)."""
    said = f"{seed}:{name}" if seed else name
    digest = hashlib.sha256(said.encode("utf-8", "surrogateescape")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)  # 53 bits: never rounds up to 1


def _taken_from_train(chosen: Mapping[int, Split], places: Mapping[int, float], share: float) -> set[int]:
    """Groups of train for a source without validation: those placed below the share, at least the first."""
    train = [group for group, split in chosen.items() if split is Split.TRAIN]
    if not share or Split.VALIDATION in chosen.values():
        return set()
    movable = sorted(train, key=lambda group: (places[group], group))
    wanted = max(1, sum(places[group] < share for group in movable))
    return set(movable[: min(wanted, len(train) - 1)])


def _fill(chosen: dict[int, Split], places: Mapping[int, float], *, validation: float, test: float) -> None:
    """Give each empty split that was asked for the nearest group by hash; TrainingError where groups lack."""
    middles = {  # of each split's stretch of [0, 1)
        Split.TRAIN: (1 + test + validation) / 2,
        Split.VALIDATION: test + validation / 2 if validation else None,
        Split.TEST: test / 2 if test else None,
    }
    for split, middle in middles.items():
        if middle is None or split in chosen.values():
            continue
        count = Counter(chosen.values())
        spare = [group for group, held in chosen.items() if count[held] > 1]
        if not spare:
            groups = f"{len(chosen)} group{'s' * (len(chosen) != 1)}"
            raise TrainingError(
                f"the {split} split is empty: the rows make {groups}, and a group is never cut",
                hint="give more rows that differ, a share of 0 for a split without use, or a split column",
            )
        chosen[min(spare, key=lambda group: (abs(places[group] - middle), group))] = split


# Leaks


@dataclass(frozen=True, slots=True)
class Leak:
    """A row and one on another side that shares something with it."""

    row: int  # of the split held out: test before validation before train
    other: int
    modality: Modality
    cosine: float = 1.0  # of their features; 1 for the same content


@dataclass(frozen=True, slots=True)
class LeakReport:
    """What lies on both sides of a split; one leak a row held out, modality and kind, the nearest."""

    same: tuple[Leak, ...]  # the same picture or sound, byte for byte
    near: tuple[Leak, ...]  # nearly the same picture or sound
    captions: tuple[Leak, ...]  # the same caption; told, never refused: different pictures may share one
    names: tuple[str, ...]  # of the rows, as a user finds them again

    def lines(self) -> list[str]:
        """A sentence a kind that there is any of, with the first few."""
        return [self._line(what, leaks) for what, leaks in self._kinds() if leaks]

    def _kinds(self) -> tuple[tuple[str, tuple[Leak, ...]], ...]:
        """What is refused first."""
        return (
            ("the same picture or sound as one in", self.same),
            ("nearly the same picture or sound as one in", self.near),
            ("the same caption as one in", self.captions),
        )

    def _line(self, what: str, leaks: Sequence[Leak]) -> str:
        count = len({leak.row for leak in leaks})
        worst = sorted(leaks, key=lambda leak: -leak.cosine)[:SHOWN]
        told = "; ".join(
            f"{self.names[leak.row]} and {self.names[leak.other]}{_cosine(leak)}" for leak in worst
        )
        more = f"; and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
        have = "row has" if count == 1 else "rows have"
        return f"{count} held-out {have} {what} another split ({told}{more})"

    def refuse(self, *, allowed: bool = False) -> None:
        """LeakageRefused where pictures or sounds are on both sides, unless told that this is meant."""
        if allowed or not (self.same or self.near):
            return
        raise LeakageRefused(
            "; ".join(self._line(what, leaks) for what, leaks in self._kinds()[:2] if leaks),
            hint="give rows that belong together one `group`, drop or correct the split column, or pass "
            f"{ALLOW_FLAG} if this is meant: recall on held-out rows is then flattered",
        )


def _cosine(leak: Leak) -> str:
    return f" ({leak.modality}, cosine {leak.cosine:.3f})" if leak.cosine < 1 else ""


def find_leaks(
    rows: Sequence[Row],
    examples: Examples,
    features: Features,
    splits: Splits,
    *,
    thresholds: Mapping[Modality, float] = NEAR,
) -> LeakReport:
    """What is on both sides of `splits`, numbers of rows; `rows` and `examples` are the same, in one order.

    Pictures and sounds count as the same by content (examples point at one feature) and as nearly the same
    from a cosine of `thresholds`; captions where their normal forms are equal.
    """
    side = np.full(len(rows), -1, np.int64)
    for number, split in enumerate(Split):
        side[splits.get(split, np.zeros(0, np.int64))] = number
    same: list[Leak] = []
    near: list[Leak] = []
    for modality in thresholds:
        if modality not in examples.contents or modality not in features:
            continue
        held = _held(examples.contents[modality], side)
        same += [Leak(row, other, modality) for mine in held.values() for row, other in _across(mine, side)]
        found = _near(features, modality, held, side, thresholds[modality])
        known = {leak.row for leak in same if leak.modality is modality}
        near += [leak for leak in found if leak.row not in known]
    captions: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        for text in {normal_caption(text) for text in row.texts} - {""}:
            captions.setdefault(text, []).append(number)
    told = {
        row: Leak(row, other, Modality.TEXT)
        for mine in captions.values()
        for row, other in _across(mine, side)
    }
    return LeakReport(tuple(same), tuple(near), tuple(told.values()), tuple(row.said_at for row in rows))


def _held(slots: Ints, side: Ints) -> dict[int, list[int]]:
    """Rows of each content, of those that are in a split."""
    held: dict[int, list[int]] = {}
    for row, slot in zip(*np.nonzero(slots >= 0), strict=True):
        if side[row] >= 0:
            held.setdefault(int(slots[row, slot]), []).append(int(row))
    return held


def _across(rows: Sequence[int], side: Ints) -> Iterator[tuple[int, int]]:
    """Each row with the first one of an earlier side, if there is any."""
    first: dict[int, int] = {}
    for row in rows:
        first.setdefault(int(side[row]), row)
    first.pop(-1, None)
    for row in rows:
        lower = [place for place in first if place < side[row]]
        if lower:
            yield row, first[min(lower)]


def _near(
    features: Features, modality: Modality, held: Mapping[int, list[int]], side: Ints, threshold: float
) -> list[Leak]:
    """Of each row held out the nearest content on an earlier side, if it is near enough."""
    best: dict[int, Leak] = {}
    for early, late in combinations(range(len(Split)), 2):
        gallery = {content: row for content, mine in held.items() for row in mine if side[row] == early}
        queries = {content: [row for row in mine if side[row] == late] for content, mine in held.items()}
        asked = np.array(sorted(content for content, mine in queries.items() if mine), np.int64)
        given = np.array(sorted(gallery), np.int64)
        pairs = near_pairs(features[modality], asked, given, threshold=threshold)
        for a, b, cosine in zip(pairs.a.tolist(), pairs.b.tolist(), pairs.cosine.tolist(), strict=True):
            for one, other in ((a, b), (b, a)):
                for row in queries.get(one, ()) if other in gallery else ():
                    leak = Leak(row, gallery[other], modality, min(cosine, 1.0))
                    if row not in best or leak.cosine > best[row].cosine:
                        best[row] = leak
    return list(best.values())
