"""sentence-transformers models as towers: what a folder of the library's offers to the rest.

A text tower of any model with texts, a picture tower of those that declare pictures and prepare them in a way
that our own preparer repeats. What is read is compared with the library itself on a few hard inputs before a
model is accepted. Files are checked in sentence_files.py, inputs are read in sentence_texts.py and
sentence_pictures.py, networks are made in sentence_network.py; torch is imported in functions only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.errors import ModelError
from indexer.types import Modality
from retrieval.models.bundle import TowerSpec, WeightRef
from retrieval.models.families import sentence_files as files
from retrieval.models.families import sentence_pictures as pictures
from retrieval.models.families import sentence_texts as texts

if TYPE_CHECKING:
    from torch import nn

TEXT_GROUP, GROUP_TOKENS = 16, 4096  # texts, and their tokens, that one call of the graph sees at most
TEXT_BATCH, IMAGE_BATCH, IMAGE_GROUP = 64, 128, 8


def matches(folder: Path) -> bool:
    """Whether the folder lists modules as the library writes them; reads one file."""
    try:
        listed = files.read_json(folder / files.MODULES)
    except ModelError:
        return False
    return isinstance(listed, list) and any(isinstance(one, dict) and "type" in one for one in listed)


def describe(folder: Path, *, name: str, trust_remote_code: bool = False) -> tuple[TowerSpec, ...]:
    """A tower for each of pictures and texts that the model takes, not exported yet.

    ModelError where the folder is unsafe or incomplete, where an input is prepared in a way that is not
    repeated here, and where our preparation of a few hard inputs differs from the library's.
    """
    modules = files.check(folder, trust_remote_code=trust_remote_code)
    towers: list[TowerSpec] = []
    with _opened(folder, trust_remote_code=trust_remote_code) as model:
        for modality in _modalities(model):
            text = modality is Modality.TEXT
            weights = files.references(folder, modules, name=name, text=text)
            towers.append((_text_tower if text else _image_tower)(model, weights))
    if len({tower.dim for tower in towers}) > 1:
        raise ModelError(
            f"the model's {' and '.join(tower.modality for tower in towers)} vectors differ in dimension",
            hint="pull a model whose modalities share one space",
        )
    return tuple(towers)


def load(folder: Path, modality: Modality, *, trust_remote_code: bool = False) -> nn.Module:
    """The network of texts or pictures, through the library's own loading of safetensors. ModelError."""
    with _opened(folder, trust_remote_code=trust_remote_code) as model:
        from retrieval.models.families.sentence_network import drop_other_half

        if modality not in _modalities(model):
            raise ModelError(f"the model has no {modality} tower", hint="pull another model for it")
        image = modality is Modality.IMAGE
        network = pictures.image_network(model) if image else texts.text_network(model)
        drop_other_half(network, modality)
        return network.eval().requires_grad_(False)


def write_tokenizer(folder: Path, out: Path, *, trust_remote_code: bool = False) -> None:
    """The tokenizer that the library runs, lower-casing and special tokens included, as a tokenizer.json."""
    with _opened(folder, trust_remote_code=trust_remote_code) as model:
        texts.write_tokenizer(texts.text_steps(model)[0], out)


def notes(folder: Path) -> tuple[str, ...]:
    """What a user should know of how the model is used here, a sentence each; reads configuration only."""
    settings = files.read_json(folder / files.SETTINGS)
    modules = files.modules_of(folder, trust_remote_code=True)
    said: list[str] = []
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity != "cosine" and modules[-1].kind != "Normalize":
        said.append(
            f"The model was trained to compare by {similarity}, where the lengths of its vectors count. "
            "Here vectors have unit length and are compared by cosine: expect another order of hits."
        )
    prompts = settings.get("prompts") or {}
    first, *others = texts.DOCUMENT_PROMPTS
    if not prompts.get(first) and any(prompts.get(one) for one in others):
        said.append(
            "The model names a prompt for passages that sentence-transformers does not put before documents "
            "by itself; nor is it put before them here."
        )
    return tuple(said)


@contextlib.contextmanager
def _opened(folder: Path, *, trust_remote_code: bool) -> Iterator[Any]:
    """The library's model of a folder that was checked."""
    files.check(folder, trust_remote_code=trust_remote_code)
    with files.shown(folder, trust_remote_code=trust_remote_code) as seen:
        from retrieval.models.families.sentence_network import open_model

        model = open_model(seen, trust_remote_code=trust_remote_code)
        if "text" in model.modalities:
            texts.keep_to_positions(model)
        yield model


def _modalities(model: Any) -> tuple[Modality, ...]:
    """What the model declares, of what towers are made of. ModelError where it declares what is not known."""
    declared = [one for one in model.modalities if isinstance(one, str)]
    if "message" in declared:
        raise ModelError(
            "the model wraps its inputs in chat messages, which is not repeated here",
            hint="pull a model that takes texts and pictures as they are",
        )
    if "audio" in declared:
        raise ModelError(
            f"the model's sounds are prepared by {_extractor(model)}, which is not known here",
            hint="pull a CLAP model for sounds: clap:NAME",
        )
    found = tuple(one for one in (Modality.IMAGE, Modality.TEXT) if one.value in declared)
    if not found:
        raise ModelError(
            f"the model takes {', '.join(declared) or 'nothing'}, not texts or pictures",
            hint="pull another model",
        )
    return found


def _extractor(model: Any) -> str:
    from retrieval.models.families.sentence_network import steps_of

    processor = getattr(steps_of(model, "document", "audio")[0], "processor", None)
    return type(getattr(processor, "feature_extractor", processor)).__name__


def _text_tower(model: Any, weights: tuple[WeightRef, ...]) -> TowerSpec:
    preparer = texts.text_preparer(model)
    return TowerSpec(
        modality=Modality.TEXT,
        backbone=_backbone(texts.text_steps(model)[0]),
        weights=weights,
        head=None,
        preprocessing=preparer.describe(),
        dim=texts.compare_texts(model),
        window={"max_tokens": preparer.max_tokens},
        batch_size=TEXT_BATCH,
        group=max(1, min(TEXT_GROUP, GROUP_TOKENS // preparer.max_tokens)),
    )


def _image_tower(model: Any, weights: tuple[WeightRef, ...]) -> TowerSpec:
    from retrieval.models.families.sentence_network import steps_of_both

    return TowerSpec(
        modality=Modality.IMAGE,
        backbone=_backbone(steps_of_both(model, "image")[0]),
        weights=weights,
        head=None,
        preprocessing=pictures.image_preparer(model).describe(),
        dim=pictures.compare_pictures(model),
        window={},
        batch_size=IMAGE_BATCH,
        group=IMAGE_GROUP,
    )


def _backbone(first: Any) -> str:
    """The architecture's class name."""
    return type(getattr(first, "model", first)).__name__
