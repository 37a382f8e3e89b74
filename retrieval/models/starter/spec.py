"""What the starter model is: its towers, their weights, heads and preprocessing, and so its space.

Imports no torch, so that the space is known without building anything. It does not depend on which weights
are installed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from functools import cache
from pathlib import Path

from indexer.errors import ModelError
from indexer.types import Modality
from retrieval.encoders.audio import AudioPreparer
from retrieval.encoders.image import Fit, ImagePreparer
from retrieval.encoders.text import TextPreparer
from retrieval.models.bundle import HeadRef, ModelSpec, TowerSpec, WeightRef, canonical_json
from retrieval.models.starter.weights import AISFX, LITE0, MINILM, MINILM_TOKENIZER, WeightFile

NAME = "starter"
DIM = 384
HEADS = Path(__file__).parent / "heads"
TOKENIZER = "tokenizer.json"  # its name in the bundle

IMAGE = ImagePreparer(fit=Fit.LETTERBOX)  # measured best; data/fit_starter_heads.py compares all three
AUDIO = AudioPreparer()
MAX_TOKENS = 256  # as sentence-transformers limits this model


@cache
def starter_spec() -> ModelSpec:
    """The starter as if all its towers were built; `build.py` fills in graphs and provenance."""
    text = TextPreparer(TOKENIZER, MAX_TOKENS)
    return ModelSpec(
        name=NAME,
        towers=(
            TowerSpec(
                modality=Modality.IMAGE,
                backbone=LITE0.name,
                weights=(_ref(LITE0),),
                head=HeadRef("starter-image", head_hash(HEADS / "image.safetensors")),
                preprocessing=IMAGE.describe(),
                dim=DIM,
                window={},
                batch_size=128,
                group=8,
            ),
            TowerSpec(
                modality=Modality.TEXT,
                backbone=MINILM.name,
                weights=(_ref(MINILM), _ref(MINILM_TOKENIZER)),
                head=None,
                preprocessing=text.describe(),
                dim=DIM,
                window={"max_tokens": MAX_TOKENS},
                batch_size=64,
                group=16,
            ),
            TowerSpec(
                modality=Modality.AUDIO,
                backbone=AISFX.name,
                weights=(_ref(AISFX),),
                head=HeadRef("starter-audio", head_hash(HEADS / "audio.safetensors")),
                preprocessing=AUDIO.describe(),
                dim=DIM,
                window={"window_s": AUDIO.window_s, "hop_s": AUDIO.hop_s},
                batch_size=32,
                group=8,
            ),
        ),
    )


def head_hash(path: Path) -> str:
    """SHA-256, 64 hex digits, over a head's tensors: names, types, shapes and bytes, and what shapes its use.

    Not over the file: its other metadata says how it was fitted, which changes no vector.
    """
    try:
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        meta = header.pop("__metadata__", {})
        digest = hashlib.sha256(canonical_json({"format": meta.get("format"), "top": meta.get("top")}))
        for name in sorted(header):
            start, end = header[name]["data_offsets"]
            digest.update(canonical_json([name, header[name]["dtype"], header[name]["shape"]]))
            digest.update(data[8 + length + start : 8 + length + end])
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ModelError(
            f"the head {path.name} cannot be read: {error}", hint="install triptych again"
        ) from error
    return digest.hexdigest()


def _ref(weight: WeightFile) -> WeightRef:
    return WeightRef(weight.name, weight.sha256, weight.licence, weight.source, weight.package)
