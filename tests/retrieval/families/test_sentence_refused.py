"""sentence-transformers folders that are unsafe, incomplete, or prepared in ways not repeated: refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import ModelError
from indexer.types import Modality
from retrieval.models.families import sentence
from tests.retrieval.families import sentence_models as made


@pytest.fixture(scope="module")
def lowercased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.lowercased(tmp_path_factory.mktemp("lowercased"))


class Marker:
    """Pickled, it touches a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


@pytest.fixture
def small(lowercased: Path, tmp_path: Path) -> Path:
    return shutil.copytree(lowercased, tmp_path / "small")


@pytest.mark.parametrize("where", ["", "2_Dense"])
def test_pickled_weights_are_refused_unread(where: str, small: Path, tmp_path: Path) -> None:
    inside, touched = small / where, tmp_path / "touched"
    (inside / "pytorch_model.bin").write_bytes(pickle.dumps(Marker(touched)))
    assert sentence.describe(small, name="st:both"), "beside safetensors it is not looked at"
    (inside / "model.safetensors").unlink()
    for refused in (
        lambda: sentence.describe(small, name="st:a"),
        lambda: sentence.load(small, Modality.TEXT),
    ):
        with pytest.raises(ModelError, match=r"pytorch_model\.bin") as error:
            refused()
        assert str(Path(where, "model.safetensors").as_posix()) in (error.value.hint or "")
    assert not touched.exists()


def test_missing_weights_are_named(small: Path) -> None:
    (small / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no 2_Dense/model\.safetensors"):
        sentence.describe(small, name="st:a")


def test_foreign_code_runs_only_with_leave(small: Path, tmp_path: Path) -> None:
    touched = tmp_path / "ran"
    (small / "own.py").write_text(
        f"from pathlib import Path\nPath({str(touched)!r}).touch()\n"
        "from sentence_transformers.sentence_transformer.modules import LayerNorm\n"
        "class Own(LayerNorm):\n    pass\n"
    )
    modules = json.loads((small / "modules.json").read_text())
    modules[-1]["type"] = "own.Own"
    (small / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="code of its own") as error:
        sentence.load(small, Modality.TEXT)
    assert "--trust-remote-code" in (error.value.hint or "")
    assert not touched.exists()
    assert sentence.load(small, Modality.TEXT, trust_remote_code=True)
    assert touched.exists()


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", "C:\\x", "..\\x"])
def test_modules_outside_the_folder_are_refused(path: str, small: Path) -> None:
    modules = json.loads((small / "modules.json").read_text())
    modules[1]["path"] = path
    (small / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="outside"):
        sentence.describe(small, name="st:a")


def test_other_kinds_of_models_are_refused(small: Path) -> None:
    made.edit(small / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    with pytest.raises(ModelError, match="CrossEncoder"):
        sentence.describe(small, name="st:a")


def test_settings_without_a_field_are_refused(small: Path) -> None:
    made.edit(
        small / "sentence_bert_config.json", {"processing_kwargs": {"text": {"add_special_tokens": False}}}
    )
    with pytest.raises(ModelError, match="add_special_tokens"):
        sentence.describe(small, name="st:a")


def test_adapters_and_other_folders_tokenizers_are_refused(small: Path) -> None:
    made.edit(small / "sentence_bert_config.json", {"tokenizer_name_or_path": "/etc"})
    with pytest.raises(ModelError, match="another model's: '/etc'"):
        sentence.describe(small, name="st:a")
    (small / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter"):
        sentence.describe(small, name="st:a")


def test_a_processor_that_is_not_known_is_named(tmp_path: Path) -> None:
    copy = made.clip(tmp_path)
    config = json.loads((copy / "processor_config.json").read_text())
    config["image_processor"]["image_processor_type"] = "LevitImageProcessor"
    (copy / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="LevitImageProcessor"):
        sentence.describe(copy, name="st:a")


def test_vectors_that_hang_on_their_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="would depend on the texts beside it") as error:
        sentence.describe(made.siglip(tmp_path), name="st:a")
    assert "openclip" in (error.value.hint or "")
    assert sentence.load(tmp_path / "saved", Modality.IMAGE), "its pictures are read like any others"


def test_sounds_are_refused_with_their_processor(tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Transformer

    from tests.retrieval.families.clap_models import write_clap

    write_clap(tmp_path / "0")
    folder = made.saved(tmp_path / "saved", [Transformer(str(tmp_path / "0"))])
    with pytest.raises(ModelError, match="ClapFeatureExtractor"):
        sentence.describe(folder, name="st:a")


def test_only_the_librarys_layout_matches(small: Path, tmp_path: Path) -> None:
    assert sentence.matches(small)
    assert not sentence.matches(tmp_path)
    (tmp_path / "modules.json").write_text("{")
    assert not sentence.matches(tmp_path)
