"""Every row of the table against the installed libraries, and what is asked of the user for a licence."""

from __future__ import annotations

from typing import Any

import pytest

from indexer.errors import ConfigError
from indexer.types import Modality
from retrieval.models.families.catalogue import (
    CATALOGUE,
    Recommended,
    SizeFrom,
    agree,
    is_research_only,
    recommend,
    row_of,
)
from retrieval.models.families.names import check_openclip, parse

OPENCLIP = [row for row in CATALOGUE if row.name.startswith("openclip:")]


def parameters(arch: str) -> int:
    """Values in an open_clip network's state, built without memory."""
    import open_clip
    import torch
    from open_clip.model import CLIP, CustomTextCLIP

    config: dict[str, Any] = open_clip.get_model_config(arch)
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    with torch.device("meta"):
        network = kind(**config)
    return sum(value.numel() for value in network.state_dict().values())


def test_the_table_is_whole() -> None:
    names = [row.name for row in CATALOGUE]
    assert len(set(names)) == len(names)
    assert 12 <= len(names) <= 16
    for row in CATALOGUE:
        (part,) = parse(row.name).parts
        assert part.text == row.name
        assert row_of(part) is row
        assert row.good_for
        assert row.facts
        assert row.device in ("cpu", "gpu")
    assert {modality for row in CATALOGUE for modality in row.modalities} == set(Modality)


@pytest.mark.parametrize("row", OPENCLIP, ids=lambda row: row.name)
def test_open_clip_has_the_architecture_the_weights_and_the_dimension(row: Recommended) -> None:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    (part,) = parse(row.name).parts
    check_openclip(part)
    assert open_clip.get_model_config(part.arch)["embed_dim"] == row.dim
    tag = get_pretrained_cfg(part.arch, part.tag)
    repo, _, file = tag["hf_hub"].rpartition("/")
    assert repo.count("/") == 1
    assert not file  # open_clip's usual names for weights


@pytest.mark.parametrize(
    "row",
    [row for row in OPENCLIP if row.size_from is SizeFrom.PARAMETERS and "roberta" not in row.name],
    ids=lambda row: row.name,
)
def test_sizes_from_parameters_are_four_bytes_each(row: Recommended) -> None:
    (part,) = parse(row.name).parts
    assert round(4 * parameters(part.arch) / 1e6) == row.download_mb


def test_the_hubs_size_of_the_largest_is_its_parameters_too() -> None:
    row = next(row for row in CATALOGUE if "SO400M" in row.name)
    assert row.size_from is SizeFrom.HUB
    assert round(4 * parameters("ViT-SO400M-14-SigLIP2") / 1e6) == row.download_mb


def test_minilm_is_the_package_that_is_installed() -> None:
    from retrieval.models.starter.weights import MINILM, locate

    row = next(row for row in CATALOGUE if "MiniLM" in row.name)
    assert round(locate(MINILM).stat().st_size / 1e6) == row.download_mb
    assert row.dim == 384


def test_a_device_changes_the_order_and_loses_nothing() -> None:
    cpu, gpu = recommend("cpu"), recommend("cuda:0")
    assert set(cpu) == set(gpu) == set(CATALOGUE)
    assert cpu[0].device == "cpu"
    assert cpu[-1].device == "gpu"
    assert gpu[0].device == "gpu"
    assert recommend("mps") == gpu


@pytest.mark.parametrize(
    "licence",
    [
        "apple-amlr",
        "cc-by-nc-4.0",
        "CC-BY-NC-SA-4.0",
        "fair-noncommercial-research-license",
        "intel-research",
    ],
)
def test_licences_for_research_only(licence: str) -> None:
    assert is_research_only(licence)


@pytest.mark.parametrize("licence", ["mit", "apache-2.0", "cc-by-4.0", "openrail", "bsd-3-clause", ""])
def test_licences_for_everybody(licence: str) -> None:
    assert not is_research_only(licence)


def test_a_research_licence_has_to_be_accepted() -> None:
    (part,) = parse("openclip:MobileCLIP2-S0/dfndr2b@v1").parts
    with pytest.raises(ConfigError, match="apple-amlr") as caught:
        agree(part, "", accepted=False)  # the table knows, even where the card says nothing
    assert "--accept-licence" in (caught.value.hint or "")
    assert agree(part, "", accepted=True) == "apple-amlr"
    with pytest.raises(ConfigError, match="apple-amlr"):
        agree(part, "mit", accepted=False)  # nor does a card that says something milder help


def test_a_card_may_say_more_than_the_table() -> None:
    (part,) = parse("st:acme/new").parts
    assert row_of(part) is None
    with pytest.raises(ConfigError, match=r"cc-by-nc-4.0") as caught:
        agree(part, "cc-by-nc-4.0", accepted=False)
    assert "https://huggingface.co/acme/new" in (caught.value.hint or "")
    assert agree(part, "mit", accepted=False) == "mit"
    assert agree(part, "", accepted=False) == ""


def test_the_table_says_where_a_card_does_not() -> None:
    (part,) = parse("openclip:ViT-B-32/laion2b_s34b_b79k").parts
    assert agree(part, "", accepted=False) == "mit"
