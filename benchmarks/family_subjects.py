"""The pretrained models that families.py measures: folders as their libraries publish them, and inputs.

Weights are random, but keep different inputs apart; MiniLM's are its own. Each tower is exported from its
folder by what `triptych models pull` calls, and its library's own network is there to compare with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embed_throughput import photographs

from indexer.types import Modality
from retrieval.encoders.described import preparer_of
from retrieval.models.export import export_tower
from retrieval.models.families import clap, openclip, sentence
from retrieval.models.families.openclip_config import CONFIG, WEIGHTS
from retrieval.runtime.protocol import Arrays

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.retrieval.families.clap_models import spread as spread_clap
from tests.retrieval.families.openclip_models import calibrate, scale_weights, write_tokenizer_files
from tests.retrieval.families.sentence_models import minilm

ITEMS = 64  # inputs
CALIBRATING = 32  # of them, those whose statistics a batch norm gets
WORDS = ("red", "bicycle", "wall", "rain", "dogs", "sleep", "green", "trees", "harbour", "snow", "bread")


@dataclass(frozen=True)
class Subject:
    """A tower as its ONNX graph, its inputs as a runtime takes them one by one, and the library's own."""

    graph: Path
    modality: Modality
    group: int  # as the bundle has it
    inputs: list[Arrays]  # of one item each
    library: Callable[[int, int], torch.Tensor]  # of items first to last, not normalised

    @property
    def views(self) -> bool:
        return self.modality is not Modality.TEXT

    def batch(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Items as one call of a runtime."""
        some = self.inputs[first:last]
        joined = {name: np.concatenate([one[name] for one in some]) for name in some[0]}
        if "pool" in joined:
            joined["pool"] = np.eye(len(some), dtype=np.float32)
        return joined


def exported(family: Any, folder: Path, modality: Modality, work: Path) -> tuple[Path, int]:
    """The graph that pulling the folder writes, and its group."""
    tower = next(one for one in family.describe(folder, name="measured") if one.modality is modality)
    graph, tokenizer = work / f"{modality.value}.onnx", work / "tokenizer.json"
    if modality is Modality.TEXT:
        family.write_tokenizer(folder, tokenizer)
    preparer = preparer_of(modality, tower.preprocessing, tower.window, tokenizer=str(tokenizer))
    export_tower(family.load(folder, modality), graph, preparer)
    return graph, tower.group


def clip_folder(name: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A model of open_clip and its published preprocessing; `folder` gets the configuration of both."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None).eval()
    published = open_clip.get_pretrained_cfg(name, open_clip.list_pretrained_tags_by_model(name)[0])
    preprocess = {key: published[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preprocess}
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(config))
    if "hf_tokenizer_name" in config["model_cfg"]["text_cfg"]:
        write_tokenizer_files(folder)  # texts of such a model are not measured
    scale_weights(model)
    return model, preprocess


def save_clip(model: Any, folder: Path) -> None:
    from safetensors.torch import save_model

    save_model(model, str(folder / WEIGHTS[0]))


def picture_tower(name: str, work: Path) -> Subject:
    """An image tower of open_clip."""
    folder = work / "source"
    model, preprocess = clip_folder(name, folder)
    size = model.visual.image_size
    pixels = pictures(size[0] if isinstance(size, tuple) else size)
    mean, std = (torch.tensor(preprocess[key])[None, :, None, None] for key in ("mean", "std"))
    normal = ((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()
    calibrate(model.visual, normal[:CALIBRATING])
    save_clip(model, folder)
    graph, group = exported(openclip, folder, Modality.IMAGE, work)
    inputs = [{"views": one[None], "pool": np.ones((1, 1), np.float32)} for one in pixels]
    visual = model.visual
    return Subject(graph, Modality.IMAGE, group, inputs, lambda first, last: visual(normal[first:last]))


def pictures(side: int) -> np.ndarray:
    """Random crops of photographs, uint8 RGB, shape (ITEMS, side, side, 3)."""
    noise, sources, found = np.random.default_rng(0), photographs(), []
    for number in range(ITEMS):
        source = sources[number % len(sources)]
        length = int(min(source.size) * noise.uniform(0.4, 1.0))
        left, top = (int(noise.integers(0, whole - length + 1)) for whole in source.size)
        found.append(np.asarray(source.resize((side, side), box=(left, top, left + length, top + length))))
    return np.stack(found)


def clip_text_tower(name: str, work: Path) -> Subject:
    """A text tower of open_clip, all of its tokens taken."""
    folder = work / "source"
    model, _ = clip_folder(name, folder)
    save_clip(model, folder)
    graph, group = exported(openclip, folder, Modality.TEXT, work)
    ids = np.random.default_rng(0).integers(1, model.vocab_size - 2, (ITEMS, model.context_length))
    ids[:, -1] = model.vocab_size - 1  # the end, which it reads the text's vector from
    return Subject(
        graph,
        Modality.TEXT,
        group,
        [{"input_ids": one[None], "attention_mask": np.ones_like(one)[None]} for one in ids],
        lambda first, last: model.encode_text(torch.from_numpy(ids[first:last])),
    )


def sentence_tower(name: str, work: Path) -> Subject:
    """The real all-MiniLM-L6-v2, through sentence-transformers' own loading."""
    del name
    from sentence_transformers import SentenceTransformer

    folder = work / "source"
    folder.mkdir()
    minilm(folder)
    graph, group = exported(sentence, folder, Modality.TEXT, work)
    library = SentenceTransformer(str(folder), device="cpu")
    noise = np.random.default_rng(0)
    texts = [" ".join(noise.choice(WORDS, 24)) for _ in range(ITEMS)]
    tokens = library.tokenizer(texts, padding=True, return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]

    def own(first: int, last: int) -> torch.Tensor:
        given = {"input_ids": ids[first:last], "attention_mask": mask[first:last]}
        found: torch.Tensor = library(given)["sentence_embedding"]
        return found

    rows = [
        {"input_ids": ids[row : row + 1].numpy(), "attention_mask": mask[row : row + 1].numpy()}
        for row in range(ITEMS)
    ]
    return Subject(graph, Modality.TEXT, group, rows, own)


def sound_tower(name: str, work: Path) -> Subject:
    """CLAP's audio tower, windows of 10 s."""
    del name
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    folder = work / "source"
    torch.manual_seed(0)
    model = ClapModel(ClapConfig()).eval()
    spread_clap(model)
    model.save_pretrained(folder)
    # As the published unfused models have it.
    ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc").save_pretrained(folder)
    graph, group = exported(clap, folder, Modality.AUDIO, work)
    noise = np.random.default_rng(0)
    level = noise.normal(0, 12, (ITEMS, 1, 64)) + noise.normal(0, 6, (ITEMS, 1001, 1))
    bands = (level - 35 + noise.normal(0, 4, (ITEMS, 1001, 64))).astype(np.float32)

    def own(first: int, last: int) -> torch.Tensor:
        longer = torch.zeros(last - first, 1, dtype=torch.bool)
        given = torch.from_numpy(bands[first:last])[:, None]
        found = model.get_audio_features(input_features=given, is_longer=longer)
        return found if isinstance(found, torch.Tensor) else found.pooler_output

    inputs = [{"views": one[None], "pool": np.ones((1, 1), np.float32)} for one in bands]
    return Subject(graph, Modality.AUDIO, group, inputs, own)


# Title -> what makes it, and the architecture's name in its library.
SUBJECTS: dict[str, tuple[Callable[[str, Path], Subject], str]] = {
    "ViT-B-32": (picture_tower, "ViT-B-32"),
    "ConvNeXt": (picture_tower, "convnext_base"),
    "MobileCLIP2-S0": (picture_tower, "MobileCLIP2-S0"),
    "SigLIP": (picture_tower, "ViT-B-16-SigLIP"),
    "ViT-B-32 text": (clip_text_tower, "ViT-B-32"),
    "MiniLM": (sentence_tower, ""),
    "CLAP audio": (sound_tower, ""),
}
