"""Every kind of preprocessing finds the preparer that computes it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from indexer.errors import ModelError
from indexer.types import Modality, Preparer
from retrieval.encoders.audio import AudioPreparer
from retrieval.encoders.described import KINDS, preparer_of
from retrieval.encoders.image import ImagePreparer
from retrieval.encoders.library_image import LibraryImagePreparer
from retrieval.encoders.library_text import LibraryTextPreparer
from retrieval.encoders.log_mel import LogMelPreparer
from retrieval.encoders.text import TextPreparer

HALF = (0.5, 0.5, 0.5)
PREPARERS: tuple[Preparer, ...] = (
    ImagePreparer(),
    LibraryImagePreparer((224, 224), (224, 224), HALF, HALF),
    AudioPreparer(),
    LogMelPreparer(),
    TextPreparer("tokenizer.json"),
    LibraryTextPreparer("tokenizer.json", 77),
)
WINDOW = {"window_s": 10.0, "hop_s": 5.0}


@pytest.mark.parametrize("preparer", PREPARERS, ids=lambda one: type(one).__name__)
def test_each_kind_comes_back(preparer: Preparer) -> None:
    said = preparer.describe()  # type: ignore[attr-defined]
    assert said["kind"] in KINDS[preparer.modality]
    assert preparer_of(preparer.modality, said, WINDOW, tokenizer="tokenizer.json") == preparer


def test_every_kind_is_tested() -> None:
    said = {one.describe()["kind"] for one in PREPARERS}  # type: ignore[attr-defined]
    assert said == {kind for kinds in KINDS.values() for kind in kinds}


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("kind", ["tomorrow/1", None, "of another modality"])
def test_an_unknown_kind_is_refused(modality: Modality, kind: str | None) -> None:
    if kind == "of another modality":
        kind = KINDS[next(one for one in Modality if one is not modality)][0]
    with pytest.raises(ModelError, match="preprocessing is"):
        preparer_of(modality, {"kind": kind}, WINDOW, tokenizer="")


def test_reading_a_description_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from indexer.types import Modality\n"
        "from retrieval.encoders.described import preparer_of\n"
        "from retrieval.encoders.log_mel import LogMelPreparer\n"
        "import numpy as np\n"
        "said = LogMelPreparer().describe()\n"
        f"preparer_of(Modality.AUDIO, said, {WINDOW!r}, tokenizer='').tensor(np.ones(9, np.float32))\n"
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'librosa', 'scipy', 'onnxruntime'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
