"""From rows to features: values, what is reused, what fails, and a run that is killed half way."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from indexer.errors import TrainingError
from indexer.fsio import hash_bytes
from indexer.types import FloatArray, Modality
from retrieval.models.backbones import BACKBONES, Backbone
from retrieval.training import features
from retrieval.training.features import FeatureProgress, FeatureWarning, collect_features
from retrieval.training.manifest import read_pairs
from retrieval.training.types import Row
from tests import media
from tests.retrieval.training.sources import put_table
from tests.toy import DIM, ToyEncoder, word_vector

ROOT = Path(__file__).parents[3]
IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO


class Feature(ToyEncoder):
    """Toy vectors that are not of unit length; made wrong by words and colours."""

    def encode(self, tensors: Sequence[npt.NDArray[Any]]) -> FloatArray:
        found = 3 * super().encode(tensors)
        for row, tensor in enumerate(tensors):
            if self.modality is IMAGE and not tensor.any():  # black
                found[row, 2] = 7e4
            if self.modality is IMAGE and (tensor == 255).all():  # white
                found[row, 2] = np.nan
        return found


def toy(modality: Modality) -> Backbone:
    known = next(one for one in BACKBONES.values() if one.modality is modality)
    return Backbone(
        id=f"toy-{modality}",
        modality=modality,
        width=DIM,
        weights=known.weights,
        preprocessing={"kind": "toy"},
        window={},
        batch_size=8,
        group=8,
        make=known.make,
    )


TOYS = {modality: toy(modality) for modality in Modality}


@pytest.fixture
def towers(monkeypatch: pytest.MonkeyPatch) -> dict[Modality, Feature]:
    """The toy towers that were opened."""
    opened: dict[Modality, Feature] = {}

    def tower(backbone: Backbone, *, threads: int = 0) -> Feature:
        return opened.setdefault(backbone.modality, Feature(backbone.modality))

    monkeypatch.setattr(features, "feature_tower", tower)
    return opened


def picture(folder: Path, name: str, colour: str, size: int = 16) -> str:
    from PIL import Image

    path = folder / f"{name}.png"
    Image.new("RGB", (size, size), colour).save(path)
    return str(path)


def sound(folder: Path, name: str, hertz: float, seconds: float = 1.0) -> str:
    import soundfile

    samples = np.sin(2 * np.pi * hertz * np.arange(int(8000 * seconds)) / 8000).astype(np.float32) * 0.5
    path = folder / f"{name}.wav"
    soundfile.write(path, samples, 8000)
    return str(path)


def test_rows_become_numbers(tmp_path: Path, towers: dict[Modality, Feature]) -> None:
    red, green = picture(tmp_path, "red", "red"), picture(tmp_path, "green", "green")
    twin = picture(tmp_path, "twin", "red")  # the same bytes as red
    low = sound(tmp_path, "low", 200)
    rows = [
        Row("a", red, ("red", "boat", "red"), label="z", group="g", weight=0.5),
        Row("b", twin, ("boat",), low, label="y"),
        Row("c", green, (), low, group="f"),
        Row("d", None, ("nothing else",)),
    ]
    events: list[Any] = []
    found = collect_features(rows, TOYS, cache=tmp_path / "cache", workers=1, on_event=events.append)
    assert found.kept.tolist() == [0, 1, 2]
    assert {m: slots.tolist() for m, slots in found.examples.contents.items()} == {
        IMAGE: [[0], [0], [1]],
        TEXT: [[0, 1], [1, -1], [-1, -1]],
        AUDIO: [[-1], [0], [0]],
    }
    assert found.examples.labels.tolist() == [1, 0, -1]
    assert found.labels == ("y", "z")
    assert found.examples.groups.tolist() == [1, -1, 0]
    assert found.examples.weights.tolist() == [0.5, 1, 1]
    assert found.hashes[TEXT] == [hash_bytes(b"red"), hash_bytes(b"boat")]
    assert found.hashes[IMAGE][0] == hash_bytes(Path(red).read_bytes())
    assert [where for where, _ in found.failures] == ["d"]
    assert (found.computed, found.reused) == (6, 0)  # the text of the row that was dropped too
    assert events[-1] == FeatureProgress(done=6, total=6, reused=0, failed=0)
    image = found.features[IMAGE].astype(np.float32)
    assert found.features[IMAGE].dtype == np.float16
    assert np.linalg.norm(image, axis=1) == pytest.approx(3, rel=1e-2)  # features keep their length
    assert found.features[TEXT] == pytest.approx(
        np.stack([word_vector("red"), word_vector("boat")]), abs=1e-3
    )


def test_only_what_is_new_is_computed(tmp_path: Path, towers: dict[Modality, Feature]) -> None:
    cache = tmp_path / "cache"
    red, low = picture(tmp_path, "red", "red"), sound(tmp_path, "low", 200)
    first = collect_features([Row("a", red, ("boat",))], TOYS, cache=cache, workers=1)
    encoded = towers[IMAGE].encoded
    moved = str(Path(red).rename(tmp_path / "elsewhere.png"))
    rows = [Row("x", moved, ("boat", "new"), low)]
    again = collect_features(rows, TOYS, cache=cache, workers=1)
    assert (again.computed, again.reused) == (2, 2)
    assert towers[IMAGE].encoded == encoded
    assert (again.features[IMAGE] == first.features[IMAGE]).all()
    towers.clear()
    whole = collect_features(rows, TOYS, cache=cache, workers=1)
    assert (whole.computed, whole.reused, towers) == (0, 4, {})  # no tower is even opened
    for modality in Modality:
        assert (whole.features[modality] == again.features[modality]).all()


def test_long_media_are_averaged(tmp_path: Path, towers: dict[Modality, Feature]) -> None:
    """A text's chunks, at unit length again."""
    words = ["one"] * 32 + ["two"] * 8
    rows = [Row("a", picture(tmp_path, "red", "red"), (" ".join(words),))]
    found = collect_features(rows, TOYS, cache=tmp_path / "cache", workers=1)
    assert towers[TEXT].encoded == 2
    mean = word_vector("one") + word_vector("two")
    assert found.features[TEXT][0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-3)


def test_a_sounds_windows_are_capped(tmp_path: Path) -> None:
    from indexer.media.prepare import prepare_file
    from retrieval.encoders.audio import AudioPreparer

    plain = AudioPreparer(sample_rate=8000, fft=256, hop=128, mels=8)
    capped = features.capped(plain)
    assert capped.describe() == plain.describe()  # type: ignore[attr-defined]
    path = sound(tmp_path, "long", 200, 61.0)
    starts = [one.range.start for one in prepare_file(path, AUDIO, capped) if one.range]
    assert starts == [0, 5, 10, 15, 20, 25]
    assert len(list(prepare_file(path, AUDIO, plain))) == 12


def test_what_fails_costs_its_row_only(tmp_path: Path, towers: dict[Modality, Feature]) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    rows = [
        Row("fine", picture(tmp_path, "red", "red"), ("red",)),
        Row("broken", str(broken), ("boat",)),
        Row("gone", str(tmp_path / "gone.png"), ("boat",)),
        Row("huge", picture(tmp_path, "black", "black"), ("boat",)),
        Row("nan", picture(tmp_path, "white", "white"), ("boat",)),
        Row("blank", picture(tmp_path, "green", "green"), (" ", "green")),
        Row("sound", str(broken), ("low",), sound(tmp_path, "low", 200)),
    ]
    events: list[Any] = []
    found = collect_features(rows, TOYS, cache=tmp_path / "cache", workers=1, on_event=events.append)
    assert found.kept.tolist() == [0, 5, 6]
    why = dict(found.failures)
    assert why[str(tmp_path / "gone.png")] == "no such file or directory"
    assert "float16" in why[str(tmp_path / "black.png")]
    assert "not finite" in why[str(tmp_path / "white.png")]
    assert why["blank, text ' '"] == "no text in it"
    assert str(broken) in why
    assert [where for where in why if where in ("broken", "gone", "huge", "nan", "sound")] == [
        "broken",
        "gone",
        "huge",
        "nan",
    ]
    assert events[-1] == FeatureProgress(done=12, total=12, reused=0, failed=5)
    for modality in Modality:
        assert np.isfinite(found.features[modality]).all()
    again = collect_features(rows, TOYS, cache=tmp_path / "cache", workers=1)  # failures are not remembered
    assert (again.computed, again.reused, set(again.failures)) == (0, 7, set(found.failures))


def test_a_tables_row_is_named_by_its_place(tmp_path: Path, towers: dict[Modality, Feature]) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    names = [Path(picture(tmp_path, "red", "red")).name, "broken.png"]
    table = put_table(tmp_path / "x.jsonl", [{"image": name, "text": "a boat"} for name in names])
    rows = read_pairs(str(table), cache=tmp_path / "cache").rows
    found = collect_features(rows, TOYS, cache=tmp_path / "cache", workers=1)
    assert [where for where, why in found.failures if "left out" in why] == ["row 2"]


def test_no_row_left_is_an_error(tmp_path: Path, towers: dict[Modality, Feature]) -> None:
    rows = [Row("a", str(tmp_path / "gone.png"), ("boat",))]
    with pytest.raises(TrainingError, match=r"none has two media.*gone\.png"):
        collect_features(rows, TOYS, cache=tmp_path / "cache", workers=1)
    with pytest.raises(TrainingError, match="of 0 rows"):
        collect_features([], TOYS, cache=tmp_path / "cache", workers=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cache"):
        collect_features(rows, TOYS, cache=tmp_path / "file", workers=1)


def test_damage_is_told_and_mended(tmp_path: Path, towers: dict[Modality, Feature]) -> None:
    cache = tmp_path / "cache"
    rows = [Row("a", picture(tmp_path, "red", "red"), ("boat",))]
    first = collect_features(rows, TOYS, cache=cache, workers=1)
    for block in cache.rglob("*.f16"):
        data = bytearray(block.read_bytes())
        data[-1] ^= 64
        block.write_bytes(data)
    events: list[Any] = []
    again = collect_features(rows, TOYS, cache=cache, workers=1, on_event=events.append)
    assert sum(isinstance(event, FeatureWarning) for event in events) == 2
    assert again.computed == 2
    for modality in (IMAGE, TEXT):
        assert (again.features[modality] == first.features[modality]).all()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from retrieval.training import features
from tests.retrieval.training.test_features import Feature, TOYS, many
features.feature_tower = lambda backbone, *, threads=0: Feature(backbone.modality)
features.BLOCK = 8

def watch(event):
    if event.done == 30:
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[2])
features.collect_features(many(folder), TOYS, cache=folder / "cache", workers=1, on_event=watch)
"""


def many(folder: Path) -> list[Row]:
    """Rows of 20 sizes of picture and 40 texts."""
    return [Row(str(n), picture(folder, str(n), "red", 16 + n), (f"boat {n}", f"sea {n}")) for n in range(20)]


def test_a_killed_run_goes_on(tmp_path: Path, towers: dict[Modality, Feature]) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(ROOT), str(tmp_path)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    found = collect_features(many(tmp_path), TOYS, cache=tmp_path / "cache", workers=1)
    assert found.computed + found.reused == 60
    assert 16 <= found.reused <= 30  # what came before the kill, less than one block a modality
    plain = collect_features(many(tmp_path), TOYS, cache=tmp_path / "other", workers=1)
    for modality in (IMAGE, TEXT):
        assert (found.features[modality] == plain.features[modality]).all()
    assert plain.failures == found.failures == ()


@pytest.mark.starter
def test_features_and_heads_are_the_starters_towers(home_with_starter: Path, tmp_path: Path) -> None:
    """Base heads on cached features equal the tower that a search uses, on real media."""
    import soundfile
    import torch
    from PIL import Image

    from retrieval.models.backbones import backbone_of, base_head
    from retrieval.models.registry import find_model

    rows = []
    for name, pixels in list(media.photographs().items())[:3]:
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        rows.append(Row(name, str(tmp_path / f"{name}.png"), (name, f"a photograph of {name}")))
    for name, samples in list(media.sounds().items())[:3]:
        soundfile.write(tmp_path / f"{name}.wav", samples, media.RATE)
        rows.append(Row(name, None, (f"the sound of a {name}",), str(tmp_path / f"{name}.wav")))
    model = find_model("starter", threads=2)
    backbones = {m: backbone_of(tower) for m in Modality if (tower := model.bundle.spec.tower(m))}
    assert set(backbones.values()) == set(BACKBONES.values())
    found = collect_features(rows, backbones, cache=tmp_path / "cache", workers=1, threads=2)
    assert not found.failures
    assert {m: array.shape for m, array in found.features.items()} == {
        IMAGE: (3, 1280),
        TEXT: (9, 384),
        AUDIO: (3, 512),
    }
    for row, number in zip(rows, range(6), strict=True):
        wanted = row.image or row.audio or ""
        modality = IMAGE if row.image else AUDIO
        slot = found.examples.contents[modality][number, 0]
        with torch.inference_mode():
            head = base_head(model, modality)
            assert head is not None
            vector = head(torch.from_numpy(found.features[modality][[slot]].astype(np.float32))).numpy()[0]
        mean = _tower_mean(model.tower(modality), wanted)
        assert vector == pytest.approx(mean, abs=2e-3)
    assert base_head(model, TEXT) is None
    tower = model.tower(TEXT)
    said = tower.encode([tower.preparer.tensor(row.texts[0]) for row in rows])
    first = found.examples.contents[TEXT][:, 0]
    assert found.features[TEXT][first] == pytest.approx(said, abs=1e-3)


def _tower_mean(tower: Any, path: str) -> FloatArray:
    """The tower's vector of a medium that is one segment."""
    from indexer.media.prepare import prepare_file

    tensors = [one.tensor for one in prepare_file(path, tower.modality, tower.preparer)]
    assert len(tensors) == 1
    return tower.encode(tensors)[0]
