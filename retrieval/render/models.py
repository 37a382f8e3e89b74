"""What `triptych models` says: what the cache holds, and what is worth bringing."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from indexer.types import Modality
from retrieval.models.bridge_types import WAYS, WORTH
from retrieval.models.bundle import Bundle, ModelSpec
from retrieval.models.families.catalogue import Recommended
from retrieval.models.registry import ModelInfo
from retrieval.render.escape import printable
from retrieval.render.report import size
from retrieval.render.table import aligned

Json = dict[str, Any]
WIDTH = 100  # characters of a line
WAYS_SHOWN = dict(zip(WAYS, (("b", "a"), ("a", "b")), strict=True))  # whose captions ask, and whose answer


def models_json(models: Sequence[ModelInfo]) -> list[Json]:
    """Every model that the cache holds."""
    return [
        {
            "name": model.name,
            "names": list(model.names),
            "space_id": model.space_id,
            "dim": model.dim,
            "modalities": list(model.modalities),
            "licences": dict(model.licences),
            "earlier": model.earlier,
            "path": str(model.path) if model.path else None,
            "bytes": model.size,
            "missing": list(model.missing),
        }
        for model in models
    ]


def models_lines(models: Sequence[ModelInfo]) -> list[str]:
    """The same as a table, with lines below a model for its other names and what it lacks."""
    rows = [("name", "space", "dimensions", "encodes", "size", "licence of the weights")]
    rows += [
        (
            printable(model.name),
            model.space_id[:12],
            str(model.dim),
            ", ".join(model.modalities) if model.path else "not built yet",
            size(model.size) if model.path else "",
            licence_words(model.licences),
        )
        for model in models
    ]
    heading, *found = aligned(rows, right=("dimensions", "size"))
    lines = [heading]
    for model, line in zip(models, found, strict=True):
        lines.append(line)
        if model.aliases:
            lines.append(f"  also called {printable(', '.join(model.aliases))}")
        if model.earlier:
            lines.append("  of an earlier version, kept for the indexes made with it")
        lines += [f"  {missing}" for missing in model.missing]
    return lines


def licence_words(licences: Sequence[tuple[Modality, str]]) -> str:
    """A licence, or which tower has which where they differ."""
    towers: dict[str, list[str]] = {}
    for modality, licence in licences:
        towers.setdefault(licence or "not stated", []).append(modality)
    if len(towers) == 1:
        return printable(next(iter(towers)))
    return printable("; ".join(f"{', '.join(which)}: {licence}" for licence, which in towers.items()))


def bundle_lines(bundle: Bundle) -> list[str]:
    """What was brought: towers, space, licences, how well a bridge does, and what only torch can run."""
    spec = bundle.spec
    licences = [(tower.modality, tower.licence) for tower in spec.towers if tower.usable]
    unknown = "" if all(licence for _, licence in licences) else "; read the model card"
    lines = [
        f"{printable(spec.name)}: {', '.join(spec.modalities)} in space {spec.space_id[:12]}, {spec.dim}-d",
        f"licence of the weights: {licence_words(licences)}{unknown}",
    ]
    lines += map(printable, spec.provenance.get("notes", ()))
    lines += bridge_lines(spec)
    for modality, why in spec.provenance.get("torch only", {}).items():
        lines.append(f"the {modality} tower cannot be exported, torch runs it: {printable(why)}")
    return [*lines, f"index with it: triptych index FOLDER --model {shlex.quote(spec.name)}"]


def bridge_lines(spec: ModelSpec) -> list[str]:
    """How well held-out captions find themselves through a joined model's bridge; nothing for others."""
    said = spec.provenance.get("bridge")
    if not isinstance(said, dict):
        return []
    found = said["scores"][said["chosen"]]["test"]
    captions = said["captions"]
    lines = [f"{', '.join(said['towers'])}: by a bridge ({said['chosen']}) of {captions['fitted']} captions"]
    for way, (asked, among) in WAYS_SHOWN.items():
        cells = ", ".join(
            f"{name} {100 * value:.1f} % ({100 * low:.0f} to {100 * high:.0f})"
            for name, (value, low, high) in found[way].items()
        )
        lines.append(f"  {printable(said[asked])} to {printable(said[among])}: {cells}")
    lines.append(
        f"  of {captions['test']} held-out captions (95 % interval); chance at 10: "
        f"{100 * said['chance']:.1f} %"
    )
    if any(found[way]["R@10"][0] < WORTH * said["chance"] for way in WAYS_SHOWN):
        lines.append("  WARNING: captions hardly find themselves through it, so sounds will not either")
    return lines


def available_json(rows: Sequence[Recommended], present: Sequence[str]) -> list[Json]:
    """Every model worth bringing, in the order in which to try them."""
    return [
        {**asdict(row), "modalities": list(row.modalities), "research_only": row.research_only}
        | {"present": row.name in present}
        for row in rows
    ]


def available_lines(rows: Sequence[Recommended], present: Sequence[str], device: str) -> list[str]:
    """The same for a person: two lines each, those for this device first."""
    fits = "cpu" if device == "cpu" else "gpu"
    lines = []
    for here in (True, False):
        chosen = [row for row in rows if (row.device == fits) is here]
        if chosen:
            lines.append(f"for this machine ({device}):" if here else "others:")
        for row in chosen:
            licence = row.licence or "licence not stated"
            if row.research_only:
                licence += ", research only: --accept-licence"
            state = ", here already" if row.name in present else ""
            about = (
                f"{','.join(row.modalities)}; {row.dim}-d; {size(row.download_mb * 1e6)}; {licence}{state}"
            )
            lines.append(f"  {row.name}")
            lines += textwrap.wrap(
                f"{row.good_for} ({about})", WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
    lines.append(
        "bring one: triptych models pull NAME; any other model of these libraries has a name as well"
    )
    return lines
