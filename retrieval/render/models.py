"""What `triptych models` says: what the cache holds, and what is worth bringing."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from retrieval.models.bundle import Bundle
from retrieval.models.families.catalogue import Recommended
from retrieval.models.registry import ModelInfo
from retrieval.render.escape import printable
from retrieval.render.report import size

Json = dict[str, Any]
WIDTH = 100  # characters of a line


def models_json(models: Sequence[ModelInfo]) -> list[Json]:
    """Every model that the cache holds."""
    return [
        {
            "name": model.name,
            "names": list(model.names),
            "space_id": model.space_id,
            "dim": model.dim,
            "modalities": list(model.modalities),
            "path": str(model.path) if model.path else None,
            "bytes": model.size,
            "missing": list(model.missing),
        }
        for model in models
    ]


def models_lines(models: Sequence[ModelInfo]) -> list[str]:
    """The same, a line each, and a line for what a model lacks."""
    lines = []
    for model in models:
        state = f"{', '.join(model.modalities)}; {size(model.size)}" if model.path else "not built yet"
        lines.append(f"{printable(model.name)}  {model.space_id[:12]}  {model.dim}-d  {state}")
        if len(model.names) > 1:
            lines.append(f"  also called {printable(', '.join(model.names[1:]))}")
        lines += [f"  {missing}" for missing in model.missing]
    return lines


def bundle_lines(bundle: Bundle) -> list[str]:
    """What was brought: towers, space, licences, and what only torch can run."""
    spec = bundle.spec
    found = {weight.licence for tower in spec.towers for weight in tower.weights if weight.licence}
    licences = [spec.provenance["licence"]] if spec.provenance.get("licence") else sorted(found)
    lines = [
        f"{printable(spec.name)}: {', '.join(spec.modalities)} in space {spec.space_id[:12]}, {spec.dim}-d",
        f"licence: {printable(', '.join(licences)) or 'not stated; read the model card'}",
    ]
    lines += map(printable, spec.provenance.get("notes", ()))
    for modality, why in spec.provenance.get("torch only", {}).items():
        lines.append(f"the {modality} tower cannot be exported, torch runs it: {printable(why)}")
    return [*lines, f"index with it: triptych index FOLDER --model {shlex.quote(spec.name)}"]


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
