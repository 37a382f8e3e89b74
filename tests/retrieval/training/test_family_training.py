"""Training from models of open_clip, sentence-transformers and transformers: small ones of the real classes.

What learns in each architecture, a whole run to a bundle, that bundle trained on again, and a joined model.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor, nn

from indexer.errors import ModelError, TrainingError
from indexer.types import Modality
from retrieval.config import Settings
from retrieval.encoders.log_mel import LogMelPreparer
from retrieval.models import backbones, export
from retrieval.models.backbones import Backbone, backbone_of, base_head, feature_tower
from retrieval.models.bare import UnitVectors
from retrieval.models.bridge_types import BridgeOptions, Method
from retrieval.models.bundle import Bundle
from retrieval.models.captions.bank import captions
from retrieval.models.families.build import write_family
from retrieval.models.families.family import family
from retrieval.models.join import join
from retrieval.models.model import Model
from retrieval.models.trained import encode_media, load_backbone, load_heads
from retrieval.training.events import StepDone
from retrieval.training.features import MAX_WINDOWS, capped, collect_features
from retrieval.training.options import parse_overrides
from retrieval.training.run import TrainJob, TrainReport, train_model
from retrieval.training.types import Row
from retrieval.training.unfreeze import Unfreeze, UnfreezeKind, merged, tunable
from tests.media import RATE, photographs, sounds
from tests.retrieval.families import openclip_models, sentence_models
from tests.retrieval.families.clap_models import write_clap
from tests.retrieval.training.sources import put_table

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO
BLOCKS, ALL, LORA = UnfreezeKind.BLOCKS, UnfreezeKind.ALL, UnfreezeKind.LORA
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "yellow": (230, 220, 40)}
OPTIONS = ("device=cpu", "epochs=12", "batch_size=16", "lr=0.005", "patience=0", "validation=0", "test=0")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(home))


# What learns ------------------------------------------------------------------------------------------------


def bert(folder: Path) -> Path:
    """A BERT of two layers with a projection behind its pooling."""
    from sentence_transformers.sentence_transformer.modules import Dense
    from transformers import AutoTokenizer, BertConfig

    tokenizer = AutoTokenizer.from_pretrained(sentence_models.locate(sentence_models.MINILM).parent)
    sizes = sentence_models.SMALL | {"num_hidden_layers": 2}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)
    first = sentence_models.transformer(folder / "0", config, tokenizer)
    dense = Dense(sentence_models.WIDTH, 20, activation_function=nn.Identity())
    return sentence_models.saved(folder / "saved", [*sentence_models.pooled(first), dense])


def halves(folder: Path) -> Path:
    """A CLIP of transformers, which holds both modalities; two layers each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sentence_models.SMALL, "num_hidden_layers", 2)
        return sentence_models.clip(folder)


def clap_folder(folder: Path) -> Path:
    write_clap(folder)
    return folder


def openclip(name: str) -> Callable[[Path], Path]:
    return lambda folder: openclip_models.write_model(folder, name)


@dataclass(frozen=True)
class Case:
    """A network, and the tensors and matrices of it that are meant; names without `network.`."""

    family: str
    write: Callable[[Path], Path]
    modality: Modality
    blocks: int
    last: tuple[str, ...]  # beginnings of the names that learn with one block
    lora: tuple[str, ...]  # the matrices that get additions


def vit(path: str, blocks: int = 2) -> tuple[str, ...]:
    return tuple(f"{path}resblocks.{n}.mlp.{name}" for n in range(blocks) for name in ("c_fc", "c_proj"))


def query_value(path: str, layers: int = 2) -> tuple[str, ...]:
    return tuple(f"{path}{n}.attention.self.{name}" for n in range(layers) for name in ("query", "value"))


def stage(number: int, *downsample: str) -> tuple[str, ...]:
    inside = f"visual.trunk.stages.{number}."
    return (*(inside + name for name in downsample), f"{inside}blocks.0.mlp.fc1", f"{inside}blocks.0.mlp.fc2")


BERT, ROBERTA = "steps.0.model.encoder.layer.", "encoder.encoder.layer."
CASES = {
    "clip image": Case(
        "openclip", openclip("clip"), IMAGE, 2,
        ("visual.transformer.resblocks.1.", "visual.ln_post.", "visual.proj"),
        vit("visual.transformer."),
    ),
    "clip text": Case(
        "openclip", openclip("clip"), TEXT, 2,
        ("transformer.resblocks.1.", "ln_final.", "text_projection"),
        vit("transformer."),
    ),
    "convnext": Case(
        "openclip", openclip("convnext"), IMAGE, 4,
        ("visual.trunk.stages.3.", "visual.trunk.head.", "visual.head."),
        (*stage(0), *(name for n in (1, 2, 3) for name in stage(n, "downsample.1"))),
    ),
    "fastvit": Case(  # attention in its last stage alone: the others add to what mixes channels
        "openclip", openclip("mobileclip"), IMAGE, 4,
        ("visual.trunk.stages.3.", "visual.trunk.final_conv.", "visual.trunk.head."),
        (
            *stage(0),
            *stage(1, "downsample.proj.1.reparam_conv"),
            *stage(2, *(f"downsample.proj.{name}" for name in ("0.se.fc1", "0.se.fc2", "1.reparam_conv"))),
            "visual.trunk.stages.3.blocks.0.token_mixer.qkv",
        ),
    ),
    "resnet": Case(
        "openclip", openclip("resnet"), IMAGE, 4,
        ("visual.layer4.", "visual.attnpool."),
        tuple(
            f"visual.layer{n}.0.{name}"
            for n in (1, 2, 3, 4) for name in ("conv1", "conv2", "conv3", "downsample.0")
        ),
    ),
    "siglip": Case(
        "openclip", openclip("siglip"), IMAGE, 2,
        ("visual.trunk.blocks.1.", "visual.trunk.norm.", "visual.trunk.attn_pool."),
        ("visual.trunk.blocks.0.attn.qkv", "visual.trunk.blocks.1.attn.qkv"),
    ),
    "bert": Case(
        "st", bert, TEXT, 2, (f"{BERT}1.", "steps.0.model.pooler.", "steps.2."), query_value(BERT)
    ),
    "half of a clip": Case(
        "st", halves, TEXT, 2,
        (
            "steps.0.model.text_model.encoder.layers.1.",
            "steps.0.model.text_model.final_layer_norm.",
            "steps.0.model.text_projection.",
        ),
        tuple(
            f"steps.0.model.text_model.encoder.layers.{n}.self_attn.{name}"
            for n in (0, 1) for name in ("v_proj", "q_proj")
        ),
    ),
    "clap audio": Case(
        "clap", clap_folder, AUDIO, 2,
        ("encoder.layers.1.", "encoder.norm.", "projection."),
        tuple(
            f"encoder.layers.{place}.attention.self.{name}"
            for place in ("0.blocks.0", "0.blocks.1", "1.blocks.0") for name in ("query", "value")
        ),
    ),
    "clap text": Case(
        "clap", clap_folder, TEXT, 2,
        (f"{ROBERTA}1.", "encoder.pooler.", "projection."),
        query_value(ROBERTA),
    ),
}  # fmt: skip
SIZES = {"fastvit": 128}
UNREACHED = ("steps.0.model.pooler.", "steps.0.model.logit_scale")  # what no vector depends on


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], nn.Module]:
    """A fresh copy of a case's network, as training meets it."""
    folder = tmp_path_factory.mktemp("networks")
    written: dict[Any, Path] = {}
    loaded: dict[str, nn.Module] = {}

    def network(name: str) -> nn.Module:
        case = CASES[name]
        if name not in loaded:
            key = name.split()[0] if name.startswith("cl") else name
            if key not in written:
                written[key] = case.write(folder / key)
            loaded[name] = UnitVectors(family(case.family).load(written[key], case.modality)).eval()
        return copy.deepcopy(loaded[name])

    return network


def some_inputs(name: str) -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(3)
    modality = CASES[name].modality
    if modality is TEXT:
        ids = torch.randint(5, 90, (3, 6), generator=source)
        return ids, torch.ones_like(ids)
    if modality is AUDIO:
        return (torch.rand(2, 1001, 64, generator=source) * 60 - 80,)
    side = SIZES.get(name, 32 if name == "half of a clip" else 64)
    return (torch.randint(0, 256, (2, side, side, 3), generator=source, dtype=torch.uint8),)


def reached(name: str, network: nn.Module) -> set[str]:
    """Names of the tensors that a gradient gets to."""
    vectors = network(*some_inputs(name))
    (vectors * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(4))).sum().backward()
    found = {n for n, value in network.named_parameters() if value.grad is not None}
    return {n.removeprefix("network.") for n in found}


@pytest.mark.parametrize("name", CASES)
def test_the_last_block_learns_with_what_comes_after_it(
    name: str, networks: Callable[[str], nn.Module]
) -> None:
    case, network = CASES[name], networks(name)
    tunable(network, Unfreeze(BLOCKS, blocks=1))
    learning = {n.removeprefix("network.") for n, p in network.named_parameters() if p.requires_grad}
    names = {n.removeprefix("network.") for n, _ in network.named_parameters()}
    assert learning == {n for n in names if n.startswith(case.last)}
    assert all(any(n.startswith(one) for n in learning) for one in case.last)
    assert reached(name, network) == {n for n in learning if not n.startswith(UNREACHED)}
    with pytest.raises(TrainingError, match=f"has {case.blocks} blocks, {case.blocks + 1} were"):
        tunable(network, Unfreeze(BLOCKS, blocks=case.blocks + 1))


@pytest.mark.parametrize("name", CASES)
def test_all_of_a_network_learns(name: str, networks: Callable[[str], nn.Module]) -> None:
    network = networks(name)
    learning = tunable(network, Unfreeze(ALL))
    names = {n.removeprefix("network.") for n, _ in network.named_parameters()}
    assert len(learning) == len(names)
    assert reached(name, network) == {n for n in names if not n.startswith(UNREACHED)}


@pytest.mark.parametrize("name", CASES)
def test_lora_adds_to_the_matrices_that_are_meant(name: str, networks: Callable[[str], nn.Module]) -> None:
    case, network, inputs = CASES[name], networks(name), some_inputs(name)
    names = set(network.state_dict())
    before = network(*inputs).detach()
    learning = tunable(network, Unfreeze(LORA, rank=2), seed=1)
    assert float((network(*inputs).detach() - before).abs().max()) < 1e-5  # torch's attention is then another
    found = {n.removeprefix("network.").rpartition(".lora_")[0] for n in network.state_dict() if "lora_" in n}
    assert found == set(case.lora)
    assert len(reached(name, network)) == len(learning) == 2 * len(case.lora)
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for one in learning:
            one.add_(0.1 * torch.randn(one.shape, generator=noise))
    moved = network(*inputs).detach()
    worth = float((moved - before).abs().max())
    assert worth > 1e-3
    alone = merged(network)
    assert set(alone.state_dict()) == names
    assert float((alone(*inputs).detach() - moved).abs().max()) < 0.01 * worth


# A run, and one on top of it --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A CLIP of open_clip as `triptych models pull` leaves it."""
    folder = openclip_models.write_model(tmp_path_factory.mktemp("clip") / "clip", "clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_HOME", str(home))
        bundle = write_family("openclip:small/clip", "openclip", folder, provenance={"licence": "MIT"})
    assert not bundle.spec.provenance["torch only"]
    return bundle


@pytest.fixture(scope="module")
def clap(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Torch runs it: two exports less to wait for, and a model such as one whose network has no graph."""
    folder = clap_folder(tmp_path_factory.mktemp("clap") / "clap")

    def refuse(*_: object) -> None:
        raise ModelError("nothing is exported here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_HOME", str(home))
        patch.setattr(export, "export_tower", refuse)
        return write_family("clap:small/clap", "clap", folder)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of four colours under different noise, each with a caption."""
    folder = tmp_path_factory.mktemp("pictures")
    noise, rows = np.random.default_rng(0), []
    for number in range(20):
        name, colour = list(COLOURS.items())[number % 4]
        pixels = np.clip(np.array(colour) + noise.normal(0, 30, (60, 80, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "text": f"the {name} field number {number}"})
    return put_table(folder / "rows.csv", rows)


def train(
    base: Bundle, table: Path, out: Path, *options: str, unfreeze: str = ""
) -> tuple[TrainReport, list[float]]:
    job = TrainJob(
        out=out,
        source=str(table),
        base=str(base.folder),
        options=parse_overrides([*OPTIONS, *options]),
        unfreeze=unfreeze,
        allow_leaks=True,
    )
    losses: list[float] = []

    def listen(event: object) -> None:
        if isinstance(event, StepDone):
            losses.append(event.loss)

    report = train_model(job, settings=Settings(workers=1, threads=1), on_event=listen)
    assert report is not None
    return report, losses


@pytest.fixture(scope="module")
def tuned(
    home: Path, clip: Bundle, table: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, list[float]]:
    """The CLIP trained on the pictures: a block of one tower, LoRA in the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_HOME", str(home))
        out = tmp_path_factory.mktemp("out") / "fields"
        report, losses = train(clip, table, out, unfreeze="image:1,text:lora2")
    return report.bundle, losses


def some_media(model: Model, modality: Modality) -> list[Any]:
    """Real media as the model's own preparer makes them."""
    preparer = model.tower(modality).preparer
    if modality is TEXT:
        return [
            preparer.tensor(one) for one in ("A Rocket on its pad", "coffee", "the cat's face &amp; eyes")
        ]
    media = photographs() if modality is IMAGE else sounds()
    return [preparer.tensor(one) for one in list(media.values())[:3]]


def apart(vectors: np.ndarray) -> float:
    """The median distance between different inputs."""
    pairs = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    return float(np.median(pairs[np.triu_indices(len(vectors), 1)]))


def test_a_run_moves_the_loss_and_gives_what_torch_gives(
    tuned: tuple[Bundle, list[float]], clip: Bundle
) -> None:
    bundle, losses = tuned
    assert losses[-1] < 0.7 * losses[0]
    assert bundle.verify() == []
    assert bundle.spec.dim == clip.spec.dim
    assert bundle.spec.space_id != clip.spec.space_id
    assert bundle.spec.provenance["fine-tuned"] == ["image", "text"]
    heads = load_heads(bundle)
    before, after = Model(clip), Model(bundle)
    for modality in (IMAGE, TEXT):
        media = some_media(after, modality)
        found = after.tower(modality).encode(media)
        network = load_backbone(bundle, modality)
        expected = encode_media(network, heads.heads[modality.value], modality, media)
        assert np.linalg.norm(found - expected, axis=1).max() < 1e-3 * apart(expected)
        assert np.linalg.norm(found - before.tower(modality).encode(media), axis=1).min() > 0.05
        plain = encode_media(load_backbone(clip, modality), heads.heads[modality.value], modality, media)
        assert np.linalg.norm(found - plain, axis=1).min() > 1e-3  # the backbone was tuned, too


def test_the_spec_says_what_was_tuned(tuned: tuple[Bundle, list[float]], clip: Bundle) -> None:
    bundle, _ = tuned
    for modality in (IMAGE, TEXT):
        tower, base = bundle.spec.tower(modality), clip.spec.tower(modality)
        assert tower
        assert base
        assert (tower.family, tower.source, tower.width) == ("openclip", "source", base.dim)
        assert tower.preprocessing == base.preprocessing
        changed = [new.name for new, old in zip(tower.weights, base.weights, strict=True) if new != old]
        assert changed == ["open_clip_model.safetensors, fine-tuned"]
        assert {one.licence for one in tower.weights} == {"MIT"}
    stored = {name: bundle.path(name).stat().st_size for name in bundle.spec.files if "tuned" in name}
    assert set(stored) == {"image-tuned.safetensors", "text-tuned.safetensors"}
    assert max(stored.values()) < 400_000  # what changed: not the vocabulary's 6 MB


def test_a_backbone_comes_back_as_it_was_tuned(
    clip: Bundle, tuned: tuple[Bundle, list[float]], tmp_path: Path
) -> None:
    bundle, _ = tuned
    pristine, found = load_backbone(clip, IMAGE).state_dict(), load_backbone(bundle, IMAGE).state_dict()
    changed = {n for n, value in found.items() if not torch.equal(value, pristine[n])}
    assert changed == {n for n in found if n.removeprefix("network.").startswith(CASES["clip image"].last)}
    text, before = load_backbone(bundle, TEXT).state_dict(), load_backbone(clip, TEXT).state_dict()
    changed = {n for n, value in text.items() if not torch.equal(value, before[n])}
    assert changed == {f"network.{name}.weight" for name in CASES["clip text"].lora}
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle.folder, damaged)
    shutil.copyfile(damaged / "text-tuned.safetensors", damaged / "image-tuned.safetensors")
    with pytest.raises(ModelError, match="does not hold the weights that the model's spec names"):
        load_backbone(Bundle(damaged, bundle.spec), IMAGE)


def test_a_trained_bundle_is_trained_on_again(
    tuned: tuple[Bundle, list[float]], clip: Bundle, table: Path, tmp_path: Path
) -> None:
    """Its second run begins where the first ended, and keeps what the first tuned and it leaves alone."""
    first, losses = tuned
    report, again = train(first, table, tmp_path / "again", "epochs=1", "lr=0.001", unfreeze="image:1")
    second = report.bundle
    assert again[0] < losses[0]
    assert second.verify() == []
    assert second.spec.space_id not in (first.spec.space_id, clip.spec.space_id)
    old, new = load_backbone(first, IMAGE).state_dict(), load_backbone(second, IMAGE).state_dict()
    assert {n.removeprefix("network.") for n in new if not torch.equal(old[n], new[n])} <= {
        n for n in (m.removeprefix("network.") for m in new) if n.startswith(CASES["clip image"].last)
    }
    assert any(not torch.equal(old[n], new[n]) for n in new)
    text, kept = load_backbone(first, TEXT).state_dict(), load_backbone(second, TEXT).state_dict()
    assert all(torch.equal(text[n], kept[n]) for n in text)
    tower = second.spec.tower(IMAGE)
    assert tower
    assert tower.weights[0].name == "open_clip_model.safetensors, fine-tuned"
    assert "fine-tuned from open_clip_model.safetensors (openclip:small/clip)" in tower.weights[0].source
    assert tower.weights[0].licence == "MIT"
    media = some_media(Model(second), IMAGE)
    head = load_heads(second).heads["image"]
    expected = encode_media(load_backbone(second, IMAGE), head, IMAGE, media)
    found = Model(second).tower(IMAGE).encode(media)
    assert np.linalg.norm(found - expected, axis=1).max() < 1e-3 * apart(expected)


# Features ---------------------------------------------------------------------------------------------------


def both(bundle: Bundle) -> dict[Modality, Backbone]:
    towers = {modality: bundle.spec.tower(modality) for modality in bundle.spec.modalities}
    return {modality: backbone_of(tower, bundle) for modality, tower in towers.items() if tower}


def rows_of(table: Path) -> list[Row]:
    return [Row(str(n), str(table.parent / f"{n}.png"), (f"the field {n}",)) for n in range(4)]


def test_features_come_from_the_models_own_graph(
    clip: Bundle, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(_backbone: Backbone) -> Bundle:
        raise AssertionError("a graph that is there already was exported again")

    monkeypatch.setattr(backbones, "feature_bundle", exported)
    found = collect_features(rows_of(table), both(clip), cache=tmp_path / "cache", workers=1, threads=1)
    assert found.computed == 8
    model = Model(clip)
    texts = [model.tower(TEXT).preparer.tensor(row.texts[0]) for row in rows_of(table)]
    assert found.features[TEXT] == pytest.approx(model.tower(TEXT).encode(texts), abs=1e-3)
    pictures = [
        model.tower(IMAGE).preparer.tensor(np.asarray(Image.open(row.image or ""))) for row in rows_of(table)
    ]
    assert found.features[IMAGE] == pytest.approx(model.tower(IMAGE).encode(pictures), abs=1e-3)
    assert base_head(clip, IMAGE) is None


def test_features_of_two_models_never_mix(
    clip: Bundle, clap: Bundle, tuned: tuple[Bundle, list[float]], table: Path, tmp_path: Path
) -> None:
    kinds = [*both(clip).values(), *both(clap).values(), *both(tuned[0]).values()]
    assert len({one.fingerprint for one in kinds}) == len(kinds)
    tower = clip.spec.tower(TEXT)
    assert tower
    changes: dict[str, Mapping[str, Any]] = {
        "other weights": {"weights": (replace(tower.weights[0], sha256="0" * 64), *tower.weights[1:])},
        "other configuration": {"weights": (tower.weights[0], replace(tower.weights[1], sha256="0" * 64))},
        "other preprocessing": {"preprocessing": {**tower.preprocessing, "prefix": "query: "}},
    }
    for change in changes.values():
        assert backbone_of(replace(tower, **change), clip).fingerprint != both(clip)[TEXT].fingerprint
    cache, rows = tmp_path / "cache", rows_of(table)
    first = collect_features(rows, both(clip), cache=cache, workers=1, threads=1)
    mixed = {IMAGE: both(clip)[IMAGE], TEXT: both(clap)[TEXT]}
    second = collect_features(rows, mixed, cache=cache, workers=1, threads=1)
    assert (second.reused, second.computed) == (4, 4)
    assert first.features[TEXT].shape[1] != second.features[TEXT].shape[1]


def test_a_sound_counts_with_its_first_windows_in_training(clap: Bundle) -> None:
    tower = clap.spec.tower(AUDIO)
    assert tower
    preparer = backbone_of(tower, clap).preparer()
    assert isinstance(preparer, LogMelPreparer)
    assert preparer.hint.max_segments == 0
    short = capped(preparer)
    assert short.hint.max_segments == MAX_WINDOWS
    assert replace(short, max_windows=0) == preparer
    texts = both(clap)[TEXT].preparer()
    assert capped(texts) is texts


def test_long_sounds_are_averaged_over_those_windows(clap: Bundle, tmp_path: Path) -> None:
    noise = np.random.default_rng(5)
    loud = np.repeat(noise.uniform(0.05, 0.8, 80), 8_000)  # 80 s: more windows than are taken
    pcm = (loud * noise.standard_normal(len(loud)) * 0.3).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", pcm, 8_000)
    row = Row("0", None, ("rain",), str(tmp_path / "long.wav"))
    found = collect_features([row], both(clap), cache=tmp_path / "cache", workers=1, threads=1)
    from indexer.media.prepare import prepare_file

    tower = Model(clap).tower(AUDIO)
    windows = [one.tensor for one in prepare_file(str(tmp_path / "long.wav"), AUDIO, tower.preparer)]
    assert len(windows) > MAX_WINDOWS
    vectors = tower.encode(windows)
    assert found.features[AUDIO][0] == pytest.approx(vectors[:MAX_WINDOWS].mean(axis=0), abs=1e-3)
    assert np.abs(vectors[:MAX_WINDOWS].mean(axis=0) - vectors.mean(axis=0)).max() > 2e-3


# A network without a graph, and a joined model --------------------------------------------------------------


def without_graphs(bundle: Bundle, folder: Path) -> Bundle:
    """The same model as it is where its networks cannot be exported."""
    from retrieval.models.bundle import ModelSpec, link_or_copy, write_bundle

    towers = tuple(replace(tower, graph=None) for tower in bundle.spec.towers)

    def fill(work: Path) -> ModelSpec:
        for name in bundle.spec.files:
            if ".onnx" not in name:
                link_or_copy(bundle.path(name), work / name)
        return ModelSpec(name="eager", towers=towers)

    return write_bundle(folder, fill)


def test_a_model_without_graphs_is_trained_by_torch_alone(
    clip: Bundle, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))  # it is of the same space as the one with
    eager = without_graphs(clip, tmp_path / "eager")
    report, losses = train(eager, table, tmp_path / "out")
    assert losses[-1] < losses[0]
    made = report.bundle
    assert {tower.graph for tower in made.spec.towers} == {None}
    assert not [name for name in made.spec.files if name.endswith(".onnx")]
    model = Model(made)
    media = some_media(model, IMAGE)
    expected = encode_media(load_backbone(made, IMAGE), load_heads(made).heads["image"], IMAGE, media)
    assert model.tower(IMAGE).encode(media) == pytest.approx(expected, abs=1e-4)
    tower = made.spec.tower(IMAGE)
    assert tower
    features = feature_tower(backbone_of(tower, made), threads=1)
    assert features.encode(media) == pytest.approx(Model(clip).tower(IMAGE).encode(media), abs=1e-4)


def test_a_joined_model_is_a_base(clip: Bundle, clap: Bundle, tmp_path: Path) -> None:
    """Its sounds, whose files lie in a folder of their own, learn together with its texts."""
    texts = [one.text for one in captions()[::16]]
    joined, _ = join(clip, clap, name="mm", texts=texts, options=BridgeOptions(method=Method.RIDGE))
    rows = []
    for name, pcm in [*sounds().items()][:4]:
        for part in (0, 1):
            file = tmp_path / f"{name}-{part}.wav"
            soundfile.write(file, pcm[part * 4000 : RATE + part * 4000], RATE)
            rows.append({"audio": file.name, "text": f"a {name} number {part}"})
    table = put_table(tmp_path / "rows.csv", rows)
    report, losses = train(joined, table, tmp_path / "out", "epochs=4", unfreeze="audio:1")
    assert losses[-1] < losses[0]
    made = report.bundle
    assert made.verify() == []
    assert made.spec.provenance["kept from the base"] == ["image"]
    assert made.spec.tower(IMAGE) == clip.spec.tower(IMAGE)
    tower = made.spec.tower(AUDIO)
    assert tower
    assert (tower.family, tower.source, tower.width, tower.dim) == ("clap", "source-b", 24, clip.spec.dim)
    assert tower.weights[0].name.endswith(", fine-tuned")
    before, after = load_backbone(joined, AUDIO).state_dict(), load_backbone(made, AUDIO).state_dict()
    assert any(not torch.equal(before[n], after[n]) for n in after)
    model = Model(made)
    media = some_media(model, AUDIO)
    expected = encode_media(load_backbone(made, AUDIO), load_heads(made).heads["audio"], AUDIO, media)
    assert np.linalg.norm(model.tower(AUDIO).encode(media) - expected, axis=1).max() < 1e-3 * apart(expected)
