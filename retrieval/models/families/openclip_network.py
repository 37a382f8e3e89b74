"""Networks of open_clip's models, from the library's own loading code to one tower each.

Imports torch and open_clip: only pulling a model, or running one in torch, imports this. Reads no files.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn


class ImageNetwork(nn.Module):
    """Views, uint8 RGB (n, height, width, 3) -> embeddings (n, dim), not normalised."""

    mean: Tensor
    std: Tensor

    def __init__(self, visual: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.visual = visual
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, views: Tensor) -> Tensor:
        pixels = views.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0
        return _first(self.visual((pixels - self.mean) / self.std))


class TextNetwork(nn.Module):
    """Ids and mask, int64 (n, tokens), -> embeddings (n, dim), not normalised.

    Runs the library's own tower on ids in which whatever the mask leaves out is padding.
    """

    def __init__(self, text: nn.Module, pad_id: int) -> None:
        super().__init__()
        self.text = text
        self.pad_id = pad_id

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return _first(self.text(torch.where(mask > 0, ids, self.pad_id)))


class OwnTextNetwork(nn.Module):
    """As TextNetwork, of open_clip's own towers, with any number of tokens.

    The library's own layers on the first so many positions; the library itself always runs all of them. Where
    every token sees only those before it that changes nothing at the end of the text, where the vector is
    taken; other towers get texts that are padded to the full length.
    """

    attn_mask: Tensor | None

    def __init__(self, text: Any, pad_id: int) -> None:
        super().__init__()
        self.pad_id = pad_id
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.transformer = text.transformer
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
        # Where the whole model is its own text tower, these two have other names.
        self.pool_type = text.text_pool_type if hasattr(text, "text_pool_type") else text.pool_type
        self.eos_id = text.text_eos_id if hasattr(text, "text_eos_id") else text.eos_id

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        ids = torch.where(mask > 0, ids, self.pad_id)
        tokens = ids.shape[1]
        causal = None if self.attn_mask is None else self.attn_mask[:tokens, :tokens]
        hidden = self.token_embedding(ids) + self.positional_embedding[:tokens]
        hidden = self.ln_final(self.transformer(hidden, attn_mask=causal))
        pooled: Tensor = text_global_pool(hidden, ids, self.pool_type, eos_token_id=self.eos_id)
        if self.text_projection is None:
            return pooled
        if isinstance(self.text_projection, nn.Linear):
            projected: Tensor = self.text_projection(pooled)
            return projected
        return pooled @ self.text_projection


def folded(visual: nn.Module) -> nn.Module:
    """The network with branches that training keeps apart put together, as timm does it; the same function.

    FastViT's (MobileCLIP) train as several convolutions side by side and run as one.
    """
    if not any(hasattr(module, "reparameterize") for module in visual.modules()):
        return visual
    from timm.models import reparameterize_model

    return reparameterize_model(visual.eval(), inplace=True)


def _first(found: Any) -> Tensor:
    """The embedding, where a tower gives its tokens beside it."""
    embedding: Tensor = found[0] if isinstance(found, tuple) else found
    return embedding
