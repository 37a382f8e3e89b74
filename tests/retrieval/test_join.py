"""Two models joined: A as it was, B's sounds in A's space, and a bundle that torch can load again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from indexer.errors import ConfigError, ModelError
from indexer.types import Modality
from retrieval.models.backbones import backbone_of, base_head
from retrieval.models.bridge_types import BridgeOptions, BridgeReport, Method
from retrieval.models.bundle import Bundle, ModelSpec, link_or_copy, write_bundle
from retrieval.models.captions.bank import captions
from retrieval.models.join import bridge_models, join, read_texts, sound_files, sound_vectors
from retrieval.models.model import Model
from retrieval.models.registry import find_model
from retrieval.models.trained import load_heads
from retrieval.render.models import bridge_lines, bundle_lines
from tests.media import sounds
from tests.retrieval.conftest import PulledClap

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO
TEXTS = [one.text for one in captions()[::16]]
RIDGE = BridgeOptions(method=Method.RIDGE)
NAME = "clap:example/small"


def without_sounds(starter: Model, folder: Path) -> Bundle:
    """The starter's picture and text towers alone."""
    spec = starter.bundle.spec
    towers = tuple(tower for tower in spec.towers if tower.modality is not AUDIO)

    def fill(work: Path) -> ModelSpec:
        for name in spec.files:
            if not name.startswith("audio"):
                link_or_copy(starter.bundle.path(name), work / name)
        return ModelSpec(name="pictures", towers=towers)

    return write_bundle(folder, fill)


@pytest.fixture(scope="module")
def home(pulled_clap: PulledClap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of this file's own, whose cache holds the CLAP model."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(pulled_clap.home / "cache", folder / "cache", copy_function=os.link)
    return folder


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(home))


@pytest.fixture(scope="module")
def pictures(starter: Model, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return without_sounds(starter, tmp_path_factory.mktemp("pictures") / "pictures")


@pytest.fixture(scope="module")
def clap(pulled_clap: PulledClap) -> Bundle:
    return pulled_clap.bundle


@pytest.fixture(scope="module")
def joined(home: Path, pictures: Bundle, clap: Bundle) -> tuple[Bundle, BridgeReport]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_HOME", str(home))
        return join(pictures, clap, name="mm", texts=TEXTS, options=RIDGE)


@contextmanager
def no_graphs() -> Iterator[list[str]]:
    """Names of graphs that would have been exported, in place of exporting them: the space hangs on none."""
    asked: list[str] = []

    def export_tower(_network: object, path: Path, _preparer: object, *, head: object) -> None:
        assert head is not None
        asked.append(path.name)
        for name in (path.name, f"{path.name}.data"):
            (path.parent / name).write_bytes(b"a graph")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.models.join.export_tower", export_tower)
        yield asked


def test_the_joined_model_has_all_modalities_in_one_space(
    joined: tuple[Bundle, BridgeReport], pictures: Bundle
) -> None:
    bundle, report = joined
    assert set(bundle.spec.modalities) == {IMAGE, TEXT, AUDIO}
    assert {tower.dim for tower in bundle.spec.towers} == {384}
    assert bundle.spec.space_id != pictures.spec.space_id
    assert bundle.verify() == []
    assert find_model("mm").space_id == bundle.spec.space_id
    assert report.towers == ("audio",)
    assert bundle.spec.provenance["bridge"]["bank"] == report.bank
    assert [one["name"] for one in bundle.spec.provenance["joined"]] == ["pictures", NAME]
    for modality in (IMAGE, TEXT):
        assert bundle.spec.tower(modality) == pictures.spec.tower(modality)
    vectors = Model(bundle).tower(TEXT).encode([Model(bundle).tower(TEXT).preparer.tensor("a dog")])
    before = Model(pictures).tower(TEXT).encode([Model(pictures).tower(TEXT).preparer.tensor("a dog")])
    assert np.array_equal(vectors, before)


def test_sounds_go_through_the_bridge(joined: tuple[Bundle, BridgeReport], clap: Bundle) -> None:
    """The graph gives what B's own vectors give through the head that lies beside it."""
    bundle, _ = joined
    ours, theirs = Model(bundle).tower(AUDIO), Model(clap).tower(AUDIO)
    tensors = [ours.preparer.tensor(sound) for sound in list(sounds().values())[:4]]
    found, own = ours.encode(tensors), theirs.encode(tensors)
    head = load_heads(bundle).heads["audio"]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(head(torch.from_numpy(own)), dim=1).numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert found.shape == (4, 384)
    again = base_head(bundle, AUDIO)
    tower = bundle.spec.tower(AUDIO)
    assert tower
    assert again
    with torch.no_grad():
        features = backbone_of(tower, bundle).load()(torch.from_numpy(np.concatenate(tensors)))
        assert again(features).numpy() == pytest.approx(expected, abs=1e-4)


def test_what_a_pull_of_two_says_is_what_the_bridge_measured(joined: tuple[Bundle, BridgeReport]) -> None:
    bundle, report = joined
    lines = "\n".join(bundle_lines(bundle))
    test = report.scores[report.chosen].test
    for way, names in (("b to a", f"{NAME} to pictures"), ("a to b", f"pictures to {NAME}")):
        assert f"{names}: R@1 {100 * test[way]['R@1'].value:.1f} %" in lines
    assert f"of {report.captions['test']} held-out captions" in lines
    assert ("WARNING" in lines) is any("WARNING" in line for line in report.lines())
    assert not bridge_lines(replace(bundle.spec, provenance={}))


def test_the_library_s_files_come_along(joined: tuple[Bundle, BridgeReport], clap: Bundle) -> None:
    tower, theirs = joined[0].spec.tower(AUDIO), clap.spec.tower(AUDIO)
    assert tower
    assert theirs
    assert (tower.family, tower.source, tower.weights) == ("clap", "source-b", theirs.weights)
    assert tower.preprocessing == theirs.preprocessing
    assert tower.width == theirs.dim
    mine = {name.removeprefix("source-b/") for name in joined[0].spec.files if name.startswith("source-b/")}
    assert mine == {name.removeprefix("source/") for name in clap.spec.files if name.startswith("source/")}
    assert "config.json" in mine


def test_the_same_inputs_give_the_same_space(
    joined: tuple[Bundle, BridgeReport],
    pictures: Bundle,
    clap: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    with no_graphs() as asked:
        again, report = join(pictures, clap, name="mm", texts=TEXTS, options=RIDGE)
    assert asked == ["audio.onnx"]
    assert again.spec.space_id == joined[0].spec.space_id
    assert report == joined[1]


def test_a_starter_s_own_head_comes_before_the_bridge(
    starter: Model, pictures: Bundle, tmp_path: Path
) -> None:
    """B is the starter itself: its sounds must land about where they were, and its mean can be moved."""
    folder = tmp_path / "heard"
    folder.mkdir()
    for name in ("chirp", "bell"):
        soundfile.write(folder / f"{name}.wav", sounds()[name], 16_000)
    (folder / "broken.wav").write_bytes(b"no sound")
    paths = sound_files(folder)
    assert [path.name for path in paths] == ["bell.wav", "broken.wav", "chirp.wav"]
    bundle, report = join(pictures, starter.bundle, name="own", texts=TEXTS, options=RIDGE)
    tower = Model(bundle).tower(AUDIO)
    tensors = [tower.preparer.tensor(sounds()[name]) for name in ("chirp", "bell", "short")]
    cosines = (tower.encode(tensors) * starter.tower(AUDIO).encode(tensors)).sum(axis=1)
    assert cosines.min() > 0.6
    assert report.centred == 0
    with no_graphs():
        moved, said = join(pictures, starter.bundle, name="moved", texts=TEXTS, options=RIDGE, sounds=paths)
    assert said.centred == 2
    assert moved.spec.space_id != bundle.spec.space_id
    assert sound_vectors(starter.bundle, paths).shape == (2, 384)


def test_what_cannot_be_joined_is_refused(starter: Model, pictures: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="adds nothing: starter has image, text, audio"):
        join(starter.bundle, pictures, name="mm")
    mute = replace(pictures.spec, towers=tuple(t for t in pictures.spec.towers if t.modality is IMAGE))
    with pytest.raises(ModelError, match="pictures has no text tower"):
        join(Bundle(pictures.folder, mute), starter.bundle, name="mm")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_texts(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="holds no sounds"):
        sound_files(tmp_path)


def test_a_model_is_not_joined_with_what_was_joined_from_it(
    joined: tuple[Bundle, BridgeReport], pictures: Bundle, clap: Bundle
) -> None:
    for one in (pictures, clap):
        for pair in ((one, joined[0]), (joined[0], one)):
            with pytest.raises(ModelError, match="mm was joined from"):
                join(*pair, name="again")


def test_by_name_as_the_command_calls_it(pictures: Bundle, clap: Bundle, tmp_path: Path) -> None:
    lines = tmp_path / "texts.txt"
    lines.write_text("\n\n".join(TEXTS[:250]) + "\n", encoding="utf-8")
    with no_graphs():
        report = bridge_models(str(pictures.folder), NAME, name="named", texts=lines, method="procrustes")
    assert report.chosen is Method.PROCRUSTES
    assert sum(report.captions.values()) == 250
    assert report.lines()[-1] == f"audio of {NAME} now lies in the space of pictures"
    assert set(find_model("named").modalities) == {IMAGE, TEXT, AUDIO}
    with pytest.raises(ConfigError, match="'pictures' belongs to another model") as caught:
        bridge_models(str(pictures.folder), NAME, name="pictures", texts=lines)
    assert "--name" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="expected one of auto, ridge, procrustes, contrastive"):
        bridge_models(str(pictures.folder), NAME, name="named", method="magic")


def test_a_joined_model_is_replaced_on_request_only(pictures: Bundle, clap: Bundle, tmp_path: Path) -> None:
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(TEXTS[:250]) + "\n", encoding="utf-8")

    def bridge(method: str, *, force: bool = False) -> None:
        with no_graphs():
            bridge_models(str(pictures.folder), NAME, name="once", texts=lines, method=method, force=force)

    bridge("procrustes")
    first = find_model("once").space_id
    with pytest.raises(ConfigError, match="'once' belongs to another model") as caught:
        bridge("ridge")
    assert "--force" in (caught.value.hint or "")
    assert find_model("once").space_id == first
    bridge("ridge", force=True)
    assert find_model("once").bundle.spec.provenance["bridge"]["chosen"] == "ridge"
    assert find_model("once").space_id != first
    assert find_model(first).space_id == first  # indexes made with it find it still
