"""From what training leaves behind to a model on disk: provenance, the split, real media to compare it on.

Imports torch only inside. What a bundle holds stands in retrieval/models/trained.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.types import Modality
from retrieval.training.options import Start
from retrieval.training.split_file import SPLIT_FILE, split_bytes
from retrieval.training.types import PairSet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from retrieval.models.bundle import Bundle
    from retrieval.training.run import Prepared, Trained

SAMPLES = 4  # real media of a modality that a written tower is compared on


def write_model(
    out: Path,
    prepared: Prepared,
    trained: Trained,
    pairs: PairSet,
    *,
    workers: int = 0,
    progress: Callable[[str, float], None],
) -> Bundle:
    """The model in the folder `out`, with what it was made of. TrainingError, ModelError."""
    from retrieval.models.trained import TrainedModel, write_trained

    modalities = trained.space.modalities
    return write_trained(
        out,
        TrainedModel(
            name=out.name,
            base=prepared.base.bundle,
            space=trained.space,
            modules={**_tuned_before(prepared.base.bundle, modalities), **trained.modules},
            from_base=trained.options.start is Start.BASE,
            provenance=_provenance(prepared, trained, pairs),
            samples=_samples(prepared, modalities, workers),
            extra={SPLIT_FILE: split_bytes(prepared.rows, prepared.splits)},
        ),
        progress=progress,
    )


def _provenance(prepared: Prepared, trained: Trained, pairs: PairSet) -> dict[str, Any]:
    counts = {split.value: len(numbers) for split, numbers in prepared.splits.items()}
    return {
        "data": {"digest": pairs.digest, "rows": len(prepared.rows), "splits": counts},
        "options": trained.options.to_json(),
        "unfreeze": prepared.job.unfreeze,
        "teacher": prepared.job.teacher,
        "trials": list(trained.trials),
        "validation": {
            "k": trained.options.metric_k,
            "before": trained.result.start,
            "mean recall": trained.result.best,
            "epoch": trained.result.best_epoch,
        },
    }


def _tuned_before(base: Bundle, modalities: Iterable[Modality]) -> dict[Modality, nn.Module]:
    """The backbones that the base brings fine-tuned: they are part of the new model, too."""
    from retrieval.models.backbones import is_published
    from retrieval.models.trained import load_backbone

    towers = {modality: base.spec.tower(modality) for modality in modalities}
    return {m: load_backbone(base, m) for m, tower in towers.items() if tower and not is_published(tower)}


def _samples(
    prepared: Prepared, modalities: Iterable[Modality], workers: int
) -> Mapping[Modality, list[npt.NDArray[np.generic]]]:
    """The first few media of each modality, prepared; a file that can no longer be read is passed over."""
    from indexer.media.workers import Chunk, DecodePool, Job
    from retrieval.models.backbones import backbone_of
    from retrieval.training.media import media_of

    bundle = prepared.base.bundle
    towers = {modality: bundle.spec.tower(modality) for modality in modalities}
    preparers = {m: backbone_of(tower, bundle).preparer() for m, tower in towers.items() if tower}
    found: dict[Modality, list[npt.NDArray[np.generic]]] = {modality: [] for modality in preparers}
    named = {
        m: media[:SAMPLES] for m, media in media_of(prepared.rows, prepared.collected, preparers).items()
    }
    texts = preparers.pop(Modality.TEXT, None)
    if texts is not None:
        found[Modality.TEXT] = [texts.tensor(text) for text in named.pop(Modality.TEXT)]
    jobs = [(modality, path) for modality, paths in named.items() for path in paths]
    with DecodePool(preparers, workers=min(workers or 1, 2)) as pool:
        for outcome in pool.run(Job(number, m, path=path) for number, (m, path) in enumerate(jobs)):
            if isinstance(outcome, Chunk):
                found[jobs[outcome.job_id][0]] += [one.tensor for one in outcome.prepared[:1]]
    return found
