"""The two networks of a CLAP model as torch modules that export: decibels or token ids in, embeddings out.

Imports torch. Reading a model's folder stands in clap.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SoundNetwork(nn.Module):
    """Decibels, float32 (n, frames, mels) -> embeddings (n, dim), not normalised.

    What ClapModel.get_audio_features computes for sounds that fit its input (`is_longer` false for all). A
    fused model's second path, which merges crops of longer sounds, is taken out: the library finds the rows
    for it by their values, which no export can follow, and for sounds that fit it changes nothing.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.audio_model.audio_encoder
        self.projection = model.audio_projection
        patches = self.encoder.patch_embed
        if patches.enable_fusion:
            self.encoder.enable_fusion = patches.enable_fusion = False
            del patches.fusion_model, patches.mel_conv2d

    def forward(self, views: Tensor) -> Tensor:
        pooled = self.encoder(views[:, None], return_dict=True).pooler_output
        embedded: Tensor = self.projection(pooled)
        return embedded


class TextNetwork(nn.Module):
    """Token ids and their mask, int64 (n, tokens) -> embeddings (n, dim), not normalised.

    RoBERTa numbers positions by the ids that are not padding, and pads with an id of its own, while a tower
    pads with zeros, which is the id of a text's beginning: the mask says what is padding.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.text_model
        self.projection = model.text_projection
        self.pad_id = int(model.config.text_config.pad_token_id)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        ids = torch.where(mask > 0, ids, self.pad_id)
        pooled = self.encoder(input_ids=ids, attention_mask=mask).pooler_output
        embedded: Tensor = self.projection(pooled)
        return embedded
