"""From a name to a bundle in the cache: order of the steps, what is asked, what is not done twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.errors import ConfigError, ModelError, ModelNotFound
from indexer.types import Modality
from retrieval.models import cache
from retrieval.models.bundle import Bundle, ModelSpec, TowerSpec, WeightRef, link_or_copy
from retrieval.models.families import build
from retrieval.models.families.allowed import OPENCLIP_CONFIG
from retrieval.models.families.pull import pull
from retrieval.models.registry import find_model, list_models, load_model
from tests.retrieval.families.hub_server import FakeHub
from tests.retrieval.families.test_download import MODULES, SENTENCE, hub, put_in_hub_cache

__all__ = ["hub"]  # the fixture
CLAP = {
    "config.json": b'{"model_type": "clap"}',
    "preprocessor_config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"sounds",
}
TOWERS = {
    "st": (Modality.TEXT,),
    "openclip": (Modality.IMAGE, Modality.TEXT),
    "clap": (Modality.TEXT, Modality.AUDIO),
}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """What the builder was called with; it writes a bundle of the source files without any graph."""
    calls: list[Mapping[str, Any]] = []

    def write_family(name: str, family: str, folder: Path, **options: Any) -> Bundle:
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*.*")
            if path.is_file()
        }
        calls.append({"name": name, "family": family, "files": files, **options})
        content = hashlib.sha256(b"".join(files[key] for key in sorted(files))).hexdigest()
        weights = (WeightRef("w", content, "", name, ""),)
        towers = tuple(
            TowerSpec(modality, family, weights, None, {}, 8, {}, 1, 1, family=family, source="source")
            for modality in TOWERS[family]
        )
        provenance = dict(options["provenance"]) | {"pulled": name}
        spec = ModelSpec(options["called"] or name, towers, provenance)

        def fill(work: Path) -> ModelSpec:
            for path in folder.rglob("*"):
                if path.is_file():
                    link_or_copy(path, work / "source" / path.relative_to(folder))
            (work / "tokenizer.json").write_bytes(b"{}")
            return spec

        options["progress"]("building", 1.0)
        return cache.store(spec.space_id, fill)

    monkeypatch.setattr(build, "write_family", write_family)
    return calls


def test_a_pull_downloads_once_and_leaves_a_bundle(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]]
) -> None:
    hub.add("acme/tiny", SENTENCE)
    heard: list[float] = []
    bundle = pull("st:acme/tiny", progress=lambda _step, share: heard.append(share))
    assert bundle.spec.name == "st:acme/tiny"
    assert (bundle.folder / "source" / "model.safetensors").read_bytes() == SENTENCE["model.safetensors"]
    assert bundle.spec.provenance["licence"] == "mit"
    assert bundle.spec.provenance["repositories"][0]["repo"] == "acme/tiny"
    assert find_model("st:acme/tiny").bundle.spec == bundle.spec
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert not any((home / "cache" / "staging").iterdir())
    assert not list((home / "cache" / "downloads").rglob("*.safetensors"))
    hub.asked.clear()
    assert pull("st:acme/tiny").spec == bundle.spec
    assert not hub.asked
    assert len(built) == 1


def test_force_makes_it_again(hub: FakeHub, home: Path, built: list[Mapping[str, Any]]) -> None:
    hub.add("acme/tiny", SENTENCE)
    pull("st:acme/tiny")
    pull("st:acme/tiny", force=True)
    assert len(built) == 2


def test_a_revision_is_a_model_of_its_own(hub: FakeHub, home: Path, built: list[Mapping[str, Any]]) -> None:
    hub.add("acme/tiny", SENTENCE)
    hub.add("acme/tiny", SENTENCE | {"config.json": b'{"v": 2}'}, revision="v2")
    assert pull("st:acme/tiny").spec.space_id != pull("st:acme/tiny@v2").spec.space_id
    assert [call["name"] for call in built] == ["st:acme/tiny", "st:acme/tiny@v2"]


def test_a_name_of_the_users_own(hub: FakeHub, home: Path, built: list[Mapping[str, Any]]) -> None:
    hub.add("acme/tiny", SENTENCE)
    first = pull("st:acme/tiny", called="mine")
    assert find_model("mine").path == first.folder
    again = pull("st:acme/tiny", called="ours")
    assert len(built) == 1
    assert again.spec == replace(first.spec, name="ours", aliases=("mine", "st:acme/tiny"))
    (info,) = [info for info in list_models() if info.path]
    assert info.names == ("ours", "mine", "st:acme/tiny")
    pull("st:acme/tiny", force=True)
    for name in info.names:
        assert find_model(name).space_id == first.spec.space_id


def test_a_name_of_another_model_is_refused_before_anything_is_asked(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]]
) -> None:
    hub.add("acme/tiny", SENTENCE)
    hub.add("acme/other", SENTENCE | {"config.json": b'{"v": 2}'})
    first = pull("st:acme/tiny", called="mine")
    hub.asked.clear()
    with pytest.raises(ConfigError, match=f"'mine' belongs .* {first.spec.space_id[:12]}") as caught:
        pull("st:acme/other", called="mine")
    assert "--force" in (caught.value.hint or "")
    assert not hub.asked
    taken = pull("st:acme/other", called="mine", force=True)
    assert find_model("mine").path == taken.folder
    assert find_model("st:acme/tiny").path == first.folder
    assert find_model("st:acme/tiny").bundle.spec.names == ("st:acme/tiny",)


def test_a_model_that_changed_on_the_hub_takes_its_name(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]]
) -> None:
    hub.add("acme/tiny", SENTENCE)
    old = pull("st:acme/tiny")
    hub.add("acme/tiny", SENTENCE | {"config.json": b'{"v": 2}'})
    new = pull("st:acme/tiny", force=True)
    assert new.folder != old.folder
    assert find_model("st:acme/tiny").path == new.folder
    assert find_model(old.spec.space_id).path == old.folder
    assert pull("st:acme/tiny").folder == new.folder


def test_a_cache_that_cannot_be_written_is_told(hub: FakeHub, home: Path) -> None:
    hub.add("acme/tiny", SENTENCE)
    (home / "cache").write_bytes(b"no folder")
    with pytest.raises(ModelError, match=r"st:acme/tiny cannot be written to .*cache") as caught:
        pull("st:acme/tiny")
    assert "TRIPTYCH_HOME" in (caught.value.hint or "")


def test_a_relative_folder_is_found_from_elsewhere(
    home: Path, tmp_path: Path, built: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here" / "mine", CLAP)
    monkeypatch.chdir(tmp_path / "here")
    bundle = pull("dir:mine")
    assert bundle.spec.name == f"dir:{tmp_path / 'here' / 'mine'}"
    assert find_model("dir:./mine").path == bundle.folder
    monkeypatch.chdir(tmp_path)
    assert find_model("dir:here/mine").path == bundle.folder
    with pytest.raises(ModelNotFound):
        find_model("dir:mine")


@pytest.mark.parametrize("called", ["", " ", "starter", "a/b", "./x"])
def test_a_name_that_means_something_else_is_refused_at_once(hub: FakeHub, called: str) -> None:
    with pytest.raises(ConfigError, match="cannot be called"):
        pull("st:acme/tiny", called=called)
    assert not hub.asked


def test_a_research_licence_is_asked_for_before_the_download(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]]
) -> None:
    hub.add("acme/tiny", SENTENCE, licence="cc-by-nc-4.0")
    with pytest.raises(ConfigError, match=r"cc-by-nc-4\.0") as caught:
        pull("st:acme/tiny")
    assert "--accept-licence" in (caught.value.hint or "")
    assert not hub.files_asked()
    assert not built
    bundle = pull("st:acme/tiny", accept_licence=True)
    assert bundle.spec.provenance["licence"] == "cc-by-nc-4.0"


def test_a_failed_build_keeps_the_download(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/tiny", SENTENCE)
    whole = build.write_family

    def fails(*_args: object, **_options: object) -> Bundle:
        raise ModelError("no such tower")

    monkeypatch.setattr(build, "write_family", fails)
    with pytest.raises(ModelError, match="no such tower"):
        pull("st:acme/tiny")
    hub.asked.clear()
    monkeypatch.setattr(build, "write_family", whole)
    pull("st:acme/tiny")
    assert not hub.files_asked()


def test_a_tag_whose_repository_has_no_configuration_gets_open_clips(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]]
) -> None:
    hub.add(
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        {
            "open_clip_pytorch_model.safetensors": b"w",
            "open_clip_pytorch_model.bin": b"p",
            "model.safetensors": b"of transformers",
            "config.json": b"{}",
            "tokenizer.json": b"{}",
        },
    )
    pull("openclip:ViT-B-32/laion2b_s34b_b79k")
    files = built[0]["files"]
    assert set(files) == {OPENCLIP_CONFIG, "open_clip_pytorch_model.safetensors"}
    config = json.loads(files[OPENCLIP_CONFIG])
    assert config["model_cfg"]["embed_dim"] == 512
    assert config["preprocess_cfg"]["resize_mode"] == "shortest"
    assert np.allclose(config["preprocess_cfg"]["mean"], [0.48145466, 0.4578275, 0.40821073])


def test_a_tag_trained_with_quick_gelu_says_so(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]]
) -> None:
    hub.add("timm/vit_base_patch32_clip_224.openai", {"open_clip_model.safetensors": b"w"})
    pull("openclip:ViT-B-32/openai")
    assert json.loads(built[0]["files"][OPENCLIP_CONFIG])["model_cfg"]["quick_gelu"] is True


def test_a_repositorys_own_configuration_is_kept(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]]
) -> None:
    own = json.dumps({"model_cfg": {"embed_dim": 8, "text_cfg": {}}}).encode()
    hub.add("acme/clip", {OPENCLIP_CONFIG: own, "open_clip_model.safetensors": b"w", "tokenizer.json": b"{}"})
    pull("openclip:hf-hub:acme/clip")
    assert built[0]["files"] == {OPENCLIP_CONFIG: own, "open_clip_model.safetensors": b"w"}


def test_a_tokenizer_and_a_text_network_come_from_their_own_repositories(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]]
) -> None:
    text = {"hf_tokenizer_name": "acme/words", "hf_model_name": "acme/words"}
    own = json.dumps({"model_cfg": {"embed_dim": 8, "text_cfg": text}}).encode()
    hub.add("acme/clip", {OPENCLIP_CONFIG: own, "open_clip_model.safetensors": b"w", "tokenizer.json": b"no"})
    hub.add("acme/words", {"tokenizer.json": b"yes", "config.json": b"{1}", "model.safetensors": b"not this"})
    bundle = pull("openclip:hf-hub:acme/clip")
    assert built[0]["files"] == {
        OPENCLIP_CONFIG: own,
        "open_clip_model.safetensors": b"w",
        "tokenizer.json": b"yes",
        "config.json": b"{1}",
        "text_config/config.json": b"{1}",
    }
    repositories = [one["repo"] for one in bundle.spec.provenance["repositories"]]
    assert repositories == ["acme/clip", "acme/words"]


def test_a_repository_of_another_library_is_said_to_be_one(hub: FakeHub, home: Path) -> None:
    hub.add("acme/other", {"open_clip_model.safetensors": b"w"})
    with pytest.raises(ModelError, match=f"no {OPENCLIP_CONFIG}") as caught:
        pull("openclip:hf-hub:acme/other")
    assert "st:ORG/NAME" in (caught.value.hint or "")


def test_offline_a_tags_configuration_is_written_where_the_weights_go(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = "openclip:ViT-B-16-SigLIP2/webli"
    with pytest.raises(ModelError, match=r"timm/ViT-B-16-SigLIP2 is not on this machine") as caught:
        pull(name)
    place = home / "cache" / "offline" / "openclip-ViT-B-16-SigLIP2-webli"
    for word in ("open_clip_model.safetensors", "tokenizer.json", "timm/ViT-B-16-SigLIP2", str(place)):
        assert word in (caught.value.hint or "")
    (place / "open_clip_model.safetensors").write_bytes(b"w")
    with pytest.raises(ModelError, match=r"is not enough: .* has no tokenizer"):
        pull(name)
    (place / "tokenizer.json").write_bytes(b"{}")
    bundle = pull(name)
    assert find_model(name).path == bundle.folder
    assert bundle.spec.provenance["copied by hand from"] == "timm/ViT-B-16-SigLIP2@main"
    assert built[0]["family"] == "openclip"
    assert set(built[0]["files"]) == {OPENCLIP_CONFIG, "open_clip_model.safetensors", "tokenizer.json"}


def test_offline_the_advice_works_for_one_model_and_for_a_join(
    hub: FakeHub,
    home: Path,
    built: list[Mapping[str, Any]],
    joined: Callable[[], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sounds, pictures = "clap:acme/sounds", "openclip:ViT-B-32/openai"
    offline = home / "cache" / "offline"
    with pytest.raises(ModelError) as caught:
        pull(sounds)
    assert "clap-acme-sounds" in (caught.value.hint or "")
    write(offline / "clap-acme-sounds", CLAP)
    bundle = pull(sounds)
    assert (bundle.spec.name, bundle.spec.provenance["pulled"]) == (sounds, sounds)
    assert bundle.spec.provenance["copied by hand from"] == "acme/sounds@main"
    with pytest.raises(ModelError) as caught:
        pull(f"{pictures}+{sounds}")
    assert "openclip-ViT-B-32-openai" in (caught.value.hint or "")
    write(offline / "openclip-ViT-B-32-openai", {"open_clip_model.safetensors": b"w"})
    both = pull(f"{pictures}+{sounds}")
    assert joined() == [(pictures, sounds)]
    assert find_model(f"{pictures}+{sounds}").path == both.folder
    assert [call["name"] for call in built] == [sounds, pictures]
    assert not hub.asked


def test_a_model_called_like_a_familys_is_a_part_of_joins(
    hub: FakeHub,
    home: Path,
    tmp_path: Path,
    built: list[Mapping[str, Any]],
    joined: Callable[[], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.add("acme/clip", {OPENCLIP_CONFIG: b'{"model_cfg": {}}', "open_clip_model.safetensors": b"w"})
    write(tmp_path / "copied", CLAP)
    named = pull(f"dir:{tmp_path / 'copied'}", called="clap:acme/sounds")
    assert pull("clap:acme/sounds").folder == named.folder
    pull("openclip:hf-hub:acme/clip+clap:acme/sounds", called="mm")
    assert joined() == [("openclip:hf-hub:acme/clip", "clap:acme/sounds")]
    assert find_model("clap:acme/sounds").bundle.spec == named.spec


def test_offline_what_the_hub_client_has_is_enough(
    hub: FakeHub, home: Path, tmp_path: Path, built: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    put_in_hub_cache(tmp_path / "hf", "acme/tiny", SENTENCE)
    assert pull("st:acme/tiny").spec.provenance["repositories"][0]["repo"] == "acme/tiny"
    assert "pytorch_model.bin" not in built[0]["files"]
    assert (tmp_path / "hf" / "hub" / "models--acme--tiny" / "refs" / "main").is_file()


@pytest.mark.parametrize(
    ("files", "family"),
    [({"modules.json": json.dumps(MODULES).encode(), "model.safetensors": b"w"}, "st"), (CLAP, "clap")],
)
def test_a_folder_says_itself_whose_it_is(
    home: Path, tmp_path: Path, built: list[Mapping[str, Any]], files: dict[str, bytes], family: str
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    pull(f"dir:{folder}")
    assert (built[0]["name"], built[0]["family"]) == (f"dir:{folder}", family)
    assert built[0]["files"] == files


def test_a_folder_of_nobodys(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no layout that is known") as caught:
        pull(f"dir:{tmp_path}")
    assert "modules.json" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="is not there"):
        pull(f"dir:{tmp_path / 'nothing'}")


def test_a_bundle_is_kept_as_it_is(
    hub: FakeHub, home: Path, tmp_path: Path, built: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/tiny", SENTENCE)
    made = pull("st:acme/tiny")
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "another"))
    kept = pull(f"dir:{made.folder}", called="brought")
    assert kept.folder != made.folder
    assert kept.spec == replace(made.spec, name="brought", aliases=("st:acme/tiny",))
    with pytest.raises(ConfigError, match="is a bundle already"):
        pull(f"st:{made.folder}")


def test_a_join_pulls_both_and_joins_pictures_with_sounds(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]], joined: Callable[[], list[Any]]
) -> None:
    own = json.dumps({"model_cfg": {"embed_dim": 8, "text_cfg": {}}}).encode()
    hub.add("acme/clip", {OPENCLIP_CONFIG: own, "open_clip_model.safetensors": b"w"})
    hub.add("acme/sounds", CLAP)
    name = "clap:acme/sounds+openclip:hf-hub:acme/clip"
    bundle = pull(name)
    assert [call["family"] for call in built] == ["clap", "openclip"]
    assert joined() == [("openclip:hf-hub:acme/clip", "clap:acme/sounds")]
    assert bundle.spec.name == name
    hub.asked.clear()
    assert pull(name, called="mm").spec.names == ("mm", name)
    assert {info.name for info in list_models() if info.path} == {
        "mm",
        "openclip:hf-hub:acme/clip",
        "clap:acme/sounds",
    }
    assert joined() == [("openclip:hf-hub:acme/clip", "clap:acme/sounds")]
    assert not hub.asked
    assert load_model("mm").space_id == bundle.spec.space_id


def test_two_models_of_one_kind_are_not_joined(
    hub: FakeHub, home: Path, built: list[Mapping[str, Any]]
) -> None:
    hub.add("acme/tiny", SENTENCE)
    hub.add("acme/other", SENTENCE | {"config.json": b'{"v": 2}'})
    with pytest.raises(ConfigError, match="joins st:acme") as caught:
        pull("st:acme/tiny+st:acme/other")
    assert "st:acme/tiny (text)" in caught.value.message


def test_a_real_text_model_from_the_hub_to_vectors(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    """Nothing is faked but the hub: the library writes a model, and its own vectors come out again."""
    from sentence_transformers import SentenceTransformer

    from tests.retrieval.families import sentence_models

    modules = sentence_models.pooled(sentence_models.bert(tmp_path / "bert"), include_prompt=False)
    prompts = {"query": "find the best answer for: ", "document": "a passage: "}
    folder = sentence_models.saved(tmp_path / "saved", modules, prompts=prompts)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    hub.add("acme/real", {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
    bundle = pull("st:acme/real")
    assert bundle.spec.modalities == (Modality.TEXT,)
    assert {weight.licence for weight in bundle.spec.towers[0].weights} == {"mit"}
    assert not bundle.verify()
    texts = ["", "a red hat", "two cats asleep near the window " * 20, "Ein roter Hut; 東京タワー"]
    tower = load_model("st:acme/real").tower(Modality.TEXT)
    ours = tower.encode([tower.preparer.tensor(text) for text in texts])
    asked = tower.encode([tower.preparer.query(text) for text in texts])  # type: ignore[attr-defined]
    library: Any = SentenceTransformer(str(folder), device="cpu")
    theirs, expected = (
        encode(texts, normalize_embeddings=True) for encode in (library.encode_document, library.encode_query)
    )
    apart = np.median([np.linalg.norm(theirs[i] - theirs[j]) for i in range(4) for j in range(i)])
    assert apart > 0.1
    assert np.linalg.norm(ours - theirs, axis=1).max() < 1e-3 * apart
    assert np.linalg.norm(asked - expected, axis=1).max() < 1e-3 * apart
    # The controls: another text's vector is far, and so is one with the other prompt.
    assert np.linalg.norm(ours - theirs[::-1], axis=1).max() > 0.5 * apart
    assert np.linalg.norm(ours - expected, axis=1).max() > 0.02 * apart


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """Which pairs were joined; the joined bundle is the first one's towers with the second's sounds."""
    from retrieval.models import join as module

    pairs: list[tuple[str, str]] = []

    def join(a: Bundle, b: Bundle, *, name: str, **_options: object) -> tuple[Bundle, None]:
        pairs.append((a.spec.name, b.spec.name))
        towers = (*a.spec.towers, *(one for one in b.spec.towers if one.modality is Modality.AUDIO))
        spec = ModelSpec(name, towers, {"joined": [a.spec.name, b.spec.name]})

        def fill(work: Path) -> ModelSpec:
            (work / "heads").write_bytes(b"head")
            return spec

        return cache.store(spec.space_id, fill), None

    monkeypatch.setattr(module, "join", join)
    return lambda: pairs
