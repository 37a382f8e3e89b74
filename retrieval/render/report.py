"""What the commands other than search say: an update's report, an index's facts, a check's findings."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from indexer.cleaning import kept_generations
from indexer.generation import Generation, Root
from indexer.report import UpdateReport
from indexer.snapshot import Snapshot
from indexer.types import Item, Member, Modality
from indexer.verify import Report
from retrieval.render.data import path_fields
from retrieval.render.escape import printable

Json = dict[str, Any]


def update_lines(report: UpdateReport, index: Path) -> list[str]:
    """What changed, what it cost, and how to go on."""
    changes = [f"{count} {change.value}" for change, count in report.changes.items() if count]
    encoded = sum(report.encoded.values())
    lines = [f"items: {', '.join(changes) or 'none'}"]
    lines.append(f"segments: {counted(report.segments)}; {encoded} encoded, {report.reused} contents reused")
    if report.failures:
        lines.append(
            f"{len(report.failures)} gave nothing, as said above; `triptych info --failures` has files"
        )
    if report.failed_before:
        lines.append(f"{report.failed_before} failed before and did not change")
    if report.unknown:
        lines.append(
            f"{report.unknown} kept as they were: a folder, file or manifest is missing, empty or unreadable"
        )
    state = "committed" if report.committed else "already up to date"
    total = sum(report.seconds.values())
    lines.append(f"generation {report.generation} {state} in {total:.1f} s: {printable(str(index))}")
    return lines


def update_json(report: UpdateReport) -> Json:
    """The same as one JSON object."""
    return {
        "changes": {change.value: count for change, count in report.changes.items()},
        "segments": {modality.value: count for modality, count in report.segments.items()},
        "encoded": {modality.value: count for modality, count in report.encoded.items()},
        "skipped": {modality.value: count for modality, count in report.skipped.items()},
        "reused": report.reused,
        "items": report.items,
        "failures": [{**path_fields(f.path), "error": f.reason} for f in report.failures],
        "failed_before": report.failed_before,
        "warnings": [{"message": one.message, "hint": one.hint} for one in report.warnings],
        "generation": report.generation,
        "committed": report.committed,
        "seconds": {stage: round(value, 4) for stage, value in report.seconds.items()},
    }


def info_json(index: Path) -> Json:
    """An index's facts: roots, counts by modality, spaces, parts, size in bytes, generations."""
    with Snapshot.open(index) as snapshot:
        generation = snapshot.generation
        failed = len(_failed(snapshot))
    kept = kept_generations(index, generation)
    return {
        **path_fields(str(index), "index"),
        "generation": generation.number,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(generation.created)),
        "program": generation.program,
        "roots": [{**path_fields(root.path), "kind": root.kind} for root in generation.roots],
        "items": generation.item_count,
        "failed": failed,
        "segments": {modality.value: count for modality, count in generation.counts.items()},
        "spaces": {key: {"model": space.model, "dim": space.dim} for key, space in generation.spaces.items()},
        "precisions": {m.value: list(words) for m in Modality if (words := generation.precisions_of(m))},
        "parts": len(generation.parts),
        "tombstoned": sum(part.dead_rows for part in generation.parts),
        "bytes": _bytes(generation),
        "generations": sorted(one.number for one in kept),
    }


def info_lines(index: Path) -> list[str]:
    """The same for a person."""
    facts = info_json(index)
    lines = [f"index        {_shown(facts, 'index')}"]
    lines += [f"root         {_shown(root)} ({root['kind']})" for root in facts["roots"]]
    lines.append(f"items        {facts['items']}")
    if facts["failed"]:
        lines.append(f"failed       {facts['failed']}; list them with --failures")
    lines.append(f"segments     {counted(facts['segments'])}")
    for key, space in facts["spaces"].items():
        lines.append(f"space        {key[:12]}, {space['dim']}-d, model {printable(space['model'])}")
    if words := _precisions(facts["precisions"]):
        lines.append(f"computed in  {words}")
    dead = f", {facts['tombstoned']} segments deleted since" if facts["tombstoned"] else ""
    lines.append(f"parts        {facts['parts']}{dead}")
    lines.append(f"size         {size(facts['bytes'])}")
    numbers = ", ".join(map(str, facts["generations"]))
    lines.append(f"generation   {facts['generation']} of {facts['created']}; kept: {numbers}")
    return lines


def _precisions(found: Mapping[str, Sequence[str]]) -> str:
    """`f32`, or `image bf16 and f32, text f32` where not everything was computed in the same."""
    words = {kind: " and ".join(made_in) for kind, made_in in found.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{kind} {made_in}" for kind, made_in in words.items())


def failures_json(index: Path) -> list[Json]:
    """Every file and text that gave nothing, and why; `manifest` and `key` are there for a manifest's row."""
    with Snapshot.open(index) as snapshot:
        return [
            _failure(snapshot.roots.get(item.root_id), item, member) for item, member in _failed(snapshot)
        ]


def failure_lines(index: Path) -> list[str]:
    """The same, a line each, for a person."""
    return [f"{_failed_name(row)}: {printable(row['error'])}" for row in failures_json(index)]


def _failure(root: Root | None, item: Item, member: Member) -> Json:
    path = member.path
    if path is not None:  # of several roots relative paths would look alike
        path = os.path.join(root.base if root else "", path)  # noqa: PTH118 - as stored
    row: Json = {**path_fields(path), "kind": member.modality.value, "error": member.error}
    if root is not None and root.kind == "manifest":
        row |= {**path_fields(root.path, "manifest"), "key": item.path}
    return row


def _failed_name(row: Json) -> str:
    if row["path"] is not None:
        return _shown(row)
    return f"{_shown(row, 'manifest')}, row {printable(repr(row['key']))}"


def _shown(fields: Json, name: str = "path") -> str:
    """A path of a JSON object, from its bytes where it is not UTF-8, as a terminal may show it."""
    raw = fields.get(f"{name}_bytes")
    return printable(fields[name] if raw is None else os.fsdecode(bytes.fromhex(raw)))


def _failed(snapshot: Snapshot) -> list[tuple[Item, Member]]:
    """The members that have no segments, with their items."""
    pairs = ((item, member) for item in snapshot.item_list() for member in item.members)
    return [(item, member) for item, member in pairs if member.error is not None]


def counted(counts: Mapping[Any, int]) -> str:
    """`945 image, 1890 text`; kinds without any are left out."""
    return ", ".join(f"{count} {modality}" for modality, count in counts.items() if count) or "none"


def size(count: float) -> str:
    """Bytes in the largest unit that leaves at least one."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _bytes(generation: Generation) -> int:
    return sum(file.size for file in generation.all_files.values())


def verify_json(report: Report) -> Json:
    """A check's findings."""
    return {"checked": report.checked, "problems": list(report.problems)}


def verify_lines(report: Report) -> list[str]:
    """The problems, a line each, or that there are none."""
    if not report.problems:
        return [f"{report.checked} files checked, nothing wrong"]
    return [
        *map(printable, report.problems),
        f"{report.checked} files checked, {len(report.problems)} problems",
    ]
