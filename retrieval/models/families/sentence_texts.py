"""What a sentence-transformers model does to texts: read from the loaded model, and compared with it.

`model` is the library's SentenceTransformer throughout. Torch is imported in functions only.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.errors import ModelError
from retrieval.encoders.library_text import LibraryTextPreparer
from retrieval.encoders.tower import text_inputs
from retrieval.models.families.tokenizers import write_loaded

if TYPE_CHECKING:
    from torch import nn

    from retrieval.models.families.sentence_network import Prompts, TextNetwork

TOKENIZER = "tokenizer.json"
DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # names, in the order of the library's search
QUERY_PROMPTS = ("query",)
# Tokens of a segment where the model has no limit, such as a mean of static vectors: a passage's length.
UNLIMITED, PASSAGE = 1_000_000, 512
REPORT = "report the model's name: it prepares its inputs in a way that is not known here"


def text_steps(model: Any) -> list[nn.Module]:
    """As `_steps`, of texts, with what is not repeated refused. ModelError."""
    from retrieval.models.families.sentence_network import steps_of_both

    steps = steps_of_both(model, "text")
    first: Any = steps[0]
    if type(first).__name__ == "StaticEmbedding":
        return steps
    if not hasattr(first, "modality_config"):
        raise ModelError(f"the model begins with {type(first).__name__}, which takes no texts")
    unknown = _unknown_settings(first)
    if unknown:
        raise ModelError(
            f"the model's texts are prepared in a way that is not repeated here: {unknown}",
            hint="pull another model",
        )
    return steps


def _unknown_settings(first: Any) -> str:
    """The first setting of a Transformer module that our preparer has no field for, or nothing."""
    said = {bucket: dict(values) for bucket, values in first.processing_kwargs.items()}
    text = said.get("text", {}) | said.get("common", {})
    strange = set(text) - {"padding", "truncation", "max_length", "return_tensors"}
    if strange:
        return f"tokenizer setting {min(strange)}"
    if text.get("truncation", True) not in (True, "longest_first"):
        return f"truncation {text['truncation']!r}"
    if first.query_expansion is not None:
        return "query expansion"
    if first.tokenizer is None:
        return "no tokenizer"
    if first.tokenizer.truncation_side != "right":
        return f"texts are cut on the {first.tokenizer.truncation_side}"
    return ""


def text_preparer(model: Any) -> LibraryTextPreparer:
    """What the library does to a text, tokenizer.json aside."""
    first: Any = text_steps(model)[0]
    document, query = _limits(first)
    return LibraryTextPreparer(
        TOKENIZER,
        max_tokens=document,
        pad_id=_pad_id(first),
        prefix=_prompt(model, DOCUMENT_PROMPTS),
        query_prefix=_prompt(model, QUERY_PROMPTS),
        query_max_tokens=0 if query == document else query,
    )


def _prompt(model: Any, names: Sequence[str]) -> str:
    """The prompt that encode_document or encode_query would take."""
    named = next((name for name in names if name in model.prompts), model.default_prompt_name)
    return str(model.prompts.get(named) or "")


def _limits(first: Any) -> tuple[int, int]:
    """Tokens of a document and of a query at most, special tokens included."""
    if not hasattr(first, "modality_config"):
        return PASSAGE, PASSAGE
    said = first.processing_kwargs.get("text", {}).get("max_length")
    usual = int(min(first.tokenizer.model_max_length or UNLIMITED, UNLIMITED))
    document, query = (int(said or one or usual) for one in (first.document_length, first.query_length))
    return (
        document if document < UNLIMITED else PASSAGE,
        query if query < UNLIMITED else PASSAGE,
    )


def keep_to_positions(model: Any) -> None:
    """Lower the library's own limit of tokens where the network has fewer positions and would fail."""
    from retrieval.models.families.sentence_network import steps_of

    first: Any = steps_of(model, "document", "text")[0]
    if not hasattr(first, "modality_config") or first.tokenizer is None:
        return
    config = first.config.get_text_config()
    rooms = [getattr(config, "max_position_embeddings", None) or UNLIMITED]
    for module in first.model.modules():
        table: Any = getattr(module, "position_embeddings", None)
        padding = getattr(module, "padding_idx", None)
        if hasattr(table, "num_embeddings") and isinstance(padding, int):
            rooms.append(int(table.num_embeddings) - padding - 1)  # it counts from behind the padding's id
    room = min(room for room in rooms if room > 0)
    first.tokenizer.model_max_length = min(first.tokenizer.model_max_length, room)


def _pad_id(first: Any) -> int:
    if not hasattr(first, "modality_config"):
        return 0
    return int(first.tokenizer.pad_token_id or 0)


def write_tokenizer(first: Any, out: Path) -> None:
    """The library's tokenizer object as a file, so that what it changed while loading is in it."""
    if not hasattr(first, "modality_config"):
        # The library adds no special tokens there.
        described = json.loads(first.tokenizer.to_str())
        described |= {"post_processor": None, "truncation": None, "padding": None}
        out.write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    elif getattr(first.tokenizer, "is_fast", False):
        write_loaded(first.tokenizer, out)
    else:
        raise ModelError(
            f"the model's tokenizer {type(first.tokenizer).__name__} cannot run without its library",
            hint="pull a model with a tokenizer.json",
        )


def text_network(model: Any) -> TextNetwork:
    from retrieval.models.families.sentence_network import TextNetwork

    steps = text_steps(model)
    return TextNetwork(
        steps, dim=model.truncate_dim, pad_id=_pad_id(steps[0]), prompts=_left_out(model, steps)
    )


def _left_out(model: Any, steps: Sequence[Any]) -> Prompts | None:
    """Where prompts end, for models that leave them out of pooling. ModelError where that cannot be known."""
    from retrieval.models.families.sentence_network import Prompts

    pooling = [step for step in steps if hasattr(step, "include_prompt") and not step.include_prompt]
    texts = [_prompt(model, DOCUMENT_PROMPTS), _prompt(model, QUERY_PROMPTS)]
    if not pooling or not any(texts) or not hasattr(steps[0], "modality_config"):
        return None
    if any("weightedmean" in _listed(step.pooling_mode) for step in pooling):
        raise ModelError("the model weighs tokens by their place behind a prompt, which is not repeated here")
    ids = [_prompt_ids(steps[0], text) for text in texts]
    lengths = [len(one) for one in ids]
    if lengths[0] == lengths[1]:
        return Prompts(document=lengths[0], query=lengths[1])
    # The last token of a prompt can differ once a text follows it: it decides nothing.
    common = range(min(lengths) - 1)
    place = next((i for i in common if ids[0][i] != ids[1][i]), None)
    if place is None:
        raise ModelError(
            "the model leaves prompts out of its pooling, and from a text's tokens it cannot be told whether "
            f"the prompt is {texts[0]!r} or {texts[1]!r}",
            hint="pull a model whose prompts begin differently, or that pools them too",
        )
    return Prompts(lengths[0], lengths[1], place, ids[1][place])


def _listed(mode: str | Sequence[str]) -> tuple[str, ...]:
    return (mode,) if isinstance(mode, str) else tuple(mode)


def _prompt_ids(first: Any, prompt: str) -> list[int]:
    """The tokens of a prompt as the library counts them: without the special one at the end; none of ""."""
    if not prompt:
        return []
    ids: list[int] = first.tokenizer(prompt)["input_ids"]
    return ids[:-1] if ids[-1] in first.tokenizer.all_special_ids else ids


PROBES = (
    "",
    " a  red\tbus \n",
    "Ça coûte 5 € — l’été, ÀÉÎ",
    "👩🏽‍🚀🏳️‍🌈 ok",
    "שלום عليكم",
    "Tom &amp; Jerry &lt;b&gt;",
    "東京タワー",
    "<s> [SEP] </s> [MASK]",
    "word " * 3000,
)


def compare_texts(model: Any) -> int:
    """The dimension, after our vectors of hard texts were found equal to the library's. ModelError."""
    with tempfile.TemporaryDirectory() as work:
        tokenizer = Path(work) / TOKENIZER
        write_tokenizer(text_steps(model)[0], tokenizer)
        ours = LibraryTextPreparer.from_description(text_preparer(model).describe(), tokenizer=str(tokenizer))
        return _compare(model, ours)


def _compare(model: Any, ours: LibraryTextPreparer) -> int:
    import torch

    network = text_network(model).eval()
    # A model without a limit of its own sees all of a text, but here passages.
    limited = hasattr(text_steps(model)[0], "modality_config")
    dim = 0
    uses = [(ours.tensor, model.encode_document)]
    if ours.for_queries() is not ours:
        uses.append((ours.query, model.encode_query))
    for text in PROBES if limited else PROBES[:-1]:
        for made, encode in uses:
            ids = torch.from_numpy(made(text))[None]
            expected = torch.from_numpy(encode([text], show_progress_bar=False))
            with torch.inference_mode():
                found = network(ids, torch.ones_like(ids))
            if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
                raise ModelError(
                    f"what the model makes of {text[:20]!r} differs from what its library makes of it",
                    hint=REPORT,
                )
            dim = int(found.shape[1])
    _check_batches(network, ours)
    return dim


def _check_batches(network: TextNetwork, ours: LibraryTextPreparer) -> None:
    """ModelError where a text's vector changes with the padding that a longer one beside it brings."""
    import torch

    arrays = text_inputs([ours.tensor(text) for text in PROBES[1:5]])
    ids, mask = (torch.from_numpy(array) for array in arrays.values())
    with torch.inference_mode():
        together = network(ids, mask)
        alone = [
            network(row[None, : int(seen.sum())], seen[None, : int(seen.sum())])
            for row, seen in zip(ids, mask, strict=True)
        ]
    if not torch.allclose(together, torch.cat(alone), rtol=1e-3, atol=1e-4):
        raise ModelError(
            "the model reads the padding behind a text: its vector would depend on the texts beside it",
            hint="where open_clip has the model too, pull that: openclip:ARCH/TAG",
        )
