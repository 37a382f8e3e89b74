"""Options: overrides, TOML, ranges, and what an unknown one is told."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.errors import ConfigError
from indexer.types import Modality
from retrieval.training.options import (
    RANGES,
    Precision,
    Schedule,
    TrainOptions,
    load_options,
    option_names,
    options_from,
    parse_overrides,
)
from retrieval.training.schedule import lr_share


def test_overrides_reach_every_level_and_the_later_wins() -> None:
    found = parse_overrides(
        ["lr=5e-4", "loss.margin=0.3", "head.kind=mlp", "freeze=text,audio", "matryoshka=64, 128", "lr=2e-4"]
    )
    assert (found.lr, found.loss.margin, found.head.kind) == (2e-4, 0.3, "mlp")
    assert found.freeze == (Modality.TEXT, Modality.AUDIO)
    assert found.in_space(384).dims == (384, 128, 64)
    assert replace(found, dim=256).in_space(384).dims == (256, 128, 64)
    assert parse_overrides(["freeze=", "wandb=true"], found) == replace(found, freeze=(), wandb=True)
    assert parse_overrides(["loss.init_scale=20"]).loss.init_scale == 20.0
    assert parse_overrides(["loss.init_scale=none"]).loss.init_scale is None


def test_json_round_trip_and_digest() -> None:
    found = parse_overrides(["precision=bf16", "pairs.text_audio=0.5", "matryoshka=32", "loss.kind=sigmoid"])
    again = options_from(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert again.digest() == found.digest() != TrainOptions().digest()


def test_toml_lies_under_overrides(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('epochs = 7\nfreeze = ["text"]\n[loss]\nkind = "triplet"\n[pairs]\nimage_text = 2\n')
    found = parse_overrides(["epochs=9"], load_options(file))
    assert (found.epochs, found.freeze, found.loss.kind) == (9, (Modality.TEXT,), "triplet")
    assert found.pairs.of((Modality.IMAGE, Modality.TEXT)) == 2.0
    file.write_text("epochs = [")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_options(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_options(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("learning=1", "no option 'learning'", "known|mean"),
        ("los.margin=1", "no option 'los.margin'", "did you mean loss.margin?"),
        ("margin=1", "no option 'margin'", "loss.margin"),
        ("warmpu=1", "no option 'warmpu'", "did you mean warmup?"),
        ("loss=1", "group of options", "loss.kind"),
        ("lr", "sets nothing", "key=value"),
        ("epochs=2.5", "epochs is '2.5', expected a whole number", ""),
        ("wandb=1", "expected true or false", ""),
        ("precision=f64", "expected one of auto, f32, bf16, fp16", ""),
        ("freeze=video", "expected one of image, text, audio", ""),
        ("lr=0", "lr is 0.0, expected more than 0", ""),
        ("lr=nan", "lr is nan", ""),
        ("batch_size=1", "batch_size is 1, expected 2 or more", ""),
        ("ema=1", "ema is 1.0", ""),
        ("pairs.image_text=-1", "pairs.image_text is -1.0", ""),
        ("matryoshka=0", "numbers above 0", ""),
        ("head.dropout=1", "head.dropout is 1.0", ""),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, hint: str) -> None:
    import re

    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parse_overrides([text])
    assert re.search(hint.replace("?", r"\?"), caught.value.hint or "")


def test_nested_dimensions_lie_below_the_spaces() -> None:
    with pytest.raises(ConfigError, match="below dim=128"):
        replace(parse_overrides(["matryoshka=64"]), dim=128, matryoshka=(512,))
    with pytest.raises(ConfigError, match="below dim=384"):
        parse_overrides(["matryoshka=512"]).in_space(384)  # the base model's


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match="fp16"):
        parse_overrides(["device=cpu", "precision=fp16"])
    assert parse_overrides(["device=cuda", "precision=fp16"]).precision is Precision.FP16


def test_ranges_name_real_options() -> None:
    assert set(RANGES) <= set(option_names())


def test_the_module_loads_no_torch() -> None:
    code = "import sys, retrieval.training.options; raise SystemExit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_schedule() -> None:
    shares = [lr_share(step, steps=10, warmup=0.2, schedule=Schedule.COSINE) for step in range(10)]
    assert shares[:3] == [0.5, 1.0, 1.0]
    assert shares[6] == pytest.approx(0.5)
    assert all(0 < later < earlier for earlier, later in itertools.pairwise(shares[2:]))
    assert lr_share(9, steps=10, warmup=0.0, schedule=Schedule.CONSTANT) == 1.0
