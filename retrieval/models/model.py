"""A model that was opened: a bundle, which of its dimensions are used, and its towers.

Which model a name means stands in registry.py. Opening a tower touches its own graph only; nothing here
imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from indexer.errors import ConfigError, WeightsMissing
from indexer.types import Modality
from retrieval.encoders.described import preparer_of
from retrieval.encoders.tower import Tower
from retrieval.models.bundle import Bundle, ModelSpec, TowerSpec
from retrieval.runtime.choose import Choice, Note, Placement, Precision, Use, choose, open_runtime
from retrieval.runtime.protocol import Runtime, available_threads

SHORTEST_SPACE = 8  # hex digits of a space_id that are enough to name it


@dataclass(frozen=True)
class Model:
    """An opened bundle, or a nested space of one. Towers and their graphs load when first needed."""

    bundle: Bundle
    threads: int = 0  # that encode; 0: one a core
    cut: int | None = None  # dimensions that are kept, one of the bundle's `dims`; None: all
    use: Use = Use.QUERY  # what towers are opened for
    placement: Placement = field(default_factory=Placement)
    note: Note | None = None  # hears a line of what a runtime has to say while it computes

    @property
    def name(self) -> str:
        return self.bundle.spec.name

    @property
    def path(self) -> Path:
        return self.bundle.folder

    @property
    def space_id(self) -> str:
        return self.bundle.spec.space_of(self.dim)

    @property
    def dim(self) -> int:
        return self.cut or self.bundle.spec.dim

    def with_dim(self, dim: int) -> Model:
        """The same model with so many dimensions; ConfigError says which there are."""
        dims = self.bundle.spec.dims
        if dim not in dims:
            raise ConfigError(
                f"the model {self.name} has no {dim} dimensions",
                hint=f"it has {', '.join(map(str, dims))}",
            )
        return replace(self, cut=None if dim == dims[0] else dim)

    def in_space(self, space_id: str) -> Model:
        """The same model with the dimension that a space is of; itself where it has no such space."""
        dim = dim_meant(self.bundle.spec, space_id)
        return self if dim is None else self.with_dim(dim)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return self.bundle.spec.modalities

    def for_indexing(self, placement: Placement, *, note: Note | None = None) -> Model:
        """The same model, its towers opened for many inputs. ConfigError where it cannot be placed so."""
        quantised = any(tower.quantised for tower in self.bundle.spec.towers)
        if placement.precision == Precision.INT8 and not quantised:
            raise ConfigError(
                f"the precision is int8, and the model {self.name} has no int8 graph",
                hint=f"make one: triptych models quantize {self.name} --calibrate FOLDER",
            )
        return replace(self, use=Use.INDEX, placement=placement, note=note)

    def choices(self) -> dict[Modality, Choice]:
        """Which runtime serves each tower. ConfigError for what cannot be had as asked for."""
        towers = self.bundle.spec.towers
        return {one.modality: choose(one, self.use, self.placement) for one in towers if one.usable}

    @cached_property
    def _towers(self) -> dict[Modality, Tower]:
        return {}

    def tower(self, modality: Modality) -> Tower:
        """The tower of a modality, the same one each time; WeightsMissing where it was not built."""
        if modality not in self._towers:
            spec = self.bundle.spec.tower(modality)
            if spec is None or not spec.usable:
                line = spec.missing if spec else None
                raise WeightsMissing(
                    f"the model {self.name} has no {modality} tower, only {', '.join(self.modalities)}",
                    hint=f"{line} && triptych models build" if line else None,
                )
            self._towers[modality] = open_tower(
                self.bundle,
                spec,
                space_id=self.space_id,
                threads=self.threads or available_threads(),
                dim=self.dim,
                choice=choose(spec, self.use, self.placement),
                note=self.note,
            )
        return self._towers[modality]


def open_tower(
    bundle: Bundle,
    spec: TowerSpec,
    *,
    space_id: str,
    threads: int,
    dim: int | None = None,
    choice: Choice | None = None,
    note: Note | None = None,
) -> Tower:
    """A usable tower of a bundle; with `dim` it gives that many of its dimensions.

    Without a `choice` it is opened as for a query. `note` hears what the runtime has to say later.
    """
    chosen = choice or choose(spec, Use.QUERY, Placement())

    def opened() -> Runtime:
        return open_runtime(bundle, spec, chosen, threads=threads, note=note)

    return Tower(
        preparer_of(
            spec.modality, spec.preprocessing, spec.window, tokenizer=str(bundle.path(spec.tokenizer))
        ),
        opened,
        space_id=space_id,
        dim=dim or spec.dim,
        batch_size=spec.batch_size,
        group=spec.group,
        threads=threads,
        nested=dim is not None and dim < spec.dim,
        precision=chosen.precision.value,
    )


def dim_meant(spec: ModelSpec, space: str) -> int | None:
    """Which of a model's dimensions a space_id, or the beginning of one, is of; None: it is another's."""
    if not is_space(space):
        return None
    return next((dim for dim in spec.dims if spec.space_of(dim).startswith(space)), None)


def is_space(name: str) -> bool:
    """Whether a word may be a space_id, or the beginning of one."""
    return len(name) >= SHORTEST_SPACE and all(digit in "0123456789abcdef" for digit in name)
