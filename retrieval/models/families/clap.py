"""CLAP models of the transformers library: their towers of sounds and of texts.

Says what a folder of ClapModel.save_pretrained holds, and loads its networks through that library, from
safetensors alone. What is done to a sound before its network stands in encoders/log_mel.py. Imports neither
torch nor transformers at the top.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.errors import ModelError
from indexer.fsio import sha256_file
from indexer.types import Modality
from retrieval.encoders.library_text import LibraryTextPreparer
from retrieval.encoders.log_mel import LogMelPreparer, MelScale, Padding
from retrieval.models.bundle import TowerSpec, WeightRef
from retrieval.models.quiet import errors_only, without_bars

if TYPE_CHECKING:
    from torch import nn

FAMILY = "clap"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"  # of a model in several files
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Settings that would make the library load something else than the folder's safetensors, or run other code.
STEERING = ("transformers_weights", "quantization_config", "auto_map")
ADAPTER = "adapter_config.json"
DISTRIBUTED = "shard-*.safetensors"  # rank-local files, whose index is a pickle
# Buffers that the library computes, which checkpoints of earlier versions lack.
COMPUTED = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")
AUDIO_BATCH, AUDIO_GROUP = 16, 4
TEXT_BATCH, TEXT_GROUP = 64, 16


def matches(folder: Path) -> bool:
    """Whether the folder's config.json is a ClapModel's."""
    try:
        return bool(_json(folder / CONFIG).get("model_type") == "clap")
    except ModelError:
        return False


def describe(folder: Path, *, name: str, trust_remote_code: bool = False) -> tuple[TowerSpec, ...]:
    """The towers of sounds and of texts; `name` is what the weights' source is given as.

    Imports transformers. ModelError says what the folder lacks, or what in it is not understood.
    """
    weights = _weight_files(folder)
    config = _config(folder)
    sounds = _sound_preparer(folder, config)
    texts = LibraryTextPreparer("", _max_tokens(folder, config), pad_id=config.text_config.pad_token_id)
    shared = (*weights, folder / CONFIG)
    tokenizer = tuple(folder / one for one in TOKENIZER_FILES if (folder / one).is_file())
    tower = partial(TowerSpec, backbone=name, head=None, dim=config.projection_dim, family=FAMILY)
    return (
        tower(
            modality=Modality.AUDIO,
            weights=_refs(shared, name),
            preprocessing=sounds.describe(),
            window={"window_s": sounds.window_s, "hop_s": sounds.hop_s},
            batch_size=AUDIO_BATCH,
            group=AUDIO_GROUP,
        ),
        tower(
            modality=Modality.TEXT,
            weights=_refs((*shared, *tokenizer), name),
            preprocessing=texts.describe(),
            window={"max_tokens": texts.max_tokens},
            batch_size=TEXT_BATCH,
            group=TEXT_GROUP,
        ),
    )


def load(folder: Path, modality: Modality, *, trust_remote_code: bool = False) -> nn.Module:
    """One tower's network, frozen, in eval mode, float32, on the CPU.

    Of sounds: decibels (n, frames, mels) -> (n, dim). Of texts: ids and mask, int64 (n, tokens) -> (n, dim).
    Not normalised. ModelError where the weights are not the architecture's, or are no safetensors.
    """
    if modality not in (Modality.AUDIO, Modality.TEXT):
        raise ModelError(f"a CLAP model has no {modality} tower, only audio and text")
    from retrieval.models.families.clap_networks import SoundNetwork, TextNetwork

    model = _model(folder)
    network = SoundNetwork(model) if modality is Modality.AUDIO else TextNetwork(model)
    return network.eval().requires_grad_(False)


def notes(folder: Path) -> tuple[str, ...]:
    """Nothing that a user must know: vectors are used here as the library means them."""
    del folder
    return ()


def write_tokenizer(folder: Path, out: Path, *, trust_remote_code: bool = False) -> None:
    """Write a tokenizer.json that gives the ids of the library's own tokenizer to `out`. ModelError."""
    from retrieval.models.families.tokenizers import write_hf

    write_hf(folder, out)


def _model(folder: Path) -> Any:
    """The library's ClapModel with every weight from safetensors."""
    from transformers import ClapModel

    _weight_files(folder)
    _config(folder)
    with errors_only("transformers"), without_bars(), _understood(folder):
        loaded: Any = ClapModel.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            attn_implementation="eager",  # never a kernel that the configuration names
            dtype="float32",
        )
    model, found = loaded
    lacking = sorted(key for key in found["missing_keys"] if not key.endswith(COMPUTED))
    if lacking:
        raise ModelError(
            f"the weights in {folder} lack {len(lacking)} of the network's tensors: {', '.join(lacking[:3])}",
            hint="copy the whole model again",
        )
    return model


def _config(folder: Path) -> Any:
    """The library's ClapConfig, with nothing in it that leads elsewhere, and of an architecture that runs."""
    said = _json(folder / CONFIG)
    steering = [key for key in STEERING if said.get(key)]
    if steering or (folder / ADAPTER).exists():
        raise ModelError(
            f"the model in {folder} has {', '.join(steering) or ADAPTER}, expected a plain ClapModel",
            hint="load it where it was made, merge adapters, and save it with save_pretrained",
        )
    from transformers import ClapConfig

    with errors_only("transformers"), without_bars(), _understood(folder):
        config: Any = ClapConfig.from_pretrained(folder, local_files_only=True)
    audio = config.audio_config
    if audio.enable_fusion and audio.fusion_type == "channel_map":
        raise ModelError(f"the model in {folder} fuses by 'channel_map', which transformers cannot compute")
    return config


def _sound_preparer(folder: Path, config: Any) -> LogMelPreparer:
    """The preparer that the folder's feature extractor asks for."""
    from transformers import ClapFeatureExtractor

    with errors_only("transformers"), without_bars(), _understood(folder):
        told = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
    if told.truncation not in ("fusion", "rand_trunc"):
        raise ModelError(f"the feature extractor truncates by {told.truncation!r}, which is not known")
    if told.padding not in list(Padding):
        raise ModelError(f"the feature extractor pads by {told.padding!r}, expected {', '.join(Padding)}")
    fusion = told.truncation == "fusion"
    preparer = LogMelPreparer(
        sample_rate=told.sampling_rate,
        fft=told.fft_window_size,
        hop=told.hop_length,
        mels=told.feature_size,
        fmin=float(told.frequency_min),
        fmax=float(told.frequency_max),
        # The library has two banks and chooses by how a long sound would be cut.
        scale=MelScale.HTK if fusion else MelScale.SLANEY,
        padding=Padding(told.padding),
        max_s=told.max_length_s,
        fusion=fusion,
        window_s=float(told.max_length_s),
        hop_s=told.max_length_s / 2,
    )
    audio = config.audio_config
    most = audio.spec_size * (audio.spec_size // audio.num_mel_bins)
    if preparer.mels != audio.num_mel_bins or preparer.frames > most:
        raise ModelError(
            f"the feature extractor gives {preparer.frames} frames of {preparer.mels} bands, "
            f"the network takes at most {most} of {audio.num_mel_bins}",
            hint="the configuration files in the folder belong to different models: copy it again",
        )
    return preparer


def _max_tokens(folder: Path, config: Any) -> int:
    """Tokens of the longest text: as many as the network has positions for, or the tokenizer says."""
    text = config.text_config
    positions = text.max_position_embeddings - text.pad_token_id - 1
    path = folder / "tokenizer_config.json"
    said = _json(path).get("model_max_length") if path.is_file() else None
    return min(positions, int(said)) if isinstance(said, int | float) and said > 2 else int(positions)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The folder's safetensors. ModelError where there is none: pickles are not read."""
    found = tuple(sorted(folder.glob("*.safetensors")))
    if any(path.match(DISTRIBUTED) for path in found):
        raise ModelError(
            f"{folder} holds a distributed checkpoint, whose index is a pickle",
            hint="save the model with save_pretrained, which writes model.safetensors",
        )
    if found:
        _require_inside(folder, {path.name for path in found})
        return found
    pickles = sorted(
        path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt")
    )
    raise ModelError(
        f"{folder} has no model.safetensors"
        + (f", only {', '.join(pickles)}: a pickle can run code and is not read" if pickles else ""),
        hint="ask for model.safetensors, or convert the model where you trust it: "
        "ClapModel.from_pretrained(...).save_pretrained(folder)",
    )


def _require_inside(folder: Path, found: set[str]) -> None:
    """ModelError where the index of a model in several files names one that is not in the folder."""
    if not (folder / INDEX).is_file():
        return
    parts = _json(folder / INDEX).get("weight_map")
    named = set(map(str, parts.values())) if isinstance(parts, dict) else {"no file"}
    if outside := sorted(named - found):
        raise ModelError(
            f"{folder / INDEX} names {outside[0]!r}, which is not among the folder's safetensors",
            hint="copy the whole model again",
        )


def _refs(files: Sequence[Path], name: str) -> tuple[WeightRef, ...]:
    return tuple(
        WeightRef(name=path.name, sha256=sha256_file(path), licence="", source=name, package="")
        for path in files
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="copy the whole model again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no object", hint="copy the whole model again")
    return found


@contextlib.contextmanager
def _understood(folder: Path) -> Iterator[None]:
    """What the library raises about a folder, as ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # each file and each setting fails in a way of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(
            f"transformers cannot read the CLAP model in {folder}: {reason}",
            hint="copy the whole model again: config.json, preprocessor_config.json, model.safetensors and "
            "the tokenizer's files",
        ) from error
