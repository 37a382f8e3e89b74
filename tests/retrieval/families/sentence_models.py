"""Small sentence-transformers models with random weights, saved by the library itself.

Weights are drawn wide enough that different inputs give clearly different vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from torch import nn

from retrieval.models.starter.weights import MINILM, locate

WIDTH, LAYERS, HEADS, LONGEST = 32, 1, 4, 40  # and the most tokens of a text
SMALL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
}
CORPUS = (
    "a red hat on a table, two cats asleep near the window and a lighthouse on a rock in the evening",
    "Ein roter Hut, zwei Katzen; l'été à la mer coûte 5 €! שלום עולם مرحبا بالعالم 東京タワー naïve café",
    "The quick brown fox jumps over the lazy dog 0123456789 times, isn't it? &amp; <b>bold</b> @home #tag",
)
MINILM_FILES = (
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
)


def minilm(folder: Path) -> Path:
    """The real all-MiniLM-L6-v2 as a folder of the library, from the installed package's files."""
    weights = locate(MINILM)
    for name in (*MINILM_FILES, weights.name):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(weights.parent / name)
    return folder


def spread(network: nn.Module, *, scale: float = 0.35, seed: int = 0) -> None:
    """Draw every matrix anew, wide; vectors, such as norms' and biases', a little off where they were."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.randn(weight.shape, generator=draw)
            if weight.ndim > 1:
                weight.copy_(noise * scale)
            elif weight.ndim == 1:
                weight.add_(noise * 0.1)


def transformer(folder: Path, config: Any, tokenizer: Any, *, seed: int = 0, **settings: Any) -> Transformer:
    """A network of that architecture, saved by transformers, loaded as the library's first module."""
    from transformers import AutoModel

    torch.manual_seed(seed)
    network = AutoModel.from_config(config)
    spread(network, seed=seed)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Transformer(str(folder), **{"max_seq_length": LONGEST} | settings)


def saved(folder: Path, modules: Sequence[nn.Module], **settings: Any) -> Path:
    """The folder that the library writes for a model of these modules."""
    model = SentenceTransformer(modules=list(modules), device="cpu", **settings)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def bert(folder: Path, *, seed: int = 0, **settings: Any) -> Transformer:
    from transformers import AutoTokenizer, BertConfig

    tokenizer = AutoTokenizer.from_pretrained(locate(MINILM).parent)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SMALL)
    return transformer(folder, config, tokenizer, seed=seed, **settings)


def mpnet(folder: Path) -> Transformer:
    from transformers import MPNetConfig, MPNetTokenizer

    words = ["<s>", "<pad>", "</s>", "[UNK]", *wordpieces(), "<mask>"]
    tokenizer = MPNetTokenizer(vocab={word: number for number, word in enumerate(words)})
    config = MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=LONGEST + 2, **SMALL)
    return transformer(folder, config, tokenizer)


def xlm_roberta(folder: Path, **settings: Any) -> Transformer:
    from transformers import XLMRobertaConfig, XLMRobertaTokenizer

    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *unigrams()]
    tokenizer = XLMRobertaTokenizer(vocab=pieces)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=LONGEST + 2, pad_token_id=1, **SMALL
    )
    return transformer(folder, config, tokenizer, **settings)


def causal(folder: Path) -> Transformer:
    """A decoder whose tokenizer pads at the beginning, as embedding models made of language models do."""
    from transformers import PreTrainedTokenizerFast, Qwen3Config

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_pairs(), pad_token="<pad>", eos_token="<end>", padding_side="left"
    )
    config = Qwen3Config(
        vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, max_position_embeddings=64, **SMALL
    )
    return transformer(folder, config, tokenizer)


def lowercased(folder: Path) -> Path:
    """Cased word pieces under do_lower_case, every pooling that takes all tokens, a projection behind it."""
    first = xlm_roberta(folder / "0")
    modules = pooled(first, ("max", "mean_sqrt_len_tokens", "weightedmean"))
    dense, norm = Dense(3 * WIDTH, 20, activation_function=nn.Tanh()), LayerNorm(20)
    for module in (dense, norm):
        spread(module, scale=0.2)
    target = saved(folder / "saved", [*modules, dense, norm], truncate_dim=12)
    # Models of earlier releases have the setting in their file.
    edit(target / "sentence_bert_config.json", {"do_lower_case": True})
    return target


def clip(folder: Path, *, side: int = 32) -> Path:
    """A CLIP in the layout that the library wrote for it before it knew other models with pictures."""
    from sentence_transformers.sentence_transformer.modules import CLIPModel
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPProcessor
    from transformers import CLIPModel as Network

    tokenizer = clip_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = SMALL | {"vocab_size": len(tokenizer), "max_position_embeddings": 24} | ids
    vision = SMALL | {"image_size": side, "patch_size": 8}
    network = Network(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    spread(network)
    network.save_pretrained(folder / "0")
    pictures = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder / "0")
    return saved(folder / "saved", [CLIPModel.load(str(folder / "0"))])


def siglip(folder: Path) -> Path:
    """Its text vector is the last position's, padding or not."""
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipProcessor
    from transformers import SiglipModel as Network

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_pairs(), pad_token="<pad>", eos_token="<end>", model_max_length=24
    )
    text = SMALL | {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": WIDTH}
    text |= {"bos_token_id": 0, "eos_token_id": 1}
    network = Network(
        SiglipConfig(text_config=text, vision_config=SMALL | {"image_size": 32, "patch_size": 8})
    )
    spread(network)
    network.save_pretrained(folder / "0")
    pictures = SiglipImageProcessor(size={"height": 32, "width": 32})
    SiglipProcessor(pictures, tokenizer).save_pretrained(folder / "0")
    return saved(folder / "saved", [Transformer(str(folder / "0"))])


def static(folder: Path) -> Path:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(locate(MINILM).parent / "tokenizer.json"))
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn((tokenizer.get_vocab_size(), WIDTH), generator=draw)
    return saved(folder, [StaticEmbedding(tokenizer, embedding_weights=weights)])


def pooled(first: Transformer, mode: str | tuple[str, ...] = "mean", **settings: Any) -> list[nn.Module]:
    return [first, Pooling(first.get_embedding_dimension(), mode, **settings)]


def unit(modules: list[nn.Module]) -> list[nn.Module]:
    return [*modules, Normalize()]


def edit(path: Path, change: dict[str, Any]) -> None:
    """Settings of a JSON file, replaced."""
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@cache
def wordpieces() -> tuple[str, ...]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, show_progress=False))
    return tuple(sorted(made.get_vocab()))


@cache
def unigrams() -> tuple[tuple[str, float], ...]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=200, show_progress=False))
    vocabulary = json.loads(made.to_str())["model"]["vocab"]
    return tuple((piece, score) for piece, score in vocabulary)


def byte_pairs() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=alphabet,
    )
    made.train_from_iterator(CORPUS, trainer)
    end = made.token_to_id("<end>")
    made.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", end)])
    return made


def clip_tokenizer() -> Any:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>")]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=24)
