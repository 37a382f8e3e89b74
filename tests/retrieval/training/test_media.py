"""Media for training: decoded files equal the prepared ones, in the asked order, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from indexer.errors import TrainingError
from indexer.fsio import hash_bytes
from indexer.media.prepare import prepare_file
from indexer.types import Modality
from retrieval.models.backbones import BACKBONES
from retrieval.models.export import ViewGraph
from retrieval.training import features, media
from retrieval.training.features import Collected
from retrieval.training.finetune import features_of
from retrieval.training.media import MediaSource, collate, media_of
from retrieval.training.types import Examples, Ints, Row
from tests.media import RATE, photographs, sounds

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO
PREPARERS = {one.modality: one.preparer() for one in BACKBONES.values()}


class Cached:
    """Features of frozen modalities."""

    def inputs(self, modality: Modality, contents: Ints) -> Tensor:
        return torch.from_numpy(contents).float()[:, None] * 10


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Modality, list[str]]:
    """Pictures and sounds as files, by content."""
    import soundfile
    from PIL import Image

    folder = tmp_path_factory.mktemp("media")
    found: dict[Modality, list[str]] = {IMAGE: [], AUDIO: []}
    for name, rgb in list(photographs().items())[:4]:
        found[IMAGE].append(str(folder / f"{name}.png"))
        Image.fromarray(rgb[::2, ::2]).save(found[IMAGE][-1])
    for name in ("chirp", "short"):
        found[AUDIO].append(str(folder / f"{name}.wav"))
        soundfile.write(found[AUDIO][-1], sounds()[name], RATE)
    return found


@pytest.fixture(scope="module")
def source(files: dict[Modality, list[str]]) -> Iterator[MediaSource]:
    whole = {**files, TEXT: ["a cat", "a cup of coffee on a table"]}
    with MediaSource(whole, PREPARERS, Cached(), workers=1) as opened:
        yield opened


def views_of(path: str, modality: Modality) -> np.ndarray:
    return np.concatenate([one.tensor for one in prepare_file(path, modality, PREPARERS[modality])])


def test_pictures_are_the_prepared_ones_in_the_asked_order(
    source: MediaSource, files: dict[Modality, list[str]]
) -> None:
    asked = np.array([2, 0, 3, 0])
    views, weights = source.inputs(IMAGE, asked)
    assert views.dtype == torch.uint8
    for row, content in enumerate(asked):
        assert np.array_equal(views[row].numpy(), views_of(files[IMAGE][content], IMAGE))
    assert torch.equal(weights, torch.ones(4, 1))


def test_sounds_of_different_lengths_are_padded(
    source: MediaSource, files: dict[Modality, list[str]]
) -> None:
    views, weights = source.inputs(AUDIO, np.array([1, 0]))
    short, chirp = (views_of(files[AUDIO][content], AUDIO) for content in (1, 0))
    assert len(short) == 1
    assert len(chirp) > 1
    assert np.allclose(views[1].numpy(), chirp, atol=1e-6)  # a worker multiplies in one thread
    assert np.allclose(views[0, :1].numpy(), short, atol=1e-6)
    assert not views[0, 1:].any()
    assert weights[0].tolist() == [1.0] + [0.0] * (len(chirp) - 1)
    assert weights.sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_texts_are_padded_and_masked(source: MediaSource) -> None:
    ids, mask = source.inputs(TEXT, np.array([0, 1]))
    assert ids[0, : int(mask[0].sum())].tolist() == [101, 1037, 4937, 102]
    assert mask.sum(1).tolist() == [4, 9]
    assert not ids[mask == 0].any()


def test_frozen_modalities_come_from_the_features(files: dict[Modality, list[str]]) -> None:
    with MediaSource({TEXT: ["a"]}, PREPARERS, Cached(), workers=1) as opened:
        assert opened.inputs(IMAGE, np.array([3, 1])).tolist() == [[30.0], [10.0]]  # type: ignore[union-attr]


def test_what_is_expected_is_what_comes_and_no_more_is_held(
    files: dict[Modality, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[list[int]] = []
    real = MediaSource._decode

    def watched(
        self: MediaSource, modality: Modality, numbers: list[int]
    ) -> Iterator[tuple[int, media.Medium]]:
        decoded.append(numbers)
        return real(self, modality, numbers)

    monkeypatch.setattr(MediaSource, "_decode", watched)
    with MediaSource(files, PREPARERS, Cached(), workers=1, look_ahead=1) as opened:
        for contents in ([0, 1], [2, 3], [2, 3]):
            opened.expect(IMAGE, np.array(contents))
        opened.expect(TEXT, np.array([0]))  # frozen: nothing to do
        assert len(opened._expected) == 2
        second, _ = opened.inputs(IMAGE, np.array([2, 3]))
        first, _ = opened.inputs(IMAGE, np.array([0, 1]))
        for content in range(4):
            views = (first if content < 2 else second)[content % 2]
            assert np.array_equal(views.numpy(), views_of(files[IMAGE][content], IMAGE))
        assert decoded == [[0, 1], [2, 3]]
        opened.inputs(IMAGE, np.array([1, 2, 0]))
        assert decoded == [[0, 1], [2, 3]]  # kept in memory
        for start in range(3):
            opened.expect(IMAGE, np.array([start, start + 1]))
        assert len(opened._expected) == 2


def test_memory_is_bounded(files: dict[Modality, list[str]]) -> None:
    one = 224 * 224 * 3
    with MediaSource(files, PREPARERS, Cached(), workers=1, cache_mb=1) as opened:
        opened._kept.limit = 2 * one
        opened.inputs(IMAGE, np.array([0, 1, 2, 3]))
        assert opened._kept.size == 2 * one
        views, _ = opened.inputs(IMAGE, np.array([0, 3]))  # one of them is gone, one is not
        assert np.array_equal(views[0].numpy(), views_of(files[IMAGE][0], IMAGE))
        assert np.array_equal(views[1].numpy(), views_of(files[IMAGE][3], IMAGE))


def test_a_file_that_went_bad_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with (
        MediaSource({IMAGE: [str(path)]}, PREPARERS, Cached(), workers=1) as opened,
        pytest.raises(TrainingError, match=r"broken\.png"),
    ):
        opened.inputs(IMAGE, np.array([0]))


def test_a_long_sound_is_its_first_windows_each_of_the_same_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soundfile

    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(sounds()["chirp"], 2)[: 12 * RATE], RATE)
    parts = [one.tensor for one in prepare_file(path, AUDIO, PREPARERS[AUDIO])]
    assert [len(part) for part in parts] == [7, 5]  # 0 to 10 s and 5 to 12 s
    network = Doubled((100, 96))
    with MediaSource({AUDIO: [str(path)]}, PREPARERS, Cached(), workers=1) as opened:
        inputs = opened.inputs(AUDIO, np.array([0]))
    windows = [network(torch.from_numpy(part)).mean(0) for part in parts]
    expected = torch.stack(windows).mean(0)  # as collect_features pools them
    assert torch.allclose(features_of(network, AUDIO, inputs)[0], expected, atol=1e-5)
    monkeypatch.setattr(features, "MAX_WINDOWS", 1)
    with MediaSource({AUDIO: [str(path)]}, PREPARERS, Cached(), workers=1) as opened:
        views, _ = opened.inputs(AUDIO, np.array([0]))
    assert np.allclose(views[0].numpy(), parts[0], atol=1e-6)


class Doubled(nn.Module):
    """Views (n, *shape) -> features (n, 3)."""

    def __init__(self, shape: tuple[int, ...] = (2,)) -> None:
        super().__init__()
        self.layer = nn.Linear(int(np.prod(shape)), 3)

    def forward(self, views: Tensor) -> Tensor:
        return self.layer(views.flatten(1)).relu()


def test_views_are_averaged_as_the_exported_graph_does() -> None:
    torch.manual_seed(0)
    network, noise = Doubled(), np.random.default_rng(0)
    prepared = [noise.standard_normal((count, 2)).astype(np.float32) for count in (2, 1, 3)]
    pool = torch.tensor([[0.5, 0.5, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1 / 3, 1 / 3, 1 / 3]])
    graph = ViewGraph(network, unit=False)
    expected = graph(torch.from_numpy(np.concatenate(prepared)), pool)
    found = features_of(network, AUDIO, collate(AUDIO, prepared))
    assert torch.allclose(found, expected, atol=1e-6)
    found.square().sum().backward()
    ours = network.layer.weight.grad
    network.layer.weight.grad = None
    expected.square().sum().backward()
    assert ours is not None
    assert torch.allclose(ours, network.layer.weight.grad, atol=1e-5)


def test_media_follow_the_contents() -> None:
    rows = (
        Row("a", image="/a.png", texts=(" ", "first", "second")),  # a blank text has no features
        Row("b", texts=("second",), audio="/b.wav"),
        Row("c", image="/c.png", texts=("third", "first")),
    )
    examples = Examples(
        {
            IMAGE: np.array([[0], [-1], [1]]),
            TEXT: np.array([[0, 1], [1, -1], [2, 0]]),
            AUDIO: np.array([[-1], [0], [-1]]),
        },
        labels=np.full(3, -1),
        groups=np.arange(3),
    )
    hashes = {
        IMAGE: [b"i0", b"i1"],
        TEXT: [hash_bytes(text.encode()) for text in ("first", "second", "third")],
        AUDIO: [b"a0"],
    }
    collected = Collected({}, examples, hashes, (), 0, 0, kept=np.array([0, 2, 5]))
    assert media_of(rows, collected, Modality) == {
        IMAGE: ["/a.png", "/c.png"],
        TEXT: ["first", "second", "third"],
        AUDIO: ["/b.wav"],
    }
