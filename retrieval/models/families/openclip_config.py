"""What an open_clip folder says about its model: configuration and file names, no library, no tensors.

Every word of open_clip_config.json that decides what is computed is read here and nowhere else, and what
could lead the library out of the folder, or to a pickle, is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import ModelError
from retrieval.encoders.library_image import Interpolation, LibraryImagePreparer, Resize

CONFIG = "open_clip_config.json"
TEXT_CONFIG = "text_config"  # folder in the model's with the config.json of a text tower of transformers
# In the order of the library, which takes a pickle before the last of them.
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".npz", ".npy")
CONTEXT = 77  # tokens, where a configuration does not say
SIDE = 224  # pixels, likewise
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures, likewise
STD = (0.26862954, 0.26130258, 0.27577711)
CLEANS = {"lower": "ftfy-lower", "whitespace": "ftfy-whitespace", "canonicalize": "canonicalize"}
# A folder's names for things that the library would look up, by the configuration's part.
LOOKED_UP = (("vision_cfg", "timm_model_name"), ("text_cfg", "hf_model_name"))
POOLERS = ("mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler")
TOKENIZER_OPTIONS = ("clean", "strip_sep_token", "language")


@dataclass(frozen=True, slots=True)
class OpenClipConfig:
    """One model's configuration, checked."""

    folder: Path
    model: Mapping[str, Any]  # model_cfg, as the library takes it
    preprocess: Mapping[str, Any]  # preprocess_cfg
    weights: Path  # the safetensors file

    @property
    def vision(self) -> Mapping[str, Any]:
        part: Mapping[str, Any] = self.model["vision_cfg"]
        return part

    @property
    def text(self) -> Mapping[str, Any]:
        part: Mapping[str, Any] = self.model["text_cfg"]
        return part

    @property
    def dim(self) -> int:
        return int(self.model["embed_dim"])

    @property
    def context_length(self) -> int:
        return int(self.text.get("context_length") or CONTEXT)

    @property
    def text_architecture(self) -> str:
        """The name of a text tower of transformers; "": open_clip's own."""
        return str(self.text.get("hf_model_name") or "")

    @property
    def own_tokenizer(self) -> bool:
        """Whether texts are tokenised by files of the folder, not by the byte pairs of the first CLIP."""
        return bool(self.text.get("hf_tokenizer_name"))

    @property
    def tokenizer_options(self) -> Mapping[str, Any]:
        options: Mapping[str, Any] = self.text.get("tokenizer_kwargs") or {}
        return options

    @property
    def clean(self) -> str:
        """As encoders/text_cleaning.py names it."""
        default = "whitespace" if self.own_tokenizer else "lower"
        return CLEANS[self.tokenizer_options.get("clean", default)]

    @property
    def any_length(self) -> bool:
        """Whether padding changes no vector, so that a short text may stay short.

        Where every token sees only those before it, what follows the token that is pooled has no say. Towers
        of transformers leave padding out.
        """
        if self.text_architecture:
            return self.text.get("hf_pooler_type", POOLERS[0]) in POOLERS
        if self.text.get("no_causal_mask") or self.text.get("embed_cls"):
            return False
        pool = self.text.get("pool_type", "argmax")
        # The highest id is the end of the text only among the byte pairs of the first CLIP.
        return pool == "eos" or (pool == "argmax" and not self.own_tokenizer)

    @property
    def text_config(self) -> Path | None:
        """The config.json of a text tower of transformers, where the folder has it."""
        for path in (self.folder / TEXT_CONFIG / "config.json", self.folder / "config.json"):
            if path.is_file() and (path.parent.name == TEXT_CONFIG or _is_text_model(path)):
                return path
        return None

    def pictures(self) -> LibraryImagePreparer:
        """What the library's inference transform does. ModelError for words that it does not know."""
        height, width = _sides(self.vision.get("image_size") or SIDE)
        said = {key: value for key, value in self.preprocess.items() if value is not None}
        resize = said.get("resize_mode") or "shortest"
        if resize not in list(Resize) or said.get("mode", "RGB") != "RGB":
            raise ModelError(f"{CONFIG}: preprocess_cfg resizes {resize!r} in mode {said.get('mode')!r}")
        # The library computes no other filter than these two, and one of them where height and width differ.
        linear = said.get("interpolation") == "bilinear" and (resize != "shortest" or height == width)
        return LibraryImagePreparer(
            size=(height, width),
            crop=(height, width),
            mean=_channels(said.get("mean") or MEAN),
            std=_channels(said.get("std") or STD),
            resize=Resize(resize),
            interpolation=Interpolation.BILINEAR if linear else Interpolation.BICUBIC,
            fill=int(said.get("fill_color", 0)),
        )


def is_openclip(folder: Path) -> bool:
    """Whether the folder is laid out as open_clip's `local-dir:` reads it."""
    try:
        return isinstance(read_json(folder / CONFIG).get("model_cfg"), dict)
    except ModelError:
        return False


def read_config(folder: Path) -> OpenClipConfig:
    """The folder's configuration and weights. ModelError says what is missing or not allowed."""
    said = read_json(folder / CONFIG)
    model, preprocess = said.get("model_cfg"), said.get("preprocess_cfg") or {}
    parts = ("vision_cfg", "text_cfg")
    if not isinstance(model, dict) or not all(isinstance(model.get(part), dict) for part in parts):
        raise ModelError(
            f"{folder / CONFIG} has no model_cfg with vision_cfg and text_cfg",
            hint="the folder needs the open_clip_config.json that open_clip's push_to_hf_hub writes",
        )
    if not isinstance(model.get("embed_dim"), int) or not isinstance(preprocess, dict):
        raise ModelError(f"{folder / CONFIG} lacks embed_dim, or its preprocess_cfg is no object")
    config = OpenClipConfig(folder, model, preprocess, find_weights(folder))
    _check(config)
    return config


def find_weights(folder: Path) -> Path:
    """The folder's safetensors file, as the library would choose it. ModelError where there is none."""
    found = {path.name: path for path in folder.glob("*.safetensors") if path.is_file()}
    for name in WEIGHTS:
        if name in found:
            return found[name]
    if len(found) == 1:
        return next(iter(found.values()))
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    has = f"only {', '.join(pickles)}, and reading such a file can run any code" if pickles else "none"
    raise ModelError(
        f"{folder} needs weights in {WEIGHTS[0]}, it has {', '.join(sorted(found)) or has}",
        hint=f"ask its authors for {WEIGHTS[0]}, or convert the weights where you trust them",
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a configuration file. ModelError where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="copy the whole model again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no object", hint="copy the whole model again")
    return found


def _check(config: OpenClipConfig) -> None:
    for part, key in LOOKED_UP:
        name = str(config.model[part].get(key) or "")
        if ":" in name or ".." in name or name.startswith(("/", "~")) or "\\" in name:
            raise ModelError(f"{CONFIG}: {key} leads elsewhere: {name!r}", hint="do not use this model")
    options = config.tokenizer_options
    strange = sorted(set(options) - set(TOKENIZER_OPTIONS))
    if strange or options.get("clean", "lower") not in CLEANS:
        raise ModelError(
            f"{CONFIG}: the tokenizer's option {strange[0] if strange else options['clean']!r} is not one "
            f"that is reproduced; known: {', '.join(TOKENIZER_OPTIONS)}, clean as {', '.join(CLEANS)}",
            hint="save the model without it, if texts are still read as in its training",
        )
    pooler = config.text.get("hf_pooler_type", POOLERS[0])
    if config.text_architecture and pooler not in (*POOLERS, None):
        raise ModelError(f"{CONFIG}: the text tower pools by {pooler!r}, expected {', '.join(POOLERS)}")
    if (path := config.text_config) and read_json(path).get("auto_map"):
        raise ModelError(f"{path} asks for code of its own, which is not run", hint="do not use this model")


def _is_text_model(path: Path) -> bool:
    """Whether a config.json is a text network's, and not a whole CLIP's of transformers."""
    said = read_json(path)
    return "model_type" in said and not {"text_config", "vision_config"} & said.keys()


def _sides(size: Any) -> tuple[int, int]:
    try:
        height, width = (size, size) if isinstance(size, int | float) else size
        return int(height), int(width)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{CONFIG}: image_size is {size!r}, expected pixels or [height, width]") from error


def _channels(values: Any) -> tuple[float, float, float]:
    try:
        red, green, blue = (values,) * 3 if isinstance(values, int | float) else values
        return float(red), float(green), float(blue)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{CONFIG}: mean or std is {values!r}, expected three numbers") from error
