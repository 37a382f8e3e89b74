"""A text search with a model of open_clip, through the command line, loads no library that it came from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from indexer.types import Modality
from tests.retrieval.families.openclip_models import write_model

TRIPTYCH = Path(sys.executable).parent / "triptych"
HEAVY = {
    "torch",
    "transformers",
    "open_clip",
    "sentence_transformers",
    "huggingface_hub",
    "timm",
    "faiss",
    "openvino",
}
SEARCH = """
import sys, cli
sys.argv = ["triptych", "search", *sys.argv[1:]]
try:
    cli.app()
except SystemExit as end:
    print("ended with", end.code)
print("modules:", *sys.modules)
"""


@pytest.fixture(scope="module")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TRIPTYCH_HOME whose cache holds a small open_clip model called `small`."""
    from retrieval.models.families import openclip
    from retrieval.models.families.build import write_family

    home = tmp_path_factory.mktemp("home")
    folder = write_model(tmp_path_factory.mktemp("source") / "small", "clip")
    described = openclip.describe(folder, name="small")
    texts = tuple(tower for tower in described if tower.modality is Modality.TEXT)
    with pytest.MonkeyPatch.context() as patch:
        # Exporting the tower of pictures takes long, and no search of texts runs it.
        patch.setattr(openclip, "describe", lambda _folder, **_: texts)
        patch.setenv("TRIPTYCH_HOME", str(home))
        bundle = write_family("dir:small", "openclip", folder, called="small")
    assert [tower.graph for tower in bundle.spec.towers] == ["text.onnx"], bundle.spec.provenance
    return home


def test_a_search_with_an_open_clip_model_loads_no_library_of_it(
    model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(model_home))
    media = tmp_path / "media"
    media.mkdir()
    for name, text in {
        "bird": "a singing bird",
        "soup": "onion soup with bread",
        "cafe": "café & bar",
    }.items():
        (media / f"{name}.txt").write_text(text)
    index = tmp_path / "index"
    indexed = [str(TRIPTYCH), "index", str(media), "--model", "small", "--index", str(index)]
    subprocess.run(indexed, check=True, capture_output=True, timeout=300)
    # ftfy mends what was typed, and open_clip lowers its case: the words are those of one file.
    for typed, name in (("A Singing BIRD", "bird"), ("cafÃ© &amp; BAR", "cafe")):
        command = [sys.executable, "-c", SEARCH, typed, "--index", str(index), "-k", "1", "--paths"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        hits, modules = done.stdout.split("modules:")
        assert f"{name}.txt" in hits
        loaded = {module.split(".")[0] for module in modules.split()}
        assert not loaded & HEAVY
        assert {"tokenizers", "onnxruntime"} <= loaded
        assert ("ftfy" in loaded) == (name == "cafe")
