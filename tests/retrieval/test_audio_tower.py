"""The starter's audio tower against aisfx's published preprocessing with librosa, and its network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from indexer.types import FloatArray, Modality
from retrieval.encoders.audio import AudioPreparer
from retrieval.models.model import Model
from retrieval.models.starter.weights import AISFX, locate
from tests.conformance import PARITY, check_encoder, parity
from tests.media import RATE, sounds

STAMPS = Path(__file__).parents[2] / "data" / "cache" / "tuxpaint-stamps"


def published(name: str) -> ModuleType:
    """One file of the installed aisfx by path: its package cannot be imported with today's libraries."""
    path = locate(AISFX).parents[1] / name
    spec = importlib.util.spec_from_file_location(f"aisfx_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def heard() -> list[FloatArray]:
    """Made sounds, and a few recordings where the stamps are at hand."""
    import soundfile

    found = list(sounds().values())
    for path in sorted(STAMPS.rglob("animals/birds/*.wav"))[:4] if STAMPS.is_dir() else []:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        if rate == RATE:
            found.append(samples.mean(axis=1)[: 10 * RATE])
    return found


def reference_blocks(samples: FloatArray, folder: Path) -> FloatArray:
    """Blocks as aisfx makes them of a file with librosa, but with time along the first axis."""
    import soundfile

    path = folder / "sound.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    spectrum = published("spectrogram/spectrogram_librosa.py").compute_spectrogram(
        str(path), sr=float(RATE), block_size=2048, hop_size=1024, n_mels=96, f_min=0.0, f_max=22050.0
    )
    steps = published("preprocessing.py")
    scaled = steps.spectrogram_normalize(spectrum.T)
    return steps.blocking(scaled, block_size=100, hop_size=50, drop_partial_block=True).astype(np.float32)


@pytest.fixture(scope="module")
def reference_network() -> Any:
    """aisfx's own network with its own weights."""
    import torch

    network = published("models/cnn2d.py").EmbeddingNet("max", 3, 1, 64)
    allowed = [(np.int64(0).__reduce__()[0], "numpy.core.multiarray.scalar"), np.dtype, type(np.dtype("i8"))]
    with torch.serialization.safe_globals(allowed):
        weights, _ = torch.load(locate(AISFX), map_location="cpu", weights_only=True)
    prefix = "embedding_net."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return network.eval()


def reference_vectors(network: Any, blocks: list[FloatArray]) -> FloatArray:
    """The reference's features averaged over blocks, through the head, in torch."""
    import torch

    from retrieval.models.starter.heads import load_audio_head

    with torch.inference_mode():
        features = torch.stack([network(torch.from_numpy(one)).mean(0) for one in blocks])
        return torch.nn.functional.normalize(load_audio_head()(features), dim=1).numpy()


@pytest.mark.starter
def test_meets_the_contract(starter: Model, heard: list[FloatArray]) -> None:
    check_encoder(starter.tower(Modality.AUDIO), [heard[0], heard[4], heard[-1], sounds()["short"][:9000]])


def test_blocks_are_those_of_aisfx(heard: list[FloatArray], tmp_path: Path) -> None:
    preparer = AudioPreparer()
    for samples in heard:
        expected = reference_blocks(samples, tmp_path)
        ours = preparer.tensor(samples)
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_network_is_that_of_aisfx(reference_network: Any, heard: list[FloatArray]) -> None:
    import torch

    from retrieval.models.starter.backbones import load_aisfx

    ours = load_aisfx()
    blocks = torch.from_numpy(np.concatenate([AudioPreparer().tensor(one) for one in heard[:3]]))
    with torch.inference_mode():
        np.testing.assert_allclose(ours(blocks).numpy(), reference_network(blocks).numpy(), atol=1e-5)


@pytest.mark.starter
def test_vectors_are_those_of_aisfx(
    starter: Model, reference_network: Any, heard: list[FloatArray], tmp_path: Path
) -> None:
    expected = reference_vectors(reference_network, [reference_blocks(one, tmp_path) for one in heard])
    tower = starter.tower(Modality.AUDIO)
    tensors = [tower.preparer.tensor(one) for one in heard]
    assert parity(tower.encode(tensors), expected) <= PARITY
    # Controls: a wrong scale, and frequencies upside down, must be seen.
    assert parity(tower.encode([tensor * np.float32(1.3) for tensor in tensors]), expected) > PARITY
    assert parity(tower.encode([tensor[:, :, ::-1].copy() for tensor in tensors]), expected) > PARITY


def test_padding_makes_no_block() -> None:
    sound = sounds()["tone"][: 3 * RATE]
    padded = np.concatenate([sound, np.zeros(7 * RATE, np.float32)])
    preparer = AudioPreparer()
    np.testing.assert_array_equal(preparer.tensor(padded), preparer.tensor(sound))
    assert len(preparer.tensor(sound)) == 1
    assert len(preparer.tensor(sounds()["noise"])) == 7


def test_loudness_does_not_matter() -> None:
    sound = sounds()["bell"]
    preparer = AudioPreparer()
    np.testing.assert_allclose(preparer.tensor(sound / 64), preparer.tensor(sound), atol=1e-6)


@pytest.mark.starter
def test_silence_and_broken_samples_give_a_finite_unit_vector(starter: Model) -> None:
    tower = starter.tower(Modality.AUDIO)
    broken = sounds()["tone"].copy()
    broken[100:200] = np.nan
    broken[300] = np.inf
    odd = [np.zeros(RATE, np.float32), np.zeros(0, np.float32), np.ones(1, np.float32), broken]
    vectors = tower.encode([tower.preparer.tensor(one) for one in odd])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4)
