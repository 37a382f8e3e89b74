"""Which files of a folder count, and what leads out of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from indexer.errors import ConfigError, ModelError
from retrieval.models.families.allowed import (
    OPENCLIP_CONFIG,
    Folder,
    card_licence,
    check_external_data,
    choose,
    safe_name,
)
from retrieval.models.families.folders import allow_list

POOLED = [
    {"idx": 0, "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def held(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def sentence(folder: Path, **more: str) -> Path:
    files = {
        "modules.json": json.dumps(POOLED),
        "0_Transformer/config.json": "{}",
        "0_Transformer/model.safetensors": "weights",
        "1_Pooling/config.json": "{}",
        "extra/config.json": "{}",
    }
    return write(folder, files | more)


def openclip(folder: Path, text: dict[str, object], **more: str) -> Path:
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": text}}
    files = {OPENCLIP_CONFIG: json.dumps(config), "open_clip_model.safetensors": "weights"}
    return write(folder, files | more)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/../b", "/a", "a//b", "a\\b", "C:a", "a/", "./a", "a\nb", "a/.. /b"]
)
def test_names_that_could_lead_out(name: str) -> None:
    with pytest.raises(ModelError, match="leads out"):
        safe_name(name, "here")


@pytest.mark.parametrize("name", ["a", "a/b.json", "1_Pooling/config.json", "...x", "a b/c+d.txt"])
def test_names_that_stay(name: str) -> None:
    assert safe_name(name, "here") == name


def test_a_local_model_is_copied_without_what_does_not_count(tmp_path: Path) -> None:
    folder = sentence(
        tmp_path / "model",
        **{"0_Transformer/pytorch_model.bin": "pickle", "optimizer.pt": "pickle", "run.py": "code"},
    )
    names = allow_list(folder, tmp_path / "out", "st")
    expected = {
        "modules.json",
        "0_Transformer/config.json",
        "0_Transformer/model.safetensors",
        "1_Pooling/config.json",
    }
    assert held(tmp_path / "out") == set(names) == expected
    (folder / "0_Transformer" / "model.safetensors").write_text("trained on")
    assert (tmp_path / "out" / "0_Transformer" / "model.safetensors").read_text() == "weights"


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt", "model.pth", "x.ckpt", "x.pkl"])
def test_a_folder_with_pickles_only_is_refused(tmp_path: Path, pickle: str) -> None:
    folder = sentence(tmp_path / "model", **{f"0_Transformer/{pickle}": "pickle"})
    (folder / "0_Transformer" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="only as") as caught:
        allow_list(folder, tmp_path / "out", "st")
    assert pickle in caught.value.message
    assert "0_Transformer/model.safetensors" in (caught.value.hint or "")
    assert held(tmp_path / "out") == set()


def test_a_module_of_a_sentence_model_with_a_pickle_is_refused_too(tmp_path: Path) -> None:
    folder = sentence(tmp_path / "model", **{"1_Pooling/pytorch_model.bin": "a dense layer"})
    with pytest.raises(ModelError, match="1_Pooling/pytorch_model") as caught:
        choose("st", Folder(folder))
    assert "1_Pooling/model.safetensors" in (caught.value.hint or "")


def test_shards_are_followed_inside_their_folder_only(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    files = {"config.json": "{}", "model-1.safetensors": "1", "model-2.safetensors": "2"}
    folder = write(tmp_path / "m", files | {"model.safetensors.index.json": json.dumps(index)})
    assert set(choose("clap", Folder(folder))) == {*files, "model.safetensors.index.json"}
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks model-2"):
        choose("clap", Folder(folder))
    for bad in ("../model-2.safetensors", "/tmp/x.safetensors", "a\\b.safetensors"):
        index["weight_map"]["b"] = bad
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match="leads out"):
            choose("clap", Folder(folder))
    for bad in ("sub/x.safetensors", "pytorch_model.bin"):
        index["weight_map"]["b"] = bad
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match="no safetensors beside it"):
            choose("clap", Folder(folder))


@pytest.mark.parametrize("path", ["../other", "/abs", "a\\b"])
def test_module_folders_that_lead_out_are_refused(tmp_path: Path, path: str) -> None:
    modules = [{"path": path, "type": "sentence_transformers.models.Pooling"}]
    folder = sentence(tmp_path / "model", **{"modules.json": json.dumps(modules)})
    with pytest.raises(ModelError, match="leads out"):
        choose("st", Folder(folder))


def test_modules_of_a_strangers_class_want_the_flag(tmp_path: Path) -> None:
    modules = [{"path": "0_Transformer", "type": "custom_st.Transformer"}]
    folder = sentence(tmp_path / "model", **{"modules.json": json.dumps(modules), "custom_st.py": "code"})
    with pytest.raises(ConfigError, match="custom_st") as caught:
        choose("st", Folder(folder))
    assert "--trust-remote-code" in (caught.value.hint or "")
    assert "custom_st.py" in choose("st", Folder(folder), trust_remote_code=True)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = sentence(tmp_path / "model")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (folder / "1_Pooling" / "vocab.txt").symlink_to(secret)
    with pytest.raises(ModelError, match="leads out"):
        allow_list(folder, tmp_path / "out", "st")
    assert "1_Pooling/vocab.txt" not in held(tmp_path / "out")


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    folder = sentence(tmp_path / "model", **{"blobs/x": "words"})
    (folder / "1_Pooling" / "vocab.txt").symlink_to(Path("..", "blobs", "x"))
    allow_list(folder, tmp_path / "out", "st")
    copied = tmp_path / "out" / "1_Pooling" / "vocab.txt"
    assert copied.read_text() == "words"
    assert not copied.is_symlink()


def test_what_an_open_clip_folder_needs_depends_on_its_text_tower(tmp_path: Path) -> None:
    tokenizer = {"tokenizer.json": "{}", "tokenizer_config.json": "{}", "config.json": "{}"}
    plain = openclip(tmp_path / "plain", {}, **tokenizer)
    assert set(allow_list(plain, tmp_path / "a", "openclip")) == {
        OPENCLIP_CONFIG,
        "open_clip_model.safetensors",
    }
    own = openclip(tmp_path / "own", {"hf_tokenizer_name": "acme/words"}, **tokenizer)
    assert held(tmp_path / "own") == set(allow_list(own, tmp_path / "b", "openclip"))
    network = openclip(tmp_path / "n", {"hf_model_name": "acme/net"}, **{"text_config/config.json": "{}"})
    assert "text_config/config.json" in allow_list(network, tmp_path / "c", "openclip")


def test_open_clip_weights_get_a_name_that_open_clip_finds(tmp_path: Path) -> None:
    folder = openclip(tmp_path / "m", {})
    (folder / "open_clip_model.safetensors").rename(folder / "epoch_9.safetensors")
    allow_list(folder, tmp_path / "out", "openclip")
    assert held(tmp_path / "out") == {OPENCLIP_CONFIG, "open_clip_model.safetensors"}


def test_weights_of_another_layout_are_not_taken_for_open_clips(tmp_path: Path) -> None:
    folder = openclip(tmp_path / "m", {}, **{"config.json": "{}", "model.safetensors": "of transformers"})
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_text("pickle")
    with pytest.raises(ModelError, match=r"only as open_clip_pytorch_model\.bin") as caught:
        choose("openclip", Folder(folder))
    assert "open_clip_model.safetensors" in (caught.value.hint or "")


def test_a_plain_transformers_model_is_no_sentence_model(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {"config.json": "{}", "model.safetensors": "w"})
    with pytest.raises(ModelError, match=r"no sentence-transformers model: it has no modules\.json"):
        choose("st", Folder(folder))


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n# x", "mit"),
        ("---\ntags:\n- a\nlicense: other\nlicense_name: apple-amlr\n---\n", "apple-amlr"),
        ("---\nlicense: 'apache-2.0'\n---", "apache-2.0"),
        ("# license: mit", ""),
        ("---\ntags: x\n---\nlicense: mit", ""),
    ],
)
def test_a_cards_licence(tmp_path: Path, card: str, licence: str) -> None:
    assert card_licence(tmp_path) == ""
    (tmp_path / "README.md").write_text(card)
    assert card_licence(tmp_path) == licence


def graph(path: Path, location: str, *, nested: bool = False) -> Path:
    """An ONNX graph whose one tensor lies in another file, in a subgraph with `nested`."""
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    if nested:
        inner = helper.make_graph([helper.make_node("Constant", [], ["y"], value=weight)], "inner", [], [out])
        flag = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
        node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
        body = helper.make_graph([node], "g", [flag], [out])
    else:
        body = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [out], [weight])
    path.write_bytes(helper.make_model(body).SerializeToString())
    return path


@pytest.mark.parametrize("nested", [False, True])
def test_external_data_beside_a_graph_is_named(tmp_path: Path, nested: bool) -> None:
    (tmp_path / "image.onnx.data").write_bytes(bytes(16))
    path = graph(tmp_path / "image.onnx", "image.onnx.data", nested=nested)
    assert check_external_data(path) == {"image.onnx.data"}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", ""])
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str, nested: bool) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "model").mkdir()
    path = graph(tmp_path / "model" / "image.onnx", location, nested=nested)
    with pytest.raises(ModelError, match="leads out"):
        check_external_data(path)


def test_external_data_behind_a_link_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").symlink_to(tmp_path / "secret")
    path = graph(tmp_path / "model" / "image.onnx", "weights")
    with pytest.raises(ModelError, match="leads out"):
        check_external_data(path)


def test_external_data_that_is_missing_and_graphs_that_are_none(tmp_path: Path) -> None:
    path = graph(tmp_path / "image.onnx", "nowhere")
    with pytest.raises(ModelError, match="not there"):
        check_external_data(path)
    path.write_bytes(b"\xff\xff no graph")
    with pytest.raises(ModelError, match="no ONNX graph"):
        check_external_data(path)


def test_a_graph_without_external_data(tmp_path: Path) -> None:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    body = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [out], [weight])
    onnx.save(helper.make_model(body), str(tmp_path / "a.onnx"))
    assert check_external_data(tmp_path / "a.onnx") == frozenset()


def test_a_local_folder_is_not_told_of_pull_requests(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {"config.json": "{}", "pytorch_model.bin": "pickle"})
    with pytest.raises(ModelError, match=r"only as pytorch_model\.bin") as caught:
        choose("clap", Folder(folder))
    assert "@refs" not in (caught.value.hint or "")
    assert "save it as model.safetensors" in (caught.value.hint or "")
