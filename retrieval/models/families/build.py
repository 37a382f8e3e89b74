"""From a folder in a library's own layout to a model bundle in the cache.

Where names and downloads come from stands in pull.py; what a library's folder means in its own module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.errors import ModelError
from indexer.types import Modality, Preparer
from retrieval.encoders.described import preparer_of
from retrieval.models.bundle import Bundle, ModelSpec, TowerSpec, link_or_copy
from retrieval.models.cache import store
from retrieval.models.families.family import family
from retrieval.models.versions import versions

if TYPE_CHECKING:
    from torch import nn

SOURCE = "source"  # the bundle's folder with the library's own files
PACKAGES = ("triptych", "torch", "open-clip-torch", "sentence-transformers", "transformers", "timm", "onnx")
Progress = Callable[[str, float], None]  # what is being done, and the share already done, in [0, 1]


def write_family(
    name: str,
    family_name: str,
    folder: Path,
    *,
    called: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Write the model in `folder` as a bundle of the cache, named `called` or as it is named itself.

    The library's files are linked or copied into the bundle, so that torch can load the networks again. Each
    tower is exported and compared with torch; one that cannot be is left to torch, and the bundle's
    provenance says why. ModelError where the folder cannot be read as that family's.

    With `trust_remote_code` the model's own Python code is run, here and now only: torch will not load such a
    model from its bundle later.
    """
    say = progress or (lambda _step, _share: None)
    say("reading the model", 0.0)
    said = dict(provenance or {})
    described = family(family_name).describe(folder, name=name, trust_remote_code=trust_remote_code)
    towers = tuple(
        _licensed(replace(tower, family=family_name, source=SOURCE), said.get("licence", ""))
        for tower in described
    )
    if not towers:
        raise ModelError(f"{name} has no tower of pictures, texts or sounds")

    def fill(work: Path) -> ModelSpec:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            link_or_copy(path, work / SOURCE / path.relative_to(folder))
        try:
            written, refused = _export_all(work, towers, trust_remote_code, say)
        except (
            ModelError
        ) as error:  # names the folder that its reader knows, not one that goes with the error
            told = error.message.replace(str(work / SOURCE), str(folder))
            raise ModelError(told, hint=error.hint) from error
        about = said | {
            "pulled": name,
            "torch only": refused,
            "notes": list(family(family_name).notes(folder)),
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": versions(PACKAGES),
        }
        return ModelSpec(name=called or name, towers=written, provenance=about)

    bundle = store(ModelSpec(name=called or name, towers=towers).space_id, fill)
    say("ready", 1.0)
    return bundle


def _export_all(
    work: Path, towers: Sequence[TowerSpec], trust_remote_code: bool, say: Progress
) -> tuple[tuple[TowerSpec, ...], dict[str, str]]:
    """Every tower with its graph in `work`, and why those without one have none."""
    from retrieval.models.export import export_tower

    written: list[TowerSpec] = []
    refused: dict[str, str] = {}
    for number, tower in enumerate(towers):
        say(f"exporting the {tower.modality} tower", (number + 0.5) / (len(towers) + 1))
        if tower.modality is Modality.TEXT:
            family(tower.family).write_tokenizer(
                work / SOURCE, work / tower.tokenizer, trust_remote_code=trust_remote_code
            )
        preparer = preparer_of(
            tower.modality, tower.preprocessing, tower.window, tokenizer=str(work / tower.tokenizer)
        )
        network = family(tower.family).load(
            work / SOURCE, tower.modality, trust_remote_code=trust_remote_code
        )
        _check_width(network, preparer, tower)
        graph = f"{tower.modality.value}.onnx"
        try:
            export_tower(network, work / graph, preparer)
            written.append(replace(tower, graph=graph))
        except Exception as error:  # the exporter has no one type for what it does not know
            for path in work.glob(f"{tower.modality.value}.onnx*"):
                path.unlink()
            refused[tower.modality.value] = f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
            say(f"the {tower.modality} tower cannot be exported, torch will run it", 0.0)
            written.append(tower)
    return tuple(written), refused


def _licensed(tower: TowerSpec, licence: str) -> TowerSpec:
    """The tower with the licence that its repository states, for weights that say none themselves."""
    return replace(tower, weights=tuple(replace(w, licence=w.licence or licence) for w in tower.weights))


def _check_width(network: nn.Module, preparer: Preparer, tower: TowerSpec) -> None:
    """ModelError where a network gives other than the numbers that its configuration says."""
    from retrieval.models.export import width_of

    found = width_of(network, preparer)
    if found != tower.dim:
        raise ModelError(
            f"the {tower.modality} tower of {tower.backbone} gives {found} numbers, its configuration says "
            f"{tower.dim}",
            hint="correct the configuration, or pull another model",
        )
