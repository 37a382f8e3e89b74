"""An int8 graph of a model's image tower, made from a folder of pictures."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nncf")
pytest.importorskip("openvino")

from indexer.errors import ConfigError
from indexer.types import Modality
from retrieval.models.int8_report import recall_at
from retrieval.models.quantize import FEWEST, quantize_model
from retrieval.models.registry import find_model, load_model
from retrieval.runtime.choose import Placement
from tests.media import photographs


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Sixteen crops of photographs."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise, sources = np.random.default_rng(0), list(photographs().values())
    for number in range(FEWEST):
        source = sources[number % len(sources)]
        side = min(source.shape[:2]) // 2
        top, left = (int(noise.integers(0, length - side)) for length in source.shape[:2])
        Image.fromarray(source[top : top + side, left : left + side]).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def own_models(home: Path, starter_home: Path) -> Path:
    """A cache of this test's own with the starter in it."""
    shutil.copytree(
        starter_home / "cache" / "models",
        home / "cache" / "models",
        copy_function=os.link,
        dirs_exist_ok=True,
    )
    return home


@pytest.mark.usefixtures("own_models")
def test_an_int8_graph_lies_beside_the_other_and_the_space_stays(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_model("starter")
    with pytest.raises(ConfigError, match="no int8 graph") as caught:
        before.for_indexing(Placement("cpu", precision="int8"))
    assert "triptych models quantize starter" in (caught.value.hint or "")
    report = quantize_model("starter", pictures, seconds=3)
    after = find_model("starter")
    assert after.space_id == before.space_id
    assert after.bundle.verify() == []
    assert set(after.bundle.spec.files) == {*before.bundle.spec.files, report.graph, f"{report.graph}.data"}
    assert report.calibrated + report.compared == FEWEST
    assert 0.8 < report.cosine_worst <= report.cosine_mean < 0.9999
    assert report.recall == {}  # the pictures have no captions
    assert capsys.readouterr().out == ""  # nncf prints there

    small = after.for_indexing(Placement("cpu", precision="int8")).tower(Modality.IMAGE)
    exact = before.tower(Modality.IMAGE)
    tensors = [exact.preparer.tensor(picture) for picture in photographs().values()]
    cosines = (small.encode(tensors) * exact.encode(tensors)).sum(axis=1)
    assert (small.precision, exact.precision) == ("int8", "f32")
    assert cosines.min() > 0.8
    np.testing.assert_allclose(small.encode(tensors[:1])[0], small.encode(tensors)[0], atol=1e-5)


@pytest.mark.usefixtures("own_models")
def test_too_few_pictures(tmp_path: Path, pictures: Path) -> None:
    (pictures / "0.png").unlink()
    (pictures / "1.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="14 pictures that can be read, expected 16"):
        quantize_model("starter", pictures, seconds=3)
    with pytest.raises(ConfigError, match="is not there"):
        quantize_model("starter", tmp_path / "nowhere")


def test_recall_by_hand() -> None:
    axes = np.eye(3, dtype=np.float32)
    labels = np.array(["a", "b", "c"])
    assert recall_at(axes, axes, labels, cut=1) == 1.0
    assert recall_at(axes[[1, 0, 2]], axes, labels, cut=1) == pytest.approx(1 / 3)
    flat = np.ones((3, 3), np.float32)
    assert recall_at(axes, flat, labels, cut=2) == 0.0  # ties rank before the answer
    assert recall_at(axes, flat, np.array(["a", "a", "a"]), cut=1) == 1.0
