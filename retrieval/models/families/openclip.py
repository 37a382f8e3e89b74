"""Models of the open_clip library: their towers of pictures and of texts.

Says what a folder in open_clip's `local-dir:` layout holds, and loads its networks through that library, from
safetensors alone. What its configuration means stands in openclip_config.py. Imports neither torch nor
open_clip at the top.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.errors import ModelError
from indexer.fsio import sha256_file
from indexer.types import Modality
from retrieval.encoders.library_text import NO_ID, LibraryTextPreparer
from retrieval.models.bundle import TowerSpec, WeightRef, link_or_copy
from retrieval.models.families.openclip_config import (
    CONFIG,
    TEXT_CONFIG,
    WEIGHTS,
    OpenClipConfig,
    is_openclip,
    read_config,
)
from retrieval.models.quiet import silent
from retrieval.models.work import staging

if TYPE_CHECKING:
    from torch import nn

    from retrieval.models.families.tokenizers import SpecialIds

FAMILY = "openclip"
BYTE_PAIRS = "bpe_simple_vocab_16e6.txt.gz"  # the library's own vocabulary, in its package
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spiece.model",
    "tokenizer.model",
)
IMAGE_BATCH, IMAGE_GROUP = 64, 8
LARGE_SIDE, LARGE_GROUP = 300, 2  # pixels from which a group is smaller, so that memory stays bounded
TEXT_BATCH, TEXT_GROUP = 64, 16


def matches(folder: Path) -> bool:
    """Whether the folder has open_clip's configuration file."""
    return is_openclip(folder)


def describe(folder: Path, *, name: str, trust_remote_code: bool = False) -> tuple[TowerSpec, ...]:
    """The towers of pictures and of texts; `name` is what the weights' source is given as.

    Loads no weights: they are read once, for their checksum. ModelError says what the folder lacks, or what
    in it is not understood.
    """
    config = read_config(folder)
    pictures = config.pictures()
    texts = _text_preparer(config)
    shared = (config.weights, folder / CONFIG)
    large = max(pictures.crop) > LARGE_SIDE
    return (
        TowerSpec(
            modality=Modality.IMAGE,
            backbone=name,
            weights=_refs(shared, name),
            head=None,
            preprocessing=pictures.describe(),
            dim=config.dim,
            window={},
            batch_size=IMAGE_BATCH,
            group=LARGE_GROUP if large else IMAGE_GROUP,
            family=FAMILY,
        ),
        TowerSpec(
            modality=Modality.TEXT,
            backbone=name,
            weights=(*_refs(shared, name), *_text_refs(config, name)),
            head=None,
            preprocessing=texts.describe(),
            dim=config.dim,
            window={"max_tokens": texts.max_tokens},
            batch_size=TEXT_BATCH,
            group=TEXT_GROUP,
            family=FAMILY,
        ),
    )


def load(folder: Path, modality: Modality, *, trust_remote_code: bool = False) -> nn.Module:
    """One tower's network, frozen, in eval mode, float32, on the CPU.

    Of pictures: uint8 RGB (n, height, width, 3) -> (n, dim). Of texts: ids and mask, int64 (n, tokens) ->
    (n, dim). Not normalised. ModelError where the weights are not the architecture's.
    """
    if modality not in (Modality.IMAGE, Modality.TEXT):
        raise ModelError(f"an open_clip model has no {modality} tower, only image and text")
    config = read_config(folder)
    model = library_model(config)
    from retrieval.models.families.openclip_network import (
        ImageNetwork,
        OwnTextNetwork,
        TextNetwork,
        folded,
    )

    network: nn.Module
    if modality is Modality.IMAGE:
        pictures = config.pictures()
        network = ImageNetwork(folded(model.visual), pictures.mean, pictures.std)
    else:
        text = getattr(model, "text", model)  # the plain CLIP class is its own text tower
        own = not config.text_architecture and not config.text.get("embed_cls")
        network = (OwnTextNetwork if own else TextNetwork)(text, _pad_id(config, text))
    return network.float().eval().requires_grad_(False)


def notes(folder: Path) -> tuple[str, ...]:
    """Nothing that a user must know: vectors are used here as the library means them."""
    del folder
    return ()


def write_tokenizer(folder: Path, out: Path, *, trust_remote_code: bool = False) -> None:
    """Write a tokenizer.json that gives the library's ids to `out`; both are compared before. ModelError."""
    from retrieval.models.families.tokenizers import SAMPLES

    config = read_config(folder)
    special = _write_tokenizer(config, out)
    preparer = _preparer(config, special, str(out))
    with _understood(folder), silent():
        import open_clip

        library = open_clip.get_tokenizer(f"local-dir:{folder}")
        expected = [library(sample)[0].tolist() for sample in SAMPLES]
    for sample, ids in zip(SAMPLES, expected, strict=True):
        found = preparer.tensor(sample).tolist()
        padded = found + [special.pad] * (len(ids) - len(found))
        if padded != ids:
            raise ModelError(
                f"the tokenizer of {folder.name} cannot be reproduced: {sample[:30]!r} gives {padded[:12]}, "
                f"open_clip gives {ids[:12]}",
                hint="install the versions that requirements.lock names",
            )


def library_model(config: OpenClipConfig) -> Any:
    """The library's whole model with every weight from safetensors, float32, on the CPU. ModelError."""
    with _understood(config.folder), silent(), _shown(config) as place:
        import open_clip

        changed: dict[str, Any] = {}
        if config.text_architecture:
            changed["text_cfg"] = {
                **config.text,
                "hf_model_name": str(place / TEXT_CONFIG),
                "hf_model_pretrained": False,
            }
        model: Any = open_clip.create_model(
            f"local-dir:{place}", precision="fp32", device="cpu", require_pretrained=True, **changed
        )
    return model.eval()


@contextlib.contextmanager
def _shown(config: OpenClipConfig) -> Iterator[Path]:
    """A folder for the library with nothing in it but configuration and one safetensors file.

    The library prefers some pickles to some safetensors; here it cannot.
    """
    with _emptied() as work:
        shutil.copyfile(config.folder / CONFIG, work / CONFIG)
        try:
            (work / WEIGHTS[0]).symlink_to(config.weights.resolve())
        except OSError:  # Windows, without the right to make one
            link_or_copy(config.weights, work / WEIGHTS[0])
        if config.text_architecture:
            link_or_copy(_text_config(config), work / TEXT_CONFIG / "config.json")
        yield work


@contextlib.contextmanager
def _emptied() -> Iterator[Path]:
    """An empty folder in the cache, removed even after a kill; where none can be made there, elsewhere."""
    with contextlib.ExitStack() as stack:
        try:
            work = stack.enter_context(staging())
        except OSError:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openclip-")))
        yield work


def _text_config(config: OpenClipConfig) -> Path:
    """The config.json of a text tower of transformers; ModelError where the folder lacks it."""
    if found := config.text_config:
        return found
    name = config.text_architecture
    raise ModelError(
        f"the text tower of {config.folder.name} is {name}, whose configuration is not in the folder",
        hint=f"copy config.json of {name} to {config.folder / TEXT_CONFIG / 'config.json'}",
    )


def _text_preparer(config: OpenClipConfig) -> LibraryTextPreparer:
    """What the library's tokenizer does to a text, without the file that it needs to be run."""
    if not config.own_tokenizer:
        from retrieval.models.families.tokenizers import SpecialIds

        return _preparer(config, SpecialIds(0, None, None, None, None, None), "")
    with _emptied() as work:
        return _preparer(config, _write_tokenizer(config, work / "tokenizer.json"), "")


def _write_tokenizer(config: OpenClipConfig, out: Path) -> SpecialIds:
    from retrieval.models.families.tokenizers import write_clip_bpe, write_hf

    if not config.own_tokenizer:
        return write_clip_bpe(out, context_length=config.context_length)
    return write_hf(config.folder, out, language=str(config.tokenizer_options.get("language") or ""))


def _preparer(config: OpenClipConfig, special: SpecialIds, tokenizer: str) -> LibraryTextPreparer:
    if special.pad is None:
        raise ModelError(f"the tokenizer in {config.folder} has no padding token, and the library pads")
    length = config.context_length
    strips = config.own_tokenizer and config.tokenizer_options.get("strip_sep_token")
    ends = config.own_tokenizer and config.text.get("tokenizer_mode") == "clips"
    return LibraryTextPreparer(
        tokenizer,
        max_tokens=length,
        clean=config.clean,
        pad_to=0 if config.any_length and not ends else length,
        pad_id=special.pad,
        last_id=special.cls if ends and special.cls is not None else NO_ID,
        zeroed_id=special.sep if strips and special.sep is not None else NO_ID,
    )


def _pad_id(config: OpenClipConfig, text: Any) -> int:
    """What stands behind a text in a batch with a longer one."""
    return int(text.config.pad_token_id if config.text_architecture else config.text.get("pad_id", 0))


def _text_refs(config: OpenClipConfig, name: str) -> tuple[WeightRef, ...]:
    """The files, beside the weights, that a text's vector hangs on."""
    files = [_text_config(config)] if config.text_architecture else []
    if config.own_tokenizer:
        found = [path for one in TOKENIZER_FILES if (path := config.folder / one).is_file()]
        return _refs((*files, *found), name)
    from importlib.util import find_spec

    library = find_spec("open_clip")
    if library is None or not library.origin:
        raise ModelError("open_clip is not installed", hint="pip install open_clip_torch")
    pairs = Path(library.origin).parent / BYTE_PAIRS
    packaged = WeightRef(BYTE_PAIRS, sha256_file(pairs), "MIT", "open_clip", "open_clip_torch")
    return (*_refs(files, name), packaged)


def _refs(files: Sequence[Path], name: str) -> tuple[WeightRef, ...]:
    return tuple(
        WeightRef(name=path.name, sha256=sha256_file(path), licence="", source=name, package="")
        for path in files
    )


@contextlib.contextmanager
def _understood(folder: Path) -> Iterator[None]:
    """What the libraries raise about a folder, as ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # each library, and each setting, fails in a way of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(
            f"open_clip cannot read the model in {folder}: {reason}",
            hint=f"copy the whole model again: {CONFIG}, {WEIGHTS[0]} and the tokenizer's files",
        ) from error
