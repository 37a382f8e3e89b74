"""Evaluations of rows and of an index, with the toy encoder: what is asked of what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.build import update
from indexer.errors import TrainingError
from indexer.report import BuildOptions, FileFailed, Progress
from indexer.types import Encoder, FloatArray, Modality
from retrieval.evaluation.encode import encode_rows, pool_segments
from retrieval.evaluation.index import evaluate_index
from retrieval.evaluation.run import Settings, compare, evaluate
from retrieval.training.types import Examples, Row
from tests.toy import COLOURS, DIM, ToyEncoder, toy_encoders, word_vector

IMAGE, TEXT, AUDIO = Modality


class ToyModel:
    """Towers of the toy space."""

    dim = DIM

    def __init__(self, *modalities: Modality) -> None:
        self.modalities = modalities

    def tower(self, modality: Modality) -> Encoder:
        return ToyEncoder(modality)


def picture(path: Path, colour: str) -> str:
    from PIL import Image

    Image.new("RGB", (40, 30), COLOURS[colour]).save(path)
    return str(path)


def sound(path: Path, hertz: float, seconds: float = 1.0) -> str:
    import soundfile

    clock = np.arange(int(8000 * seconds)) / 8000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * clock), 8000)
    return str(path)


def random_data(rows: int = 40, seed: int = 0) -> tuple[dict[Modality, FloatArray], Examples]:
    random = np.random.default_rng(seed)
    vectors = {m: random.standard_normal((rows, 8)).astype(np.float32) for m in (IMAGE, TEXT)}
    contents = {m: np.arange(rows)[:, None] for m in (IMAGE, TEXT)}
    return vectors, Examples(contents, np.arange(rows) % 4, np.arange(rows), np.ones(rows, np.float32))


def test_rows_become_contents_and_vectors(tmp_path: Path) -> None:
    red, green = picture(tmp_path / "a.png", "red"), picture(tmp_path / "b.png", "green")
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    rows = [
        Row("1", red, ("red", "green")),
        Row("2", green, ("green",), label="leaf", group="g"),
        Row("3", str(tmp_path / "broken.png"), ("blue",)),
        Row("4", str(tmp_path / "copy.png"), ("black",), label="leaf", group="g"),
        Row("5", str(tmp_path / "missing.png"), ("white",)),
        Row("6", None, ("low",), sound(tmp_path / "low.wav", 100)),
    ]
    events: list[FileFailed | Progress] = []
    found = encode_rows(ToyModel(*Modality), rows, workers=1, on_event=events.append)
    assert found.rows.tolist() == [0, 1, 3, 5]
    assert found.examples.contents[IMAGE].tolist() == [[0], [1], [0], [-1]]  # a copy is the same content
    assert found.examples.contents[TEXT].tolist() == [[0, 1], [1, -1], [3, -1], [5, -1]]
    assert found.examples.contents[AUDIO].tolist() == [[-1], [-1], [-1], [0]]
    assert found.examples.labels.tolist() == [-1, 0, 0, -1]
    assert found.examples.groups.tolist() == [0, 1, 1, 2]
    assert found.names[IMAGE][0] == red
    assert found.names[TEXT][3] == "black"
    np.testing.assert_array_equal(found.vectors[TEXT][0], word_vector("red"))
    assert found.vectors[IMAGE][0] @ word_vector("red") > 0.9
    assert np.isnan(found.vectors[IMAGE][2]).all()
    failed = {Path(failure.path).name for failure in found.failures}
    assert failed == {"broken.png", "missing.png"}
    assert [event for event in events if isinstance(event, FileFailed)] == list(found.failures)
    assert isinstance(events[-1], Progress)
    assert events[-1].done == events[-1].total == 3 + 6 + 1
    result = evaluate(found.vectors, found.examples, Settings(resamples=10))
    assert [way.name for way in result.directions][:2] == ["image to text", "text to image"]
    assert result.directions[1].metrics["R@1"].value == 2 / 3  # black is wrongly with the red picture


def test_long_media_give_the_mean_of_their_windows(tmp_path: Path) -> None:
    path = sound(tmp_path / "long.wav", 100, seconds=22)
    found = encode_rows(ToyModel(TEXT, AUDIO), [Row("1", None, ("low",), path)], workers=1)
    vector = found.vectors[AUDIO][0]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert vector @ word_vector("low") > 0.95
    np.testing.assert_allclose(
        pool_segments(np.array([[1, 0], [0, 1]], np.float32)), [0.5**0.5, 0.5**0.5], rtol=1e-6
    )
    assert pool_segments(np.array([[1, 0], [-1, 0]], np.float32)) is None


def test_rows_that_the_model_cannot_pair_are_refused(tmp_path: Path) -> None:
    rows = [Row("1", picture(tmp_path / "a.png", "red"), (), sound(tmp_path / "a.wav", 100))]
    with pytest.raises(TrainingError, match=r"none of 1 rows has two modalities .*image, text"):
        encode_rows(ToyModel(IMAGE, TEXT), rows, workers=1)
    gone = [Row("1", str(tmp_path / "gone.png"), ("red",))]
    with pytest.raises(TrainingError, match="1 files failed, the first: no such file"):
        encode_rows(ToyModel(IMAGE, TEXT), gone, workers=1)


def test_an_index_is_measured_by_its_own_vectors(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    media.mkdir()
    for colour in ("red", "green", "blue"):
        picture(media / f"{colour}.png", colour)
        (media / f"{colour}.txt").write_text(colour)
    picture(media / "alone.png", "black")
    options = BuildOptions(model="toy", workers=1)
    update(index, [media], encoders=toy_encoders(), options=options)
    found = evaluate_index(index)
    assert len(found.examples) == 3
    assert sorted(found.names[TEXT]) == ["blue", "green", "red"]
    assert {Path(name).exists() for name in found.names[IMAGE]} == {True}
    direct = encode_rows(
        ToyModel(*Modality),
        [Row(n, n, (t,)) for n, t in zip(found.names[IMAGE], found.names[TEXT], strict=True)],
        workers=1,
    )
    for modality in (IMAGE, TEXT):
        np.testing.assert_allclose(found.vectors[modality], direct.vectors[modality], atol=1e-3)
    assert evaluate(found.vectors, found.examples).mean_recall == 1


def test_an_index_without_pairs_is_refused(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    picture(media / "alone.png", "red")
    update(tmp_path / "index", [media], encoders=toy_encoders(), options=BuildOptions(model="toy", workers=1))
    with pytest.raises(TrainingError, match="has two modalities") as refused:
        evaluate_index(tmp_path / "index")
    assert "captions" in (refused.value.hint or "")


def test_mean_recall_of_an_evaluation_is_the_quick_one() -> None:
    from retrieval.evaluation.metrics import mean_recall

    vectors, data = random_data()
    found = evaluate(vectors, data, Settings(resamples=20))
    assert found.mean_recall == pytest.approx(mean_recall(vectors, data))
    assert found.directions[0].chance == pytest.approx({"R@1": 1 / 40, "R@5": 5 / 40, "R@10": 10 / 40})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (1, "among 1 candidate every number is perfect whatever the model"),
        (2, "among 2 candidates R@10 is 100 % whatever the model"),
        (10, "among 10 candidates R@10 is 100 % whatever the model"),
        (11, ""),
    ],
)
def test_numbers_that_any_model_reaches_are_told(rows: int, said: str) -> None:
    found = evaluate(*random_data(rows), Settings(resamples=10))
    assert all(way.metrics["R@10"].value == 1 for way in found.directions) or not said
    assert len(found.cautions) == bool(said)
    assert said in "".join(found.cautions)
    assert all(caution.startswith("image to text, text to image: ") for caution in found.cautions)


def test_labels_give_several_relevant() -> None:
    vectors, data = random_data()
    found = evaluate(vectors, data, Settings(by_label=True, resamples=20))
    assert found.directions[0].relevant == 10
    assert found.directions[0].chance["R@1"] == pytest.approx(0.25)


def test_comparison_is_first_minus_second() -> None:
    vectors, data = random_data()
    perfect = {IMAGE: vectors[IMAGE], TEXT: vectors[IMAGE]}
    settings = Settings(resamples=200)
    first, second = evaluate(perfect, data, settings), evaluate(vectors, data, settings)
    found = compare(first, second)
    for way, a, b in zip(found.directions, first.directions, second.directions, strict=True):
        gain = way.differences["R@10"]
        assert gain.value == pytest.approx(a.metrics["R@10"].value - b.metrics["R@10"].value)
        assert gain.clear
        assert gain.low > 0
    assert found.only_one == ()


def test_only_the_same_task_is_compared() -> None:
    vectors, data = random_data()
    settings = Settings(resamples=20)
    first = evaluate(vectors, data, settings)
    with pytest.raises(TrainingError, match="did not measure the same rows"):
        compare(first, evaluate(vectors, data.take(np.arange(30)), settings))
    with pytest.raises(TrainingError, match="cannot be compared"):
        compare(first, evaluate(vectors, data, Settings(resamples=20, by_label=True)))
    sounds = {TEXT: vectors[TEXT], AUDIO: vectors[IMAGE]}
    other = Examples(
        {TEXT: data.contents[TEXT], AUDIO: data.contents[IMAGE]}, data.labels, data.groups, data.weights
    )
    with pytest.raises(TrainingError, match="no direction in common"):
        compare(first, evaluate(sounds, other, settings))
    with pytest.raises(TrainingError, match="evaluation at k = "):
        Settings(ks=(0, 1))


def test_a_model_without_a_tower_is_compared_in_what_it_has(tmp_path: Path) -> None:
    rows = [
        Row(word, picture(tmp_path / f"{word}.png", word), (word,), sound(tmp_path / f"{word}.wav", 90 + n))
        for n, word in enumerate(("red", "green", "blue"))
    ]
    whole, part = ToyModel(*Modality), ToyModel(IMAGE, TEXT)
    both = [encode_rows(model, rows, workers=1) for model in (whole, part)]
    settings = Settings(resamples=20)
    found = compare(*(evaluate(one.vectors, one.examples, settings) for one in both))
    assert [way.direction for way in found.directions] == [(IMAGE, TEXT), (TEXT, IMAGE)]
    assert len(found.only_one) == 4
