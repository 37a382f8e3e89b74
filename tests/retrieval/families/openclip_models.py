"""Small models of open_clip's architectures as folders in its `local-dir:` layout, with made-up weights.

The classes, and the code that loads them, are the libraries' own; only depths and widths are smaller. Weights
are scaled so that different inputs give clearly different vectors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WIDTH = 64  # of every embedding
CLIP_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SMALL_VIT = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
MOBILE = {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear", "resize_mode": "shortest"}
SIGLIP = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
PE = SIGLIP | {"interpolation": "bilinear"}
# Shallow versions of timm's architectures: name here -> the function of timm that makes it, what is smaller.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "small_convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64)}),
    "small_fastvit": (
        "fastvit_mci0",
        {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 32, 64), "mlp_ratios": (2, 2, 2, 2)},
    ),
    "small_siglip": (
        "vit_base_patch16_siglip_224",
        {"embed_dim": WIDTH, "depth": 2, "num_heads": 2, "img_size": 64},
    ),
    "small_pe": (
        "vit_pe_core_tiny_patch16_384",
        {"embed_dim": WIDTH, "depth": 2, "num_heads": 2, "img_size": 64, "attn_pool_num_heads": 2},
    ),
}


def _timm(name: str, size: int, pool: str, proj: str | None) -> dict[str, Any]:
    return {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": proj,
        "image_size": size,
    }


MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # model_cfg, preprocess_cfg
    "clip": ({"quick_gelu": True, "vision_cfg": SMALL_VIT, "text_cfg": CLIP_TEXT}, {}),
    "resnet": (
        {
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
            "text_cfg": CLIP_TEXT,
        },
        {},
    ),
    "convnext": ({"vision_cfg": _timm("small_convnext", 64, "", "linear"), "text_cfg": CLIP_TEXT}, {}),
    "mobileclip": (
        {
            "custom_text": True,
            "vision_cfg": _timm("small_fastvit", 128, "avg", None),
            "text_cfg": CLIP_TEXT | {"no_causal_mask": True},
        },
        MOBILE,
    ),
    "siglip": (
        {
            "custom_text": True,
            "init_logit_bias": -10,
            "vision_cfg": _timm("small_siglip", 64, "map", "none"),
            "text_cfg": CLIP_TEXT
            | {"context_length": 16, "vocab_size": 400, "hf_tokenizer_name": "toy", "pool_type": "last"}
            | {"no_causal_mask": True, "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}
            | {"act_kwargs": {"approximate": "tanh"}, "tokenizer_kwargs": {"clean": "canonicalize"}},
        },
        SIGLIP,
    ),
    "pe": (
        {
            "custom_text": True,
            "vision_cfg": _timm("small_pe", 64, "map", None),
            "text_cfg": CLIP_TEXT | {"context_length": 32},
        },
        PE,
    ),
    "clipa": (
        {
            "vision_cfg": SMALL_VIT | {"pool_type": "avg", "no_ln_pre": True, "final_ln_after_pool": True},
            "text_cfg": CLIP_TEXT
            | {"context_length": 24, "vocab_size": 400, "hf_tokenizer_name": "toy", "pool_type": "last"}
            | {"no_causal_mask": True, "tokenizer_kwargs": {"strip_sep_token": True}},
        },
        {"resize_mode": "longest", "fill_color": 9, "interpolation": "bilinear"},
    ),
    "worldwide": (
        {
            "vision_cfg": SMALL_VIT | {"image_size": [64, 48]},
            "text_cfg": CLIP_TEXT
            | {"vocab_size": 400, "hf_tokenizer_name": "toy", "pool_type": "eos", "eos_id": 3},
        },
        {"interpolation": "bilinear"},
    ),
    "xlm-roberta": (
        {
            "vision_cfg": SMALL_VIT,
            "text_cfg": {
                "hf_model_name": "xlm-roberta-base",
                "hf_tokenizer_name": "xlm-roberta-base",
                "hf_pooler_type": "mean_pooler",
            },
        },
        {},
    ),
    "coca": (
        {
            "custom_text": True,
            "vision_cfg": SMALL_VIT
            | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
            | {"attn_pooler_queries": 8},
            "text_cfg": CLIP_TEXT | {"context_length": 76, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": CLIP_TEXT | {"context_length": 76, "layers": 1, "attn_pooler_heads": 2},
        },
        {},
    ),
}


def register_timm() -> None:
    """Make timm know the shallow architectures; a second call changes nothing."""
    import timm
    from timm.models import is_model, register_model

    def maker(name: str, base: str, smaller: Mapping[str, Any]) -> Any:
        def make(pretrained: bool = False, **options: Any) -> Any:
            return timm.create_model(base, pretrained=pretrained, **{**smaller, **options})

        make.__name__ = make.__qualname__ = name
        make.__module__ = __name__
        return make

    for name, (base, smaller) in TIMM.items():
        if not is_model(name):
            register_model(maker(name, base, smaller))


def write_model(folder: Path, name: str) -> Path:
    """The model `name` of MODELS as a folder that open_clip's `local-dir:` loads."""
    import open_clip
    from safetensors.torch import save_model

    register_timm()
    model_cfg, preprocess_cfg = MODELS[name]
    folder.mkdir(parents=True)
    config = {"model_cfg": {"embed_dim": WIDTH, **model_cfg}, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    text_cfg = dict(config["model_cfg"]["text_cfg"])
    changed: dict[str, Any] = {}
    if "hf_tokenizer_name" in text_cfg:
        write_tokenizer_files(folder)
    if "hf_model_name" in text_cfg:
        write_text_config(folder)
        changed = {"text_cfg": text_cfg | {"hf_model_name": str(folder), "hf_model_pretrained": False}}
    model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False, **changed)
    scale_weights(model)
    save_model(model, str(folder / "open_clip_model.safetensors"))
    return folder


def scale_weights(model: Any, seed: int = 0) -> None:
    """Weights that keep the variance of what they are given, so that differences between inputs survive.

    A deep network with batch norm needs `calibrate` too.
    """
    import torch

    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 0:
                continue
            weight.normal_(generator=noise)
            if "embedding" in name or "pos_embed" in name:
                weight.mul_(0.3 if "pos" in name else 1.0)
            elif weight.ndim > 1:
                fan_in = weight.shape[0] if name.endswith(("proj", "projection")) else weight[0].numel()
                weight.mul_(fan_in**-0.5)
            elif name.endswith("bias"):
                weight.mul_(0.1)
            else:
                weight.mul_(0.1).add_(1.0)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(generator=noise).mul_(0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=noise)


def calibrate(network: Any, inputs: Any) -> None:
    """Set the statistics of every batch norm to those of what it is given, as training leaves them.

    With made-up statistics each residual block adds more than the one before: what reaches a deep gate or a
    softmax is in the millions, both become switches, and an input on the edge of one turns a difference of
    rounding into another vector.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the statistics themselves, not a step towards them
        norm.train()
    with torch.no_grad():
        network(inputs)
    for norm, momentum, training in before:
        norm.momentum = momentum
        norm.train(training)


def write_tokenizer_files(folder: Path) -> None:
    """A small byte-pair tokenizer in transformers' layout: <s> text </s>, padded with <pad>."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<pad>", "<s>", "</s>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ["a red hat on the table", "two dogs and a cat in the evening", "the sound of rain on a lake"]
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        padding_side="right",
    ).save_pretrained(folder)


def write_text_config(folder: Path) -> None:
    """The configuration of a small text network of transformers."""
    from transformers import XLMRobertaConfig

    XLMRobertaConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=90,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=3,
        type_vocab_size=1,
    ).save_pretrained(folder)
