"""Small CLAP models: transformers' own classes, with random weights that tell sounds and texts apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

RATE = 48_000
TEXTS = (
    "the sound of a dog",
    "The Sound of a DOG",
    "",
    "rain falls on a tin roof while thunder rolls far away",
    "🐸 frog 👩‍👩‍👧",
    "שלום עולם",
    "Tom &amp; Jerry &lt;3",
    "a <mask> and a <pad> in the text",
    "  two  spaces\nand a line ",
)


def sounds() -> dict[str, np.ndarray]:
    """Mono PCM at 48 kHz of unlike kinds, none longer than ten seconds."""
    noise = np.random.default_rng(0)
    time = np.arange(10 * RATE) / RATE
    clicks = np.zeros(5 * RATE)
    clicks[:: RATE // 3] = 1.0
    found = {
        "silence": np.zeros(3 * RATE),
        "one sample": np.ones(1),
        "0.1 s": 0.3 * np.sin(2 * np.pi * 900 * time[: RATE // 10]),
        "3 s": 0.5 * np.sin(2 * np.pi * (200 + 300 * time[: 3 * RATE]) * time[: 3 * RATE]),
        "7 s": (0.2 * np.sin(2 * np.pi * 3_000 * time) * (1 + np.sin(10 * np.pi * time)))[: 7 * RATE],
        "10 s": 0.8 * np.sign(np.sin(2 * np.pi * 110 * time)),
        "noise": 0.1 * noise.standard_normal(10 * RATE),
        "quiet noise": 1e-4 * noise.standard_normal(4 * RATE),
        "clicks": clicks,
    }
    return {name: pcm.astype(np.float32) for name, pcm in found.items()}


def write_clap(folder: Path, *, fused: bool = False) -> Any:
    """Save a small model, its feature extractor and its tokenizer as transformers does; the model itself."""
    import torch
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    torch.manual_seed(7)
    config = ClapConfig(
        text_config={
            "vocab_size": 400,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 66,
        },
        audio_config={
            # A grid of 16 x 16 patches: windows shifted in the first stage, one window in the second.
            "patch_size": 16,
            "patch_stride": [16, 16],
            "depths": [2, 1],
            "num_attention_heads": [2, 4],
            "patch_embeds_hidden_size": 32,
            "hidden_size": 64,
            "enable_fusion": fused,
            "fusion_type": "aff_2d" if fused else None,
        },
        projection_dim=24,
    )
    model = ClapModel(config).eval()
    spread(model)
    model.save_pretrained(folder)
    ClapFeatureExtractor(
        frequency_min=50, truncation="fusion" if fused else "rand_trunc", padding="repeatpad"
    ).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return model


def spread(model: Any) -> None:
    """Weights and statistics like those of a trained network, so that different inputs come out apart."""
    import torch
    from torch import nn

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embeddings" in name and weight.ndim == 2:
                weight.normal_(std=1.0)
            elif weight.ndim > 1:
                gain = (
                    3.0 if "text" in name else 1.5
                )  # a text is read off its first token: others must reach it
                weight.normal_(std=gain * weight[0].numel() ** -0.5)
            elif name.endswith("bias"):
                weight.normal_(std=0.1)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
        levels = model.audio_model.audio_encoder.batch_norm  # decibels of each band
        levels.running_mean.uniform_(-45.0, -25.0)
        levels.running_var.uniform_(200.0, 500.0)


def _tokenizer() -> Any:
    """RoBERTa's tokenizer with a small vocabulary, learned from the texts above."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    learned = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learned.train_from_iterator(TEXTS, vocab_size=380, special_tokens=special, show_progress=False)
    state = json.loads(learned.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    return RobertaTokenizer(vocab=state["vocab"], merges=merges, model_max_length=512)
