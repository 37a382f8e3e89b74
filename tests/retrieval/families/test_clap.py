"""CLAP towers give what transformers' ClapModel gives, in torch and as graphs; other folders are refused."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from indexer.errors import ModelError
from indexer.types import Modality
from retrieval.encoders.described import preparer_of
from retrieval.encoders.library_text import LibraryTextPreparer
from retrieval.encoders.log_mel import LogMelPreparer, MelScale, Padding
from retrieval.encoders.tower import text_inputs
from retrieval.models.export import TextGraph
from retrieval.models.families import clap
from retrieval.models.families.family import family_of
from retrieval.models.model import Model
from retrieval.runtime.onnx import OnnxRuntime
from tests.retrieval.conftest import PulledClap
from tests.retrieval.families.clap_models import RATE, TEXTS, sounds, write_clap

NAME = "clap:example/small"
PARITY = 0.02  # of the median distance between different inputs
EXACT = 1e-4  # what is reached, as such a share; leaves room for another processor's arithmetic


@dataclass(frozen=True)
class Saved:
    """A model as the library wrote it, and our towers of it."""

    folder: Path
    model: Any
    sounds: LogMelPreparer
    texts: LibraryTextPreparer

    def features(self, tensors: np.ndarray) -> np.ndarray:
        """The library's vectors of spectrograms (n, frames, mels), none of a sound longer than its input."""
        inputs = torch.from_numpy(tensors)[:, None]
        if self.sounds.fusion:
            inputs = inputs.expand(-1, 4, -1, -1)
        with torch.inference_mode():
            found = self.model.get_audio_features(inputs, is_longer=torch.zeros(len(inputs), 1, dtype=bool))
        return found.pooler_output.numpy()

    def extracted(self) -> tuple[np.ndarray, np.ndarray]:
        """The library's vectors of the sounds, by its own feature extractor, and which it called longer."""
        from transformers import ClapFeatureExtractor

        np.random.seed(5)  # it draws one that it calls longer
        extractor = ClapFeatureExtractor.from_pretrained(self.folder)
        found = extractor(list(sounds().values()), sampling_rate=RATE, return_tensors="pt")
        with torch.inference_mode():
            vectors = self.model.get_audio_features(**found).pooler_output
        return vectors.numpy(), found["is_longer"].flatten().numpy()

    def read(self) -> np.ndarray:
        """The library's vectors of the texts, by its own tokenizer."""
        from transformers import RobertaTokenizer

        tokenizer = RobertaTokenizer.from_pretrained(self.folder)
        limit = self.texts.max_tokens
        inputs = tokenizer(list(TEXTS), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.inference_mode():
            return self.model.get_text_features(**inputs).pooler_output.numpy()


@pytest.fixture(scope="module", params=["unfused", "fused"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp(request.param)
    model = write_clap(folder, fused=request.param == "fused")
    tokenizer = tmp_path_factory.mktemp("written") / "tokenizer.json"
    clap.write_tokenizer(folder, tokenizer)
    sound, text = clap.describe(folder, name=NAME)
    return Saved(
        folder,
        model,
        preparer_of(Modality.AUDIO, sound.preprocessing, sound.window, tokenizer=""),
        preparer_of(Modality.TEXT, text.preprocessing, text.window, tokenizer=str(tokenizer)),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder to spoil copies of."""
    folder = tmp_path_factory.mktemp("plain")
    write_clap(folder)
    return folder


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def median_distance(vectors: np.ndarray) -> float:
    away = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    return float(np.median(away[np.triu_indices(len(vectors), 1)]))


def shares(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How far each vector is off, as a share of the median distance between different inputs."""
    median = median_distance(expected)
    assert median > 0.3, "the random model does not tell its inputs apart"
    return np.linalg.norm(found - expected, axis=1) / median


def heard(saved: Saved, preparer: LogMelPreparer) -> np.ndarray:
    """Our network's vectors of the sounds as `preparer` makes them ready."""
    tensors = np.concatenate([preparer.tensor(pcm) for pcm in sounds().values()])
    with torch.inference_mode():
        return unit(clap.load(saved.folder, Modality.AUDIO)(torch.from_numpy(tensors)).numpy())


def test_sounds_are_the_librarys(saved: Saved) -> None:
    expected, longer = saved.extracted()
    away = shares(heard(saved, saved.sounds), expected)
    assert away[~longer].max() < EXACT < PARITY
    # The library calls one sound of a fused model's batch longer at random where none is, and that one comes
    # out otherwise at every call; ours is never longer than the network's input.
    assert longer.sum() == saved.sounds.fusion
    assert (away[longer] > PARITY).all()


@pytest.mark.parametrize("wrong", [{"scale": None}, {"sample_rate": 44_100}, {"padding": Padding.PAD}])
def test_another_preparation_shows(saved: Saved, wrong: dict) -> None:
    """Negative controls, on the sounds that the setting touches."""
    if "scale" in wrong:
        wrong = {"scale": MelScale.HTK if saved.sounds.scale is MelScale.SLANEY else MelScale.SLANEY}
    expected = unit(saved.features(np.concatenate([saved.sounds.tensor(pcm) for pcm in sounds().values()])))
    away = shares(heard(saved, replace(saved.sounds, **wrong)), expected)
    touched = ["0.1 s", "3 s", "quiet noise"] if "padding" in wrong else ["3 s", "10 s", "noise", "clicks"]
    names = list(sounds())
    assert np.median([away[names.index(name)] for name in touched]) > PARITY


def test_power_in_place_of_decibels_shows(saved: Saved) -> None:
    tensors = np.concatenate([saved.sounds.tensor(pcm) for pcm in sounds().values()])
    with torch.inference_mode():
        power = clap.load(saved.folder, Modality.AUDIO)(torch.from_numpy(10.0 ** (tensors / 10.0))).numpy()
    assert np.median(shares(unit(power), unit(saved.features(tensors)))) > PARITY


def test_texts_are_the_librarys(saved: Saved) -> None:
    """Ids, then vectors; ours are padded with zeros, RoBERTa's with its own id."""
    from transformers import RobertaTokenizer

    tokenizer = RobertaTokenizer.from_pretrained(saved.folder)
    for text in (*TEXTS, "word " * 400):
        expected = tokenizer(text, truncation=True, max_length=saved.texts.max_tokens)["input_ids"]
        assert saved.texts.tensor(text).tolist() == expected, text
    inputs = text_inputs([saved.texts.tensor(text) for text in TEXTS])
    ids, mask = (torch.from_numpy(inputs[name]) for name in TextGraph.inputs)
    assert (ids == 0).sum() > len(TEXTS), "no text is padded"
    network = clap.load(saved.folder, Modality.TEXT)
    with torch.inference_mode():
        found = unit(network(ids, mask).numpy())
        unmasked = unit(network(ids, torch.ones_like(mask)).numpy())
        lowered = [saved.texts.tensor(text.lower()) for text in TEXTS[:2]]
    assert shares(found, saved.read()).max() < EXACT
    padded = mask.numpy().min(axis=1) == 0
    assert np.median(shares(unmasked, saved.read())[padded]) > PARITY
    assert lowered[0].tolist() == lowered[1].tolist()
    assert saved.texts.tensor(TEXTS[0]).tolist() != saved.texts.tensor(TEXTS[1]).tolist()


def test_the_longest_text_fits_the_positions(saved: Saved) -> None:
    """66 positions, of which RoBERTa never uses the first two; the tokenizer says 512."""
    assert saved.texts.max_tokens == 64
    ids = torch.from_numpy(saved.texts.tensor("word " * 400))[None]
    assert ids.shape == (1, 64)
    with torch.inference_mode():
        found = clap.load(saved.folder, Modality.TEXT)(ids, torch.ones_like(ids))
    assert torch.isfinite(found).all()


@pytest.fixture(scope="module")
def pulled(pulled_clap: PulledClap) -> Saved:
    """The library's model of a bundle's own files, and the bundle's towers."""
    from transformers import ClapModel

    bundle, towers = pulled_clap.bundle, Model(pulled_clap.bundle)
    library = ClapModel.from_pretrained(bundle.folder / "source").eval()
    preparers: list[Any] = [towers.tower(one).preparer for one in (Modality.AUDIO, Modality.TEXT)]
    return Saved(bundle.folder / "source", library, *preparers)


def test_graph_of_sounds_is_the_librarys(pulled: Saved, pulled_clap: PulledClap) -> None:
    """Any number of sounds through ONNX Runtime. Of a fused model, whose own code does not export."""
    assert pulled.sounds.fusion
    runtime = OnnxRuntime.open(pulled_clap.bundle.path("audio.onnx"))
    tensors = np.concatenate([pulled.sounds.tensor(pcm) for pcm in sounds().values()])
    expected = unit(pulled.features(tensors))
    for rows in (slice(0, 1), slice(2, 4), slice(0, len(tensors))):
        pool = np.eye(len(tensors[rows]), dtype=np.float32)
        found = runtime.run({"views": tensors[rows], "pool": pool})["vectors"]
        away = np.linalg.norm(found - expected[rows], axis=1)
        assert away.max() / median_distance(expected) < EXACT


def test_graph_of_texts_is_the_librarys(pulled: Saved, pulled_clap: PulledClap) -> None:
    """Any number and length of texts through ONNX Runtime."""
    runtime = OnnxRuntime.open(pulled_clap.bundle.path("text.onnx"))
    ids = [pulled.texts.tensor(text) for text in (*TEXTS, "word " * 400)]
    expected = pulled.read()
    assert max(map(len, ids)) == 64
    for rows in (slice(0, 1), slice(2, 3), slice(0, len(ids))):
        found = runtime.run(text_inputs(ids[rows]))["vectors"][: len(TEXTS)]
        away = np.linalg.norm(found - expected[rows], axis=1)
        assert away.max() / median_distance(expected) < EXACT


def test_description(saved: Saved) -> None:
    sound, text = clap.describe(saved.folder, name=NAME)
    assert (sound.modality, text.modality) == (Modality.AUDIO, Modality.TEXT)
    assert {sound.dim, text.dim} == {24}
    assert sound.window == {"window_s": 10.0, "hop_s": 5.0}
    assert sound.preprocessing["scale"] == ("htk" if saved.sounds.fusion else "slaney")
    assert {one.source for one in (*sound.weights, *text.weights)} == {NAME}
    assert [one.name for one in sound.weights] == ["model.safetensors", "config.json"]
    assert "tokenizer.json" in [one.name for one in text.weights]
    assert json.loads(json.dumps(dict(sound.preprocessing))) == sound.preprocessing
    assert family_of(saved.folder) == "clap"


def test_networks_are_frozen_and_single(saved: Saved) -> None:
    network = clap.load(saved.folder, Modality.AUDIO)
    assert not network.training
    assert not any(one.requires_grad or one.dtype != torch.float32 for one in network.parameters())
    with pytest.raises(ModelError, match="no image tower"):
        clap.load(saved.folder, Modality.IMAGE)


def copied(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "copy"))


def said(folder: Path, **more: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_other_folders_are_not_clap(plain: Path, tmp_path: Path) -> None:
    assert clap.matches(plain)
    assert not clap.matches(tmp_path)
    for text in ('{"model_type": "clip"}', "[]", "nonsense"):
        (tmp_path / "config.json").write_text(text)
        assert not clap.matches(tmp_path)


def test_pickles_are_refused_by_name(plain: Path, tmp_path: Path) -> None:
    folder = copied(plain, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for call in (lambda: clap.describe(folder, name=NAME), lambda: clap.load(folder, Modality.TEXT)):
        with pytest.raises(ModelError, match=r"pytorch_model\.bin: a pickle") as caught:
            call()
        assert "model.safetensors" in (caught.value.hint or "")


def test_a_pickle_beside_is_not_read(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(plain, tmp_path)
    pickled = b"cos\nsystem\n(S'touch ran'\ntR."
    (folder / "pytorch_model.bin").write_bytes(pickled)
    monkeypatch.chdir(tmp_path)
    assert clap.load(folder, Modality.TEXT)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickled)  # the control
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "more",
    [
        {"transformers_weights": "adapter_model.bin"},
        {"auto_map": {"AutoModel": "code.Model"}},
        {"quantization_config": {"quant_method": "gptq"}},
    ],
)
def test_what_steers_the_loading_is_refused(plain: Path, tmp_path: Path, more: dict) -> None:
    folder = copied(plain, tmp_path)
    said(folder, **more)
    with pytest.raises(ModelError, match=next(iter(more))):
        clap.load(folder, Modality.AUDIO)


def test_adapters_and_shards_with_a_pickled_index_are_refused(plain: Path, tmp_path: Path) -> None:
    folder = copied(plain, tmp_path)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        clap.load(folder, Modality.AUDIO)
    (folder / "adapter_config.json").unlink()
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="distributed checkpoint"):
        clap.load(folder, Modality.AUDIO)


def test_a_model_in_several_files(plain: Path, tmp_path: Path) -> None:
    """Each of them counts for the space, and none may lie elsewhere."""
    from transformers import ClapModel

    folder = copied(plain, tmp_path)
    (folder / "model.safetensors").unlink()
    ClapModel.from_pretrained(plain).save_pretrained(folder, max_shard_size="60KB")
    sound = clap.describe(folder, name=NAME)[0]
    assert len(sound.weights) > 3
    whole = clap.load(plain, Modality.AUDIO).state_dict()
    for name, tensor in clap.load(folder, Modality.AUDIO).state_dict().items():
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=0)
    index = folder / "model.safetensors.index.json"
    parts = json.loads(index.read_text())
    parts["weight_map"]["logit_scale_a"] = f"../{plain.name}/model.safetensors"
    index.write_text(json.dumps(parts))
    with pytest.raises(ModelError, match="not among the folder's"):
        clap.load(folder, Modality.AUDIO)


def test_weights_that_lack_a_tensor_are_refused(plain: Path, tmp_path: Path) -> None:
    """The library would draw it at random; a buffer that it computes may be missing."""
    from safetensors.numpy import load_file, save_file

    folder = copied(plain, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_model.embeddings.position_ids"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert clap.load(folder, Modality.TEXT)
    del tensors["audio_projection.linear1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 .*audio_projection\.linear1\.weight"):
        clap.load(folder, Modality.AUDIO)


def test_weights_of_another_shape_or_broken_are_refused(plain: Path, tmp_path: Path) -> None:
    folder = copied(plain, tmp_path)
    said(folder, projection_dim=48)
    with pytest.raises(ModelError, match="cannot read"):
        clap.load(folder, Modality.AUDIO)
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ModelError, match="cannot read"):
        clap.load(folder, Modality.AUDIO)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"feature_size": 128}, "128 bands"),
        ({"hop_length": 160}, "3001 frames"),
        ({"truncation": "middle"}, "truncates by 'middle'"),
        ({"padding": "mirror"}, "pads by 'mirror'"),
    ],
)
def test_an_extractor_that_does_not_fit_is_refused(
    plain: Path, tmp_path: Path, change: dict, reason: str
) -> None:
    folder = copied(plain, tmp_path)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=reason):
        clap.describe(folder, name=NAME)
    path.unlink()
    with pytest.raises(ModelError, match="cannot read") as caught:
        clap.describe(folder, name=NAME)
    assert "preprocessor_config.json" in (caught.value.hint or "")


def test_settings_inside_the_processors_file_are_read(plain: Path, tmp_path: Path) -> None:
    """Later versions of the library save feature extractor and tokenizer as one processor."""
    from transformers import ClapFeatureExtractor, ClapProcessor, RobertaTokenizer

    folder = copied(plain, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    extractor = ClapFeatureExtractor(frequency_min=20, truncation="rand_trunc", padding="repeat")
    ClapProcessor(extractor, RobertaTokenizer.from_pretrained(plain)).save_pretrained(folder)
    sound = clap.describe(folder, name=NAME)[0]
    assert (sound.preprocessing["fmin"], sound.preprocessing["padding"]) == (20.0, "repeat")


def test_loading_says_nothing(plain: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clap.describe(plain, name=NAME)
    clap.load(plain, Modality.AUDIO)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == ""


def test_an_error_names_the_folder_that_the_user_has(home: Path, tmp_path: Path) -> None:
    from retrieval.models.families.build import write_family

    folder = tmp_path / "mine"
    write_clap(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError) as caught:
        write_family("clap:mine", "clap", folder)
    assert str(folder) in caught.value.message
    assert ".building" not in caught.value.message
